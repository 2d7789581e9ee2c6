//! The shortest form of `make bench-flood`.
//! Needs root or a user namespace: `scripts/privileged cargo test -p mat-netns`.

use anyhow::Result;
use mat_netns::flood::{Settings, run};

#[test]
fn a_flood_of_first_contacts_neither_stops_a_transfer_nor_fills_memory() -> Result<()> {
    let report = run(Settings {
        seconds: 2,
        rounds: 1,
        mbits: 200,
    })?;
    println!("{report:?}");
    let count = |cause: &str| report.counters[cause].as_u64().unwrap_or(0);
    let [before, after] = report.memory_kib;
    // 20,000 strangers, at 1 KiB each, would be more.
    assert!(after < before + 16 * 1024, "{report:?}");
    assert!(count("open_without_cookie") > 5_000, "{report:?}");
    let [sent, got] = report.messages;
    assert!(sent <= got, "{report:?}");
    // What is looked up: 200 a second, and 200 at once.
    assert!(count("open_not_verified") <= 2_000, "{report:?}");
    Ok(())
}
