//! Wires between hosts, and moving the end of one.

use std::fs::File;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::host::Host;
use crate::{namespace, netlink};

/// What may differ from a plain wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkOptions {
    /// The largest packet of both ends, in bytes; 1500 unless set.
    pub mtu: u32,
    /// False turns every offload off at both ends: see [`Host::offloads_off`].
    pub offloads: bool,
}

impl Default for LinkOptions {
    fn default() -> Self {
        Self {
            mtu: 1500,
            offloads: true,
        }
    }
}

/// Moves a device between two named network namespaces of this machine (`ip netns list`), whoever
/// made them, and sets it up at its new place; returns how long the kernel took.
pub fn move_device(device: &str, from: &str, to: &str) -> Result<Duration> {
    let open = |name: &str| {
        let path = namespace::path(name);
        File::open(&path).with_context(|| format!("no network namespace {}", path.display()))
    };
    let (source, target) = (open(from)?, open(to)?);
    let work = || -> Result<Duration> {
        namespace::join(&source)?;
        let start = Instant::now();
        netlink::move_and_set_up(device, &target)?;
        Ok(start.elapsed())
    };
    thread::scope(|scope| {
        let thread = scope.spawn(work);
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
    .with_context(|| format!("moving {device} from namespace {from} to {to}"))
}

/// Makes a veth pair, each end straight in its namespace, and sets both ends up.
pub(crate) fn connect(
    a: &Host,
    a_device: &str,
    b: &Host,
    b_device: &str,
    options: LinkOptions,
) -> Result<()> {
    let LinkOptions { mtu, offloads } = options;
    let b_namespace = b.namespace_name();
    a.ip(&format!(
        "link add name {a_device} mtu {mtu} type veth peer name {b_device} mtu {mtu} netns {b_namespace}"
    ))?;
    for (host, device) in [(a, a_device), (b, b_device)] {
        if !offloads {
            host.offloads_off(device)?;
        }
        let device = device.to_owned();
        host.inside(move || netlink::set_up(&device))?;
    }
    Ok(())
}

/// Moves a device and sets it up at its new place; returns how long the kernel took.
pub(crate) fn relocate(device: &str, from: &Host, to: &Host) -> Result<Duration> {
    let what = format!("moving {device} from {} to {}", from.name(), to.name());
    let device = device.to_owned();
    let target = to.namespace().clone();
    from.inside(move || {
        let start = Instant::now();
        netlink::move_and_set_up(&device, &target)?;
        Ok(start.elapsed())
    })
    .context(what)
}
