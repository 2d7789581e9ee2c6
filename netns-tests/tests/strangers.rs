//! Strangers from everywhere take what connections there are of the mapping service, begun or
//! complete, while others go on asking it over UDP, TCP and TLS.
//! Needs root or a user namespace: `scripts/privileged cargo test -p mat-netns`.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mat_netns::counters::counted;
use mat_netns::testbed::{binaries, make_certificate};
use mat_netns::{Cmd, Host, Lab, Process, wait_until};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Protocol, Socket, Type};

const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 53);
/// DNS over TCP, and over TLS.
const PORTS: [u16; 2] = [53, 853];
/// Half-open connections to each of them.
const HALF_OPEN: u32 = 100_000;
/// Descriptors of the mapping service: a fifth is for TCP, three quarters are for TLS.
const DESCRIPTORS: usize = 4000;
/// Complete connections of each address.
const OF_ONE: usize = 25;
/// New ones a second when all are taken.
const PACE: u32 = 500;
/// Nothing takes longer unless it is broken.
const PATIENCE: Duration = Duration::from_secs(20);

/// ```text
/// strangers 198.51.100.0/24 ──── dns 203.0.113.53 ──── user 198.18.0.2
/// ```
struct Scene {
    strangers: Host,
    dns: Host,
    user: Host,
    mapd: Process,
    lab: Lab,
}

impl Scene {
    fn new() -> Result<Scene> {
        let lab = Lab::new()?;
        let [strangers, dns, user] = ["strangers", "dns", "user"].map(|name| lab.host(name));
        let (strangers, dns, user) = (strangers?, dns?, user?);
        lab.link(&strangers, "eth0", &dns, "eth0")?;
        lab.link(&user, "eth0", &dns, "eth1")?;
        dns.ip("addr add 203.0.113.53/24 dev eth0
                addr add 198.18.0.1/24 dev eth1
                route add default via 203.0.113.1")?;
        // Half of them have addresses that are nobody's.
        strangers.ip("addr add 203.0.113.1/24 dev eth0
                      route add local 198.51.100.0/24 dev lo")?;
        user.ip("addr add 198.18.0.2/24 dev eth0
                 route add default via 198.18.0.1")?;
        make_certificate(&dns, lab.dir())?;
        let config = format!(
            "zone = \"map.example.\"\nlisten = [\"{SERVER}:53\"]\ndata_dir = \"{}\"\n\
             [tls]\nlisten = [\"{SERVER}:853\"]\ncertificate = \"mat-mapd.pem\"\n\
             private_key = \"mat-mapd.key\"\n",
            lab.dir().join("data").display()
        );
        let config = lab.write("mat-mapd.toml", config)?;
        let limited = format!("ulimit -n {DESCRIPTORS} && exec \"$0\" --config \"$1\"");
        let mapd = Cmd::new("sh").arg("-c").arg(limited);
        let mapd = mapd.arg(binaries()?.join("mat-mapd")).arg(config);
        let mapd = dns.spawn(mapd.name("mat-mapd"))?;
        mapd.wait_for_log("ready", PATIENCE)?;
        Ok(Scene {
            strangers,
            dns,
            user,
            mapd,
            lab,
        })
    }

    /// Asks once each way: all must be answered.
    fn ask(&self) -> Result<()> {
        for way in ["+notcp", "+tcp", "+tls"] {
            let asked = Instant::now();
            let dig = format!("dig @{SERVER} map.example. SOA {way} +short +time=5 +tries=1");
            let answer = self.user.run(dig.as_str());
            let answer = answer.with_context(|| format!("after {:?}", asked.elapsed()))?;
            ensure!(answer.contains("hostmaster"), "{way}: {answer:?}");
        }
        Ok(())
    }

    fn descriptors(&self) -> Result<usize> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.mapd.pid()))?.count())
    }

    /// Waits until there are at most so many descriptors.
    fn wait_for_descriptors(&self, most: usize) -> Result<()> {
        wait_until(PATIENCE, "connections to be closed", || {
            (self.descriptors().ok()? <= most).then_some(())
        })
    }
}

#[test]
fn half_open_connections_from_everywhere_cost_nobody_an_answer() -> Result<()> {
    let scene = Scene::new()?;
    scene.ask()?;
    let before = (scene.descriptors()?, scene.mapd.memory_kib()?);
    let raw = Some(Protocol::from(libc::IPPROTO_RAW));
    let open = || Socket::new(Domain::IPV4, Type::RAW, raw);
    let socket = scene.strangers.enter(open)??;
    let flood = thread::spawn(move || {
        for n in 0..HALF_OPEN {
            for port in PORTS {
                let to = SocketAddr::from((SERVER, port));
                socket.send_to(&syn(n, port), &to.into())?;
            }
        }
        std::io::Result::Ok(())
    });
    let mut rounds = 0;
    while !flood.is_finished() || rounds < 5 {
        scene.ask()?;
        rounds += 1;
    }
    flood.join().expect("flooding does not panic")?;
    let arrived = counted(&scene.dns, "InSegs")?;
    ensure!(arrived > 2 * u64::from(HALF_OPEN), "{arrived} arrived");
    let cookies = counted(&scene.dns, "SyncookiesSent")?;
    ensure!(cookies > 0, "their queues never were full");
    scene.wait_for_descriptors(before.0)?;
    let memory = scene.mapd.memory_kib()?;
    println!(
        "{rounds} rounds, {cookies} cookies, {} -> {memory} KiB",
        before.1
    );
    ensure!(memory < before.1 + 2048, "{} -> {memory} KiB", before.1);
    scene.lab.end()
}

#[test]
fn silent_connections_from_everywhere_cost_nobody_an_answer() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let scene = Scene::new()?;
    scene.ask()?;
    let before = (scene.descriptors()?, scene.mapd.memory_kib()?);
    // More than there is room for at either port.
    let mut strangers = Vec::new();
    for n in 0..DESCRIPTORS {
        strangers.push(stranger(&scene.strangers, n, PORTS[1])?);
        if n % 4 == 0 {
            strangers.push(stranger(&scene.strangers, n, PORTS[0])?);
        }
    }
    wait_until(PATIENCE, "all connections to be taken", || {
        (scene.descriptors().ok()? > DESCRIPTORS * 9 / 10).then_some(())
    })?;
    let (began, mut rounds) = (Instant::now(), 0);
    // They come again as they are closed.
    while rounds < 20 {
        scene.ask()?;
        rounds += 1;
        let due = (began.elapsed().as_secs_f64() * f64::from(PACE)) as usize;
        for n in (strangers.len()..).take(due.min(PACE as usize)) {
            strangers.push(stranger(&scene.strangers, n, PORTS[n % 2])?);
        }
    }
    let full = scene.mapd.memory_kib()?;
    drop(strangers);
    scene.wait_for_descriptors(before.0)?;
    let memory = scene.mapd.memory_kib()?;
    println!("{rounds} rounds, {} -> {full} -> {memory} KiB", before.1);
    // The allocator keeps what they took.
    let most = before.1 + 16 * DESCRIPTORS as u64;
    ensure!(full.max(memory) < most, "{} -> {memory} KiB", before.1);
    scene.lab.end()
}

/// A connection of somebody who says nothing, from one of 250 addresses.
fn stranger(host: &Host, n: usize, port: u16) -> Result<TcpStream> {
    let from = Ipv4Addr::new(198, 51, 100, (1 + n / OF_ONE % 250) as u8);
    let socket = host.enter(|| Socket::new(Domain::IPV4, Type::STREAM, None))??;
    socket.bind(&SocketAddr::from((from, 0)).into())?;
    socket.connect_timeout(&SocketAddr::from((SERVER, port)).into(), PATIENCE)?;
    Ok(socket.into())
}

/// The n-th SYN to a port, from an address for documentation: an IPv4 packet whose header's
/// checksum is the kernel's to write.
fn syn(n: u32, port: u16) -> Vec<u8> {
    let from = SocketAddrV4::new(
        Ipv4Addr::new(192, 0, 2, (1 + n % 250) as u8),
        (1024 + n / 250) as u16,
    );
    let mut head = [0; 20];
    head[..10].copy_from_slice(&[0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6]);
    head[12..16].copy_from_slice(&from.ip().octets());
    head[16..].copy_from_slice(&SERVER.octets());
    let mut tcp = [0; 20];
    tcp[..2].copy_from_slice(&from.port().to_be_bytes());
    tcp[2..4].copy_from_slice(&port.to_be_bytes());
    tcp[4..8].copy_from_slice(&n.to_be_bytes());
    // Length of the header, SYN, window.
    tcp[12..16].copy_from_slice(&[5 << 4, 2, 0xff, 0xff]);
    let sum = head[12..].chunks(2).chain(tcp.chunks(2));
    let sum = sum.map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let mut sum = sum.sum::<u32>() + u32::from(head[9]) + 20;
    sum = (sum & 0xffff) + (sum >> 16);
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
    [head, tcp].concat()
}
