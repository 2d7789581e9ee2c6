//! The way out of a data thread: packets of a batch, joined where they can be, and
//! what the agent has written.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use nix::errno::Errno;

use super::Device;
use crate::counters::{Cause, Counters};
use crate::fib::Direction;
use crate::frame::{Frame, MAX_FRAME, Offload};
use crate::gso::{self, Joinable, Joiner, Kind, MAX_HEADER, MAX_PACKETS, Reply, Write};
use crate::io::meter::{Meter, add};

/// A kernel that refuses a kind of super-packet refuses all of them (Linux 6.6.44 and
/// its siblings did, for some); after so many it is not offered that kind any more.
const REFUSALS: u32 = 8;

/// What is joined, by the way that packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joins {
    /// To peers, and everything that is not to an instance.
    pub out: Joinable,
    /// To an instance.
    pub inward: Joinable,
}

impl Joins {
    /// Nothing.
    pub const NONE: Joins = Joins {
        out: Joinable::NONE,
        inward: Joinable::NONE,
    };
    /// All that can be told the kernel in a virtio-net header.
    pub const ALL: Joins = Joins {
        out: Joinable::ALL,
        inward: Joinable::ALL,
    };
    /// Into a TUN without that header: what is for this host itself, which takes a TCP segment
    /// of any size. What it had to forward would be too large.
    pub const PLAIN_GUEST: Joins = Joins {
        out: Joinable::NONE,
        inward: Joinable::TCP,
    };

    fn without(self, kind: Kind) -> Self {
        Joins {
            out: self.out.without(kind),
            inward: self.inward.without(kind),
        }
    }
}

pub(super) struct Sink<D> {
    pub(super) out: Out<D>,
    joins: Joins,
    joiner: Joiner,
    /// Packets pushed since the last flush.
    waiting: usize,
}

/// The device, and what it takes to write one packet after another.
pub(super) struct Out<D> {
    pub(super) device: D,
    pub(super) meter: Arc<Meter>,
    counters: Arc<Counters>,
    /// Joined packets that the kernel refused, by kind, for as long as that kind is joined.
    refused: [u32; 4],
    /// One packet cut from a super-packet.
    scratch: Vec<u8>,
}

impl<D: Device> Sink<D> {
    /// A sink that takes batches of `batch` packets without allocating.
    pub(super) fn new(
        device: D,
        joins: Joins,
        batch: usize,
        meter: Arc<Meter>,
        counters: Arc<Counters>,
    ) -> Self {
        Sink {
            out: Out {
                device,
                meter,
                counters,
                refused: [0; 4],
                scratch: vec![0; MAX_FRAME],
            },
            joins,
            joiner: Joiner::new(batch, Joinable::NONE),
            waiting: 0,
        }
    }

    /// The next packet of the batch: `arena` holds it at `at`. It is written at the
    /// next [`Sink::flush`] at the latest.
    pub(super) fn push(
        &mut self,
        arena: &[u8],
        offload: Offload,
        at: Range<usize>,
        direction: Direction,
    ) {
        if self.waiting == 0 && offload.is_super_packet() {
            // Nothing to join it with: the whole of bulk traffic takes this way.
            return self.out.write(&offload, &arena[at]);
        }
        self.joiner.joinable = match direction {
            Direction::Out => self.joins.out,
            Direction::In => self.joins.inward,
        };
        self.joiner.push(arena, offload, at);
        self.waiting += 1;
    }

    /// Writes what was pushed, in order.
    pub(super) fn flush(&mut self, arena: &mut [u8]) {
        if std::mem::take(&mut self.waiting) == 0 {
            return;
        }
        let Sink {
            out, joiner, joins, ..
        } = self;
        joiner.finish(arena, |write| out.write_joined(&write));
        out.forgo(joins);
    }

    /// A packet of the agent's.
    pub(super) fn write_frame(&mut self, frame: &Frame) {
        self.out.write(&frame.offload, &frame.packet);
    }
}

impl<D: Device> Out<D> {
    fn write_joined(&mut self, write: &Write<'_>) -> Reply {
        let Some(kind) = write.joined else {
            let piece = write.pieces.first().cloned().unwrap_or_default();
            self.write(&write.offload, &write.arena[piece]);
            return Reply::Done;
        };
        let used = write.pieces.len();
        let sent = if self.device.vnet() {
            self.send(&write.offload.0, write.slices())
        } else {
            let mut buffer = [0; MAX_HEADER];
            let (headers, payload) = write.whole(&mut buffer);
            self.send(headers, payload)
        };
        match sent {
            Ok(()) => {
                add(&self.meter.joined, used as u64);
                add(&self.meter.joined_writes, 1);
                Reply::Done
            }
            Err(error) if is_refusal(&error) => {
                self.refused[place(kind)] += 1;
                Reply::Refused
            }
            Err(_) => {
                self.counters.add(Cause::WriteRefused, used as u64);
                Reply::Done
            }
        }
    }

    /// Writes one packet; a super-packet that cannot go as it is goes in pieces.
    fn write(&mut self, offload: &Offload, packet: &[u8]) {
        let plain = *offload == Offload::default();
        if plain || self.device.vnet() {
            match self.send_one(offload, packet) {
                Ok(()) => return,
                Err(error) if is_refusal(&error) && !plain => {}
                Err(_) => return self.counters.count(Cause::WriteRefused),
            }
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        let cut = gso::cut(offload, packet, &mut scratch, |piece| {
            if self.send_one(&Offload::default(), piece).is_err() {
                self.counters.count(Cause::WriteRefused);
            }
        });
        self.scratch = scratch;
        match cut {
            Ok(()) => add(&self.meter.cut, 1),
            Err(_) => self.counters.count(Cause::OffloadMissing),
        }
    }

    fn send_one(&mut self, offload: &Offload, packet: &[u8]) -> io::Result<()> {
        let slices = [IoSlice::new(&offload.0), IoSlice::new(packet)];
        let first = usize::from(!self.device.vnet());
        self.device.send(&slices[first..])?;
        self.sent(packet.len());
        Ok(())
    }

    /// Writes one frame that lies in pieces; `head` is the virtio-net header or the first of
    /// them.
    fn send<'a>(&mut self, head: &[u8], pieces: impl Iterator<Item = &'a [u8]>) -> io::Result<()> {
        let mut slices = [IoSlice::new(&[]); 1 + MAX_PACKETS];
        slices[0] = IoSlice::new(head);
        let (mut used, mut bytes) = (1, if self.device.vnet() { 0 } else { head.len() });
        for (slice, piece) in slices[1..].iter_mut().zip(pieces) {
            *slice = IoSlice::new(piece);
            used += 1;
            bytes += piece.len();
        }
        self.device.send(&slices[..used])?;
        self.sent(bytes);
        Ok(())
    }

    fn sent(&self, bytes: usize) {
        add(&self.meter.writes, 1);
        add(&self.meter.write_bytes, bytes as u64);
    }

    /// Joins no more what the kernel has refused too often.
    fn forgo(&mut self, joins: &mut Joins) {
        for (place, (kind, name)) in KINDS.into_iter().enumerate() {
            if self.refused[place] >= REFUSALS {
                self.refused[place] = 0;
                tracing::warn!("the kernel refuses joined packets ({name}): they go singly now");
                *joins = joins.without(kind);
                self.meter.forgone.fetch_or(1 << place, Relaxed);
            }
        }
    }
}

/// The kinds, by their places in [`Out::refused`] and [`Meter::forgone`].
const KINDS: [(Kind, &str); 4] = [
    (Kind::Tcp4, "TCP over IPv4"),
    (Kind::Tcp6, "TCP over IPv6"),
    (Kind::Udp4, "UDP over IPv4"),
    (Kind::Udp6, "UDP over IPv6"),
];

fn place(kind: Kind) -> usize {
    KINDS.iter().take_while(|(other, _)| *other != kind).count()
}

/// What is not joined any more because the kernel has refused it, for people.
pub(super) fn forgone(meters: &[Arc<Meter>]) -> Vec<&'static str> {
    let of = |meter: &Arc<Meter>| meter.forgone.load(Relaxed);
    let forgone = meters.iter().map(of).fold(0, |all, one| all | one);
    let kinds = KINDS.iter().enumerate();
    kinds
        .filter(|(place, _)| forgone & (1 << place) != 0)
        .map(|(_, (_, name))| *name)
        .collect()
}

/// The kernel does not take this kind of frame, or not this one.
fn is_refusal(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::EINVAL as i32)
}
