//! What must outlive the process: one JSON file, replaced whole, in a directory
//! that one process holds.
//!
//! Invariant: after [`StateDir::store`] has returned, a power cut leaves the new
//! content; before it, the old one; never a mixture. The files hold tokens and
//! keys of moves, so directory and files are readable by their owner alone.
//!
//! # Limitations
//! The lock is `flock(2)`: it guards against a second `matd`, not against
//! somebody editing the files, and on network file systems only as far as they
//! implement it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why state cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another process holds the directory.
    #[error(
        "{}: another matd uses this state directory; give each its own `state_dir`, or stop the other one",
        .0.display()
    )]
    Locked(PathBuf),
    /// The system refused.
    #[error("{}: cannot {doing}: {cause}; `state_dir` must be a directory matd can write", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        cause: io::Error,
    },
    /// The value cannot be written as JSON.
    #[error("{}: cannot be written as JSON: {cause}", .path.display())]
    Encode {
        /// The file.
        path: PathBuf,
        /// What the encoder said.
        cause: serde_json::Error,
    },
}

/// A state directory held by this process until dropped.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: Flock<File>,
}

impl StateDir {
    /// Creates the directory (mode 0700) if need be and takes it for this
    /// process, or fails at once if another one has it.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(fault(path, "create the directory"))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))
            .map_err(fault(path, "make the directory private"))?;
        let lock_path = path.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(fault(&lock_path, "open the lock file"))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self {
                path: path.to_owned(),
                _lock: lock,
            }),
            Err((_, nix::Error::EWOULDBLOCK)) => Err(StateError::Locked(path.to_owned())),
            Err((_, error)) => Err(fault(&lock_path, "lock the file")(error.into())),
        }
    }

    /// Path of the file `name` in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

/// Reads `path`: `None` if it does not exist or is damaged. A damaged file is
/// set aside as `path.damaged`, with a warning, so that a start is never
/// prevented by it and nothing is lost for whoever wants to look.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StateError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fault(path, "read the file")(error)),
    };
    match serde_json::from_slice(&bytes) {
        Ok(state) => Ok(Some(state)),
        Err(error) => {
            let aside = beside(path, "damaged");
            fs::rename(path, &aside).map_err(fault(path, "set the damaged file aside"))?;
            tracing::warn!(
                "{}: damaged ({error}); set aside as {}, starting without it",
                path.display(),
                aside.display()
            );
            Ok(None)
        }
    }
}

/// Replaces `path` (mode 0600) by `state`, durably.
pub fn store<T: Serialize>(path: &Path, state: &T) -> Result<(), StateError> {
    let (fresh, file) = write_beside(path, state)?;
    file.sync_all().map_err(fault(&fresh, "write the file"))?;
    fs::rename(&fresh, path).map_err(fault(path, "replace the file"))?;
    sync_folder(path)
}

/// Like [`store`], for what a reboot makes worthless: a crash of the process
/// leaves old or new content, a power cut anything, and no disk is waited for.
pub fn store_until_reboot<T: Serialize>(path: &Path, state: &T) -> Result<(), StateError> {
    let (fresh, _) = write_beside(path, state)?;
    fs::rename(&fresh, path).map_err(fault(path, "replace the file"))
}

fn write_beside<T: Serialize>(path: &Path, state: &T) -> Result<(PathBuf, File), StateError> {
    let mut bytes = serde_json::to_vec_pretty(state).map_err(|cause| StateError::Encode {
        path: path.to_owned(),
        cause,
    })?;
    bytes.push(b'\n');
    let fresh = beside(path, "new");
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&fresh)
        .map_err(fault(&fresh, "create the file"))?;
    file.write_all(&bytes)
        .map_err(fault(&fresh, "write the file"))?;
    Ok((fresh, file))
}

/// Removes `path`, durably; it need not exist.
pub fn remove(path: &Path) -> Result<(), StateError> {
    match fs::remove_file(path) {
        Ok(()) => sync_folder(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(fault(path, "remove the file")(error)),
    }
}

/// A rename or removal is durable once its directory is.
fn sync_folder(path: &Path) -> Result<(), StateError> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(fault(folder, "write the directory"))
}

fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    name.into()
}

fn fault(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |cause| StateError::Io { path, doing, cause }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    type Sample = BTreeMap<String, u64>;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_is_stored_is_loaded_and_private() {
        let temp = tempfile::tempdir().unwrap();
        let dir = StateDir::open(&temp.path().join("deep/er")).unwrap();
        let path = dir.file("state.json");
        assert_eq!(load::<Sample>(&path).unwrap(), None);
        for epoch in [1, 2] {
            let state = Sample::from([("epoch".to_owned(), epoch)]);
            store(&path, &state).unwrap();
            assert_eq!(load(&path).unwrap(), Some(state));
        }
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert_eq!(load::<Sample>(&path).unwrap(), None);
    }

    #[test]
    fn a_damaged_file_is_set_aside_and_kept() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("state.json");
        fs::write(&path, b"{\"epoch\": ").unwrap();
        assert_eq!(load::<Sample>(&path).unwrap(), None);
        assert!(!path.exists());
        let kept = fs::read(temp.path().join("state.json.damaged")).unwrap();
        assert_eq!(kept, b"{\"epoch\": ");
    }

    #[test]
    fn a_temporary_file_left_by_a_crash_does_no_harm() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("state.json");
        fs::write(beside(&path, "new"), b"half").unwrap();
        store(&path, &Sample::new()).unwrap();
        assert_eq!(load::<Sample>(&path).unwrap(), Some(Sample::new()));
    }

    #[test]
    fn two_processes_cannot_share_a_directory() {
        let temp = tempfile::tempdir().unwrap();
        let first = StateDir::open(temp.path()).unwrap();
        let error = StateDir::open(temp.path()).unwrap_err().to_string();
        assert!(error.contains("another matd"), "{error}");
        drop(first);
        StateDir::open(temp.path()).unwrap();
    }
}
