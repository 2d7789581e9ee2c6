//! May this process build a lab, and if not, what has to be typed?

use std::path::Path;
use std::thread;

use anyhow::{Result, bail};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::geteuid;

/// Succeeds if network namespaces can be made here; otherwise the error says which command helps.
pub fn require() -> Result<()> {
    if !geteuid().is_root() {
        bail!("network namespaces need root, and this process has none.\n{REMEDY}");
    }
    // On a thread of its own, which takes the new namespace with it when it ends.
    let made = thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET)).join();
    match made {
        Ok(Ok(())) => {}
        Ok(Err(errno)) => bail!("no network namespace can be made here: {errno}.\n{REMEDY}"),
        Err(_) => bail!("the thread that probes for privileges panicked"),
    }
    if nix::unistd::access(Path::new("/run"), nix::unistd::AccessFlags::W_OK).is_err() {
        bail!("/run cannot be written, so no namespace can get a name there.\n{REMEDY}");
    }
    Ok(())
}

const REMEDY: &str = "\
Either run the same command with sudo, or in a user namespace of your own:
    unshare --user --map-root-user --net --mount sh -c 'mount -t tmpfs tmpfs /run && exec \"$@\"' - COMMAND
(`scripts/privileged COMMAND` picks whichever works.)";
