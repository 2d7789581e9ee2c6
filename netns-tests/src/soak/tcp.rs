//! TCP: what was sent and what was received have the same SHA-256.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use ring::digest;

use super::payload::{Payload, mix};
use super::{Ends, PATIENCE};
use crate::interrupt;

/// Made, hashed and compared at a time; a multiple of 8.
const BLOCK: usize = 256 << 10;

/// How a sender cuts its bytes into writes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Writes {
    /// As much as possible: super-packets as large as they get.
    Bulk,
    /// 1 to 65535 bytes: segments of every size.
    Odd,
    /// 1 to 2000 bytes, each sent at once (TCP_NODELAY): many small segments in a row.
    Small,
}

impl Writes {
    /// Of 100 bytes, how many are written in which way.
    pub(super) const SHARES: [(Writes, u64); 3] =
        [(Writes::Bulk, 65), (Writes::Odd, 32), (Writes::Small, 3)];

    fn largest(self) -> usize {
        match self {
            Writes::Bulk => BLOCK,
            Writes::Odd => 65535,
            Writes::Small => 2000,
        }
    }

    /// Lengths from 1 up that look random; bulk is whole blocks.
    fn length(self, nth: u64) -> usize {
        match self {
            Writes::Bulk => BLOCK,
            Writes::Odd | Writes::Small => 1 + (mix(nth) % self.largest() as u64) as usize,
        }
    }
}

/// One connection, and which bytes go through it.
#[derive(Debug)]
pub(super) struct Stream {
    sender: TcpStream,
    receiver: TcpStream,
    payload: Payload,
    bytes: u64,
    writes: Writes,
}

impl Stream {
    /// Connects; `bytes` is how many are to be sent.
    pub(super) fn open(ends: &Ends, seed: u64, bytes: u64, writes: Writes) -> Result<Self> {
        let here = SocketAddr::new(ends.receiver_address, 0);
        let listener = ends.receiver.enter(|| TcpListener::bind(here))??;
        let door = listener.local_addr()?;
        let sender = ends
            .sender
            .enter(|| TcpStream::connect_timeout(&door, PATIENCE))?
            .with_context(|| format!("connecting from {} to {door}", ends.sender.name()))?;
        let (receiver, _) = listener.accept()?;
        for socket in [&sender, &receiver] {
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.set_write_timeout(Some(PATIENCE))?;
        }
        sender.set_nodelay(matches!(writes, Writes::Small))?;
        Ok(Self {
            sender,
            receiver,
            payload: Payload::new(seed),
            bytes,
            writes,
        })
    }

    /// Sends until all is sent, the time is over or the run is interrupted. The receiver is told
    /// the end in any case.
    pub(super) fn send(&self, until: Option<Instant>) -> Result<Summary> {
        let outcome = self.send_blocks(until);
        let how = if outcome.is_ok() {
            Shutdown::Write
        } else {
            Shutdown::Both
        };
        self.sender.shutdown(how).ok();
        outcome.with_context(|| format!("sending, {:?} writes", self.writes))
    }

    /// Receives until the end.
    pub(super) fn receive(&self) -> Result<Summary> {
        let mut hash = digest::Context::new(&digest::SHA256);
        let mut block = vec![0; BLOCK];
        let (mut bytes, mut wrong_at) = (0, None);
        loop {
            let length = fill_from(&self.receiver, &mut block)
                .with_context(|| format!("receiving after {bytes} bytes, {:?}", self.writes))?;
            let octets = &block[..length];
            hash.update(octets);
            wrong_at = wrong_at.or_else(|| self.payload.first_difference(bytes, octets));
            bytes += length as u64;
            if length < BLOCK {
                return Ok(Summary {
                    bytes,
                    digest: hash.finish().as_ref().to_vec(),
                    wrong_at,
                });
            }
        }
    }

    fn send_blocks(&self, until: Option<Instant>) -> Result<Summary> {
        let mut hash = digest::Context::new(&digest::SHA256);
        let mut block = vec![0; BLOCK];
        let (mut bytes, mut nth) = (0, 0);
        while bytes < self.bytes {
            // The first block goes out in any case: an empty stream would prove nothing.
            if bytes > 0 && until.is_some_and(|until| Instant::now() >= until) {
                break;
            }
            if interrupt::requested() {
                bail!("interrupted");
            }
            let length = (self.bytes - bytes).min(BLOCK as u64) as usize;
            let octets = &mut block[..length];
            self.payload.fill(bytes, octets);
            hash.update(octets);
            let mut rest = &*octets;
            while !rest.is_empty() {
                let length = self.writes.length(nth).min(rest.len());
                (&self.sender).write_all(&rest[..length])?;
                rest = &rest[length..];
                nth += 1;
            }
            bytes += length as u64;
        }
        Ok(Summary {
            bytes,
            digest: hash.finish().as_ref().to_vec(),
            wrong_at: None,
        })
    }
}

/// What one end has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Summary {
    pub(super) bytes: u64,
    digest: Vec<u8>,
    /// The receiver's first byte that is not what the sender's payload has in that place.
    wrong_at: Option<u64>,
}

impl Summary {
    /// What is wrong with what was received, if this was sent.
    pub(super) fn fault(&self, received: &Summary) -> Option<String> {
        if let Some(at) = received.wrong_at {
            return Some(format!("byte {at} of {} is wrong", self.bytes));
        }
        if received.bytes != self.bytes {
            let (sent, came) = (self.bytes, received.bytes);
            return Some(format!("{sent} bytes were sent and {came} received"));
        }
        // Two empty streams are equal, and prove nothing.
        if self.bytes == 0 {
            return Some("nothing was sent".to_owned());
        }
        (received.digest != self.digest).then(|| format!("SHA-256 differs, {} bytes", self.bytes))
    }
}

/// Reads until the buffer is full or the stream ends.
fn fill_from(mut stream: &TcpStream, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match stream.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(n) => length += n,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(bytes: u64, digest: u8, wrong_at: Option<u64>) -> Summary {
        Summary {
            bytes,
            digest: vec![digest; 32],
            wrong_at,
        }
    }

    #[test]
    fn only_the_same_bytes_are_right() {
        let sent = summary(100, 7, None);
        assert_eq!(sent.fault(&sent), None);
        for (received, complaint) in [
            (summary(100, 8, None), "SHA-256 differs, 100 bytes"),
            (summary(99, 7, None), "100 bytes were sent and 99 received"),
            (summary(100, 8, Some(3)), "byte 3 of 100 is wrong"),
        ] {
            assert_eq!(sent.fault(&received).as_deref(), Some(complaint));
        }
    }

    #[test]
    fn nothing_is_not_right() {
        let empty = summary(0, 7, None);
        assert_eq!(empty.fault(&empty).as_deref(), Some("nothing was sent"));
    }

    #[test]
    fn writes_have_every_length_up_to_the_largest() {
        let lengths: Vec<usize> = (0..20_000).map(|nth| Writes::Small.length(nth)).collect();
        assert_eq!(lengths.iter().min(), Some(&1));
        assert_eq!(lengths.iter().max(), Some(&2000));
        let mean = lengths.iter().sum::<usize>() / lengths.len();
        assert!((950..1050).contains(&mean), "{mean}");
        assert_eq!(
            Writes::SHARES.iter().map(|(_, share)| share).sum::<u64>(),
            100
        );
    }
}
