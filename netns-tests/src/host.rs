//! A host of the lab: one network namespace and what can be done in it.

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::panic::resume_unwind;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::cmd::{Cmd, search_path};
use crate::lab::Core;
use crate::process::{Process, new_log};
use crate::wait::wait_until;
use crate::{namespace, netlink};

/// A host of the lab. Cloning gives another handle to the same host.
#[derive(Clone, Debug)]
pub struct Host {
    pub(crate) core: Arc<Core>,
    namespace: Arc<File>,
    name: Arc<str>,
    namespace_name: Arc<str>,
}

impl Host {
    pub(crate) fn new(core: Arc<Core>, name: &str) -> Result<Self> {
        let namespace_name = core.new_namespace(name)?;
        let namespace = Arc::new(namespace::create(&namespace_name)?);
        let host = Self {
            core,
            namespace,
            name: name.into(),
            namespace_name: namespace_name.into(),
        };
        host.inside(|| netlink::set_up("lo"))?;
        // Without duplicate address detection an IPv6 address is usable at once.
        for which in ["all", "default"] {
            host.sysctl(&format!("net.ipv6.conf.{which}.accept_dad"), 0)?;
        }
        Ok(host)
    }

    /// The name given to [`Lab::host`](crate::Lab::host).
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name `ip netns` shows, unique to this lab.
    pub fn namespace_name(&self) -> &str {
        &self.namespace_name
    }

    // ---- configuration -------------------------------------------------------------------

    /// Runs `ip` with these words. Several lines are several commands in one `ip -batch`, which
    /// stops at the first that fails. Returns what was printed.
    pub fn ip(&self, lines: &str) -> Result<String> {
        let lines: Vec<&str> = lines.lines().map(str::trim).collect();
        let commands: Vec<&&str> = lines.iter().filter(|line| !line.is_empty()).collect();
        match commands[..] {
            [one] => self.run(Cmd::new("ip").words(one)),
            _ => self.run(Cmd::new("ip").words("-batch -").stdin(lines.join("\n"))),
        }
    }

    /// Runs `tc` with these words.
    pub fn tc(&self, words: &str) -> Result<String> {
        self.run(Cmd::new("tc").words(words))
    }

    /// Loads an nftables script (one command a line, or whole tables).
    pub fn nft(&self, script: &str) -> Result<String> {
        self.run(Cmd::new("nft").words("-f -").stdin(script))
    }

    /// Sets a kernel parameter of this namespace, for instance `net.ipv4.ip_forward`. A key with
    /// slashes instead of dots serves devices with a dot in their name.
    pub fn sysctl(&self, key: &str, value: impl ToString) -> Result<()> {
        let path = sysctl_path(key)?;
        let value = value.to_string();
        let what = format!("sysctl {key}={value} in host {}", self.name);
        self.inside(move || Ok(fs::write(path, value)?))
            .context(what)
    }

    /// Reads a kernel parameter of this namespace.
    pub fn sysctl_get(&self, key: &str) -> Result<String> {
        let path = sysctl_path(key)?;
        let what = format!("sysctl {key} in host {}", self.name);
        self.inside(move || Ok(fs::read_to_string(path)?.trim_end().to_owned()))
            .context(what)
    }

    /// Makes it a router, for both families.
    pub fn forwarding(&self) -> Result<()> {
        self.sysctl("net.ipv4.ip_forward", 1)?;
        self.sysctl("net.ipv6.conf.default.forwarding", 1)?;
        self.sysctl("net.ipv6.conf.all.forwarding", 1)
    }

    /// Turns every offload of the device off, so that whole packets of at most the MTU cross it,
    /// with complete checksums, and the receiver verifies them. Both ends of a link need it.
    pub fn offloads_off(&self, device: &str) -> Result<()> {
        self.features(device, "tx off rx off tso off gso off gro off")
    }

    /// Switches features of the device; the words are those of `ethtool -K`.
    pub fn features(&self, device: &str, words: &str) -> Result<()> {
        self.run(Cmd::new("ethtool").args(["-K", device]).words(words))
            .map(drop)
    }

    /// Makes a bridge, sets it up and puts the devices into it.
    pub fn bridge(&self, bridge: &str, devices: &[&str]) -> Result<()> {
        let mut lines = format!("link add {bridge} type bridge\nlink set dev {bridge} up\n");
        for device in devices {
            lines += &format!("link set dev {device} master {bridge}\n");
        }
        self.ip(&lines).map(drop)
    }

    // ---- processes -----------------------------------------------------------------------

    /// Starts a process in the background. Its output goes to a log file in the lab's directory;
    /// it ends with the lab at the latest.
    pub fn spawn(&self, cmd: impl Into<Cmd>) -> Result<Process> {
        let cmd = cmd.into();
        let name = format!("{}-{}", self.name, cmd.display_name());
        let (log_path, log) = new_log(self.core.dir(), &name)?;
        let stderr = log.try_clone()?;
        let child = self.start(&cmd, log.into(), stderr.into())?;
        let process = Process::new(name, log_path, child);
        self.core.own_process(process.clone());
        Ok(process)
    }

    /// Runs a command to its end and returns its output, whatever its status. It is killed when
    /// its time is over or the run is interrupted, and that is an error.
    pub fn exec(&self, cmd: impl Into<Cmd>) -> Result<Output> {
        let cmd = cmd.into();
        let (stdout, stderr) = (scratch_file(b"")?, scratch_file(b"")?);
        let mut child = self.start(&cmd, stdout.try_clone()?.into(), stderr.try_clone()?.into())?;
        let status = finish(&mut child, cmd.timeout)
            .with_context(|| format!("`{cmd}` in host {} was killed", self.name))?;
        Ok(Output {
            status,
            stdout: read_back(stdout)?,
            stderr: read_back(stderr)?,
        })
    }

    /// Runs a command to its end and returns its standard output. A status other than success is
    /// an error that shows the command and what it wrote.
    pub fn run(&self, cmd: impl Into<Cmd>) -> Result<String> {
        let cmd = cmd.into();
        let output = self.exec(cmd.clone())?;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(stdout);
        }
        let mut message = format!("`{cmd}` in host {}: {}", self.name, output.status);
        for (title, text) in [
            ("stdin", cmd.stdin.as_deref().unwrap_or_default()),
            ("stdout", &output.stdout),
            ("stderr", &output.stderr),
        ] {
            let text = String::from_utf8_lossy(text);
            if !text.trim().is_empty() {
                message += &format!("\n{title}:\n{}", text.trim_end());
            }
        }
        bail!(message)
    }

    /// True if `address` answers one ping within a second.
    pub fn pings(&self, address: &str) -> Result<bool> {
        let output = self.exec(Cmd::new("ping").words("-n -c 1 -W 1").arg(address))?;
        Ok(output.status.success())
    }

    // ---- code ----------------------------------------------------------------------------

    /// Runs a closure on a thread inside the namespace and waits for it. Sockets opened there
    /// stay in the namespace when they are handed out. A panic passes through.
    ///
    /// `/proc/net` and `/sys/class/net` still show the caller's namespace; read
    /// `/proc/thread-self/net` instead.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                namespace::join(&*self.namespace)?;
                Ok(work())
            });
            thread.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// Starts a thread inside the namespace. The lab does not wait for it: join the handle.
    pub fn thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<Result<T>> {
        let namespace = self.namespace.clone();
        thread::spawn(move || {
            namespace::join(&*namespace)?;
            Ok(work())
        })
    }

    /// Runs a short job inside the namespace on the lab's own thread.
    pub(crate) fn inside<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.core.spawner.run(self.namespace.clone(), job)
    }

    pub(crate) fn namespace(&self) -> &Arc<File> {
        &self.namespace
    }

    fn start(&self, cmd: &Cmd, stdout: Stdio, stderr: Stdio) -> Result<Child> {
        let stdin = match &cmd.stdin {
            Some(bytes) => scratch_file(bytes)?.into(),
            None => Stdio::null(),
        };
        let mut command = Command::new(&cmd.program);
        command
            .args(&cmd.args)
            .env("PATH", search_path())
            .envs(cmd.env.iter().map(|(key, value)| (key, value)))
            .stdin(stdin)
            .stdout(stdout)
            .stderr(stderr);
        let child = self
            .core
            .spawner
            .spawn(self.namespace.clone(), command)
            .with_context(|| format!("cannot start `{cmd}` in host {}", self.name))?;
        self.core.journal.child(child.id())?;
        Ok(child)
    }
}

fn sysctl_path(key: &str) -> Result<String> {
    let path = if key.contains('/') {
        key.to_owned()
    } else {
        key.replace('.', "/")
    };
    ensure!(
        path.starts_with("net/") && !path.contains(".."),
        "`{key}` is no parameter of a network namespace: it must start with net."
    );
    Ok(format!("/proc/sys/{path}"))
}

/// A file rather than a pipe: nobody has to feed it, or drain it, while the process runs.
fn scratch_file(content: &[u8]) -> Result<File> {
    let mut file = tempfile::tempfile().context("cannot make a temporary file")?;
    file.write_all(content)?;
    file.rewind()?;
    Ok(file)
}

fn read_back(mut file: File) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut content)?;
    Ok(content)
}

/// Waits for the process to end; if it may not go on, kills it and its group.
fn finish(child: &mut Child, timeout: Duration) -> Result<ExitStatus> {
    let ended = wait_until(timeout, "its end", || child.try_wait().transpose());
    ended.and_then(|status| Ok(status?)).or_else(|stopped| {
        let _ = killpg(Pid::from_raw(child.id() as i32), Signal::SIGKILL);
        child.wait()?;
        Err(stopped)
    })
}
