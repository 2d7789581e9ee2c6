//! A command line as a value: built by the caller, run by a [`Host`](crate::Host).

use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::Path;
use std::time::Duration;

/// How long [`Host::exec`](crate::Host::exec) lets a command run, unless told otherwise.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// Program, arguments, environment and standard input of one process.
///
/// A string converts into one, split at white space (no quoting):
/// `host.exec("ping -c 1 192.0.2.1")`.
#[derive(Clone, Debug)]
pub struct Cmd {
    pub(crate) program: OsString,
    pub(crate) args: Vec<OsString>,
    pub(crate) env: Vec<(OsString, OsString)>,
    pub(crate) stdin: Option<Vec<u8>>,
    pub(crate) name: Option<String>,
    pub(crate) timeout: Duration,
}

impl Cmd {
    /// The program alone, looked up in `PATH` unless it holds a slash.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            stdin: None,
            name: None,
            timeout: DEFAULT_TIMEOUT,
        }
    }

    /// Adds one argument, spaces and all.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds several arguments.
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args
            .extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Adds the words of `words`, split at white space.
    pub fn words(self, words: &str) -> Self {
        self.args(words.split_whitespace())
    }

    /// Sets one environment variable beside the inherited ones.
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env
            .push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// What the process reads from its standard input; without it, nothing.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// The name of the log file and in messages; without it, the program's file name.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// How long [`Host::exec`](crate::Host::exec) waits (60 s by default) before it kills.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    pub(crate) fn display_name(&self) -> String {
        self.name.clone().unwrap_or_else(|| {
            let program = Path::new(&self.program);
            let file = program.file_name().unwrap_or(self.program.as_os_str());
            file.to_string_lossy().into_owned()
        })
    }
}

/// The search path with the directories of `ip`, `tc` and `nft`, which are not on everybody's.
pub(crate) fn search_path() -> OsString {
    let mut path = env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/local/sbin:/usr/sbin:/sbin");
    path
}

impl From<&str> for Cmd {
    fn from(line: &str) -> Self {
        let mut words = line.split_whitespace();
        Self::new(words.next().unwrap_or_default()).args(words)
    }
}

impl From<String> for Cmd {
    fn from(line: String) -> Self {
        line.as_str().into()
    }
}

/// The command as it would be typed, without the quoting.
impl fmt::Display for Cmd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.program.to_string_lossy())?;
        for arg in &self.args {
            write!(f, " {}", arg.to_string_lossy())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_is_split_at_white_space() {
        let cmd = Cmd::from("ip  addr show");
        assert_eq!(cmd.program, "ip");
        assert_eq!(cmd.args, ["addr", "show"]);
        assert_eq!(cmd.to_string(), "ip addr show");
    }

    #[test]
    fn the_name_is_the_programs_file_name_unless_given() {
        assert_eq!(Cmd::new("/opt/bin/matd").display_name(), "matd");
        assert_eq!(
            Cmd::new("matd").name("matd-site-a").display_name(),
            "matd-site-a"
        );
    }
}
