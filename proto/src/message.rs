//! The control exchange between forwarders: UDP, on the locators themselves.
//!
//! ```text
//! 0        4         5      6         8
//! +--------+---------+------+---------+----------------+------------------+
//! | "MAT\n"| version | type | length  | body           | MAC (16 octets)  |
//! +--------+---------+------+---------+----------------+------------------+
//! ```
//!
//! `length` counts the body, big-endian as every number here. The MAC covers
//! everything before it and is present exactly in the types that say so below.
//! An address is a family octet (4 or 6) and 4 or 16 octets. Octets of a body
//! behind the fields known to this release are ignored, so that later releases
//! can add fields; unknown types are refused by number.
//!
//! | type | message | MAC | body |
//! |---|---|---|---|
//! | 1 | OPEN | no | from, to, versions (min, max), modes, flags, from-epoch, to-epoch, token, cookie (16 octets, 0 = none) |
//! | 2 | ACCEPT | no | from, to, version, modes, flags, from-epoch, token, echoed token |
//! | 3 | CONFIRM | context | from, to |
//! | 4 | REJECT | no | from, to, reason, retry-after (ms, u16), echoed token, cookie |
//! | 5 | MOVED | context | from, to, sequence, epoch, lease (s, u32), entry count, entries (priority u16, port u16, modes, locator) |
//! | 6 | ACK | context | from, to, sequence acknowledged |
//! | 7 | PROBE | context | from, to, sequence |
//! | 8 | REPLY | context | from, to, sequence echoed, from-epoch, counter count, counters (mode, packets u64) |
//! | 9 | UNKNOWN | no | empty |
//! | 10 | RELAY | move | home, epoch, hops, packet id u32, total u32, offset u32, bytes to the end |
//! | 11 | END | context | from, to, epoch of the binding of `to` that the sender follows from now on |
//! | 14 | FLUSHED | move | home, epoch, received u32, delivered u32, count, missing (packet id u32, from u32, to u32) |
//!
//! Bit 0 of the flags says *resume*: the sender has an open context for these
//! homes, may have sent packets under it, and nothing for anybody else to this
//! locator lately. Only then may the receiver deliver
//! packets that it held because it had no context: without it they were meant
//! for another home that had the locator before. Other bits are zero and ignored.
//!
//! Types 12, 13 and 15 are kept for HANDOFF and its ACK. `from` is the
//! home the sender speaks for, `to` the home it speaks to: a message reflected
//! to its sender therefore never fits.
//!
//! OPEN is always sent as version 1; ACCEPT names the version chosen out of the
//! offered range, and the context uses it from then on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::auth::{Key, MAC_LEN, Token};
use crate::{Binding, Entry, Epoch, Home, Locator, Modes, Priority};

/// First octets of every message.
pub const MAGIC: [u8; 4] = *b"MAT\n";
/// The only version this release speaks.
pub const VERSION: u8 = 1;
/// Octets before the body.
pub const HEADER_LEN: usize = 8;
/// Octets a RELAY adds to the piece it carries, IPv6 home and MAC included.
pub const RELAY_OVERHEAD: usize = HEADER_LEN + 17 + 8 + 1 + 12 + MAC_LEN;
/// More counters than wire modes exist is nonsense.
const MAX_COUNTERS: usize = 8;
/// Gaps that one FLUSHED can name.
pub const MAX_MISSING: usize = 64;

/// The pair of homes a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The home the sender speaks for.
    pub from: Home,
    /// The home the sender speaks to.
    pub to: Home,
}

/// Why an OPEN was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The home asked for is not served here.
    NotServing,
    /// The mapping service does not confirm the sender.
    NotVerified,
    /// Too much to do: come back after the given time, with the cookie.
    Retry,
    /// No common protocol version.
    Version,
    /// A reason this release does not know.
    Other(u8),
}

impl Reason {
    fn code(self) -> u8 {
        match self {
            Reason::NotServing => 1,
            Reason::NotVerified => 2,
            Reason::Retry => 3,
            Reason::Version => 4,
            Reason::Other(code) => code,
        }
    }

    fn from_code(code: u8) -> Self {
        match code {
            1 => Reason::NotServing,
            2 => Reason::NotVerified,
            3 => Reason::Retry,
            4 => Reason::Version,
            code => Reason::Other(code),
        }
    }
}

/// Packets received in one wire mode, as REPLY reports them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModeCount {
    /// Bit of [`Modes::bits`].
    pub mode: u8,
    /// Packets received in it under this context.
    pub packets: u64,
}

/// One control message; see the table in the module documentation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// First contact, or first contact again after state was lost.
    Open {
        /// Who speaks to whom.
        pair: Pair,
        /// Lowest and highest version offered.
        versions: (u8, u8),
        /// Wire modes the sender can receive.
        modes: Modes,
        /// The sender already has an open context for these homes.
        resume: bool,
        /// Epoch of the sender's own binding.
        from_epoch: Epoch,
        /// Epoch of the receiver's binding as the sender knows it.
        to_epoch: Epoch,
        /// The sender's token.
        token: Token,
        /// The cookie of an earlier REJECT(retry); zero if none.
        cookie: Token,
    },
    /// Answer to OPEN, to the registered locator of its sender only.
    Accept {
        /// Who speaks to whom.
        pair: Pair,
        /// The version chosen.
        version: u8,
        /// Wire modes the sender can receive.
        modes: Modes,
        /// The sender already has an open context for these homes.
        resume: bool,
        /// Epoch of the sender's own binding.
        from_epoch: Epoch,
        /// The sender's token.
        token: Token,
        /// The token of the OPEN this answers.
        echo: Token,
    },
    /// Shows, by its MAC, that ACCEPT arrived.
    Confirm {
        /// Who speaks to whom.
        pair: Pair,
    },
    /// Refusal of an OPEN.
    Reject {
        /// Who speaks to whom.
        pair: Pair,
        /// Why.
        reason: Reason,
        /// Milliseconds to wait before another try.
        retry_after_ms: u16,
        /// The token of the OPEN this answers.
        echo: Token,
        /// To be sent back in the next OPEN; zero if none.
        cookie: Token,
    },
    /// The binding of the sender's home has changed.
    Moved {
        /// Who speaks to whom; `from` is the home that moved.
        pair: Pair,
        /// Rises with every MOVED of this context and direction.
        sequence: u64,
        /// The new binding of `from`.
        binding: Binding,
    },
    /// MOVED arrived.
    Ack {
        /// Who speaks to whom.
        pair: Pair,
        /// The sequence number of that MOVED.
        sequence: u64,
    },
    /// Are you there?
    Probe {
        /// Who speaks to whom.
        pair: Pair,
        /// Chosen by the sender; a REPLY with it shows that the PROBE has arrived, so
        /// nobody else should be able to guess it.
        sequence: u64,
    },
    /// I am here; also renews the lease of the sender's binding.
    Reply {
        /// Who speaks to whom.
        pair: Pair,
        /// The sequence number of the PROBE.
        sequence: u64,
        /// Epoch of the sender's own binding.
        from_epoch: Epoch,
        /// Packets received per wire mode.
        counters: Vec<ModeCount>,
    },
    /// There is no context for this pair of locators here.
    Unknown,
    /// A piece of a packet that arrived at the old site of a move.
    Relay(Relay),
    /// Sent to the old locator of a home that moved, behind the last packet to it:
    /// what the sender sends from now on goes to the new one.
    End {
        /// Who speaks to whom; `to` is the home that moved.
        pair: Pair,
        /// Epoch of the binding that names the new locator.
        epoch: Epoch,
    },
    /// What the new site of a move has of what the old one relays.
    Flushed(Flushed),
}

/// How far the new site of a move has come with what the old one relays: what has
/// not arrived is sent again, what has been delivered need not be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flushed {
    /// The home that moved.
    pub home: Home,
    /// The epoch the relaying site served.
    pub epoch: Epoch,
    /// All packets with smaller numbers have arrived.
    pub received: u32,
    /// All packets with smaller numbers are with the instance, or relayed further.
    pub delivered: u32,
    /// What is missing of packets from `received` on; at most [`MAX_MISSING`].
    pub missing: Vec<Missing>,
}

/// A part of a relayed packet that has not arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Number of the packet.
    pub id: u32,
    /// Where the gap begins.
    pub from: u32,
    /// Where it ends; `u32::MAX` if nothing of the packet is there.
    pub to: u32,
}

/// A piece of a packet relayed to the new site of a move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relay {
    /// The home that moved.
    pub home: Home,
    /// The epoch the relaying site served.
    pub epoch: Epoch,
    /// How many times the packet was relayed, this time included.
    pub hops: u8,
    /// Number of the packet within this move.
    pub id: u32,
    /// Length of the whole packet, its offload header included.
    pub total: u32,
    /// Where this piece begins.
    pub offset: u32,
    /// The piece.
    pub bytes: Vec<u8>,
}

/// Why octets are not a control message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The magic is missing: not a control message at all.
    #[error("not a control message")]
    Magic,
    /// A version this release does not speak.
    #[error("version {0} is not supported")]
    Version(u8),
    /// A type this release does not know.
    #[error("message type {0} is not known")]
    Type(u8),
    /// Shorter than its fields, or longer than its length says.
    #[error("truncated or overlong")]
    Length,
    /// A MAC where none belongs, or none where one must be.
    #[error("MAC missing or out of place")]
    Mac,
    /// A field with an impossible value.
    #[error("field out of range")]
    Field,
}

/// A message as received, with what is needed to check its MAC.
#[derive(Clone, Debug)]
pub struct Received<'a> {
    /// The content: untrusted until [`Received::verify`], except where the type
    /// has no MAC.
    pub message: Message,
    signed: &'a [u8],
    mac: Option<[u8; MAC_LEN]>,
}

impl Received<'_> {
    /// Whether the MAC is there and right.
    pub fn verify(&self, key: &Key) -> bool {
        self.mac.is_some_and(|mac| key.verify(self.signed, &mac))
    }
}

impl Message {
    /// The octets of a message without MAC. The type decides: encoding a type
    /// that needs one takes the key in [`Message::encode_signed`].
    pub fn encode(&self) -> Vec<u8> {
        debug_assert!(!self.needs_mac());
        self.octets()
    }

    /// The octets of a message with MAC.
    pub fn encode_signed(&self, key: &Key) -> Vec<u8> {
        debug_assert!(self.needs_mac());
        let mut octets = self.octets();
        let mac = key.mac(&octets);
        octets.extend_from_slice(&mac);
        octets
    }

    /// Whether messages of this type carry a MAC.
    pub fn needs_mac(&self) -> bool {
        needs_mac(self.kind())
    }

    /// Reads a message. Allocates only what the input's length bounds.
    pub fn decode(input: &[u8]) -> Result<Received<'_>, DecodeError> {
        let header = input.get(..HEADER_LEN).ok_or(DecodeError::Magic)?;
        if header[..4] != MAGIC {
            return Err(DecodeError::Magic);
        }
        if header[4] != VERSION {
            return Err(DecodeError::Version(header[4]));
        }
        let kind = header[5];
        let end = HEADER_LEN + usize::from(u16::from_be_bytes([header[6], header[7]]));
        let body = input.get(HEADER_LEN..end).ok_or(DecodeError::Length)?;
        let mac = match &input[end..] {
            [] => None,
            rest => Some(rest.try_into().map_err(|_| DecodeError::Length)?),
        };
        let message = Message::decode_body(kind, &mut Reader(body))?;
        if needs_mac(kind) != mac.is_some() {
            return Err(DecodeError::Mac);
        }
        Ok(Received {
            message,
            signed: &input[..end],
            mac,
        })
    }

    fn kind(&self) -> u8 {
        match self {
            Message::Open { .. } => 1,
            Message::Accept { .. } => 2,
            Message::Confirm { .. } => 3,
            Message::Reject { .. } => 4,
            Message::Moved { .. } => 5,
            Message::Ack { .. } => 6,
            Message::Probe { .. } => 7,
            Message::Reply { .. } => 8,
            Message::Unknown => 9,
            Message::Relay(_) => 10,
            Message::End { .. } => 11,
            Message::Flushed(_) => 14,
        }
    }

    fn octets(&self) -> Vec<u8> {
        let mut w = Writer(Vec::with_capacity(128));
        w.bytes(&MAGIC).u8(VERSION).u8(self.kind()).u16(0);
        match self {
            Message::Open {
                pair,
                versions,
                modes,
                resume,
                from_epoch,
                to_epoch,
                token,
                cookie,
            } => {
                w.pair(pair).u8(versions.0).u8(versions.1).u8(modes.bits());
                w.u8((*resume).into());
                w.u64(from_epoch.0).u64(to_epoch.0);
                w.bytes(&token.0).bytes(&cookie.0);
            }
            Message::Accept {
                pair,
                version,
                modes,
                resume,
                from_epoch,
                token,
                echo,
            } => {
                w.pair(pair).u8(*version).u8(modes.bits());
                w.u8((*resume).into()).u64(from_epoch.0);
                w.bytes(&token.0).bytes(&echo.0);
            }
            Message::Confirm { pair } => {
                w.pair(pair);
            }
            Message::Reject {
                pair,
                reason,
                retry_after_ms,
                echo,
                cookie,
            } => {
                w.pair(pair).u8(reason.code()).u16(*retry_after_ms);
                w.bytes(&echo.0).bytes(&cookie.0);
            }
            Message::Moved {
                pair,
                sequence,
                binding,
            } => {
                w.pair(pair).u64(*sequence).u64(binding.epoch().0);
                w.u32(binding.lease_seconds());
                w.u8(binding.entries().len() as u8);
                for entry in binding.entries() {
                    w.u16(entry.priority.get()).u16(entry.port);
                    w.u8(entry.modes.bits()).ip(entry.locator.ip());
                }
            }
            Message::Ack { pair, sequence } | Message::Probe { pair, sequence } => {
                w.pair(pair).u64(*sequence);
            }
            Message::Reply {
                pair,
                sequence,
                from_epoch,
                counters,
            } => {
                w.pair(pair).u64(*sequence).u64(from_epoch.0);
                let counters = &counters[..counters.len().min(MAX_COUNTERS)];
                w.u8(counters.len() as u8);
                for c in counters {
                    w.u8(c.mode).u64(c.packets);
                }
            }
            Message::Unknown => {}
            Message::Relay(r) => {
                w.ip(r.home.ip()).u64(r.epoch.0).u8(r.hops);
                w.u32(r.id).u32(r.total).u32(r.offset).bytes(&r.bytes);
            }
            Message::End { pair, epoch } => {
                w.pair(pair).u64(epoch.0);
            }
            Message::Flushed(f) => {
                w.ip(f.home.ip()).u64(f.epoch.0);
                w.u32(f.received).u32(f.delivered);
                let missing = &f.missing[..f.missing.len().min(MAX_MISSING)];
                w.u8(missing.len() as u8);
                for gap in missing {
                    w.u32(gap.id).u32(gap.from).u32(gap.to);
                }
            }
        }
        let Writer(mut octets) = w;
        let length = (octets.len() - HEADER_LEN) as u16;
        octets[6..8].copy_from_slice(&length.to_be_bytes());
        octets
    }

    fn decode_body(kind: u8, r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match kind {
            1 => Message::Open {
                pair: r.pair()?,
                versions: (r.u8()?, r.u8()?),
                modes: Modes::from_bits(r.u8()?),
                resume: r.u8()? & 1 != 0,
                from_epoch: Epoch(r.u64()?),
                to_epoch: Epoch(r.u64()?),
                token: r.token()?,
                cookie: r.token()?,
            },
            2 => Message::Accept {
                pair: r.pair()?,
                version: r.u8()?,
                modes: Modes::from_bits(r.u8()?),
                resume: r.u8()? & 1 != 0,
                from_epoch: Epoch(r.u64()?),
                token: r.token()?,
                echo: r.token()?,
            },
            3 => Message::Confirm { pair: r.pair()? },
            4 => Message::Reject {
                pair: r.pair()?,
                reason: Reason::from_code(r.u8()?),
                retry_after_ms: r.u16()?,
                echo: r.token()?,
                cookie: r.token()?,
            },
            5 => {
                let pair = r.pair()?;
                let sequence = r.u64()?;
                let epoch = Epoch(r.u64()?);
                let lease = r.u32()?;
                let count = usize::from(r.u8()?);
                if count > Binding::MAX_LOCATORS {
                    return Err(DecodeError::Field);
                }
                let entries = (0..count).map(|_| r.entry()).collect::<Result<_, _>>()?;
                let binding = Binding::new(pair.from, epoch, lease, entries)
                    .map_err(|_| DecodeError::Field)?;
                Message::Moved {
                    pair,
                    sequence,
                    binding,
                }
            }
            6 => Message::Ack {
                pair: r.pair()?,
                sequence: r.u64()?,
            },
            7 => Message::Probe {
                pair: r.pair()?,
                sequence: r.u64()?,
            },
            8 => {
                let (pair, sequence, from_epoch) = (r.pair()?, r.u64()?, Epoch(r.u64()?));
                let count = usize::from(r.u8()?);
                if count > MAX_COUNTERS {
                    return Err(DecodeError::Field);
                }
                let counters = (0..count)
                    .map(|_| {
                        Ok(ModeCount {
                            mode: r.u8()?,
                            packets: r.u64()?,
                        })
                    })
                    .collect::<Result<_, _>>()?;
                Message::Reply {
                    pair,
                    sequence,
                    from_epoch,
                    counters,
                }
            }
            9 => Message::Unknown,
            10 => {
                let relay = Relay {
                    home: r.home()?,
                    epoch: Epoch(r.u64()?),
                    hops: r.u8()?,
                    id: r.u32()?,
                    total: r.u32()?,
                    offset: r.u32()?,
                    bytes: std::mem::take(&mut r.0).to_vec(),
                };
                let end = u64::from(relay.offset) + relay.bytes.len() as u64;
                if relay.bytes.is_empty() || end > u64::from(relay.total) {
                    return Err(DecodeError::Field);
                }
                Message::Relay(relay)
            }
            11 => Message::End {
                pair: r.pair()?,
                epoch: Epoch(r.u64()?),
            },
            14 => {
                let (home, epoch) = (r.home()?, Epoch(r.u64()?));
                let (received, delivered) = (r.u32()?, r.u32()?);
                let count = usize::from(r.u8()?);
                if count > MAX_MISSING {
                    return Err(DecodeError::Field);
                }
                let missing = (0..count)
                    .map(|_| {
                        Ok(Missing {
                            id: r.u32()?,
                            from: r.u32()?,
                            to: r.u32()?,
                        })
                    })
                    .collect::<Result<_, _>>()?;
                Message::Flushed(Flushed {
                    home,
                    epoch,
                    received,
                    delivered,
                    missing,
                })
            }
            other => return Err(DecodeError::Type(other)),
        })
    }
}

fn needs_mac(kind: u8) -> bool {
    matches!(kind, 3 | 5..=8 | 10 | 11 | 14)
}

struct Writer(Vec<u8>);

impl Writer {
    fn bytes(&mut self, b: &[u8]) -> &mut Self {
        self.0.extend_from_slice(b);
        self
    }
    fn u8(&mut self, v: u8) -> &mut Self {
        self.bytes(&[v])
    }
    fn u16(&mut self, v: u16) -> &mut Self {
        self.bytes(&v.to_be_bytes())
    }
    fn u32(&mut self, v: u32) -> &mut Self {
        self.bytes(&v.to_be_bytes())
    }
    fn u64(&mut self, v: u64) -> &mut Self {
        self.bytes(&v.to_be_bytes())
    }
    fn ip(&mut self, ip: IpAddr) -> &mut Self {
        match ip {
            IpAddr::V4(ip) => self.u8(4).bytes(&ip.octets()),
            IpAddr::V6(ip) => self.u8(6).bytes(&ip.octets()),
        }
    }
    fn pair(&mut self, pair: &Pair) -> &mut Self {
        self.ip(pair.from.ip()).ip(pair.to.ip())
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(DecodeError::Length)?;
        self.0 = rest;
        Ok(*head)
    }
    fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[b]| b)
    }
    fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }
    fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }
    fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_be_bytes)
    }
    fn token(&mut self) -> Result<Token, DecodeError> {
        self.array().map(Token)
    }
    fn ip(&mut self) -> Result<IpAddr, DecodeError> {
        match self.u8()? {
            4 => self.array::<4>().map(|o| Ipv4Addr::from(o).into()),
            6 => self.array::<16>().map(|o| Ipv6Addr::from(o).into()),
            _ => Err(DecodeError::Field),
        }
    }
    fn home(&mut self) -> Result<Home, DecodeError> {
        Home::new(self.ip()?).map_err(|_| DecodeError::Field)
    }
    fn pair(&mut self) -> Result<Pair, DecodeError> {
        let pair = Pair {
            from: self.home()?,
            to: self.home()?,
        };
        // Contexts are within one family, and nobody speaks to itself.
        if pair.from == pair.to || pair.from.family() != pair.to.family() {
            return Err(DecodeError::Field);
        }
        Ok(pair)
    }
    fn entry(&mut self) -> Result<Entry, DecodeError> {
        let priority = Priority::new(self.u16()?).ok_or(DecodeError::Field)?;
        let port = self.u16()?;
        let modes = Modes::from_bits(self.u8()?);
        let locator = Locator::new(self.ip()?).map_err(|_| DecodeError::Field)?;
        Ok(Entry {
            priority,
            locator,
            port,
            modes,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pair() -> Pair {
        Pair {
            from: "192.0.2.10".parse().unwrap(),
            to: "192.0.2.20".parse().unwrap(),
        }
    }

    fn key() -> Key {
        Key::of_context(Token([1; 16]), Token([2; 16]))
    }

    fn samples() -> Vec<Message> {
        let pair = pair();
        let locator = "198.51.100.7".parse().unwrap();
        let binding = Binding::single(pair.from, Epoch(9), 30, locator, 6283).unwrap();
        vec![
            Message::Open {
                pair,
                versions: (1, 1),
                modes: Modes::NATIVE,
                resume: true,
                from_epoch: Epoch(1_795_420_470),
                to_epoch: Epoch(3),
                token: Token([0xaa; 16]),
                cookie: Token([0; 16]),
            },
            Message::Accept {
                pair,
                version: 1,
                modes: Modes::NATIVE,
                resume: true,
                from_epoch: Epoch(3),
                token: Token([0xbb; 16]),
                echo: Token([0xaa; 16]),
            },
            Message::Confirm { pair },
            Message::Reject {
                pair,
                reason: Reason::Retry,
                retry_after_ms: 200,
                echo: Token([0xaa; 16]),
                cookie: Token([0xcc; 16]),
            },
            Message::Moved {
                pair,
                sequence: 5,
                binding,
            },
            Message::Ack { pair, sequence: 5 },
            Message::Probe { pair, sequence: 6 },
            Message::Reply {
                pair,
                sequence: 6,
                from_epoch: Epoch(9),
                counters: vec![ModeCount {
                    mode: 1,
                    packets: 77,
                }],
            },
            Message::Probe {
                pair: Pair {
                    from: "2001:db8::a".parse().unwrap(),
                    to: "2001:db8::b".parse().unwrap(),
                },
                sequence: 1,
            },
            Message::Unknown,
            Message::Relay(Relay {
                home: pair.from,
                epoch: Epoch(9),
                hops: 1,
                id: 4,
                total: 100,
                offset: 97,
                bytes: vec![1, 2, 3],
            }),
            Message::End {
                pair,
                epoch: Epoch(10),
            },
            Message::Flushed(Flushed {
                home: pair.from,
                epoch: Epoch(9),
                received: 7,
                delivered: 5,
                missing: vec![Missing {
                    id: 7,
                    from: 1166,
                    to: 2332,
                }],
            }),
        ]
    }

    fn encoded(message: &Message) -> Vec<u8> {
        if message.needs_mac() {
            message.encode_signed(&key())
        } else {
            message.encode()
        }
    }

    fn hex(octets: &[u8]) -> String {
        octets.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// The wire format is a contract with forwarders already installed: these
    /// octets may never change within version 1.
    #[test]
    fn golden_vectors() {
        let golden = include_str!("../tests/golden/v1.txt");
        let written: String = samples()
            .iter()
            .map(|m| format!("{}\n", hex(&encoded(m))))
            .collect();
        assert_eq!(written, golden);
    }

    #[test]
    fn every_type_survives_the_wire() {
        for message in samples() {
            let octets = encoded(&message);
            let received = Message::decode(&octets).unwrap();
            assert_eq!(received.message, message);
            assert_eq!(received.verify(&key()), message.needs_mac());
        }
    }

    #[test]
    fn every_truncation_and_every_flipped_bit_is_noticed() {
        for message in samples() {
            let octets = encoded(&message);
            for cut in 0..octets.len() {
                assert!(
                    Message::decode(&octets[..cut]).is_err(),
                    "{message:?} cut at {cut}"
                );
            }
            if !message.needs_mac() {
                continue;
            }
            for bit in 0..octets.len() * 8 {
                let mut bad = octets.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert!(!Message::decode(&bad).is_ok_and(|r| r.verify(&key())));
            }
        }
    }

    #[test]
    fn fields_of_later_releases_are_ignored() {
        let mut octets = Message::Unknown.encode();
        octets.extend_from_slice(&[1, 2, 3]);
        octets[7] = 3;
        assert_eq!(Message::decode(&octets).unwrap().message, Message::Unknown);
        octets[4] = 2;
        assert_eq!(
            Message::decode(&octets).unwrap_err(),
            DecodeError::Version(2)
        );
    }

    proptest! {
        #[test]
        fn no_input_panics(kind in 0u8..20, body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut octets = MAGIC.to_vec();
            octets.extend_from_slice(&[VERSION, kind, 0, body.len() as u8]);
            octets.extend_from_slice(&body);
            let _ = Message::decode(&octets);
            let _ = Message::decode(&body);
        }
    }
}
