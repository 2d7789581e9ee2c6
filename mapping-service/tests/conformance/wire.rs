//! UPDATE messages octet by octet, and what comes back.
//!
//! Nothing here uses the project's own encoder or decoder, except for the signature: what is
//! tested must not be what tests, and a library would not let a malformed message out.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use hickory_proto::serialize::binary::BinEncodable as _;
use mat_mapping::tsig::{Link, Stamp, TsigKey};

use crate::text::{self, AXFR, IN, SOA};

/// No answer takes longer.
pub const PATIENCE: Duration = Duration::from_secs(10);

const QUERY: u16 = 0;
const UPDATE: u16 = 5 << 11;

/// A record as it is on the wire, not compressed. In the zone section TTL and data do not exist.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Record {
    pub name: Vec<u8>,
    pub kind: u16,
    pub class: u16,
    pub ttl: u32,
    pub data: Vec<u8>,
}

impl Record {
    /// Names are compared without regard to case (RFC 2136 section 1.1.1).
    pub fn lowered(mut self) -> Record {
        // No length octet of a label is a letter.
        self.name.make_ascii_lowercase();
        let names = match self.kind {
            SOA => self.data.len().saturating_sub(20),
            kind if text::is_name(kind) => self.data.len(),
            _ => 0,
        };
        self.data[..names].make_ascii_lowercase();
        self
    }

    fn question(&self) -> Vec<u8> {
        let mut octets = self.name.clone();
        octets.extend(self.kind.to_be_bytes());
        octets.extend(self.class.to_be_bytes());
        octets
    }

    fn octets(&self) -> Vec<u8> {
        let mut octets = self.question();
        octets.extend(self.ttl.to_be_bytes());
        octets.extend((self.data.len() as u16).to_be_bytes());
        octets.extend(&self.data);
        octets
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, data) = (self.name.escape_ascii(), self.data.escape_ascii());
        write!(f, "{name} {} TYPE{} {data}", self.ttl, self.kind)
    }
}

/// The three sections of an UPDATE (RFC 2136 section 2).
#[derive(Debug, Default)]
pub struct Message {
    pub zone: Vec<Record>,
    pub prerequisites: Vec<Record>,
    pub updates: Vec<Record>,
    /// How many records the header says that there are, if not as many as there are.
    pub counts: Option<[u16; 3]>,
}

/// A zone as a transfer shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct Contents {
    /// Of the SOA.
    pub serial: u32,
    /// Everything, names in lower case, the SOA with serial 0.
    pub records: BTreeSet<Record>,
}

/// Sends `message` and returns the response code, or nothing if no answer comes in time.
pub fn update(
    server: SocketAddr,
    key: &TsigKey,
    message: &Message,
    tcp: bool,
    patience: Duration,
) -> Result<Option<u8>> {
    let records = message.prerequisites.iter().chain(&message.updates);
    let body = message.zone.iter().map(Record::question);
    let body = body.chain(records.map(Record::octets));
    let lens = [&message.zone, &message.prerequisites, &message.updates].map(Vec::len);
    let counts = message.counts.unwrap_or(lens.map(|len| len as u16));
    let request = signed(key, UPDATE, counts, body.flatten().collect())?;
    let answer = if tcp {
        framed(&mut dial(server, &request, patience)?)
    } else {
        datagram(server, &request, patience)
    };
    let Ok(answer) = answer else {
        return Ok(None);
    };
    ensure!(
        answer.len() >= 12 && answer[..2] == request[..2],
        "an answer to something else"
    );
    ensure!(answer[2] & 0xf8 == 0xa8, "not the answer to an UPDATE");
    Ok(Some(answer[3] & 15))
}

/// Transfers the zone.
pub fn transfer(server: SocketAddr, key: &TsigKey) -> Result<Contents> {
    let question = Record {
        name: text::name("@")?,
        kind: AXFR,
        class: IN,
        ttl: 0,
        data: vec![],
    };
    let request = signed(key, QUERY, [1, 0, 0], question.question())?;
    let mut stream = dial(server, &request, PATIENCE)?;
    let mut records = BTreeSet::new();
    let mut serial = None;
    loop {
        let message = framed(&mut stream)?;
        let mut reader = Reader {
            message: &message,
            at: 12,
        };
        ensure!(
            message.len() >= 12 && message[3] & 15 == 0,
            "transfer refused"
        );
        for _ in 0..u16::from_be_bytes([message[4], message[5]]) {
            reader.name()?;
            reader.take(4)?;
        }
        for _ in 0..u16::from_be_bytes([message[6], message[7]]) {
            let mut record = reader.record()?.lowered();
            if record.kind != SOA {
                records.insert(record);
                continue;
            }
            let at = record.data.len() - 20;
            let octets: [u8; 4] = record.data[at..at + 4].try_into()?;
            record.data[at..at + 4].fill(0);
            records.insert(record);
            if let Some(serial) = serial.replace(u32::from_be_bytes(octets)) {
                return Ok(Contents { serial, records });
            }
        }
    }
}

/// A request of its own ID with the signature at its end.
fn signed(key: &TsigKey, flags: u16, counts: [u16; 3], body: Vec<u8>) -> Result<Vec<u8>> {
    // Two requests with all the same octets would be one, sent twice.
    static IDS: AtomicU16 = AtomicU16::new(1);
    let id = IDS.fetch_add(1, Ordering::Relaxed);
    let mut message = [id, flags].map(u16::to_be_bytes).concat();
    message.extend(counts.map(u16::to_be_bytes).concat());
    message.extend([0, 0]);
    message.extend(body);
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let tsig = key.sign(&message, None, Link::First, Stamp::new(id, now))?;
    message[11] = 1;
    message.extend(tsig.to_bytes()?);
    Ok(message)
}

/// Sends one datagram and waits for one.
fn datagram(server: SocketAddr, request: &[u8], patience: Duration) -> Result<Vec<u8>> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(patience))?;
    socket.send(request)?;
    let mut answer = vec![0; 65535];
    let len = socket.recv(&mut answer)?;
    answer.truncate(len);
    Ok(answer)
}

fn dial(server: SocketAddr, request: &[u8], patience: Duration) -> Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&server, patience)?;
    stream.set_read_timeout(Some(patience))?;
    let mut framed = (request.len() as u16).to_be_bytes().to_vec();
    framed.extend(request);
    stream.write_all(&framed)?;
    Ok(stream)
}

fn framed(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut len = [0; 2];
    stream.read_exact(&mut len)?;
    let mut message = vec![0; u16::from_be_bytes(len).into()];
    stream.read_exact(&mut message)?;
    Ok(message)
}

/// Reads records out of a message whose names may be compressed.
struct Reader<'m> {
    message: &'m [u8],
    at: usize,
}

impl Reader<'_> {
    fn take(&mut self, len: usize) -> Result<&[u8]> {
        let taken = self.message.get(self.at..self.at + len);
        self.at += len;
        taken.context("a message cut short")
    }

    fn short(&mut self) -> Result<u16> {
        Ok(u16::from_be_bytes(self.take(2)?.try_into()?))
    }

    fn name(&mut self) -> Result<Vec<u8>> {
        let mut name = Vec::new();
        loop {
            let len = self.take(1)?[0];
            if len >= 0xc0 {
                let low = self.take(1)?[0];
                let at = usize::from(u16::from_be_bytes([len & 0x3f, low]));
                ensure!(at + 2 < self.at, "a name that goes on further down");
                name.extend(
                    Reader {
                        message: self.message,
                        at,
                    }
                    .name()?,
                );
                return Ok(name);
            }
            name.push(len);
            if len == 0 {
                return Ok(name);
            }
            name.extend(self.take(len.into())?);
        }
    }

    fn record(&mut self) -> Result<Record> {
        let name = self.name()?;
        let (kind, class) = (self.short()?, self.short()?);
        let ttl = u32::from_be_bytes(self.take(4)?.try_into()?);
        let len = self.short()?;
        let end = self.at + usize::from(len);
        let mut data = Vec::new();
        if text::is_name(kind) {
            data = self.name()?;
        } else if kind == SOA {
            data = [self.name()?, self.name()?].concat();
        }
        data.extend(self.take(end.checked_sub(self.at).context("a name too long")?)?);
        Ok(Record {
            name,
            kind,
            class,
            ttl,
            data,
        })
    }
}
