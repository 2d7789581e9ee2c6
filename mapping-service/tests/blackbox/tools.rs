//! `dig` and `nsupdate` alone read, claim, move and delete a home address.

use crate::harness::*;

/// An update line that adds a binding's record.
fn svcb(owner: &str, epoch: u64, hint: &str) -> String {
    format!(
        "update add {owner}.{ZONE} 0 IN SVCB 1 . port=6283 {hint} key65280=\"{epoch}\" key65281=\"native\" key65282=\"30\""
    )
}

fn read_claim_move_delete(owner: &str, first: &str, second: &str) {
    let dir = directory();
    let mapd = Mapd::start(dir.path());
    let full = format!("{owner}.{ZONE}");
    assert_eq!(mapd.dig_binding(owner), "");

    let claim = format!("prereq nxrrset {full} SVCB\n{}", svcb(owner, 100, first));
    let done = mapd.nsupdate(&claim);
    assert!(done.ok && done.text.contains("NOERROR"), "{}", done.text);
    let shown = mapd.dig_binding(owner);
    let hint = first.split_once('=').unwrap().1;
    assert!(
        shown.contains(hint) && shown.contains("key65280=\"100\""),
        "{shown}"
    );

    // Claimed is claimed.
    let again = mapd.nsupdate(&claim);
    assert!(
        !again.ok && again.text.contains("YXRRSET"),
        "{}",
        again.text
    );

    // The value prerequisite is what dig shows.
    let swap = format!(
        "prereq yxrrset {full} SVCB {shown}\nupdate delete {full} SVCB\n{}",
        svcb(owner, 101, second)
    );
    let moved = mapd.nsupdate(&swap);
    assert!(moved.ok && moved.text.contains("NOERROR"), "{}", moved.text);
    let shown = mapd.dig_binding(owner);
    let hint = second.split_once('=').unwrap().1;
    assert!(
        shown.contains(hint) && shown.contains("key65280=\"101\""),
        "{shown}"
    );
    let late = mapd.nsupdate(&swap);
    assert!(!late.ok && late.text.contains("NXRRSET"), "{}", late.text);

    // A stale epoch is refused although nothing was demanded.
    let stale = format!("update delete {full} SVCB\n{}", svcb(owner, 101, first));
    let refused = mapd.nsupdate(&stale);
    assert!(
        !refused.ok && refused.text.contains("REFUSED"),
        "{}",
        refused.text
    );

    let gone = mapd.nsupdate(&format!("update delete {full}"));
    assert!(gone.ok, "{}", gone.text);
    let answer = mapd.dig(&format!("{full} SVCB"));
    assert!(
        answer.contains("NXDOMAIN") && answer.contains("SOA"),
        "{answer}"
    );
}

#[test]
fn ipv4() {
    read_claim_move_delete(
        "10.2.0.192.h4",
        "ipv4hint=198.51.100.7",
        "ipv4hint=198.51.100.8",
    );
}

#[test]
fn ipv6() {
    read_claim_move_delete(
        "7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.8.b.d.0.1.0.0.2.h6",
        "ipv6hint=2001:db8:a::7",
        "ipv6hint=2001:db8:a::8",
    );
}

#[test]
fn a_move_between_sites_needs_each_sites_own_key() {
    let dir = directory();
    let mut mapd = Mapd::start(dir.path());
    let owner = "10.2.0.192.h4";
    let key_b = format!("hmac-sha512:site-b:{SECRET_B}");
    let claim = svcb(owner, 100, "ipv4hint=198.51.100.7");
    let refused = mapd.nsupdate_as(&key_b, &claim);
    assert!(refused.text.contains("REFUSED"), "{}", refused.text);
    mapd.wait_for("may not register locator 198.51.100.7 for 192.0.2.10");
    assert!(mapd.nsupdate(&claim).ok);
    let to_b = format!(
        "update delete {owner}.{ZONE} SVCB\n{}",
        svcb(owner, 101, "ipv4hint=203.0.113.7")
    );
    let refused = mapd.nsupdate(&to_b);
    assert!(refused.text.contains("REFUSED"), "{}", refused.text);
    let moved = mapd.nsupdate_as(&key_b, &to_b);
    assert!(moved.ok, "{}", moved.text);
    mapd.wait_for("home=192.0.2.10 was=198.51.100.7@100 is=203.0.113.7@101");
}

#[test]
fn names_of_others_are_not_ours_to_change() {
    let dir = directory();
    let mut mapd = Mapd::start(dir.path());
    let key_b = format!("hmac-sha512:site-b:{SECRET_B}");
    let foreign = svcb("200.2.0.192.h4", 1, "ipv4hint=203.0.113.7");
    let refused = mapd.nsupdate_as(&key_b, &foreign);
    assert!(refused.text.contains("REFUSED"), "{}", refused.text);
    mapd.wait_for("may not change the binding of 192.0.2.200");
    let other_name = mapd.nsupdate(&format!("update add note.{ZONE} 60 TXT hello"));
    assert!(other_name.text.contains("REFUSED"), "{}", other_name.text);
    let other_zone = mapd.nsupdate("zone other.example.\nupdate add x.other.example. 60 TXT x");
    assert!(other_zone.text.contains("NOTAUTH"), "{}", other_zone.text);
    let apex = mapd.nsupdate(&format!("update delete {ZONE} NS"));
    assert!(apex.text.contains("REFUSED"), "{}", apex.text);
    assert!(mapd.dig(&format!("{ZONE} NS")).contains("ns.map.example."));
}

#[test]
fn keys_must_be_known_and_right() {
    let dir = directory();
    let mut mapd = Mapd::start(dir.path());
    let claim = svcb("10.2.0.192.h4", 100, "ipv4hint=198.51.100.7");
    let wrong = mapd.nsupdate_as(&format!("hmac-sha256:site-a:{SECRET_B}"), &claim);
    assert!(!wrong.ok && wrong.text.contains("BADSIG"), "{}", wrong.text);
    mapd.wait_for("key site-a.: signature wrong");
    let unknown = mapd.nsupdate_as(&format!("hmac-sha256:site-z:{SECRET_A}"), &claim);
    assert!(
        !unknown.ok && unknown.text.contains("BADKEY"),
        "{}",
        unknown.text
    );
    let algorithm = mapd.nsupdate_as(&format!("hmac-sha512:site-a:{SECRET_A}"), &claim);
    assert!(
        !algorithm.ok && algorithm.text.contains("BADKEY"),
        "{}",
        algorithm.text
    );
    let unsigned = mapd.nsupdate_as("", &claim);
    assert!(
        !unsigned.ok && unsigned.text.contains("REFUSED"),
        "{}",
        unsigned.text
    );
    mapd.wait_for("it is not signed");
    assert_eq!(mapd.dig_binding("10.2.0.192.h4"), "");
    let bad_query = mapd.dig(&format!("{ZONE} SOA -y hmac-sha256:site-a:{SECRET_B}"));
    assert!(
        bad_query.contains("NOTAUTH") && bad_query.contains("BADSIG"),
        "{bad_query}"
    );
}

#[test]
fn signed_questions_get_signed_answers_of_any_size() {
    let dir = directory();
    let mapd = Mapd::start(dir.path());
    let owner = "10.2.0.192.h4";
    let mut script = String::new();
    for i in 1..=8 {
        let line = svcb(owner, 100, &format!("ipv4hint=198.51.100.{i}"));
        script += &line.replace("SVCB 1 .", &format!("SVCB {i} ."));
        script += "\n";
    }
    let done = mapd.nsupdate(&script);
    assert!(done.ok, "{}", done.text);
    let signed = format!("{owner}.{ZONE} SVCB -y hmac-sha256:site-a:{SECRET_A}");
    for options in [
        "",
        "+tcp",
        "+noedns",
        "+bufsize=512 +ignore",
        "+noedns +ignore",
    ] {
        let answer = mapd.dig(&format!("{signed} {options}"));
        assert!(answer.contains("TSIG PSEUDOSECTION"), "{options}: {answer}");
        assert!(
            !answer.contains("could not be validated"),
            "{options}: {answer}"
        );
        let truncated = answer.contains("flags: qr aa tc");
        assert_eq!(
            truncated,
            options.contains("+ignore"),
            "{options}: {answer}"
        );
        let records = answer.matches("IN\tSVCB\t").count();
        assert_eq!(
            records,
            if truncated { 0 } else { 8 },
            "{options}: {answer}"
        );
    }
}

#[test]
fn negative_answers_and_what_is_not_served() {
    let dir = directory();
    let mapd = Mapd::start(dir.path());
    let claim = svcb("10.2.0.192.h4", 100, "ipv4hint=198.51.100.7");
    assert!(mapd.nsupdate(&claim).ok);
    let status = |args: &str| {
        let answer = mapd.dig(args);
        let from = answer.find("status: ").unwrap() + 8;
        answer[from..].split(',').next().unwrap().to_owned()
    };
    assert_eq!(status("10.2.0.192.h4.map.example. A"), "NOERROR");
    assert_eq!(status("2.0.192.h4.map.example. SVCB"), "NOERROR");
    assert_eq!(status("11.2.0.192.h4.map.example. SVCB"), "NXDOMAIN");
    assert_eq!(status("10.2.0.192.H4.MAP.example. SVCB"), "NOERROR");
    assert_eq!(status("www.example. A"), "REFUSED");
    assert_eq!(status("map.example. SOA -c CH"), "REFUSED");
    assert_eq!(status("map.example. SOA +edns=1 +noednsneg"), "BADVERS");
    assert_eq!(status("map.example. SOA +opcode=notify"), "NOTIMP");
}

#[test]
fn the_zone_is_transferred_to_those_who_may() {
    let dir = directory();
    let mapd = Mapd::start(dir.path());
    // More than one message's worth.
    for chunk in 0..8 {
        let lines: Vec<String> = (0..100).map(|i| svcb_v6(1 + chunk * 100 + i)).collect();
        let done = mapd.nsupdate(&lines.join("\n"));
        assert!(done.ok, "{}", done.text);
    }
    let signed = format!("{ZONE} AXFR -y hmac-sha256:site-a:{SECRET_A}");
    let answer = mapd.dig(&signed);
    assert_eq!(answer.matches("SVCB 1 .").count(), 800);
    assert_eq!(answer.matches("IN\tSOA\t").count(), 2);
    let messages = answer.split("(messages ").nth(1).unwrap();
    assert!(!messages.starts_with('1'), "{messages}");
    let may_not = mapd.dig(&format!("{ZONE} AXFR -y hmac-sha512:site-b:{SECRET_B}"));
    assert!(may_not.contains("Transfer failed"), "{may_not}");
    assert!(
        mapd.dig(&format!("{ZONE} AXFR"))
            .contains("Transfer failed")
    );
}

fn svcb_v6(i: u32) -> String {
    let home = format!("2001:db8:1::{i:x}").parse().unwrap();
    let owner = mat_proto::record::owner(home, &name(ZONE)).unwrap();
    let owner = owner.to_string();
    svcb(
        owner.strip_suffix(&format!(".{ZONE}")).unwrap(),
        1,
        &format!("ipv6hint=2001:db8:a::{i:x}"),
    )
}
