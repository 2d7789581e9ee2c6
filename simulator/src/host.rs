//! An instance: a TCP/IP stack with connections whose payload tells its own place.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};

use mat_dataplane::clock::Time;
use mat_proto::Home;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};

/// One connection, as one end sees it.
#[derive(Debug)]
struct Flow {
    name: String,
    handle: SocketHandle,
    /// What this end sends, and what it expects.
    keys: (u64, u64),
    octets: u64,
    sent: u64,
    received: u64,
    /// This end sends first, the other when it has received everything.
    speaks_first: bool,
    /// It was open once.
    opened: bool,
    wrong: Option<String>,
}

/// An instance.
pub struct Host {
    pub home: Home,
    interface: Interface,
    wire: Wire,
    sockets: SocketSet<'static>,
    flows: Vec<Flow>,
}

/// Packets to and from the stack.
#[derive(Default)]
struct Wire {
    inward: VecDeque<Vec<u8>>,
    outward: VecDeque<Vec<u8>>,
}

const BUFFER: usize = 16 << 10;

impl Host {
    pub fn new(home: Home, seed: u64) -> Self {
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut wire = Wire::default();
        let mut interface = Interface::new(config, &mut wire, Instant::ZERO);
        let ip = address(home);
        interface.update_ip_addrs(|addresses| {
            addresses
                .push(IpCidr::new(IpAddress::Ipv4(ip), 32))
                .expect("room for one");
        });
        interface
            .routes_mut()
            .add_default_ipv4_route(Ipv4Addr::new(169, 254, 1, 1))
            .expect("room for one");
        Host {
            home,
            interface,
            wire,
            sockets: SocketSet::new(Vec::new()),
            flows: Vec::new(),
        }
    }

    /// Waits for connection `number` at a port of its own.
    pub fn listen(&mut self, number: u16, octets: u64) {
        let mut socket = socket();
        socket.listen(7000 + number).expect("a port");
        self.flow(socket, number, octets, (2, 1));
    }

    /// Makes connection `number` to another instance.
    pub fn connect(&mut self, number: u16, peer: Home, octets: u64) {
        let mut socket = socket();
        let to = (IpAddress::Ipv4(address(peer)), 7000 + number);
        socket
            .connect(self.interface.context(), to, 40_000 + number)
            .expect("a new pair of ports");
        self.flow(socket, number, octets, (1, 2));
    }

    fn flow(&mut self, socket: tcp::Socket<'static>, number: u16, octets: u64, ends: (u64, u64)) {
        let handle = self.sockets.add(socket);
        let key = |end| u64::from(number) * 4 + end;
        self.flows.push(Flow {
            name: format!("{} #{number}", self.home),
            handle,
            keys: (key(ends.0), key(ends.1)),
            octets,
            sent: 0,
            received: 0,
            speaks_first: ends.0 == 1,
            opened: false,
            wrong: None,
        });
    }

    /// A packet comes.
    pub fn give(&mut self, packet: Vec<u8>) {
        self.wire.inward.push_back(packet);
    }

    /// Does what there is to do; gives back what it sends.
    pub fn poll(&mut self, now: Time) -> Vec<Vec<u8>> {
        let at = instant(now);
        self.interface.poll(at, &mut self.wire, &mut self.sockets);
        for flow in &mut self.flows {
            flow.work(self.sockets.get_mut(flow.handle));
        }
        self.interface.poll(at, &mut self.wire, &mut self.sockets);
        self.wire.outward.drain(..).collect()
    }

    /// When it wants to be polled.
    pub fn next(&mut self, now: Time) -> Option<Time> {
        let at = self.interface.poll_at(instant(now), &self.sockets)?;
        Some(Time(at.total_micros().max(0) as u64).max(now))
    }

    /// Connections that have not come to their end.
    pub fn unfinished(&self) -> Vec<String> {
        let open = self
            .flows
            .iter()
            .filter(|flow| !flow.is_done(&self.sockets));
        open.map(|f| {
            format!(
                "{}: {} of {} received, {} sent",
                f.name, f.received, f.octets, f.sent
            )
        })
        .collect()
    }

    /// What went wrong with a connection.
    pub fn wrong(&self) -> Option<String> {
        let mut wrong = self
            .flows
            .iter()
            .filter_map(|f| f.wrong.as_ref().map(|w| (f, w)));
        wrong
            .next()
            .map(|(flow, wrong)| format!("{}: {wrong}", flow.name))
    }
}

impl Flow {
    fn work(&mut self, socket: &mut tcp::Socket<'_>) {
        self.opened |= socket.may_send();
        while socket.can_recv() {
            let (key, from) = (self.keys.1, self.received);
            let result = socket.recv(|data| {
                let wrong = (0..data.len()).find(|n| data[*n] != expected(key, from + *n as u64));
                (data.len(), (data.len(), wrong))
            });
            let Ok((len, wrong)) = result else {
                break;
            };
            self.received += len as u64;
            if let Some(at) = wrong {
                self.wrong = Some(format!("octet {} is wrong", from + at as u64));
            }
        }
        // One after the other: when both ends send again at the same moment, a smoltcp
        // refuses the acknowledgement of what it has not sent again yet, for ever.
        let turn = self.speaks_first || self.received == self.octets;
        while turn && self.sent < self.octets && socket.can_send() {
            let (key, from, rest) = (self.keys.0, self.sent, self.octets - self.sent);
            let sent = socket.send(|room| {
                let len = room.len().min(rest as usize);
                for (n, octet) in room[..len].iter_mut().enumerate() {
                    *octet = expected(key, from + n as u64);
                }
                (len, len)
            });
            match sent {
                Ok(0) | Err(_) => break,
                Ok(len) => self.sent += len as u64,
            }
        }
        if self.received > self.octets {
            self.wrong = Some(format!("{} octets of {}", self.received, self.octets));
        }
        let ended = self.opened && !socket.is_active();
        if ended && (self.received < self.octets || self.sent < self.octets) {
            let (sent, received) = (self.sent, self.received);
            self.wrong = Some(format!(
                "the connection broke: {sent} sent, {received} received"
            ));
        }
    }

    /// Connections are left open: a stack that has closed one answers what comes late
    /// with RST.
    fn is_done(&self, sockets: &SocketSet<'_>) -> bool {
        let socket: &tcp::Socket<'_> = sockets.get(self.handle);
        let acknowledged = socket.send_queue() == 0;
        self.received == self.octets && self.sent == self.octets && acknowledged
    }
}

/// The octet at a place of a stream.
fn expected(key: u64, place: u64) -> u8 {
    (place.wrapping_add(key).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

fn socket() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER]);
    let mut socket = tcp::Socket::new(buffer(), buffer());
    // A smoltcp that has lost segments now and then forgets to send the last ones again;
    // the answers to these remind it.
    socket.set_keep_alive(Some(smoltcp::time::Duration::from_secs(10)));
    socket
}

fn address(home: Home) -> Ipv4Addr {
    match home.ip() {
        IpAddr::V4(ip) => ip,
        IpAddr::V6(_) => unreachable!("instances here have IPv4 homes"),
    }
}

fn instant(now: Time) -> Instant {
    Instant::from_micros(now.0 as i64)
}

impl Device for Wire {
    type RxToken<'a> = Inward;
    type TxToken<'a> = Outward<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Inward, Outward<'_>)> {
        let packet = self.inward.pop_front()?;
        Some((Inward(packet), Outward(&mut self.outward)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Outward<'_>> {
        Some(Outward(&mut self.outward))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = 1500;
        capabilities
    }
}

struct Inward(Vec<u8>);

impl RxToken for Inward {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

struct Outward<'a>(&'a mut VecDeque<Vec<u8>>);

impl TxToken for Outward<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let result = f(&mut packet);
        self.0.push_back(packet);
        result
    }
}
