//! Each server: its configuration, how it starts. All serve [`ZONE`] at [`ADDRESS`].

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use mat_netns::dns_servers::program;
use mat_netns::{Cmd, Host};
use serde::{Deserialize, Serialize};

use crate::load::Load;

/// The zone.
pub const ZONE: &str = "map.example";
/// Where it is served, in a namespace of its own.
pub const ADDRESS: (&str, u16) = ("127.0.0.1", 5300);
/// The key that may change everything.
pub const KEY: &str = "bench";
/// Its secret: of a zone that lives for minutes.
pub const SECRET: &str = "YmVuY2hiZW5jaGJlbmNoYmVuY2hiZW5jaGJlbmNoYmU=";

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Seat {
    /// This project's.
    Mapd,
    /// BIND's `named`.
    Bind,
    /// Knot's `knotd`, as it comes.
    Knot,
    /// The same, told to write its journal only and not its zone file after each change
    /// (`zonefile-sync: -1`).
    KnotJournal,
}

impl Seat {
    /// All of them.
    pub const ALL: [Seat; 4] = [Seat::Mapd, Seat::Bind, Seat::Knot, Seat::KnotJournal];

    /// Writes its configuration and the zone into `folder`; gives what starts it.
    pub fn prepare(self, host: &Host, folder: &Path, load: &Load) -> Result<Cmd> {
        let (ip, port) = ADDRESS;
        let place = folder.display();
        let zone = folder.join("zone");
        std::fs::copy(load.zone(), &zone)?;
        let zone = zone.display();
        let config = folder.join("config");
        let cmd = match self {
            Seat::Mapd => {
                // As the others are, which have no limit unless they are given one.
                let text = format!(
                    "zone = \"{ZONE}\"\nlisten = [\"{ip}:{port}\"]\ndata_dir = \"{place}/data\"\n\
                     responses_per_second = 0\n\
                     [[key]]\nname = \"{KEY}\"\nsecret = \"{SECRET}\"\nhomes = [\"all\"]\n\
                     locators = [\"all\"]\n"
                );
                std::fs::write(&config, text)?;
                let path = beside("mat-mapd")?;
                let mapd = || Cmd::new(&path).arg("--config").arg(&config);
                host.run(mapd().arg("import").arg(load.zone()))?;
                mapd()
            }
            Seat::Bind => {
                let text = format!(
                    "key {KEY} {{ algorithm hmac-sha256; secret \"{SECRET}\"; }};\n\
                     options {{ directory \"{place}\"; listen-on port {port} {{ {ip}; }}; \
                     listen-on-v6 {{ none; }}; pid-file none; session-keyfile none; recursion no; \
                     dnssec-validation no; notify no; }};\ncontrols {{ }};\n\
                     zone {ZONE} {{ type primary; file \"{zone}\"; check-names ignore; \
                     allow-update {{ key {KEY}; }}; }};\n"
                );
                std::fs::write(&config, text)?;
                program("named")?.cmd().arg("-f").arg("-c").arg(&config)
            }
            Seat::Knot | Seat::KnotJournal => {
                let sync = match self {
                    Seat::KnotJournal => "    zonefile-sync: -1\n",
                    _ => "",
                };
                let text = format!(
                    "server:\n  rundir: {place}\n  listen: {ip}@{port}\n\
                     log:\n  - target: stderr\n    any: warning\n\
                     database:\n  storage: {place}\n\
                     key:\n  - id: {KEY}\n    algorithm: hmac-sha256\n    secret: {SECRET}\n\
                     acl:\n  - id: change\n    key: {KEY}\n    action: update\n\
                     zone:\n  - domain: {ZONE}\n    file: {zone}\n    acl: change\n{sync}"
                );
                std::fs::write(&config, text)?;
                program("knotd")?.cmd().arg("-c").arg(&config)
            }
        };
        Ok(cmd)
    }
}

/// A program of this project, beside this one.
fn beside(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let path = own.with_file_name(name);
    ensure!(path.exists(), "{} is not built", path.display());
    Ok(path)
}
