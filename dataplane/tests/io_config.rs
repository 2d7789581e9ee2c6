//! Every mistake in a configuration is named by file, line, key and value, and
//! says how to mend it.

use std::fs;
use std::path::Path;

use mat_dataplane::config::{self, Config, Placement, Told, Trust};
use mat_proto::Family;
use mat_proto::apl::List;

const EXAMPLE: &str = include_str!("../matd.example.toml");

fn parse(text: &str) -> Result<Config, String> {
    Config::parse("matd.toml", text, Path::new("/nowhere"), None).map_err(|error| error.to_string())
}

/// The example with `from` replaced by `to`, which must occur exactly once.
fn with(from: &str, to: &str) -> String {
    assert_eq!(EXAMPLE.matches(from).count(), 1, "{from}");
    EXAMPLE.replace(from, to)
}

fn guest() -> String {
    with("placement = \"gateway\"", "placement = \"guest\"")
        .lines()
        .filter(|line| !line.starts_with("interface ="))
        .map(|line| format!("{line}\n"))
        .collect()
}

#[test]
fn the_example_is_good_and_its_optional_keys_show_the_defaults() {
    let config = parse(EXAMPLE).unwrap();
    assert_eq!(config.placement, Placement::Gateway);
    assert_eq!(config.mapping.trust(), Trust::Tsig);
    assert_eq!(config.families(), [Family::V4, Family::V6]);
    assert_eq!(config.instances.len(), 2);
    assert_eq!(
        config.mapping.zones[0].key.as_ref().unwrap().secret.len(),
        32
    );

    let optional = [
        "control_port",
        "name = \"mat0\"",
        "mtu",
        "offload",
        "coalesce",
        "queues",
        "exclusive",
        "lease_s",
        "poll_ms",
        "on_isolation",
        "hold_",
        "contexts",
        "grace_ms",
        "quarantine_extra_s",
    ];
    let short: String = EXAMPLE
        .lines()
        .filter(|line| !optional.iter().any(|key| line.starts_with(key)))
        .map(|line| format!("{line}\n"))
        .collect();
    assert_eq!(parse(&short).unwrap(), config);
}

#[test]
fn a_guest_with_an_exclusive_locator_needs_no_pool() {
    let text = guest()
        .replace("pool = [", "#")
        .replace("exclusive = false", "exclusive = true");
    let config = parse(&text).unwrap();
    assert!(config.locators.exclusive);
    assert!(config.locators.pool.is_empty());
}

#[test]
fn every_mistake_names_its_line_key_and_mend() {
    let table: &[(&str, &str, &str, &str)] = &[
        // replaced, by, key, part of the complaint
        ("site = \"a\"", "site = \"a b\"", "site", "letters, digits"),
        ("site = \"a\"", "", "site", "add it"),
        ("site = \"a\"", "site = 7", "site", "expected a string"),
        ("site = \"a\"", "site = \"a", "", "correct the TOML"),
        (
            "site = \"a\"",
            "site = \"a\"\nsite = \"b\"",
            "",
            "correct the TOML",
        ),
        (
            "site = \"a\"",
            "site = \"a\"\nsight = \"b\"",
            "sight",
            "correct or remove it",
        ),
        (
            "placement = \"gateway\"",
            "placement = \"cloud\"",
            "placement",
            "expected `gateway` or `guest`",
        ),
        (
            "uplink = \"eth0\"",
            "uplink = \"an-interface-too-long\"",
            "uplink",
            "at most 15",
        ),
        (
            "uplink = \"eth0\"",
            "uplink = \"eth 0\"",
            "uplink",
            "is not an interface name",
        ),
        (
            "uplink = \"eth0\"",
            "uplink = \"mat0\"",
            "tun.name",
            "this is the uplink",
        ),
        (
            "\"/run/mat/matd.sock\"",
            "\"matd.sock\"",
            "control_socket",
            "begin it with '/'",
        ),
        (
            "\"/var/lib/mat\"",
            "\"lib\"",
            "state_dir",
            "begin it with '/'",
        ),
        (
            "control_port = 6283",
            "control_port = 65536",
            "control_port",
            "from 1 to 65535",
        ),
        (
            "\"127.0.0.1:9283\"",
            "\"localhost:9283\"",
            "metrics_listen",
            "write \"127.0.0.1:9283\"",
        ),
        (
            "mtu = 1500 ",
            "mtu = 1000 ",
            "tun.mtu",
            "from 1280 to 65535",
        ),
        (
            "mtu = 1500 ",
            "mtu = \"big\" ",
            "tun.mtu",
            "expected a whole number",
        ),
        ("queues = 1 ", "queues = 0 ", "tun.queues", "from 1 to 16"),
        (
            "offload = true",
            "offlode = true",
            "tun.offlode",
            "unknown field",
        ),
        (
            "\"192.0.2.0/24\"",
            "\"192.0.2.1/24\"",
            "homes.prefixes",
            "write \"192.0.2.0/24\"",
        ),
        (
            "\"192.0.2.0/24\"",
            "\"192.0.2.0\"",
            "homes.prefixes",
            "is not a prefix",
        ),
        (
            "\"192.0.2.0/24\"",
            "\"0.0.0.0/0\"",
            "homes.prefixes",
            "routable unicast",
        ),
        (
            "\"192.0.2.0/24\"",
            "\"224.0.0.0/8\"",
            "homes.prefixes",
            "routable unicast",
        ),
        (
            "\"192.0.2.0/24\"",
            "\"192.0.2.0/24\", \"192.0.2.0/25\"",
            "homes.prefixes",
            "overlaps 192.0.2.0/24",
        ),
        (
            "[\"192.0.2.0/24\", \"2001:db8:1::/48\"]",
            "[]",
            "homes.prefixes",
            "name at least one",
        ),
        (
            "\"203.0.113.0/24\", ",
            "\"192.0.2.128/25\", ",
            "locators.prefixes",
            "overlaps the home prefix 192.0.2.0/24",
        ),
        (
            "pool = [\"198.51.100.128/28\"",
            "pool = [\"198.18.0.0/28\"",
            "locators.pool",
            "inside none of `locators.prefixes`",
        ),
        (
            "pool = [\"198.51.100.128/28\", \"2001:db8:2::8000/124\"]",
            "pool = []",
            "locators.pool",
            "no locator to give",
        ),
        (
            "pool = [\"198.51.100.128/28\", ",
            "pool = [",
            "instance.home",
            "no IPv4 locator",
        ),
        (
            "exclusive = false",
            "exclusive = true",
            "locators.exclusive",
            "one locator for each",
        ),
        (
            "\"203.0.113.53:53\"",
            "\"203.0.113.53\"",
            "mapping.servers",
            "with a port",
        ),
        (
            "[\"203.0.113.53:53\"]",
            "[]",
            "mapping.servers",
            "name at least one",
        ),
        (
            "zone = \"map.example.\"",
            "zone = \"map.example\"",
            "mapping.zone",
            "write \"map.example.\"",
        ),
        (
            "zone = \"map.example.\"",
            "zone = \"map..example.\"",
            "mapping.zone",
            "not a domain name",
        ),
        (
            "trust = \"tsig\"",
            "trust = \"blind\"",
            "mapping.trust",
            "expected one of `tsig`, `dnssec`, `network`",
        ),
        ("key = {", "# key = {", "mapping.trust", "need a key"),
        (
            "secret = \"ZXhh",
            "secret = \"?Xhh",
            "mapping.key.secret",
            "is not base64",
        ),
        (
            "secret = \"ZXhhbXBsZSBzZWNyZXQsIHJlcGxhY2UgaXQgbm93ISE=\"",
            "secret = \"c2hvcnQ=\"",
            "mapping.key.secret",
            "5 bytes are too few",
        ),
        (
            "secret = \"ZXhhbXBsZSBzZWNyZXQsIHJlcGxhY2UgaXQgbm93ISE=\"",
            "secret_file = \"k\"",
            "mapping.key.secret_file",
            "/nowhere/k cannot be read",
        ),
        (
            ", secret = \"ZXhhbXBsZSBzZWNyZXQsIHJlcGxhY2UgaXQgbm93ISE=\"",
            "",
            "mapping.key",
            "either `secret` or `secret_file`",
        ),
        (
            "name = \"site-a.\"",
            "name = \"site-a\"",
            "mapping.key.name",
            "final dot",
        ),
        (
            "algorithm = \"hmac-sha256\"",
            "algorithm = \"hmac-md5\"",
            "mapping.key.algorithm",
            "unknown variant",
        ),
        (
            "lease_s = 30",
            "lease_s = 0",
            "mapping.lease_s",
            "from 1 to 86400",
        ),
        (
            "lease_s = 30",
            "lease_s = 86401",
            "mapping.lease_s",
            "from 1 to 86400",
        ),
        (
            "poll_ms = 1000",
            "poll_ms = 1",
            "mapping.poll_ms",
            "from 100 to 60000",
        ),
        (
            "trust = \"tsig\"\n",
            "trust = \"dnssec\"\n",
            "mapping.trust",
            "add `anchor",
        ),
        (
            "# anchor = ",
            "anchor = ",
            "mapping.anchor",
            "is for trust = \"dnssec\" only",
        ),
        (
            "# anchor = ",
            "anchor = ",
            "mapping.anchor",
            "cannot be read: No such file",
        ),
        (
            "# push = { server = \"203.0.113.53:853\"",
            "push = { server = \"203.0.113.53:853\"",
            "mapping.push.certificate",
            "copy the file that `tls.certificate`",
        ),
        (
            "# push = { server = \"203.0.113.53:853\"",
            "push = { server = \"203.0.113.53\"",
            "mapping.push.server",
            "is not an address with a port",
        ),
        (
            "on_isolation = \"serve\"",
            "on_isolation = \"stop-after 0\"",
            "mapping.on_isolation",
            "stop-after 30",
        ),
        (
            "hold_bytes_total = 268435456",
            "hold_bytes_total = 65536",
            "limits.hold_bytes_per_home",
            "raise `limits.hold_bytes_total`",
        ),
        (
            "contexts = 64000",
            "contexts = -1",
            "limits.contexts",
            "from 1 to 10000000",
        ),
        (
            "home = \"192.0.2.10\"",
            "home = \"192.0.2.10/32\"",
            "instance.home",
            "without a prefix length",
        ),
        (
            "home = \"192.0.2.10\"",
            "home = \"203.0.113.9\"",
            "instance.home",
            "inside none of `homes.prefixes`",
        ),
        (
            "home = \"2001:db8:1::10\"",
            "home = \"192.0.2.10\"",
            "instance.home",
            "listed twice",
        ),
        (
            "interface = \"v1\"                  # our",
            "# our",
            "instance.interface",
            "host end of its veth",
        ),
        (
            "interface = \"v1\"                  # our",
            "interface = \"eth0\" # our",
            "instance.interface",
            "this is the uplink",
        ),
        (
            "\"02:00:5e:00:53:01\"",
            "\"01:00:5e:00:53:01\"",
            "instance.mac",
            "MAC address of one interface",
        ),
    ];
    for (from, to, key, part) in table {
        let text = with(from, to);
        let error = parse(&text).expect_err(to);
        let place = EXAMPLE.find(from).unwrap();
        let line = 1 + EXAMPLE[..place].matches('\n').count();
        assert!(error.contains(part), "{to}: {error}");
        assert!(error.contains("; "), "no mend: {error}");
        let first = error.lines().next().unwrap();
        let rest = first.strip_prefix("matd.toml:").expect(first);
        let (number, rest) = rest.split_once(": ").expect(first);
        assert!(rest.starts_with(key), "{to}: {error}");
        // What is missing can only be noticed where its table is, and what
        // clashes with something else where that stands.
        let elsewhere = part.contains("add it")
            || matches!(
                *key,
                "tun.name" | "mapping.trust" | "instance.home" | "instance.interface"
            )
            || key.starts_with("limits.hold");
        let number: usize = number.parse().expect(first);
        // A second key of the same name, or an unknown one, stands on the next line.
        let near = line..=line + to.matches('\n').count();
        assert!(
            elsewhere || near.contains(&number),
            "{to}: line {line}: {error}"
        );
    }
}

#[test]
fn mistakes_of_meaning_are_all_reported_in_order() {
    let text = with("lease_s = 30", "lease_s = 0").replace("mtu = 1500 ", "mtu = 1 ");
    let error = parse(&text).unwrap_err();
    let keys: Vec<_> = error
        .lines()
        .map(|line| {
            line.split(": ")
                .nth(1)
                .unwrap()
                .split(" = ")
                .next()
                .unwrap()
        })
        .collect();
    assert_eq!(keys, ["tun.mtu", "mapping.lease_s"]);
}

#[test]
fn one_faulty_prefix_is_one_finding() {
    for text in [
        with("\"192.0.2.0/24\"", "\"192.0.2.1/24\""),
        with("\"198.51.100.0/24\"", "\"198.51.100.1/24\""),
    ] {
        let error = parse(&text).unwrap_err();
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn a_guest_has_no_interface_and_one_home_of_a_family_if_exclusive() {
    let text = with("placement = \"gateway\"", "placement = \"guest\"");
    let error = parse(&text).unwrap_err();
    assert_eq!(error.matches("remove this key").count(), 2, "{error}");

    let text = guest()
        .replace("pool = [", "#")
        .replace("exclusive = false", "exclusive = true")
        .replace("home = \"2001:db8:1::10\"", "home = \"192.0.2.11\"");
    let error = parse(&text).unwrap_err();
    assert!(error.contains("already serves 192.0.2.10"), "{error}");
}

#[test]
fn a_secret_never_appears_in_an_error_or_in_debug_output() {
    let secret = "ZXhhbXBsZSBzZWNyZXQsIHJlcGxhY2UgaXQgbm93ISE=";
    let debug = format!("{:?}", parse(EXAMPLE).unwrap());
    assert!(debug.contains("Key(site-a."), "{debug}");
    assert!(
        !debug.contains(secret) && !debug.contains("101, 120"),
        "{debug}"
    );
    for broken in [
        with("secret = \"ZXhh", "secret = \"?Xhh"),
        with("secret = \"ZXhh", "secret_file = \"x\", secret = \"ZXhh"),
        with("algorithm = \"hmac-sha256\"", "algorithm = \"hmac-md5\""),
        with(
            "algorithm = \"hmac-sha256\"",
            "algorithms = \"hmac-sha256\"",
        ),
    ] {
        let error = parse(&broken).unwrap_err();
        assert!(!error.contains("bXBsZSBzZWNyZXQs"), "{error}");
    }
}

#[test]
fn check_says_what_the_file_means() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("matd.toml");
    fs::write(&path, EXAMPLE).unwrap();
    let summary = config::check(&path).unwrap();
    assert!(summary.contains("IPv4 and IPv6"), "{summary}");
    assert!(summary.contains("198.51.100.128/28"), "{summary}");
    assert!(summary.contains("metrics at 127.0.0.1:9283\n"), "{summary}");
    fs::write(&path, with("\"127.0.0.1:9283\"", "\"0.0.0.0:9283\"")).unwrap();
    let open = config::check(&path).unwrap();
    assert!(
        open.contains("metrics at 0.0.0.0:9283: whoever reaches it"),
        "{open}"
    );

    let missing = temp.path().join("none.toml");
    let error = config::check(&missing).unwrap_err().to_string();
    assert!(error.contains("none.toml: cannot be read"), "{error}");

    fs::write(
        temp.path().join("k"),
        "ZXhhbXBsZSBzZWNyZXQsIHJlcGxhY2UgaXQgbm93ISE=\n",
    )
    .unwrap();
    let text = with(
        "secret = \"ZXhhbXBsZSBzZWNyZXQsIHJlcGxhY2UgaXQgbm93ISE=\"",
        "secret_file = \"k\"",
    );
    fs::write(&path, text).unwrap();
    assert_eq!(Config::load(&path, None).unwrap(), parse(EXAMPLE).unwrap());
}

/// The example with its other zone.
fn zoned() -> String {
    with_table("[[zone]]")
}

/// The example with a table that is left out there.
fn with_table(name: &str) -> String {
    let (mut text, mut inside) = (String::new(), false);
    for line in EXAMPLE.lines() {
        inside = (inside || line == format!("# {name}")) && line.starts_with("# ");
        text += if inside { &line[2..] } else { line };
        text += "\n";
    }
    text
}

#[test]
fn several_zones_share_the_homes() {
    let config = parse(&zoned()).unwrap();
    let [first, other] = &config.mapping.zones[..] else {
        panic!("{:?}", config.mapping.zones);
    };
    assert_eq!(
        (&*first.name, &*other.name),
        ("map.example.", "tenant.example.")
    );
    let zoning = config.mapping.zoning();
    assert_eq!(zoning.of("192.0.2.130".parse().unwrap()), 1);
    assert_eq!(zoning.of("192.0.2.10".parse().unwrap()), 0);

    // The weakest of all is what `status` warns of.
    assert_eq!((first.trust, other.trust), (Trust::Tsig, Trust::Network));
    assert_eq!(config.mapping.trust(), Trust::Network);

    for (from, to, key, problem) in [
        (
            "homes = [\"192.0.2.128/25\"]",
            "homes = [\"198.18.0.0/24\"]",
            "zone.homes",
            "is in none of homes.prefixes",
        ),
        (
            "homes = [\"192.0.2.128/25\"]",
            "homes = []",
            "zone.homes",
            "is empty",
        ),
        (
            "servers = [\"203.0.113.80:53\"]",
            "servers = [\"203.0.113.80\"]",
            "zone.servers",
            "is not an address with a port",
        ),
        (
            "tenant.example.",
            "tenant..example.",
            "zone.zone",
            "is not a domain name",
        ),
        ("YW5vdGhl", "!", "zone.key.secret", "is not base64"),
    ] {
        let text = zoned().replacen(from, to, 1);
        assert_ne!(text, zoned(), "{from}");
        let said = parse(&text).unwrap_err();
        assert!(said.contains(key) && said.contains(problem), "{said}");
    }
    let start = zoned().find("[[zone]]").unwrap();
    let zone = &zoned()[start..];
    let zone = &zone[..zone.find("\n\n").unwrap()];
    let twice = format!("{}\n{zone}\n", zoned());
    let said = parse(&twice).unwrap_err();
    assert!(
        said.contains("another [[zone]] speaks for this prefix"),
        "{said}"
    );
}

#[test]
fn two_gateways_know_each_other() {
    let secret = "secret = \"cGFpcnBhaXJwYWlycGFpcnBhaXJwYWlycGFpcnBhaXI=\"";
    let paired = with_table("[pair]").replacen("secret_file = \"pair.secret\"", secret, 1);
    let pair = parse(&paired).unwrap().pair.unwrap();
    assert_eq!(pair.home, "192.0.2.250".parse().unwrap());
    assert_eq!(pair.locator, "198.51.100.250".parse().unwrap());
    assert_eq!(pair.secret, *b"pairpairpairpairpairpairpairpair");
    assert!(!format!("{pair:?}").contains("112"), "{pair:?}");

    for (from, to, key, problem) in [
        (
            "192.0.2.250",
            "198.18.0.1",
            "pair.home",
            "is inside none of `homes.prefixes`",
        ),
        (
            "\"192.0.2.250\"",
            "\"192.0.2.10\"",
            "pair.home",
            "of an [[instance]]",
        ),
        (
            "192.0.2.250",
            "here",
            "pair.home",
            "is not a routable unicast address",
        ),
        (
            "198.51.100.250",
            "198.18.0.1",
            "pair.locator",
            "is inside none of `locators.prefixes`",
        ),
        (
            "198.51.100.250",
            "2001:db8:a::5",
            "pair.locator",
            "of another family",
        ),
        (
            "198.51.100.250",
            "198.51.100.130",
            "pair.locator",
            "is inside `locators.pool`",
        ),
        (
            "203.0.113.2:6284",
            "203.0.113.2",
            "pair.listen",
            "is not an address with a port",
        ),
        (
            "203.0.113.3:6284",
            "203.0.113.2:6284",
            "pair.peer",
            "is `pair.listen`",
        ),
        (
            "203.0.113.2:6284",
            "203.0.113.2:0",
            "pair.listen",
            "has no port",
        ),
        (
            "203.0.113.3:6284",
            "192.0.2.7:6284",
            "pair.peer",
            "is inside `homes.prefixes`",
        ),
        (
            "203.0.113.3:6284",
            "[2001:db8:f::3]:6284",
            "pair.peer",
            "is of another family than `pair.listen`",
        ),
        (
            secret,
            "secret = \"cGFpcg==\"",
            "pair.secret",
            "is not the base64 text of 32 bytes",
        ),
        (secret, "", "pair", "needs either `secret` or `secret_file`"),
        (
            secret,
            "secret_file = \"none\"",
            "pair.secret_file",
            "cannot be read",
        ),
        (
            "placement = \"gateway\"",
            "placement = \"guest\"",
            "pair",
            "only a gateway",
        ),
    ] {
        let text = paired.replacen(from, to, 1);
        assert_ne!(text, paired, "{from}");
        let said = parse(&text).unwrap_err();
        assert!(
            said.contains(key) && said.contains(problem),
            "{from} -> {to}: {said}"
        );
    }
}

/// What a forwarder is told with push, and what it is not: the certificate is a real one.
#[test]
fn push_has_a_server_that_can_prove_who_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let made = std::process::Command::new("openssl")
        .args(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2".split(' '),
        )
        .args("-subj /CN=ns1.map.example -keyout key.pem -out mat-mapd.pem".split(' '))
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let path = folder.path().join("matd.toml");
    let read = |from: &str, to: &str| {
        let text = with("# push = {", "push = {").replacen(from, to, 1);
        std::fs::write(&path, text).unwrap();
        Config::load(&path, None).map_err(|error| error.to_string())
    };
    let config = read("", "").unwrap();
    let push = config.mapping.zones[0].push.as_ref().unwrap();
    assert_eq!((push.server.port(), push.certificates.len()), (853, 1));
    assert!(config.mapping.is_pushed());
    for (from, to, key, problem) in [
        (
            "zone = \"map.example.\"",
            "zone = \"in-addr.arpa.\"",
            "push.server",
            "through the reverse tree",
        ),
        (
            "zone = \"map.example.\"",
            "zone = \"3.0.192.in-addr.arpa.\"",
            "zone",
            "this is the reverse zone of 192.0.3.0/24, and no home is in that",
        ),
        (
            "\"ns1.map.example\"",
            "\"ns1 map\"",
            "mapping.push.name",
            "the name that the certificate is for",
        ),
        (
            "\"mat-mapd.pem\"",
            "\"key.pem\"",
            "mapping.push.certificate",
            "holds no certificate",
        ),
        (
            "on_isolation = \"serve\"",
            "on_isolation = \"stop-after 2\"",
            "mapping.on_isolation",
            "at least three times",
        ),
    ] {
        let said = read(from, to).unwrap_err();
        assert!(said.contains(key) && said.contains(problem), "{said}");
    }
    assert!(
        read(
            "on_isolation = \"serve\"",
            "on_isolation = \"stop-after 3\""
        )
        .is_ok()
    );
}

#[test]
fn prefixes_that_are_left_out_are_those_of_the_zone() {
    let text = EXAMPLE
        .replace("prefixes = [\"192.0.2.0/24\", \"2001:db8:1::/48\"]", "")
        .replace(
            "prefixes = [\"198.51.100.0/24\", \"203.0.113.0/24\", \"2001:db8:2::/48\", \"2001:db8:3::/48\"]",
            "",
        );
    let read = |told: Option<&Told>| {
        let folder = Path::new("/nowhere");
        Config::parse("matd.toml", &text, folder, told).map_err(|error| error.to_string())
    };
    let prefixes = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect();
    let told = |homes: &[&str], locators: &[&str]| Told {
        homes: prefixes(homes),
        locators: prefixes(locators),
    };
    let before = read(None).unwrap();
    assert_eq!(before.left_to_zone, [List::Homes, List::Locators]);
    assert!(before.homes.prefixes.is_empty() && before.locators.prefixes.is_empty());

    let homes = ["192.0.2.0/24", "2001:db8:1::/48"];
    let good = told(&homes, &["198.51.100.0/24", "2001:db8:2::/48"]);
    assert!(good.has_all(&before.left_to_zone));
    let config = read(Some(&good)).unwrap();
    assert_eq!(config.homes.prefixes, good.homes);
    assert_eq!(config.locators.prefixes, good.locators);
    let whole = parse(EXAMPLE).unwrap();
    assert_eq!(config.instances, whole.instances);

    // What the zone says is checked as what the file says, and the complaint is where the zone is.
    let line = text
        .lines()
        .position(|line| line.starts_with("zone = "))
        .unwrap()
        + 1;
    for (told, words) in [
        (
            told(&homes, &["198.18.0.0/24"]),
            "inside none of `locators.prefixes`",
        ),
        (
            told(&["198.18.0.0/24"], &good_locators()),
            "inside none of `homes.prefixes`",
        ),
        (
            told(&["198.51.100.0/25"], &good_locators()),
            "overlaps the home prefix",
        ),
        (told(&["0.0.0.0/0"], &good_locators()), "routable unicast"),
    ] {
        let said = read(Some(&told)).unwrap_err();
        assert!(said.contains(words), "{words}: {said}");
    }
    let said = read(Some(&told(&["0.0.0.0/0"], &good_locators()))).unwrap_err();
    assert!(
        said.contains(&format!("matd.toml:{line}: homes.prefixes")),
        "{said}"
    );
}

fn good_locators() -> [&'static str; 2] {
    ["198.51.100.0/24", "2001:db8:2::/48"]
}
