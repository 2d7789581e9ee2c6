//! Zone files in and out, and what other servers think of them.

use std::path::Path;

use crate::harness::*;

const SMALL: &str = include_str!("../zones/small.txt");

/// Runs mat-mapd on the journal in `dir`.
fn offline(dir: &Path, arguments: &[&str]) -> (bool, String) {
    run(dir, &config("0"), arguments)
}

fn import(dir: &Path, text: &str) -> (bool, String) {
    let file = dir.join("zone.txt");
    std::fs::write(&file, text).unwrap();
    offline(dir, &["import", file.to_str().unwrap()])
}

#[test]
fn a_zone_file_is_taken_in_and_given_out() {
    let dir = directory();
    let (ok, said) = import(dir.path(), SMALL);
    assert!(
        ok && said.contains("4 sets read, 4 changed; the zone has 1 bindings"),
        "{said}"
    );
    // Once more: there is nothing to change.
    let (ok, said) = import(dir.path(), SMALL);
    assert!(ok && said.contains("4 sets read, 0 changed"), "{said}");

    let (ok, exported) = offline(dir.path(), &["export"]);
    assert!(
        ok && exported.starts_with("map.example. 300 IN SOA "),
        "{exported}"
    );
    // What it gives it takes.
    let other = directory();
    let (ok, said) = import(other.path(), &exported);
    assert!(ok, "{said}");
    let (_, again) = offline(other.path(), &["export"]);
    let without_soa = |text: &str| {
        let lines = text.lines().filter(|line| !line.contains(" SOA "));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(without_soa(&again), without_soa(&exported));

    let mapd = Mapd::start(dir.path());
    let shown = mapd.dig_binding("10.2.0.192.h4");
    assert!(shown.contains("ipv4hint=198.51.100.7"), "{shown}");
    let note = mapd.dig(&format!("note.{ZONE} TXT +short"));
    assert_eq!(note.trim(), "\"one ; (\" \"two\"");
    // Nothing is read from under a server, nor given to it.
    for arguments in [&["export"][..], &["import", "/dev/null"]] {
        let (ok, said) = offline(dir.path(), arguments);
        assert!(!ok && said.contains("in use by another mat-mapd"), "{said}");
    }
    mapd.stop();
}

/// Whoever takes in what was given out knows which homes have left a prefix.
#[test]
fn a_home_that_left_its_prefix_stays_away_in_a_copy() {
    let shared = |epoch: u32| {
        format!(
            "*.2.0.192.h4 0 SVCB 1 . port=6283 ipv4hint=198.51.100.0 key65280=\"{epoch}\" \
             key65281=\"native\" key65282=\"30\" key65283=\"24\"\n"
        )
    };
    let text = format!("$TTL 5\n{}10.2.0.192.h4 TXT withdrawn epoch=7\n", shared(5));
    let dir = directory();
    let (ok, said) = import(dir.path(), &text);
    assert!(ok && said.contains("2 sets read, 2 changed"), "{said}");
    let (_, exported) = offline(dir.path(), &["export"]);
    assert!(
        exported.contains("IN TXT \"withdrawn\" \"epoch=7\""),
        "{exported}"
    );
    let copy = directory();
    let (ok, said) = import(copy.path(), &exported);
    assert!(ok, "{said}");
    let own = SMALL.replace("1795420470", "7");
    let (ok, said) = import(copy.path(), &own);
    assert!(!ok && said.contains("must rise above 7"), "{said}");
    let mapd = Mapd::start(copy.path());
    assert_eq!(mapd.dig_binding("10.2.0.192.h4"), "");
    assert!(
        mapd.dig_binding("11.2.0.192.h4")
            .contains("ipv4hint=198.51.100.0")
    );
    mapd.stop();
    // Then the prefix is newer.
    let (ok, said) = import(copy.path(), &format!("$TTL 5\n{}", shared(8)));
    assert!(ok, "{said}");
    let (_, exported) = offline(copy.path(), &["export"]);
    assert!(!exported.contains("withdrawn"), "{exported}");
    for (wrong, wanted) in [
        (
            "10.2.0.192.h4 TXT withdrawn",
            "only SVCB (the binding), A and AAAA",
        ),
        (
            "10.2.0.192.h4 TXT withdrawn epoch=09",
            "only SVCB (the binding), A and AAAA",
        ),
        (
            "10.2.0.192.h4 TXT withdrawn epoch=18446744073709551615",
            "leaves no room to rise",
        ),
    ] {
        let (ok, said) = import(copy.path(), &format!("$TTL 5\n{wrong}\n"));
        assert!(!ok && said.contains(wanted), "{wrong}: {said}");
    }
}

/// A mistake anywhere: nothing is changed.
#[test]
fn a_zone_file_with_a_mistake_changes_nothing() {
    let dir = directory();
    let (ok, _) = import(dir.path(), SMALL);
    assert!(ok);
    let (_, before) = offline(dir.path(), &["export"]);
    let newer = SMALL.replace("1795420470", "1795420471");
    for (text, wanted) in [
        (
            SMALL
                .replace("1795420470", "1795420469")
                .replace(".7 ", ".8 "),
            "the epoch of 192.0.2.10 must rise above 1795420470, not be 1795420469",
        ),
        (
            newer.replace("note TXT", "x.h4 TXT"),
            "x.h4.map.example. names no home address",
        ),
        (
            newer.replace("note TXT", "note.elsewhere.example. TXT"),
            "note.elsewhere.example. is outside the zone",
        ),
        (
            format!("{newer}alias TXT \"x\"\n"),
            "not to be had beside the rest",
        ),
        (
            format!("{newer}par TXT ( \"a\"\n \"b\" )\n"),
            "zone.txt: line 6: a quoted string in parentheses",
        ),
        (
            format!("{newer}esc TXT \"a\\092\"\n"),
            "zone.txt: line 6: an escape of three digits",
        ),
        (
            format!("{newer}$INCLUDE /etc/passwd\n"),
            "zone.txt: line 6: $INCLUDE",
        ),
        (
            newer.replace("note TXT", "note NOTHING"),
            "zone.txt: line 5: ",
        ),
    ] {
        let (ok, said) = import(dir.path(), &text);
        assert!(
            !ok && said.contains(wanted),
            "{said}\nshould contain\n{wanted}"
        );
        let (_, after) = offline(dir.path(), &["export"]);
        assert_eq!(after, before, "{wanted}");
    }
    let (ok, said) = import(dir.path(), &newer);
    assert!(ok && said.contains("1 changed"), "{said}");
    let (ok, said) = offline(dir.path(), &["import", "/no/such/file"]);
    assert!(
        !ok && said.contains("/no/such/file: cannot be read"),
        "{said}"
    );
    let (ok, said) = offline(directory().path(), &["export"]);
    assert!(!ok && said.contains("holds no journal"), "{said}");
}

#[test]
fn what_became_of_a_home_is_told_while_it_serves() {
    let dir = directory();
    let (ok, said) = import(dir.path(), SMALL);
    assert!(ok, "{said}");
    let mapd = Mapd::start(dir.path());
    let owner = format!("10.2.0.192.h4.{ZONE}");
    let there = mapd.dig_binding("10.2.0.192.h4");
    let moved = there.replace("198.51.100.7", "198.51.100.8");
    let epoch = there
        .split("key65280=\"")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap();
    let after = (epoch.parse::<u64>().unwrap() + 1).to_string();
    let moved = moved.replace(
        &format!("key65280=\"{epoch}\""),
        &format!("key65280=\"{after}\""),
    );
    for line in [
        format!("update delete {owner} SVCB\nupdate add {owner} 0 SVCB {moved}"),
        format!("update delete {owner} SVCB"),
        format!(
            "update add 11.2.0.192.h4.{ZONE} 0 SVCB {}",
            moved.replace(".8", ".9")
        ),
    ] {
        let done = mapd.nsupdate(&line);
        assert!(done.ok, "{}", done.text);
    }
    let history = |homes: &[&str]| offline(dir.path(), &[&["history"][..], homes].concat());
    let (ok, said) = history(&["192.0.2.10"]);
    let lines: Vec<&str> = said.lines().collect();
    assert!(ok && lines.len() == 3, "{said}");
    assert!(
        lines[0].contains(&format!("192.0.2.10: 198.51.100.7@{epoch}")),
        "{said}"
    );
    let step = format!("site-a. 192.0.2.10: 198.51.100.7@{epoch} -> 198.51.100.8@{after}");
    assert!(
        lines[1].contains("Z ") && lines[1].ends_with(&step),
        "{said}"
    );
    assert!(
        lines[2].ends_with(&format!("198.51.100.8@{after} -> nothing")),
        "{said}"
    );
    assert_eq!(history(&["192.0.2.0/28"]).1.lines().count(), 4);
    assert_eq!(history(&[]).1, history(&["192.0.2.0/24"]).1);
    let (ok, said) = history(&["192.0.2.0/33"]);
    assert!(
        !ok && said.contains("192.0.2.0/33 is no home address"),
        "{said}"
    );
    mapd.stop();
    let (ok, said) = offline(directory().path(), &["history"]);
    assert!(
        !ok && said.contains("nothing has ever been served"),
        "{said}"
    );
}
