//! Limits of the process which a crowd of connections runs into.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors for everything that is not the crowd.
const RESERVE: u64 = 64;

/// Makes room for `connections` more descriptors, as far as the hard limit allows.
///
/// # Errors
/// A message for the user when the hard limit is too low.
pub fn allow_connections(connections: u32) -> Result<(), String> {
    let needed = u64::from(connections) + RESERVE;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)
        .map_err(|e| format!("cannot read the limit of open files: {e}"))?;
    if soft >= needed {
        return Ok(());
    }
    if hard < needed {
        return Err(format!(
            "{connections} connections need {needed} open files, but the hard limit is {hard}; \
             raise it (ulimit -Hn {needed}) or ask for fewer connections"
        ));
    }
    setrlimit(Resource::RLIMIT_NOFILE, needed, hard)
        .map_err(|e| format!("cannot raise the limit of open files to {needed}: {e}"))
}
