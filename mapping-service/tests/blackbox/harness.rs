//! Starts mat-mapd in a directory of its own on a free port, and speaks to it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{DNSClass, Name, Record, RecordType};
use mat_mapping::client::{Algorithm, MapClient, TsigKey};
use mat_mapping::tsig::{Link, Stamp};
use mat_netns::dns_servers::free_address;
use mat_netns::wait_until;
use mat_proto::{Binding, Epoch};

pub const ZONE: &str = "map.example.";
pub const SECRET_A: &str = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=";
pub const SECRET_B: &str = "QkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkI=";

/// The port in this file of `dir`: a free one the first time and the same one after, which nobody
/// is given by the system meanwhile.
pub fn kept_port(dir: &Path, file: &str) -> String {
    let file = dir.join(file);
    std::fs::read_to_string(&file).unwrap_or_else(|_| {
        let port = free_address().port().to_string();
        std::fs::write(&file, &port).unwrap();
        port
    })
}

/// Nothing here takes longer unless it is broken.
pub const PATIENCE: Duration = Duration::from_secs(20);

const KEYS: &str = r#"
[[key]]
name = "site-a"
secret = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE="
homes = ["192.0.2.0/24", "2001:db8:1::/48"]
locators = ["198.51.100.0/24", "2001:db8:a::/64"]
transfer = true

[[key]]
name = "site-b"
algorithm = "hmac-sha512"
secret = "QkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkI="
homes = ["192.0.2.0/25"]
locators = ["203.0.113.0/24"]
"#;

/// A running mat-mapd; killed when dropped.
pub struct Mapd {
    child: Child,
    pub address: SocketAddr,
    pub dir: PathBuf,
    /// Its log, line by line.
    log: Mutex<mpsc::Receiver<String>>,
    seen: Vec<String>,
}

impl Mapd {
    /// Starts in `dir`, on the port that is kept there.
    pub fn start(dir: &Path) -> Mapd {
        Mapd::start_with(dir, &config(&kept_port(dir, "port")))
    }

    pub fn start_with(dir: &Path, config: &str) -> Mapd {
        let data = dir.join("data").display().to_string();
        std::fs::write(dir.join("mapd.toml"), config.replace("DATA", &data)).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_mat-mapd"))
            .arg("--config")
            .arg(dir.join("mapd.toml"))
            .env_remove("RUST_LOG")
            .env_remove("NOTIFY_SOCKET")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = child.stderr.take().unwrap();
        let (lines, log) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if lines.send(line).is_err() {
                    return;
                }
            }
        });
        let mut mapd = Mapd {
            child,
            address: ([127, 0, 0, 1], 0).into(),
            dir: dir.to_owned(),
            log: Mutex::new(log),
            seen: Vec::new(),
        };
        let listening = mapd.wait_for("listening address=");
        mapd.address = listening.rsplit_once('=').unwrap().1.parse().unwrap();
        mapd.wait_for(" ready ");
        mapd
    }

    /// The first log line with `text`, also one that is there already.
    pub fn wait_for(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        if let Some(line) = self.seen.iter().find(|line| line.contains(text)) {
            return line.clone();
        }
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.log.get_mut().unwrap().recv_timeout(left) else {
                panic!("no {text:?} in the log:\n{}", self.seen.join("\n"));
            };
            self.seen.push(line.clone());
            if line.contains(text) {
                return line;
            }
        }
    }

    /// What it serves to scrapers, if its configuration says that it does.
    pub fn metrics(&mut self) -> String {
        let line = self.wait_for("metrics address=");
        let mut stream = TcpStream::connect(line.rsplit_once('=').unwrap().1).unwrap();
        stream
            .write_all(b"GET /metrics HTTP/1.0\r\nhost: x\r\n\r\n")
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    /// kill -9.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM; it must end well, and nothing in it may have panicked.
    pub fn stop(mut self) {
        self.signal(nix::sys::signal::Signal::SIGTERM);
        let ended = || self.child.try_wait().unwrap();
        let status = wait_until(PATIENCE, "the mapping service to stop", ended).unwrap();
        assert!(status.success(), "{status}");
        // A panic in a task of its own would not end the process. The channel is
        // closed once the whole log has been read.
        self.seen.extend(self.log.get_mut().unwrap().iter());
        let panic = self.seen.iter().find(|line| line.contains("panicked"));
        assert_eq!(panic, None);
    }

    pub fn client(&self) -> MapClient {
        self.client_with(Some(key_a()))
    }

    pub fn client_with(&self, key: Option<TsigKey>) -> MapClient {
        MapClient::new(name(ZONE), vec![self.address], key)
    }

    /// Runs nsupdate with the lines of `script`, signed with site-a's key.
    pub fn nsupdate(&self, script: &str) -> Tool {
        self.nsupdate_as(&format!("hmac-sha256:site-a:{SECRET_A}"), script)
    }

    pub fn nsupdate_as(&self, key: &str, script: &str) -> Tool {
        let mut lines = format!("server 127.0.0.1 {}\nzone {ZONE}\n", self.address.port());
        for line in script.lines() {
            lines += line.trim();
            lines += "\n";
        }
        lines += "send\nanswer\n";
        static SCRIPTS: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let number = SCRIPTS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = self.dir.join(format!("script-{number}"));
        std::fs::write(&path, lines).unwrap();
        let mut command = Command::new("nsupdate");
        command.args(["-t", "5", "-u", "2"]);
        if !key.is_empty() {
            command.args(["-y", key]);
        }
        Tool::of(command.arg(path).output())
    }

    /// Runs dig with `args` (a name, a type, options).
    pub fn dig(&self, args: &str) -> String {
        let mut command = Command::new("dig");
        command.arg("@127.0.0.1").arg("-p");
        command.arg(self.address.port().to_string());
        command.args(["+time=2", "+tries=2"]);
        let tool = Tool::of(command.args(args.split_whitespace()).output());
        tool.text
    }

    /// The binding as dig shows it, without asking our own code.
    pub fn dig_binding(&self, owner: &str) -> String {
        let owner = format!("{owner}.{ZONE}");
        self.dig(&format!("{owner} SVCB +short")).trim().to_owned()
    }
}

impl Drop for Mapd {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a tool did.
pub struct Tool {
    pub ok: bool,
    /// Output and errors.
    pub text: String,
}

impl Tool {
    fn of(output: std::io::Result<Output>) -> Self {
        let output = output.expect("dig and nsupdate are needed: apt-get install bind9-dnsutils");
        let text = [output.stdout, output.stderr].concat();
        Tool {
            ok: output.status.success(),
            text: String::from_utf8_lossy(&text).into_owned(),
        }
    }
}

/// Runs mat-mapd with `config`, its journal in `dir`, until it ends; whether it went well, and
/// what it said.
pub fn run(dir: &Path, config: &str, arguments: &[&str]) -> (bool, String) {
    let path = dir.join("run.toml");
    let data = dir.join("data").display().to_string();
    std::fs::write(&path, config.replace("DATA", &data)).unwrap();
    run_file(&path, arguments)
}

/// The same with a configuration that is there, or not.
pub fn run_file(config: &Path, arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mat-mapd"));
    command.arg("--config").arg(config).args(arguments);
    let ended = Tool::of(command.output());
    (ended.ok, ended.text)
}

/// All that ask here are one network, and some in floods: it has no limit.
pub fn config(port: &str) -> String {
    format!(
        "zone = \"{ZONE}\"\nlisten = [\"127.0.0.1:{port}\"]\ndata_dir = \"DATA\"\n\
         responses_per_second = 0\n{KEYS}"
    )
}

/// A directory for one mat-mapd; the journal goes into `data` inside.
pub fn directory() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

pub fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

pub fn key_a() -> TsigKey {
    TsigKey::from_base64("site-a", Algorithm::HmacSha256, SECRET_A).unwrap()
}

pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap().as_secs()
}

pub fn binding(home: &str, epoch: u64, locator: &str) -> Binding {
    let (home, locator) = (home.parse().unwrap(), locator.parse().unwrap());
    Binding::single(home, Epoch(epoch), 30, locator, 6283).unwrap()
}

/// An UPDATE of ours with the given sections, signed at `time`.
pub fn signed_update(
    key: &TsigKey,
    time: u64,
    prerequisites: Vec<Record>,
    updates: Vec<Record>,
) -> (Vec<u8>, Vec<u8>) {
    let mut message = Message::new(rand_id(), MessageType::Query, OpCode::Update);
    message.add_query(Query::query(name(ZONE), RecordType::SOA));
    message.add_answers(prerequisites);
    message.add_authorities(updates);
    sign(key, time, message)
}

/// The bytes of the signed message, and its MAC.
pub fn sign(key: &TsigKey, time: u64, mut message: Message) -> (Vec<u8>, Vec<u8>) {
    let stamp = Stamp::new(message.metadata.id, time);
    let unsigned = message.to_vec().unwrap();
    let tsig = key.sign(&unsigned, None, Link::First, stamp).unwrap();
    let mac = tsig.data.mac.clone();
    message.set_signature(tsig);
    (message.to_vec().unwrap(), mac)
}

pub fn delete_name(owner: &str) -> Record {
    let mut record = Record::update0(name(owner), 0, RecordType::ANY);
    record.dns_class = DNSClass::ANY;
    record
}

pub fn rand_id() -> u16 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(()) as u16
}

/// Sends one datagram and waits for one answer.
pub fn ask(server: SocketAddr, wire: &[u8]) -> Option<Vec<u8>> {
    ask_for(server, wire, PATIENCE)
}

pub fn ask_for(server: SocketAddr, wire: &[u8], patience: Duration) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(server).unwrap();
    socket.set_read_timeout(Some(patience)).unwrap();
    socket.send(wire).unwrap();
    let deadline = Instant::now() + patience;
    let mut buffer = vec![0; 65536];
    loop {
        let len = socket.recv(&mut buffer).ok()?;
        // The port may have been another socket's a moment ago, whose answer is late.
        if buffer[..len].get(..2) == wire.get(..2) {
            buffer.truncate(len);
            return Some(buffer);
        }
        if Instant::now() >= deadline {
            return None;
        }
    }
}
