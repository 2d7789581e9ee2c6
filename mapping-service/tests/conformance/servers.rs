//! Who can sit in the mapping service's seat: mat-mapd, BIND, Knot.
//!
//! All begin with the same apex at serial 1 and know one key that may do everything.

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use hickory_proto::rr::Name;
use mat_mapping::client::{Algorithm, MapClient, TsigKey};
use mat_netns::dns_servers::{self, free_address};
use mat_netns::wait_until;
use tempfile::TempDir;

use crate::text::ZONE;
use crate::wire::{self, PATIENCE};

const KEY: &str = "conformance";
const SECRET: &str = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=";

/// The apex, in the notation of the scenarios. It is what mat-mapd makes of its configuration.
pub const APEX: [&str; 3] = [
    "@ 300 SOA ns1.example.net. hostmaster 0 60 10 86400 2",
    "@ 300 NS ns1.example.net.",
    "@ 300 NS ns2.example.net.",
];

/// The same as a zone file, at serial 1.
const ZONE_FILE: &str = "$ORIGIN map.example.
@ 300 IN SOA ns1.example.net. hostmaster 1 60 10 86400 2
@ 300 IN NS ns1.example.net.
@ 300 IN NS ns2.example.net.
";

/// A server that can be tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seat {
    Mat,
    Bind,
    Knot,
}

impl Seat {
    pub const ALL: [Seat; 3] = [Seat::Mat, Seat::Bind, Seat::Knot];

    /// Its name in the scenarios.
    pub fn name(self) -> &'static str {
        match self {
            Seat::Mat => "mat",
            Seat::Bind => "bind",
            Seat::Knot => "knot",
        }
    }

    /// Whether it is here: mat-mapd always, the others once `scripts/dns-servers` has run.
    pub fn taken(self) -> bool {
        match self {
            Seat::Mat => true,
            Seat::Bind => dns_servers::is_here("named"),
            Seat::Knot => dns_servers::is_here("knotd"),
        }
    }

    /// The key that may do everything.
    pub fn key() -> TsigKey {
        TsigKey::from_base64(KEY, Algorithm::HmacSha256, SECRET).unwrap()
    }

    /// Starts it and waits until it answers with the zone.
    pub fn start(self) -> Server {
        let address = free_address();
        let dir = tempfile::tempdir().unwrap();
        let other = |name| dns_servers::program(name).unwrap().command();
        let (mut command, arguments, config) = match self {
            Seat::Mat => {
                let mapd = Command::new(env!("CARGO_BIN_EXE_mat-mapd"));
                (mapd, &["--config"][..], mat_config(address, dir.path()))
            }
            // In the foreground.
            Seat::Bind => {
                let arguments = &["-g", "-n", "1", "-c"][..];
                (other("named"), arguments, bind_config(address, dir.path()))
            }
            Seat::Knot => (
                other("knotd"),
                &["-c"][..],
                knot_config(address, dir.path()),
            ),
        };
        let file = dir.path().join("config");
        std::fs::write(&file, config).unwrap();
        std::fs::write(dir.path().join("zone"), ZONE_FILE).unwrap();
        let log = File::create(dir.path().join("log")).unwrap();
        command.args(arguments).arg(file).current_dir(dir.path());
        command.env_remove("RUST_LOG").env_remove("NOTIFY_SOCKET");
        command.stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let child = command.spawn().unwrap();
        let server = Server {
            child,
            address,
            dir,
        };
        let mut last = None;
        let up = wait_until(PATIENCE, self.name(), || {
            let zone = wire::transfer(address, &Seat::key());
            zone.map_err(|error| last = Some(error)).ok()
        });
        assert!(
            up.is_ok(),
            "{self:?} did not start: {last:?}\n{}",
            server.log()
        );
        server
    }
}

/// A running server; killed when dropped.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
    dir: TempDir,
}

impl Server {
    pub fn client(&self, key: TsigKey) -> MapClient {
        let zone = Name::from_ascii(ZONE).unwrap();
        MapClient::new(zone, vec![self.address], Some(key))
    }

    /// What it has said so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn mat_config(address: SocketAddr, dir: &Path) -> String {
    format!(
        r#"zone = "{ZONE}"
listen = ["{address}"]
data_dir = "{}/data"
responses_per_second = 0
nameservers = ["ns1.example.net.", "ns2.example.net."]
[[key]]
name = "{KEY}"
secret = "{SECRET}"
homes = ["all"]
locators = ["all"]
types = ["SVCB", "A", "AAAA", "TXT", "CNAME", "TYPE65280"]
other_names = true
transfer = true
"#,
        dir.display()
    )
}

fn bind_config(address: SocketAddr, dir: &Path) -> String {
    format!(
        r#"key "{KEY}" {{ algorithm hmac-sha256; secret "{SECRET}"; }};
controls {{ }};
options {{
    directory "{}";
    listen-on port {} {{ 127.0.0.1; }};
    listen-on-v6 {{ none; }};
    pid-file none;
    session-keyfile none;
    recursion no;
    dnssec-validation no;
    notify no;
    check-names primary ignore;
}};
zone "{ZONE}" {{
    type primary;
    file "zone";
    allow-update {{ key "{KEY}"; }};
    allow-transfer {{ key "{KEY}"; }};
}};
"#,
        dir.display(),
        address.port()
    )
}

fn knot_config(address: SocketAddr, dir: &Path) -> String {
    let dir = dir.display();
    format!(
        r#"server:
    listen: 127.0.0.1@{}
    rundir: "{dir}"
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
log:
  - target: stderr
    any: info
database:
    storage: "{dir}"
    journal-db-max-size: 16M
key:
  - id: {KEY}
    algorithm: hmac-sha256
    secret: {SECRET}
acl:
  - id: all
    key: {KEY}
    action: [update, transfer]
zone:
  - domain: {ZONE}
    storage: "{dir}"
    file: zone
    acl: all
"#,
        address.port()
    )
}
