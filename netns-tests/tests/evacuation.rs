//! The shortest form of `make bench-evacuation`.
//! Needs root or a user namespace: `scripts/privileged cargo test -p mat-netns`.

use anyhow::Result;
use mat_netns::evacuation::{Settings, run};

#[test]
fn a_site_is_emptied_with_one_command_and_no_connection_breaks() -> Result<()> {
    let report = run(&Settings {
        instances: 12,
        parallel: 3,
        rtt_ms: 0.0,
    })?;
    println!("{}", report.summary());
    assert!(report.broken.is_empty(), "{:?}", report.broken);
    assert!(report.control_messages > 0);
    Ok(())
}
