//! Small programs of sockets: what arrives is compared with what was sent, byte for byte.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mat_netns::Host;

/// How long a socket waits for anything.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long an answer to a datagram may take.
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
    carry(&sender, &receiver, bytes).with_context(|| {
        let (from, to) = (from.name(), to.name());
        format!("sending {bytes} bytes from {from} to {to} at {address}")
    })
}

/// Sends this many bytes one way through a connection; they must all arrive and be right.
pub fn carry(mut from: &TcpStream, mut to: &TcpStream, bytes: usize) -> Result<()> {
    to.set_read_timeout(Some(PATIENCE))?;
    let sent = pattern(bytes);
    thread::scope(|scope| {
        let sending = scope.spawn(|| from.write_all(&sent));
        let mut received = Vec::with_capacity(bytes);
        let outcome = (&mut to).take(bytes as u64).read_to_end(&mut received);
        ensure!(
            received == sent,
            "{} bytes arrived ({outcome:?}), equal to what was sent up to byte {}",
            received.len(),
            received
                .iter()
                .zip(&sent)
                .take_while(|(a, b)| a == b)
                .count()
        );
        Ok(sending.join().expect("sending does not panic")?)
    })
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

/// Bytes that are different at every place where a mistake could put them.
pub fn pattern(length: usize) -> Vec<u8> {
    let words = (0..length.div_ceil(8) as u64).flat_map(|n| (n ^ 0x5aa5 << 48).to_be_bytes());
    words.take(length).collect()
}
