//! What secondaries answer for homes of a prefix that share a binding.

use std::io::Write as _;
use std::process::{Command, Stdio};

use mat_netns::dns_servers::free_address;

use crate::follow::catches_up;
use crate::servers::*;

const SHARED: &str = "*.2.0.192.h4.map.example.";

/// The address in the record that each of the homes is answered for with, or nothing.
fn places(server: &Server, homes: [u8; 3]) -> [String; 3] {
    homes.map(|home| {
        let answer = server.dig(&format!("{home}.2.0.192.h4.{ZONE} SVCB +noall +answer"));
        let mut words = answer.split_whitespace();
        let hint = words.find_map(|word| word.strip_prefix("ipv4hint="));
        hint.unwrap_or_default().to_owned()
    })
}

fn update(primary: &Server, lines: &str) {
    let key = format!("hmac-sha256:site:{SECRET}");
    let mut command = Command::new("nsupdate");
    command.args(["-y", &key]).stdin(Stdio::piped());
    let mut nsupdate = command.stderr(Stdio::piped()).spawn().unwrap();
    let server = primary.address;
    let text = format!("server {} {}\n{lines}\nsend\n", server.ip(), server.port());
    nsupdate
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let done = nsupdate.wait_with_output().unwrap();
    assert!(done.status.success(), "{lines}\n{done:?}");
}

fn share(primary: &Server, epoch: u64, first: &str) {
    let record = format!(
        "1 . port=6283 ipv4hint={first} key65280={epoch} key65281=native key65282=30 key65283=24"
    );
    let lines = format!("update delete {SHARED}\nupdate add {SHARED} 0 SVCB {record}");
    update(primary, &lines);
}

pub async fn answers_for_prefixes(kind: Kind) {
    let place = Place::new(free_address());
    let primary = place.start();
    let dir = tempfile::tempdir().unwrap();
    let secondary = kind.start(place.secondary, primary.address, dir.path());
    let agree = |expected: [&str; 3]| {
        catches_up(&secondary, &primary);
        for server in [&primary, &secondary] {
            assert_eq!(places(server, [1, 2, 3]), expected, "{}", server.log());
        }
    };
    share(&primary, 1, "203.0.113.0");
    agree(["203.0.113.0"; 3]);

    // Two have a binding of their own, and one of them loses it: nobody goes back in time.
    place.shift(1, None, 5).await;
    place.shift(2, None, 5).await;
    update(&primary, &format!("update delete 2.2.0.192.h4.{ZONE}"));
    agree(["198.51.5.1", "", "203.0.113.0"]);
    // The prefix moves and is older still; then it is newer.
    share(&primary, 3, "203.0.112.0");
    agree(["198.51.5.1", "", "203.0.112.0"]);
    share(&primary, 7, "203.0.111.0");
    agree(["198.51.5.1", "203.0.111.0", "203.0.111.0"]);
    update(&primary, &format!("update delete {SHARED}"));
    agree(["198.51.5.1", "", ""]);
}
