//! Private homes: who is told where they are.

use crate::harness::*;

#[test]
fn private_homes_are_told_to_those_who_may_read_them() {
    let dir = directory();
    let open = config("0");
    let closed = open
        .replace("data_dir", "private = [\"192.0.2.0/25\"]\ndata_dir")
        .replace(
            "transfer = true",
            "transfer = true\nother_names = true\ntypes = [\"SVCB\", \"A\", \"CNAME\"]",
        )
        .replace(
            "locators = [\"203.0.113.0/24\"]",
            "locators = [\"203.0.113.0/24\"]\nreads = []",
        );
    let mut mapd = Mapd::start_with(dir.path(), &closed);
    let svcb = |home: u8| {
        format!(
            "update add {home}.2.0.192.h4.{ZONE} 0 SVCB 1 . ipv4hint=198.51.100.{home} key65280=1 key65281=native key65282=30"
        )
    };
    for update in [
        svcb(10),
        svcb(200),
        format!("update add 10.2.0.192.h4.{ZONE} 5 A 198.51.100.10"),
        format!("update add alias.{ZONE} 5 CNAME 10.2.0.192.h4.{ZONE}"),
    ] {
        let done = mapd.nsupdate(&update);
        assert!(done.ok, "{}", done.text);
    }
    let a = format!("-y hmac-sha256:site-a:{SECRET_A}");
    let b = format!("-y hmac-sha512:site-b:{SECRET_B}");
    let ask = |mapd: &Mapd, what: &str, key: &str| mapd.dig(&format!("{what} {key}"));
    for what in [
        format!("10.2.0.192.h4.{ZONE} SVCB"),
        format!("10.2.0.192.h4.{ZONE} A"),
        format!("10.2.0.192.h4.{ZONE} ANY"),
        format!("alias.{ZONE} A"),
    ] {
        for key in ["", b.as_str()] {
            let said = ask(&mapd, &what, key);
            assert!(
                said.contains("REFUSED") && !said.contains("198.51.100.10"),
                "{said}"
            );
        }
        let said = ask(&mapd, &what, &a);
        assert!(
            said.contains("NOERROR") && said.contains("198.51.100.10"),
            "{said}"
        );
    }
    // Nobody learns by asking for what leads there.
    assert!(ask(&mapd, &format!("2.0.192.h4.{ZONE} SVCB"), "").contains("REFUSED"));
    // Nor by an alias, whether it leads somewhere or not, nor by a prerequisite.
    let done = mapd.nsupdate(&format!(
        "update add nowhere.{ZONE} 5 CNAME 11.2.0.192.h4.{ZONE}"
    ));
    assert!(done.ok, "{}", done.text);
    for what in ["alias", "nowhere"] {
        for kind in ["A", "SVCB", "CNAME", "TXT"] {
            let said = ask(&mapd, &format!("{what}.{ZONE} {kind}"), "");
            assert!(said.contains("REFUSED"), "{said}");
        }
    }
    let foreign = closed.replace("homes = [\"192.0.2.0/25\"]", "homes = []");
    let data = dir.path().join("data").display().to_string();
    std::fs::write(dir.path().join("mapd.toml"), foreign.replace("DATA", &data)).unwrap();
    mapd.signal(nix::sys::signal::Signal::SIGHUP);
    mapd.wait_for("reloaded keys=2");
    for (home, wanted) in [(10, "REFUSED"), (11, "REFUSED"), (200, "NOERROR")] {
        let key = format!("hmac-sha512:site-b:{SECRET_B}");
        let said = mapd.nsupdate_as(&key, &format!("prereq yxdomain {home}.2.0.192.h4.{ZONE}"));
        assert!(said.text.contains(wanted), "{home}: {}", said.text);
    }

    // Nor where a private one must be, by what it shares with others.
    let shared = format!(
        "update add *.2.0.192.h4.{ZONE} 0 SVCB 1 . ipv4hint=198.51.100.0 key65280=1 \
         key65281=native key65282=30 key65283=24"
    );
    let done = mapd.nsupdate(&shared);
    assert!(done.ok, "{}", done.text);
    for name in ["*.2", "11.2", "201.2"] {
        let what = format!("{name}.0.192.h4.{ZONE} SVCB");
        for key in ["", b.as_str()] {
            let said = ask(&mapd, &what, key);
            assert!(said.contains("REFUSED"), "{what}: {said}");
        }
        assert!(
            ask(&mapd, &what, &a).contains("ipv4hint=198.51.100.0"),
            "{what}"
        );
    }
    // What is not private is told as ever.
    assert!(
        mapd.dig_binding("200.2.0.192.h4")
            .contains("198.51.100.200")
    );
    assert!(ask(&mapd, &format!("{ZONE} SOA"), "").contains("NOERROR"));

    // And all of it again once nothing is private.
    std::fs::write(dir.path().join("mapd.toml"), open.replace("DATA", &data)).unwrap();
    mapd.signal(nix::sys::signal::Signal::SIGHUP);
    mat_netns::wait_until(PATIENCE, "everything to be open", || {
        (!mapd.dig_binding("10.2.0.192.h4").is_empty()).then_some(())
    })
    .unwrap();
    assert!(mapd.dig_binding("10.2.0.192.h4").contains("198.51.100.10"));
    mapd.stop();
}
