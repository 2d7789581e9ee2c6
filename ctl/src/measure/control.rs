//! The control connection: one JSON message a line, every wait bounded.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::stream::{POLL, is_pause};

/// Longest message: an hour's bins and ten thousand connections fit several times over.
const MAX_LINE: usize = 16 * 1024 * 1024;

/// What listening brought.
#[derive(Debug)]
pub enum Heard<T> {
    /// A message.
    Message(T),
    /// Nothing within the time allowed.
    Nothing,
    /// The peer has closed the connection.
    Closed,
}

/// Sends and receives messages on one connection.
#[derive(Debug)]
pub struct Channel {
    stream: TcpStream,
    pending: Vec<u8>,
}

impl Channel {
    /// Takes over a connection whose preamble has passed.
    pub fn new(stream: TcpStream, write_timeout: Duration) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(POLL))?;
        stream.set_write_timeout(Some(write_timeout))?;
        Ok(Self {
            stream,
            pending: Vec::new(),
        })
    }

    /// Sends one message.
    pub fn send(&mut self, message: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        self.stream.write_all(&line)
    }

    /// Waits at most `wait` for one message.
    pub fn receive<T: DeserializeOwned>(&mut self, wait: Duration) -> io::Result<Heard<T>> {
        let deadline = Instant::now() + wait;
        let mut searched = 0;
        loop {
            let new = self.pending[searched..].iter().position(|&b| b == b'\n');
            if let Some(end) = new.map(|at| searched + at) {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                return Ok(Heard::Message(serde_json::from_slice(&line)?));
            }
            searched = self.pending.len();
            if searched > MAX_LINE {
                return Err(io::Error::other("the peer's message is too long"));
            }
            let mut chunk = [0; 16 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Ok(Heard::Closed),
                Ok(count) => self.pending.extend_from_slice(&chunk[..count]),
                Err(e) if is_pause(&e) => {}
                Err(e) => return Err(e),
            }
            if Instant::now() >= deadline {
                // A message complete by now is found by the next call.
                return Ok(Heard::Nothing);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn pair() -> (TcpStream, Channel) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let peer = TcpStream::connect(listener.local_addr().expect("bound")).expect("connect");
        let (stream, _) = listener.accept().expect("accept");
        let channel = Channel::new(stream, Duration::from_secs(1)).expect("configure");
        (peer, channel)
    }

    #[test]
    fn messages_come_whole_however_they_are_cut() {
        let (mut peer, mut channel) = pair();
        for part in ["[1,", "2]\n[3]", "\n"] {
            peer.write_all(part.as_bytes()).expect("write");
        }
        for expected in [vec![1, 2], vec![3]] {
            let heard = channel.receive::<Vec<u32>>(Duration::from_secs(5));
            assert!(matches!(heard, Ok(Heard::Message(m)) if m == expected));
        }
    }

    #[test]
    fn silence_end_and_nonsense_are_told_apart() {
        let (mut peer, mut channel) = pair();
        let brief = Duration::from_millis(1);
        let heard = channel.receive::<u32>(brief);
        assert!(matches!(heard, Ok(Heard::Nothing)));
        peer.write_all(b"nonsense\n").expect("write");
        assert!(channel.receive::<u32>(Duration::from_secs(5)).is_err());
        drop(peer);
        let heard = channel.receive::<u32>(Duration::from_secs(5));
        assert!(matches!(heard, Ok(Heard::Closed)));
    }
}
