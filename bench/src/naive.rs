//! The simplest forwarder there can be, to measure `matd` by: a plain TUN, one blocking read, one
//! rewritten packet and one write after the other, and one pair of addresses that is known from
//! the start.

use std::io::IoSlice;
use std::net::IpAddr;
use std::os::fd::AsFd;

use anyhow::{Context, Result, bail};
use clap::Parser;
use mat_dataplane::config::TunConfig;
use mat_dataplane::frame::MAX_FRAME;
use mat_dataplane::io::tun::Tun;
use mat_dataplane::rewrite::{ChecksumState, Packet, Translation, rewrite};
use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// Rewrites packets between two homes, each at a locator (a contender of mat-bench).
#[derive(Debug, Parser)]
struct Args {
    /// Name of the TUN device, which is made
    #[arg(long)]
    tun: String,
    /// Home address and locator of this end
    #[arg(long, num_args = 2)]
    own: Vec<IpAddr>,
    /// Home address and locator of the other end
    #[arg(long, num_args = 2)]
    peer: Vec<IpAddr>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let ([home, locator], [peer_home, peer_locator]) = (pair(&args.own)?, pair(&args.peer)?);
    let tun = Tun::open(&TunConfig {
        name: args.tun,
        mtu: 1500,
        offload: false,
        coalesce: false,
        queues: 1,
    })?;
    fcntl(tun.as_fd(), FcntlArg::F_SETFL(OFlag::O_RDWR)).context("making it blocking")?;
    println!("ready");
    let outbound = addresses(locator, peer_locator);
    let inbound = addresses(peer_home, home);
    let mut frame = vec![0; MAX_FRAME];
    loop {
        let Some(length) = tun.recv(&mut frame).context("reading")? else {
            bail!("a read that does not wait");
        };
        let packet = &mut frame[..length];
        let Ok(headers) = Packet::parse(packet) else {
            continue;
        };
        let map = match (headers.src(), headers.dst()) {
            (src, dst) if (src, dst) == (home, peer_home) => &outbound,
            (src, dst) if (src, dst) == (peer_locator, locator) => &inbound,
            _ => continue,
        };
        if rewrite(packet, &headers, map, ChecksumState::Full).is_ok() {
            // A full queue drops it, as it would anywhere.
            let _ = tun.send(&[IoSlice::new(packet)]);
        }
    }
}

fn pair(values: &[IpAddr]) -> Result<[IpAddr; 2]> {
    values.try_into().context("a home address and a locator")
}

fn addresses(src: IpAddr, dst: IpAddr) -> Translation {
    Translation {
        new_src: Some(src),
        new_dst: Some(dst),
        quoted: None,
    }
}
