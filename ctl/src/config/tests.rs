use super::*;

const GOOD: &str = r#"[mapping]
servers = ["203.0.113.53:53"]
zone = "map.example."
key = { name = "orchestrator.", algorithm = "hmac-sha256", secret = "AAECAwQFBgcICQoLDA0ODw==" }
[[site]]
name = "a"
socket = "/run/mat/a.sock"
netns = "site-a"
[[site]]
name = "b"
socket = "/run/mat/b.sock"
[[instance]]
name = "web"
homes = ["192.0.2.10", "2001:db8:1::10"]
interface = "v1"
mac = "02:00:00:00:00:10"
"#;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(Path::new("matctl.toml"), text)
}

#[test]
fn everything_is_read() {
    let config = parse(GOOD).unwrap();
    assert_eq!(
        config.mapping.as_ref().unwrap().zone().to_ascii(),
        "map.example."
    );
    assert_eq!(config.site("a").unwrap().netns.as_deref(), Some("site-a"));
    let web = config.instance("web").unwrap();
    assert_eq!(web.homes.len(), 2);
    assert_eq!(web.mac.as_deref(), Some("02:00:00:00:00:10"));
}

#[test]
fn an_instance_is_found_by_name_and_by_either_home() {
    let config = parse(GOOD).unwrap();
    let web = config.instance("web").unwrap();
    assert_eq!(config.instance("192.0.2.10").unwrap(), web);
    assert_eq!(config.instance("2001:db8:1:0::10").unwrap(), web);
    let other = config.instance("192.0.2.11").unwrap();
    assert_eq!((other.homes.len(), other.interface), (1, None));
    let error = config.instance("wep").unwrap_err().to_string();
    assert!(error.contains("known are: web"), "{error}");
    let error = config.site("c").unwrap_err().to_string();
    assert!(error.contains("known are: a, b"), "{error}");
}

#[test]
fn an_empty_file_is_enough_for_what_needs_none() {
    let config = parse("").unwrap();
    assert!(config.mapping.is_none() && config.sites.is_empty() && config.instances.is_empty());
}

#[test]
fn mistakes_name_file_line_key_value_and_mend() {
    let cases = [
        (
            "servers = [\"203.0.113.53:53\"]",
            "servers = [\"203.0.113.53\"]",
            "matctl.toml:2: mapping.servers = \"203.0.113.53\": is not an address with a port; write",
        ),
        (
            "servers = [\"203.0.113.53:53\"]",
            "servers = []",
            "matctl.toml:2: mapping.servers = []: is empty; name at least one",
        ),
        (
            "zone = \"map.example.\"",
            "zone = \"map..example\"",
            "matctl.toml:3: mapping.zone = \"map..example\": is not a domain name; write",
        ),
        (
            "zone = \"map.example.\"",
            "",
            "missing field `zone`; add it",
        ),
        (
            "hmac-sha256",
            "hmac-md5",
            "matctl.toml:4: mapping.key.algorithm = \"hmac-md5\": is not offered; write",
        ),
        (
            "secret = \"AAECAwQFBgcICQoLDA0ODw==\"",
            "secret = \"AAEC\"",
            "has 3 octets; at least 16 are needed",
        ),
        (
            "secret = \"AAECAwQFBgcICQoLDA0ODw==\"",
            "secret_file = \"no-such.key\"",
            "matctl.toml:4: mapping.key.secret_file = \"no-such.key\": no-such.key cannot be read: No such file",
        ),
        (
            ", secret = \"AAECAwQFBgcICQoLDA0ODw==\"",
            "",
            "mapping.key.name = \"orchestrator.\": has no secret, or two; give exactly one",
        ),
        (
            "zone = \"map.example.\"",
            "push = { server = \"203.0.113.53:853\", name = \"ns1\", certificate = \"no.pem\" }\nzone = \"map.example.\"",
            "matctl.toml:3: mapping.push.certificate = \"no.pem\": cannot be read: ",
        ),
        (
            "name = \"b\"",
            "name = \"a\"",
            "matctl.toml:10: site.name = \"a\": is used twice; give each site",
        ),
        (
            "name = \"b\"",
            "name = \"b b\"",
            "matctl.toml:10: site.name = \"b b\": is not a name; use",
        ),
        (
            "\"/run/mat/b.sock\"",
            "\"b.sock\"",
            "matctl.toml:11: site.socket = \"b.sock\": is not an absolute path; begin it",
        ),
        (
            "netns = \"site-a\"",
            "netsn = \"site-a\"",
            "matctl.toml:8: site.netsn: unknown field `netsn`, expected one of",
        ),
        (
            "netns = \"site-a\"",
            "netns = 5",
            "matctl.toml:8: site.netns = 5: invalid type: integer `5`, expected a string; write what is expected",
        ),
        ("netns = \"site-a\"", "netns = site-a", "matctl.toml:8: "),
        (
            "name = \"web\"",
            "name = \"192.0.2.10\"",
            "matctl.toml:13: instance.name = \"192.0.2.10\": is an address; choose",
        ),
        (
            "\"192.0.2.10\"",
            "\"192.0.2.0/24\"",
            "matctl.toml:14: instance.homes = \"192.0.2.0/24\": is not a routable unicast address; write",
        ),
        (
            "\"2001:db8:1::10\"",
            "\"192.0.2.10\"",
            "matctl.toml:14: instance.homes = \"192.0.2.10\": is named twice; a home",
        ),
        (
            "\"v1\"",
            "\"an-interface-too-long\"",
            "matctl.toml:15: instance.interface = \"an-interface-too-long\": is not an interface name; use 1 to 15",
        ),
        (
            "interface = \"v1\"\n",
            "",
            "matctl.toml:15: instance.mac = \"02:00:00:00:00:10\": has no interface; add",
        ),
        (
            "02:00:00:00:00:10",
            "02:00",
            "matctl.toml:16: instance.mac = \"02:00\": is not the MAC address",
        ),
    ];
    for (good, bad, wanted) in cases {
        assert!(GOOD.contains(good), "{good}");
        let error = parse(&GOOD.replacen(good, bad, 1)).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}\nshould contain\n{wanted}");
        assert!(error.starts_with("matctl.toml:"), "{error}");
        assert!(!error.contains("AAEC"), "a secret is shown: {error}");
    }
}

#[test]
fn mistakes_of_meaning_come_together_in_order_of_lines() {
    let text = GOOD
        .replace("\"b\"", "\"\"")
        .replace("\"192.0.2.10\"", "\"home\"");
    let error = parse(&text).unwrap_err().to_string();
    let lines: Vec<_> = error.lines().collect();
    assert_eq!(lines.len(), 2, "{error}");
    assert!(lines[0].starts_with("matctl.toml:10:") && lines[1].starts_with("matctl.toml:14:"));
}

#[test]
fn the_example_is_read() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("matctl.example.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("operator.key"),
        "AAECAwQFBgcICQoLDA0ODw==\n",
    )
    .unwrap();
    let config = Config::parse(&dir.path().join("matctl.toml"), &text).unwrap();
    assert_eq!((config.sites.len(), config.instances.len()), (2, 1));
    assert!(config.mapping.is_some());
}
