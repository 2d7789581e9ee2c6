//! Namespaces that live as long as a test, and commands run in them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Uid, gettid};

/// Runs `test` on a thread in a network namespace of its own, with a runtime
/// that never leaves this thread.
pub fn in_namespace<T: AsyncFnOnce() + Send + 'static>(test: T) {
    in_namespaces(CloneFlags::CLONE_NEWNET, test);
}

/// The same with more kinds of namespaces.
pub fn in_namespaces<T: AsyncFnOnce() + Send + 'static>(kinds: CloneFlags, test: T) {
    need_root();
    let thread = thread::spawn(move || {
        unshare(kinds).expect("a namespace of its own");
        ip("link set lo up");
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn need_root() {
    assert!(
        Uid::effective().is_root(),
        "this test needs root to make network namespaces: run it with sudo or in `unshare -rn`"
    );
}

/// Another namespace, beside the one of the test.
pub struct Neighbour {
    thread: Option<JoinHandle<()>>,
    end: Option<mpsc::Sender<()>>,
    path: String,
    tid: String,
}

impl Neighbour {
    pub fn new() -> Self {
        let (end, wait) = mpsc::channel::<()>();
        let (ready, started) = mpsc::channel();
        let thread = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a namespace of its own");
            ip("link set lo up");
            ready.send(gettid()).unwrap();
            // Ends when the sender is dropped.
            let _ = wait.recv();
        });
        let tid = started.recv().unwrap();
        Self {
            thread: Some(thread),
            end: Some(end),
            path: format!("/proc/{}/task/{tid}/ns/net", std::process::id()),
            tid: tid.to_string(),
        }
    }

    /// Makes a veth pair: `here` in the test's namespace, `there` in this one.
    pub fn link(&self, here: &str, there: &str) {
        ip(&format!("link add {here} type veth peer name {there}"));
        ip(&format!("link set {there} netns {}", self.tid));
    }

    /// Runs a command here and returns what it prints, whatever its status.
    pub fn try_run(&self, command: &str) -> String {
        let net = format!("--net={}", self.path);
        let mut words = vec![net.as_str()];
        words.extend(command.split_whitespace());
        let output = Command::new("nsenter").args(words).output();
        let output = output.expect("nsenter (package util-linux)");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs a command here that must succeed.
    pub fn run(&self, command: &str) -> String {
        let net = format!("--net={}", self.path);
        run(&format!("nsenter {net} {command}"))
    }
}

impl Neighbour {
    /// Runs a line of bash here, which must succeed.
    pub fn run_script(&self, script: &str) {
        let net = format!("--net={}", self.path);
        let status = Command::new("nsenter")
            .args([net.as_str(), "bash", "-c", script])
            .status()
            .expect("nsenter (package util-linux)");
        assert!(status.success(), "{script}");
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        self.end.take();
        if let Some(thread) = self.thread.take() {
            // Its only way to fail has been seen in `new`.
            let _ = thread.join();
        }
    }
}

/// `ip ARGS`, which must succeed.
pub fn ip(args: &str) -> String {
    run(&format!("ip {args}"))
}

/// A command that must succeed.
pub fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap())
        .args(words)
        .output()
        .unwrap_or_else(|error| panic!("{command}: {error}"));
    assert!(
        output.status.success(),
        "{command}: {}{}",
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// All routing state and settings of this namespace, to be compared.
pub fn snapshot() -> BTreeMap<String, String> {
    let mut state = BTreeMap::new();
    for command in [
        "-4 route show table all",
        "-6 route show table all",
        "-4 rule",
        "-6 rule",
        "-4 neigh show proxy",
        "-6 neigh show proxy",
        "neigh show nud permanent",
        "-o -br link",
        "-o -br addr",
    ] {
        state.insert(command.to_owned(), ip(command));
    }
    settings(Path::new("/proc/sys/net/ipv4"), &mut state);
    settings(Path::new("/proc/sys/net/ipv6"), &mut state);
    state.insert("nft".to_owned(), run("nft list ruleset"));
    for link in ip("-o -br link").lines() {
        let name = link.split([' ', '@']).next().unwrap();
        state.insert(
            format!("features of {name}"),
            run(&format!("ethtool -k {name}")),
        );
    }
    state
}

fn settings(folder: &Path, state: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            settings(&path, state);
        } else if let Ok(value) = fs::read_to_string(&path) {
            // Random by nature.
            if !path.ends_with("stable_secret") && !path.ends_with("tcp_fastopen_key") {
                state.insert(path.display().to_string(), value);
            }
        }
    }
}

/// Compares two snapshots and names what differs.
#[track_caller]
pub fn assert_same(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) {
    let mut text = String::new();
    for key in before.keys().chain(after.keys()) {
        let (old, new) = (before.get(key), after.get(key));
        if old != new && !text.contains(&format!("\n{key}:")) {
            text += &format!("\n{key}:\n before {old:?}\n after  {new:?}");
        }
    }
    assert!(text.is_empty(), "not as before:{text}");
}
