//! mat-mapd as the primary, and who can be its secondary.

use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hickory_proto::op::Message;
use hickory_proto::rr::Name;
use mat_mapping::client::{Algorithm, MapClient, Swap, TsigKey};
use mat_mapping::tsig::{Link, Stamp};
use mat_netns::dns_servers::{self, free_address};
use mat_netns::wait_until;
use mat_proto::{Binding, Epoch};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use tempfile::TempDir;

pub const ZONE: &str = "map.example.";
pub const SECRET: &str = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=";

/// Nothing here takes longer unless it is broken.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// A server that can be a secondary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Bind,
    Knot,
    Nsd,
}

/// A running server in a process group of its own, since NSD is several processes; all
/// end when it is dropped.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
    dir: PathBuf,
}

impl Server {
    fn start(mut command: Command, address: SocketAddr, dir: &Path, config: &str) -> Server {
        std::fs::write(dir.join("config"), config).unwrap();
        set_child_subreaper(true).unwrap();
        let log = File::create(dir.join("log")).unwrap();
        command.arg(dir.join("config")).current_dir(dir);
        command.env_remove("RUST_LOG").env_remove("NOTIFY_SOCKET");
        command.stdin(Stdio::null()).process_group(0);
        command.stdout(log.try_clone().unwrap()).stderr(log);
        Server {
            child: command.spawn().unwrap(),
            address,
            dir: dir.to_owned(),
        }
    }

    /// What it has said so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    pub fn signal(&self, signal: Signal) {
        killpg(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Replaces text of its configuration, and has it read that again.
    pub fn reconfigure(&self, old: &str, new: &str) {
        let file = self.dir.join("config");
        let config = std::fs::read_to_string(&file).unwrap();
        assert!(config.contains(old), "{config}");
        std::fs::write(&file, config.replace(old, new)).unwrap();
        self.signal(Signal::SIGHUP);
    }

    /// SIGTERM; the log.
    pub fn stop(mut self) -> String {
        self.signal(Signal::SIGTERM);
        let ended = || self.child.try_wait().unwrap();
        let status = wait_until(PATIENCE, "a server to stop", ended).unwrap();
        assert!(status.success(), "{status}\n{}", self.log());
        self.log()
    }

    /// Runs dig with `args`, signed.
    pub fn dig(&self, args: &str) -> String {
        let key = format!("hmac-sha256:secondary:{SECRET}");
        let mut command = Command::new("dig");
        let port = self.address.port().to_string();
        command.args(["@127.0.0.1", "-p", &port, "-y", &key, "+time=2", "+tries=1"]);
        let output = command.args(args.split_whitespace()).output();
        let output = output.expect("dig is needed: apt-get install bind9-dnsutils");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!text.contains("verify signature"), "{text}");
        text
    }

    /// The records in the answer to a question of `kind` for the zone.
    pub fn records(&self, kind: &str) -> Vec<String> {
        let text = self.dig(&format!("{ZONE} {kind} +noall +answer"));
        let lines = text.lines().filter(|line| !line.starts_with(';'));
        let lines = lines.filter(|line| !line.is_empty() && !line.contains("\tTSIG\t"));
        // The columns are set by the longest name of a message.
        let words = lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
        words.collect()
    }

    /// Its serial, once it has the zone.
    pub fn serial(&self) -> Option<u32> {
        serial_of(self.records("SOA").first()?)
    }

    /// All it has, sorted.
    pub fn zone(&self) -> Vec<String> {
        let mut records = self.records("AXFR");
        records.sort();
        records
    }
}

/// The serial in a SOA record; `None` if it is another.
pub fn serial_of(record: &str) -> Option<u32> {
    let words: Vec<&str> = record.split(' ').collect();
    (words[3] == "SOA").then(|| words[6].parse().unwrap())
}

impl Drop for Server {
    /// Politely first: NSD sees to its other processes then.
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.child.id() as i32);
        // They may have ended already.
        let _ = killpg(pid, Signal::SIGCONT);
        let _ = kill(pid, Signal::SIGTERM);
        let ended = || self.child.try_wait().ok().flatten();
        let _ = wait_until(PATIENCE, "a server to stop", ended);
        let _ = killpg(pid, Signal::SIGKILL);
        let _ = self.child.wait();
        // Those that NSD leaves have become ours.
        while waitpid(Pid::from_raw(-pid.as_raw()), None).is_ok() {}
    }
}

/// A place for a primary, which outlives its restarts.
pub struct Place {
    dir: TempDir,
    address: SocketAddr,
    pub secondary: SocketAddr,
}

impl Place {
    /// For a primary that notifies `secondary`.
    pub fn new(secondary: SocketAddr) -> Place {
        Place {
            dir: tempfile::tempdir().unwrap(),
            address: free_address(),
            secondary,
        }
    }

    /// Starts mat-mapd here.
    pub fn start(&self) -> Server {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mat-mapd"));
        command.arg("--config");
        let config = format!(
            r#"zone = "{ZONE}"
listen = ["{}"]
data_dir = "{}"
notify = [{{ address = "{}", key = "secondary" }}]
[[key]]
name = "site"
secret = "{SECRET}"
homes = ["all"]
locators = ["all"]
[[key]]
name = "secondary"
secret = "{SECRET}"
homes = []
locators = []
transfer = true
"#,
            self.address,
            self.dir.path().join("data").display(),
            self.secondary
        );
        let server = Server::start(command, self.address, self.dir.path(), &config);
        let ready = || server.log().contains(" ready ").then_some(());
        wait_until(PATIENCE, "mat-mapd to be ready", ready).unwrap();
        server
    }

    /// Has `home` (of 192.0.2.0/24) move from its `from`th place to its `to`th.
    pub async fn shift(&self, home: u8, from: Option<u8>, to: u8) {
        let key = TsigKey::from_base64("site", Algorithm::HmacSha256, SECRET).unwrap();
        let zone = Name::from_ascii(ZONE).unwrap();
        let client = MapClient::new(zone, vec![self.address], Some(key));
        let at = |place| binding(home, place);
        let (old, new) = (from.map(at), at(to));
        let done = client.compare_and_swap(new.home(), old.as_ref(), Some(&new));
        assert_eq!(done.await.unwrap(), Swap::Committed);
    }
}

/// The key of secondaries.
pub fn key() -> TsigKey {
    TsigKey::from_base64("secondary", Algorithm::HmacSha256, SECRET).unwrap()
}

/// Signs `message`, an answer if it continues a MAC.
pub fn sign(message: &mut Message, prior: Option<&[u8]>) -> Vec<u8> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let stamp = Stamp::new(message.metadata.id, since.as_secs());
    let unsigned = message.to_vec().unwrap();
    let tsig = key().sign(&unsigned, prior, Link::First, stamp).unwrap();
    message.set_signature(tsig);
    message.to_vec().unwrap()
}

fn binding(home: u8, place: u8) -> Binding {
    let locator = format!("198.51.{place}.{home}").parse().unwrap();
    let home = format!("192.0.2.{home}").parse().unwrap();
    Binding::single(home, Epoch(1 + u64::from(place)), 30, locator, 6283).unwrap()
}

impl Kind {
    fn program(self) -> &'static str {
        match self {
            Kind::Bind => "named",
            Kind::Knot => "knotd",
            Kind::Nsd => "nsd",
        }
    }

    /// Whether it is here.
    pub fn is_here(self) -> bool {
        dns_servers::is_here(self.program())
    }

    /// Whether it asks for the whole zone where it could ask for what has changed: NSD 4.6 takes
    /// the first of two increments that come within one of its reloads for failed, and asks for
    /// no more of them then.
    pub fn asks_for_more(self) -> bool {
        self == Kind::Nsd
    }

    /// Starts it as a secondary of `primary` without any zone.
    pub fn start(self, address: SocketAddr, primary: SocketAddr, dir: &Path) -> Server {
        // In the foreground.
        let arguments = match self {
            Kind::Bind => &["-g", "-n", "1", "-c"][..],
            Kind::Knot => &["-c"],
            Kind::Nsd => &["-d", "-c"],
        };
        let config = match self {
            Kind::Bind => bind_config,
            Kind::Knot => knot_config,
            Kind::Nsd => nsd_config,
        };
        let mut command = dns_servers::program(self.program()).unwrap().command();
        command.args(arguments);
        let config = config(address.port(), primary.port(), dir);
        Server::start(command, address, dir, &config)
    }
}

fn bind_config(port: u16, primary: u16, dir: &Path) -> String {
    format!(
        r#"key "secondary" {{ algorithm hmac-sha256; secret "{SECRET}"; }};
controls {{ }};
options {{
    directory "{}";
    listen-on port {port} {{ 127.0.0.1; }};
    listen-on-v6 {{ none; }};
    pid-file none;
    session-keyfile none;
    recursion no;
    dnssec-validation no;
    notify no;
}};
zone "{ZONE}" {{
    type secondary;
    file "zone";
    primaries {{ 127.0.0.1 port {primary} key "secondary"; }};
    allow-notify {{ key "secondary"; }};
    allow-transfer {{ key "secondary"; }};
}};
"#,
        dir.display()
    )
}

fn knot_config(port: u16, primary: u16, dir: &Path) -> String {
    let dir = dir.display();
    format!(
        r#"server:
    listen: 127.0.0.1@{port}
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
  - id: secondary
    algorithm: hmac-sha256
    secret: {SECRET}
remote:
  - id: primary
    address: 127.0.0.1@{primary}
    key: secondary
acl:
  - id: primary
    key: secondary
    action: [notify, transfer]
zone:
  - domain: {ZONE}
    storage: "{dir}"
    file: zone
    master: primary
    acl: primary
"#
    )
}

fn nsd_config(port: u16, primary: u16, dir: &Path) -> String {
    let dir = dir.display();
    format!(
        r#"server:
    ip-address: 127.0.0.1@{port}
    server-count: 1
    username: ""
    zonesdir: "{dir}"
    database: ""
    pidfile: ""
    zonelistfile: "{dir}/zone.list"
    xfrdfile: "{dir}/xfrd.state"
    xfrdir: "{dir}"
    verbosity: 2
remote-control:
    control-enable: no
key:
    name: "secondary"
    algorithm: hmac-sha256
    secret: "{SECRET}"
zone:
    name: "{ZONE}"
    zonefile: "zone"
    request-xfr: 127.0.0.1@{primary} secondary
    allow-notify: 127.0.0.1 secondary
    provide-xfr: 127.0.0.1 secondary
"#
    )
}
