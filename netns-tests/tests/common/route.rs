//! What the kernel of a host knows about a way.

use anyhow::Result;
use mat_netns::Host;

/// Asserts that path-MTU discovery has found `mtu` on the way to `peer`.
pub fn learned(host: &Host, peer: &str, mtu: u32) -> Result<()> {
    let route = host.ip(&format!("route get {peer}"))?;
    let words: Vec<&str> = route.split_whitespace().collect();
    let expected = mtu.to_string();
    assert!(
        words.windows(2).any(|pair| pair == ["mtu", &expected]),
        "{} has not learned {mtu} bytes to {peer}: {route}",
        host.name()
    );
    Ok(())
}

/// Forgets what has been learned.
pub fn forget(host: &Host) -> Result<()> {
    host.ip("route flush cache")?;
    host.ip("-6 route flush cache").map(drop)
}
