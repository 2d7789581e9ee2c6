//! Named network namespaces: made, entered, emptied, deleted.
//!
//! `ip netns` does the naming, so that every other tool sees the same names; entering is one
//! `setns` on a thread.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cmd::search_path;

/// Every namespace and directory of every lab starts with this, followed by the owner's pid.
pub(crate) const PREFIX: &str = "mat-";

/// Makes the namespace and opens it.
pub(crate) fn create(name: &str) -> Result<File> {
    ip_netns("add", name)?;
    let path = path(name);
    File::open(&path).with_context(|| format!("cannot open {}", path.display()))
}

/// Kills whatever still runs inside and deletes the name. False if there was no such namespace.
pub(crate) fn delete(name: &str) -> Result<bool> {
    if !path(name).exists() {
        return Ok(false);
    }
    for pid in processes_inside(name) {
        let _ = kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
    }
    match ip_netns("delete", name) {
        // Somebody else swept it in the same moment.
        Err(_) if !path(name).exists() => Ok(false),
        result => result.map(|()| true),
    }
}

/// Puts the calling thread into the namespace, for good.
pub(crate) fn join(namespace: impl AsFd) -> Result<()> {
    setns(namespace, CloneFlags::CLONE_NEWNET).context("cannot enter the network namespace")
}

/// Where `ip netns` keeps the name.
pub(crate) fn path(name: &str) -> PathBuf {
    Path::new("/run/netns").join(name)
}

/// All processes in the namespace but this one, in order of pid.
fn processes_inside(name: &str) -> Vec<u32> {
    let Ok(wanted) = fs::metadata(path(name)) else {
        return Vec::new();
    };
    let inside = |pid: &u32| {
        fs::metadata(format!("/proc/{pid}/ns/net"))
            .is_ok_and(|found| (found.dev(), found.ino()) == (wanted.dev(), wanted.ino()))
    };
    let mut pids: Vec<u32> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != process::id())
        .filter(inside)
        .collect();
    pids.sort_unstable();
    pids
}

fn ip_netns(action: &str, name: &str) -> Result<()> {
    let output = Command::new("ip")
        .args(["netns", action, name])
        .env("PATH", search_path())
        .output()
        .with_context(|| format!("cannot run `ip netns {action} {name}`"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("`ip netns {action} {name}` failed: {}", stderr.trim_end());
    }
    Ok(())
}
