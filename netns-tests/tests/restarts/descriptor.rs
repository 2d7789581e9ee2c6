//! A service manager keeps the TUN open while `matd` is away, as systemd's descriptor store does:
//! sd_notify(3), "FDSTORE=1", and sd_listen_fds(3).

use std::fmt::Write;
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mat_netns::testbed::{Options, Testbed};
use mat_netns::{Cmd, Process, Signal, wait_until};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg};

use crate::scene::{STILL_MS, Scene};

const SOON: Duration = Duration::from_secs(15);

/// What the TUN's queue of 10,000 packets surely holds of two transfers, each with a thousand probes
/// a second in both directions. On a busy machine `matd` can be away for longer.
const QUEUE_MS: f64 = 2000.0;

/// What a service manager knows of its service.
#[derive(Default)]
struct Kept {
    said: Vec<String>,
    tun: Option<OwnedFd>,
}

/// The service manager of one `matd`.
struct Manager {
    socket: PathBuf,
    kept: Arc<Mutex<Kept>>,
}

impl Manager {
    fn new(bed: &Testbed) -> Result<Self> {
        let path = bed.lab.dir().join("notify.sock");
        let socket = UnixDatagram::bind(&path)?;
        let kept = Arc::new(Mutex::new(Kept::default()));
        let manager = Manager {
            socket: path,
            kept: Arc::clone(&kept),
        };
        // Ends with the test's process.
        thread::spawn(move || while listen(&socket, &kept).is_ok() {});
        Ok(manager)
    }

    fn with<T>(&self, look: impl FnOnce(&mut Kept) -> T) -> T {
        look(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until the service has said `line` so many times.
    fn hears(&self, line: &str, times: usize) -> Result<()> {
        let count = || self.with(|kept| kept.said.iter().filter(|said| *said == line).count());
        wait_until(SOON, format!("{line}, {times} times"), || {
            (count() >= times).then_some(())
        })
    }

    fn keeps_a_tun(&self) -> bool {
        self.with(|kept| kept.tun.is_some())
    }

    /// Starts the forwarder of site a with the descriptor that is kept; the shell does `first`
    /// before.
    fn start(&self, bed: &mut Testbed, first: &str) -> Result<Process> {
        let matd = bed.options().binaries.join("matd");
        let site = bed.sites.iter_mut().find(|s| s.spec.name == "a");
        let site = site.context("no such site")?;
        let kept = self.with(|kept| kept.tun.as_ref().map(OwnedFd::try_clone).transpose())?;
        let mut script = "export LISTEN_PID=$$;".to_owned();
        match &kept {
            _ if !first.is_empty() => script += first,
            Some(tun) => {
                // For the shell, which calls it 3.
                fcntl(tun, FcntlArg::F_SETFD(FdFlag::empty()))?;
                let number = tun.as_raw_fd();
                write!(script, "exec 3<&{number} {number}<&-;")?;
            }
            None => script.clear(),
        }
        script += "exec \"$@\"";
        let shell = Cmd::new("bash").arg("-c").arg(script).arg("bash");
        let process = site.host.spawn(
            shell
                .arg(matd)
                .arg("--config")
                .arg(&site.config)
                .env("NOTIFY_SOCKET", &self.socket)
                .env("LISTEN_FDS", "1")
                .env("LISTEN_FDNAMES", "tun")
                .name("matd-site-a"),
        )?;
        // The device is busy as long as anybody has it.
        drop(kept);
        process.wait_for_log("ready, control socket", SOON)?;
        site.matd = process.clone();
        Ok(process)
    }
}

/// Takes one message.
fn listen(socket: &UnixDatagram, kept: &Mutex<Kept>) -> nix::Result<()> {
    let mut text = [0; 4096];
    let mut space = nix::cmsg_space!([RawFd; 4]);
    let mut parts = [IoSliceMut::new(&mut text)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let mut received = Vec::new();
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = part {
            // SAFETY: the kernel has just made these descriptors for us.
            received.extend(numbers.iter().map(|n| unsafe { OwnedFd::from_raw_fd(*n) }));
        }
    }
    let length = message.bytes;
    let lines: Vec<String> = String::from_utf8_lossy(&text[..length])
        .lines()
        .map(str::to_owned)
        .collect();
    let says = |line: &str| lines.iter().any(|l| l == line);
    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
    if says("FDSTORE=1") && says("FDNAME=tun") {
        kept.tun = received.pop();
    }
    if says("FDSTOREREMOVE=1") && says("FDNAME=tun") {
        kept.tun = None;
    }
    kept.said.extend(lines);
    Ok(())
}

/// A testbed whose site a has a service manager.
fn managed() -> Result<(Testbed, Manager)> {
    let mut bed = Testbed::new(Options::new()?)?;
    let manager = Manager::new(&bed)?;
    stop(&bed, Signal::SIGTERM)?;
    manager.start(&mut bed, "")?;
    manager.hears("READY=1", 1)?;
    ensure!(manager.keeps_a_tun());
    Ok((bed, manager))
}

fn stop(bed: &Testbed, signal: Signal) -> Result<()> {
    let matd = &bed.site("a").matd;
    matd.signal(signal)?;
    let status = matd.wait(SOON)?;
    ensure!(status.success() || signal == Signal::SIGKILL, "{status}");
    Ok(())
}

/// Packets wait as long as nobody reads them and the queue has room. At most `lost` datagrams are
/// lost then, of some thousand that are sent meanwhile.
fn a_restart_with_the_tun_kept_open(signal: Signal, lost: u64) -> Result<()> {
    let (bed, manager) = managed()?;
    let mut scene = Scene::on(bed)?;
    scene.interrupt("a", signal)?;
    scene.nothing_leaked()?;
    ensure!(manager.keeps_a_tun(), "forgotten: homes are attached");
    let matd = manager.start(&mut scene.bed, "")?;
    ensure!(!matd.log().contains("WARN"), "{}", matd.log());
    scene.flows()?;
    scene.nothing_leaked()?;
    let what = format!("matd restarted after {signal}, TUN kept open");
    scene.finish_and_judge(&what, |report| {
        let udp = &report["udp"];
        let gap = udp["longest_gap_ms"].as_f64().context("no gap")?;
        ensure!(gap >= STILL_MS as f64, "it was not away: {udp:#}");
        if gap < QUEUE_MS {
            ensure!(udp["lost"].as_u64() <= Some(lost), "{udp:#}");
        }
        Ok(())
    })
}

#[test]
fn with_the_tun_kept_open_a_stop_loses_no_packet() -> Result<()> {
    a_restart_with_the_tun_kept_open(Signal::SIGTERM, 0)
}

#[test]
fn with_the_tun_kept_open_a_crash_loses_only_what_was_in_hand() -> Result<()> {
    a_restart_with_the_tun_kept_open(Signal::SIGKILL, 100)
}

#[test]
fn an_upgrade_in_place_leaves_the_kept_tun_as_it_is() -> Result<()> {
    let (bed, manager) = managed()?;
    let scene = Scene::on(bed)?;
    scene.bed.site("a").matd.signal(Signal::SIGUSR2)?;
    for line in ["RELOADING=1", "READY=1", "FDSTORE=1"] {
        let times = if line == "RELOADING=1" { 1 } else { 2 };
        manager.hears(line, times)?;
    }
    scene.flows()?;
    ensure!(manager.keeps_a_tun());
    scene.finish("upgraded under a service manager")
}

#[test]
fn an_unsuitable_descriptor_is_closed_and_the_device_opened() -> Result<()> {
    let (mut bed, manager) = managed()?;
    for (redirection, what) in [
        ("exec 3</dev/null;", "it is none"),
        ("exec 3<&-;", "Bad file descriptor"),
    ] {
        stop(&bed, Signal::SIGTERM)?;
        let matd = manager.start(&mut bed, redirection)?;
        ensure!(matd.log().contains(what), "{}", matd.log());
    }
    // The right device, in the wrong form, which a second owner would keep busy.
    let web = bed.instance("web", 10, "a")?;
    let user = bed.instance("user", 20, "c")?;
    ensure!(user.host.pings(&web.home)?);
    stop(&bed, Signal::SIGKILL)?;
    ensure!(manager.keeps_a_tun());
    let config = &bed.site("a").config;
    let text = std::fs::read_to_string(config)?;
    std::fs::write(config, text + "[tun]\noffload = false\n")?;
    let matd = manager.start(&mut bed, "")?;
    ensure!(matd.log().contains("its flags are"), "{}", matd.log());
    ensure!(matd.log().contains("no offload"), "{}", matd.log());
    ensure!(user.host.pings(&web.home)?);
    // The new one is kept now.
    manager.hears("FDSTOREREMOVE=1", 3)?;
    ensure!(manager.keeps_a_tun());
    bed.lab.end()
}

#[test]
fn with_nothing_attached_nobody_keeps_the_device() -> Result<()> {
    let (bed, manager) = managed()?;
    stop(&bed, Signal::SIGTERM)?;
    manager.hears("FDSTOREREMOVE=1", 1)?;
    ensure!(!manager.keeps_a_tun());
    let links = bed.site("a").host.run("ip -br link")?;
    ensure!(!links.contains("mat0"), "{links}");
    bed.lab.end()
}
