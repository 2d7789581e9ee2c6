//! A user-space WireGuard at both ends.
//!
//! `wg` and these programs meet at a socket under `/var/run/wireguard`, by the device's name, for
//! the whole machine. So each program has a mount namespace with an empty `/run` of its own;
//! nothing of it is left behind.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use mat_netns::{Cmd, Host, Process, wait_until};

use super::{Carrier, Course, PATIENCE, Site};
use crate::contender::Contender;
use crate::plan::Family;

/// What fits into a packet of 1500 bytes in either family, as `wg-quick` has it.
const MTU: u32 = 1420;

const PORT: u16 = 51820;

/// One tunnel between the ends.
pub fn build(site: &Site, contender: &'static Contender, program: &str) -> Result<Course> {
    let path = site.tools.other(program)?;
    let wg = site.tools.other("wg")?;
    let ends = site.ends(contender)?;
    let (left, right) = (&ends.left, &ends.right);
    let (wire, inside) = (site.underlay(), site.overlay());
    let about = left.run(Cmd::new(&path).arg("--version"))?;
    let about = about.lines().next().unwrap_or_default().trim().to_owned();

    let keys = [Key::new(left, &wg)?, Key::new(right, &wg)?];
    let mut processes = Vec::new();
    for (host, key, peer_key, peer, address, peer_address) in [
        (
            left,
            &keys[0],
            &keys[1],
            wire.right,
            inside.left,
            inside.right,
        ),
        (
            right,
            &keys[1],
            &keys[0],
            wire.left,
            inside.right,
            inside.left,
        ),
    ] {
        let process = start(host, &path)?;
        let len = match site.family {
            Family::Ipv4 => 32,
            Family::Ipv6 => 128,
        };
        let config = format!(
            "[Interface]\nPrivateKey = {}\nListenPort = {PORT}\n\
             [Peer]\nPublicKey = {}\nEndpoint = {}\nAllowedIPs = {peer_address}/{len}\n",
            key.private,
            peer_key.public,
            endpoint(site.family, peer),
        );
        let set = inside_mounts(&process, &wg).words("setconf wg0 /dev/stdin");
        host.run(set.stdin(config))?;
        host.ip(&format!(
            "link set dev wg0 mtu {MTU} up
             addr add {address}/{len} dev wg0 {nodad}",
            len = inside.len,
            nodad = site.nodad(),
        ))?;
        processes.push(process);
    }
    let carrier = Tunnel {
        host: left.clone(),
        wg,
        processes,
    };
    Ok(ends.course(contender, about, &inside, carrier))
}

fn endpoint(family: Family, address: &str) -> String {
    match family {
        Family::Ipv4 => format!("{address}:{PORT}"),
        Family::Ipv6 => format!("[{address}]:{PORT}"),
    }
}

/// Starts the program in the foreground and waits for its socket.
fn start(host: &Host, program: &Path) -> Result<Process> {
    let script = "mount -t tmpfs tmpfs /run && exec \"$@\"";
    let command = Cmd::new("unshare")
        .args(["--mount", "sh", "-c", script, "-"])
        .arg(program)
        .words("--foreground wg0")
        // GotaTun and BoringTun give up their rights otherwise, where they are not root's own.
        .env("WG_SUDO", "true")
        .name(program.file_name().unwrap_or_default().to_string_lossy());
    let process = host.spawn(command)?;
    let socket = format!("/proc/{}/root/run/wireguard/wg0.sock", process.pid());
    let what = format!("{} to listen", process.name());
    wait_until(PATIENCE, what, || {
        if !process.is_running() {
            return Some(Err(anyhow::anyhow!("it ended")));
        }
        Path::new(&socket).exists().then_some(Ok(()))
    })
    .and_then(|ready| ready)
    .with_context(|| format!("{}: {}", process.name(), process.log_tail()))?;
    Ok(process)
}

/// A program in the mount namespace of another.
fn inside_mounts(of: &Process, program: &Path) -> Cmd {
    Cmd::new("nsenter")
        .args(["--mount", "--target", &of.pid().to_string()])
        .arg(program)
}

struct Key {
    private: String,
    public: String,
}

impl Key {
    fn new(host: &Host, wg: &Path) -> Result<Self> {
        let private = host.run(Cmd::new(wg).arg("genkey"))?.trim().to_owned();
        let pubkey = Cmd::new(wg).arg("pubkey").stdin(private.clone());
        let public = host.run(pubkey)?.trim().to_owned();
        Ok(Key { private, public })
    }
}

struct Tunnel {
    host: Host,
    wg: PathBuf,
    processes: Vec<Process>,
}

impl Carrier for Tunnel {
    fn carried(&self) -> Result<u64> {
        let show = inside_mounts(&self.processes[0], &self.wg).words("show wg0 transfer");
        let text = self.host.run(show)?;
        // Public key, octets received, octets sent.
        let sent = text.split_whitespace().nth(2);
        sent.and_then(|word| word.parse().ok())
            .with_context(|| format!("no count in the output of `wg`: {text}"))
    }

    fn processes(&self) -> Vec<u32> {
        self.processes.iter().map(Process::pid).collect()
    }
}
