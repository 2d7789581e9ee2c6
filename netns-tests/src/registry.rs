//! What a run has made, on disk, so that the next run can remove what a killed one left.
//!
//! One journal per run, `/run/mat-lab/<pid>-<n>`, one line per thing, written *before* a
//! namespace or directory is made and right after a process has started. The first line names the
//! owner by pid and start time, which together no other process ever has until the next boot;
//! children are named the same way. A journal whose owner lives is never touched; a torn last
//! line is ignored.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Mutex;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::namespace;

const DIRECTORY: &str = "/run/mat-lab";

/// The journal of one run of this process.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: Mutex<File>,
}

impl Journal {
    /// Opens the journal of this process's `n`-th lab.
    pub(crate) fn create(n: u32) -> Result<Self> {
        let path = Path::new(DIRECTORY).join(format!("{}-{n}", process::id()));
        let file = create_file(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let journal = Self {
            path,
            file: Mutex::new(file),
        };
        journal.process("owner", process::id())?;
        Ok(journal)
    }

    pub(crate) fn namespace(&self, name: &str) -> Result<()> {
        self.line(format!("namespace {name}"))
    }

    pub(crate) fn directory(&self, path: &Path) -> Result<()> {
        self.line(format!("directory {}", path.display()))
    }

    pub(crate) fn child(&self, pid: u32) -> Result<()> {
        self.process("child", pid)
    }

    /// Everything has been removed: the journal goes too.
    pub(crate) fn close(&self) -> io::Result<()> {
        fs::remove_file(&self.path)?;
        // Fails, as it should, while another run has its journal there.
        let _ = fs::remove_dir(DIRECTORY);
        Ok(())
    }

    fn process(&self, role: &str, pid: u32) -> Result<()> {
        match start_time(pid) {
            Some(start) => self.line(format!("{role} {pid} {start}")),
            // Already gone and reaped: nothing to remember.
            None => Ok(()),
        }
    }

    fn line(&self, line: String) -> Result<()> {
        let mut file = self
            .file
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        file.write_all(format!("{line}\n").as_bytes())
            .with_context(|| format!("cannot write {}", self.path.display()))
    }
}

fn create_file(path: &Path) -> io::Result<File> {
    loop {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(DIRECTORY)?;
        let file = OpenOptions::new().create_new(true).append(true).open(path);
        match file {
            // Another run ended just now, the last one, and took the directory with it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => return result,
        }
    }
}

/// Removes what runs left whose process is gone; returns one line for each thing removed.
pub(crate) fn sweep() -> Result<Vec<String>> {
    let mut removed = Vec::new();
    let entries = match fs::read_dir(DIRECTORY) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(removed),
        Err(error) => return Err(error).with_context(|| format!("cannot read {DIRECTORY}")),
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        // Another run may sweep at the same time, so a file that vanishes is no error.
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        let things = parse(&text);
        if !owner_is_gone(&things, &path) {
            continue;
        }
        for thing in &things {
            if remove(thing)? {
                removed.push(format!("{thing:?}"));
            }
        }
        let _ = fs::remove_file(&path);
    }
    Ok(removed)
}

/// When the process started, in clock ticks since boot; `None` if there is none, or a zombie.
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name may hold spaces and brackets; the fields go on after its last bracket.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    // starttime is field 22 of proc(5), the state was field 3.
    fields.nth(18)?.parse().ok()
}

#[derive(Debug, PartialEq, Eq)]
enum Thing {
    Owner { pid: u32, start: u64 },
    Child { pid: u32, start: u64 },
    Namespace(String),
    Directory(PathBuf),
}

fn parse(text: &str) -> Vec<Thing> {
    let whole_lines = text.rsplit_once('\n').map_or("", |(lines, _torn)| lines);
    whole_lines.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Thing> {
    let (kind, rest) = line.split_once(' ')?;
    let process = || {
        let (pid, start) = rest.split_once(' ')?;
        Some((pid.parse().ok()?, start.parse().ok()?))
    };
    match kind {
        "owner" => process().map(|(pid, start)| Thing::Owner { pid, start }),
        "child" => process().map(|(pid, start)| Thing::Child { pid, start }),
        "namespace" => Some(Thing::Namespace(rest.to_owned())),
        "directory" => Some(Thing::Directory(rest.into())),
        _ => None,
    }
}

fn owner_is_gone(things: &[Thing], path: &Path) -> bool {
    match things.first() {
        Some(Thing::Owner { pid, start }) => start_time(*pid) != Some(*start),
        // Killed before the first line was whole, or being written just now: ask the file's name.
        _ => {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let pid = name.split('-').next().and_then(|pid| pid.parse().ok());
            pid.is_none_or(|pid| start_time(pid).is_none())
        }
    }
}

/// True if there was something to remove.
fn remove(thing: &Thing) -> Result<bool> {
    match thing {
        Thing::Owner { .. } => Ok(false),
        Thing::Child { pid, start } => Ok(start_time(*pid) == Some(*start)
            && kill(Pid::from_raw(*pid as i32), Signal::SIGKILL).is_ok()),
        Thing::Namespace(name) => namespace::delete(name),
        Thing::Directory(path) => Ok(is_ours(path) && fs::remove_dir_all(path).is_ok()),
    }
}

/// A last look before a tree is deleted: made by this user, and named as a lab names its own.
fn is_ours(path: &Path) -> bool {
    let named = path
        .file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with(namespace::PREFIX));
    let owned = fs::symlink_metadata(path)
        .is_ok_and(|meta| meta.is_dir() && meta.uid() == nix::unistd::geteuid().as_raw());
    named && owned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_is_read_up_to_its_last_whole_line() {
        let text = "owner 7 100\nnamespace mat-7-a\nchild 9 120\ndirectory /tmp/mat-7-x\nchild 1";
        assert_eq!(
            parse(text),
            [
                Thing::Owner { pid: 7, start: 100 },
                Thing::Namespace("mat-7-a".into()),
                Thing::Child { pid: 9, start: 120 },
                Thing::Directory("/tmp/mat-7-x".into()),
            ]
        );
    }

    #[test]
    fn a_process_is_known_by_its_start_time() {
        let pid = process::id();
        let start = start_time(pid).expect("this process runs");
        let path = Path::new("/run/mat-lab/0-0");
        assert!(!owner_is_gone(&[Thing::Owner { pid, start }], path));
        let reused = Thing::Owner {
            pid,
            start: start + 1,
        };
        assert!(owner_is_gone(&[reused], path));
    }

    #[test]
    fn only_a_labs_own_directory_is_ever_removed() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!is_ours(dir.path()));
        assert!(!is_ours(Path::new("/tmp")));
    }
}
