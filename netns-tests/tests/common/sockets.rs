//! Small programs of sockets: what arrives is compared with what was sent, byte for byte.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mat_netns::Host;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;

/// How long a socket waits for anything.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long nothing may come until datagrams count as lost.
const SILENCE: Duration = Duration::from_secs(2);

/// A connection, and the time the handshake took. Neither end needs the namespaces any more.
pub fn connect(from: &Host, to: SocketAddr) -> Result<(TcpStream, Duration)> {
    let start = Instant::now();
    let stream = from.enter(|| TcpStream::connect_timeout(&to, PATIENCE))?;
    let took = start.elapsed();
    let stream = stream.with_context(|| format!("connecting to {to} after {took:?}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok((stream, took))
}

/// A listener on any port of `address`.
pub fn listen(host: &Host, address: &str) -> Result<TcpListener> {
    let address = SocketAddr::new(address.parse()?, 0);
    host.enter(|| TcpListener::bind(address))?
        .with_context(|| format!("listening on {address}"))
}

/// `from` connects to `to` at `address` and sends it this many bytes, which must all arrive and
/// be right.
pub fn transfer(from: &Host, to: &Host, address: &str, bytes: usize) -> Result<()> {
    let listener = listen(to, address)?;
    let (sender, _) = connect(from, listener.local_addr()?)?;
    let (receiver, _) = listener.accept()?;
    receiver.set_read_timeout(Some(PATIENCE))?;
    push(sender, receiver, bytes).with_context(|| {
        let (from, to) = (from.name(), to.name());
        format!("sending {bytes} bytes from {from} to {to} at {address}")
    })
}

/// Sends this many bytes through a connection; they must all arrive and be right.
pub fn push(mut sender: TcpStream, mut receiver: TcpStream, bytes: usize) -> Result<()> {
    thread::scope(|scope| {
        let sending = scope.spawn(move || sender.write_all(&pattern(bytes)));
        let mut received = Vec::with_capacity(bytes);
        let outcome = receiver.read_to_end(&mut received);
        ensure!(
            received == pattern(bytes),
            "{} bytes arrived ({outcome:?}), equal to what was sent up to byte {}",
            received.len(),
            received
                .iter()
                .zip(pattern(bytes))
                .take_while(|(a, b)| **a == *b)
                .count()
        );
        sending.join().expect("sending does not panic")?;
        Ok(())
    })
}

/// Sends this many bytes one way through a connection that stays open.
pub fn carry(mut from: &TcpStream, mut to: &TcpStream, bytes: usize) -> Result<()> {
    to.set_read_timeout(Some(PATIENCE))?;
    let sent = pattern(bytes);
    let mut received = vec![0; bytes];
    thread::scope(|scope| {
        let sending = scope.spawn(|| from.write_all(&sent));
        to.read_exact(&mut received)?;
        ensure!(
            received == sent,
            "{bytes} bytes arrived, not all of them right"
        );
        Ok(sending.join().expect("sending does not panic")?)
    })
}

/// `from` sends `count` datagrams of `size` bytes to `to` at `address`, all at once. Returns
/// their numbers in the order of arrival; every byte of them was right.
pub fn datagrams(
    from: &Host,
    to: &Host,
    address: &str,
    count: u32,
    size: usize,
) -> Result<Vec<u32>> {
    let to_address = SocketAddr::new(address.parse()?, 0);
    let receiver = to.enter(|| UdpSocket::bind(to_address))??;
    receiver.set_read_timeout(Some(SILENCE))?;
    // The default holds 15 datagrams of 8 kB: no test of ours should hang on the receiver.
    setsockopt(&receiver, RcvBufForce, &(8 << 20))?;
    let sender = udp(from, receiver.local_addr()?)?;
    let receiving = thread::spawn(move || receive(&receiver, count, size));
    for number in 0..count {
        sender.send(&datagram(number, size))?;
    }
    receiving.join().expect("receiving does not panic")
}

/// A UDP socket that sends to one address and gets that one's answers and errors.
pub fn udp(from: &Host, to: SocketAddr) -> Result<UdpSocket> {
    let any: IpAddr = if to.is_ipv4() {
        [0; 4].into()
    } else {
        [0; 16].into()
    };
    let socket = from.enter(|| UdpSocket::bind((any, 0)))??;
    socket
        .connect(to)
        .with_context(|| format!("from {} to {to}", from.name()))?;
    socket.set_read_timeout(Some(SILENCE))?;
    Ok(socket)
}

fn receive(receiver: &UdpSocket, count: u32, size: usize) -> Result<Vec<u32>> {
    let mut numbers = Vec::new();
    let mut buffer = vec![0; size + 1];
    while numbers.len() < count as usize {
        let Ok(length) = receiver.recv(&mut buffer) else {
            break;
        };
        ensure!(
            length == size,
            "a datagram of {size} bytes arrived with {length}"
        );
        let number = u32::from_be_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]);
        ensure!(
            buffer[..length] == datagram(number, size),
            "datagram {number} is corrupt"
        );
        numbers.push(number);
    }
    Ok(numbers)
}

fn datagram(number: u32, size: usize) -> Vec<u8> {
    let mut octets = pattern(size);
    octets[..4].copy_from_slice(&number.to_be_bytes());
    octets
}

/// Bytes that are different at every place where a mistake could put them.
fn pattern(length: usize) -> Vec<u8> {
    let words = (0..length.div_ceil(8) as u64).flat_map(|n| (n ^ 0x5aa5 << 48).to_be_bytes());
    words.take(length).collect()
}
