//! Other DNS servers and their tools, as `scripts/dns-servers` unpacks them: not installed, so that
//! none of them runs where nobody asked for it.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, Result};

use crate::Cmd;

/// One of their programs.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    libraries: PathBuf,
}

/// The program of this name.
///
/// # Errors
/// `scripts/dns-servers` has not been called.
pub fn program(name: &str) -> Result<Program> {
    let usr = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/dns-servers/usr");
    let mut places = ["sbin", "bin"]
        .map(|folder| usr.join(folder).join(name))
        .into_iter();
    let path = places.find(|path| path.exists());
    Ok(Program {
        path: path.with_context(|| format!("{name} is not here: call scripts/dns-servers"))?,
        libraries: usr.join(format!("lib/{}-linux-gnu", std::env::consts::ARCH)),
    })
}

/// Whether a test can have the program of this name; if not, says so.
///
/// # Panics
/// It is not here, and `MAT_CONFORMANCE_ALL` is set.
pub fn is_here(name: &str) -> bool {
    let found = program(name);
    if let Err(missing) = &found {
        let demanded = std::env::var_os("MAT_CONFORMANCE_ALL").is_some();
        assert!(!demanded, "{missing}");
        eprintln!("not tested: {missing}");
    }
    found.is_ok()
}

impl Program {
    /// To be run here.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.env("LD_LIBRARY_PATH", &self.libraries);
        command
    }

    /// To be run by a host of a lab.
    pub fn cmd(&self) -> Cmd {
        Cmd::new(&self.path).env("LD_LIBRARY_PATH", &self.libraries)
    }
}

/// An address of this machine whose port nobody has, for UDP and TCP. It is below those that the
/// system gives to whoever asks for any, so that no client has it by the time a server takes it.
pub fn free_address() -> SocketAddr {
    static COUNT: AtomicU16 = AtomicU16::new(0);
    let first = (std::process::id() % 500) as u16 * 20;
    for _ in 0..10_000 {
        let port = 20_000 + (first + COUNT.fetch_add(1, Ordering::Relaxed)) % 10_000;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if UdpSocket::bind(address).is_ok() && TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no port from 20,000 to 29,999 is free");
}
