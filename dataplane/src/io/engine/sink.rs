//! The way out of a data thread: packets of a batch, joined where they can be, and
//! what the agent has written.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;

use nix::errno::Errno;

use super::Device;
use crate::counters::{Cause, Counters};
use crate::frame::{Frame, MAX_FRAME, Offload};
use crate::gso::{self, Joinable, Joiner, Kind, MAX_PACKETS, Reply, Write};
use crate::io::meter::{Meter, add};

/// A kernel that refuses a kind of super-packet refuses all of them (Linux 6.6.44 and
/// its siblings did, for some); after so many it is not offered that kind any more.
const REFUSALS: u32 = 8;

pub(super) struct Sink<D> {
    pub(super) out: Out<D>,
    joiner: Joiner,
    /// Packets pushed since the last flush.
    waiting: usize,
}

/// The device, and what it takes to write one packet after another.
pub(super) struct Out<D> {
    pub(super) device: D,
    pub(super) meter: Arc<Meter>,
    counters: Arc<Counters>,
    refused: [u32; 4],
    /// One packet cut from a super-packet.
    scratch: Vec<u8>,
}

impl<D: Device> Sink<D> {
    /// A sink that takes batches of `batch` packets without allocating.
    pub(super) fn new(
        device: D,
        joinable: Joinable,
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
            joiner: Joiner::new(batch, joinable),
            waiting: 0,
        }
    }

    /// The next packet of the batch: `arena` holds it at `at`. It is written at the
    /// next [`Sink::flush`] at the latest.
    pub(super) fn push(&mut self, arena: &[u8], offload: Offload, at: Range<usize>) {
        if self.waiting == 0 && offload.is_super_packet() {
            // Nothing to join it with: the whole of bulk traffic takes this way.
            return self.out.write(&offload, &arena[at]);
        }
        self.joiner.push(arena, offload, at);
        self.waiting += 1;
    }

    /// Writes what was pushed, in order.
    pub(super) fn flush(&mut self, arena: &mut [u8]) {
        if std::mem::take(&mut self.waiting) == 0 {
            return;
        }
        let Sink { out, joiner, .. } = self;
        joiner.finish(arena, |write| out.write_joined(&write));
        joiner.joinable = out.still(joiner.joinable);
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
        let mut pieces: [&[u8]; MAX_PACKETS] = [&[]; MAX_PACKETS];
        let mut used = 0;
        for (place, piece) in pieces.iter_mut().zip(write.slices()) {
            *place = piece;
            used += 1;
        }
        match self.send(&write.offload, &pieces[..used]) {
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
            match self.send(offload, &[packet]) {
                Ok(()) => return,
                Err(error) if is_refusal(&error) && !plain => {}
                Err(_) => return self.counters.count(Cause::WriteRefused),
            }
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        let cut = gso::cut(offload, packet, &mut scratch, |piece| {
            if self.send(&Offload::default(), &[piece]).is_err() {
                self.counters.count(Cause::WriteRefused);
            }
        });
        self.scratch = scratch;
        match cut {
            Ok(()) => add(&self.meter.cut, 1),
            Err(_) => self.counters.count(Cause::OffloadMissing),
        }
    }

    fn send(&mut self, offload: &Offload, pieces: &[&[u8]]) -> io::Result<()> {
        let mut slices = [IoSlice::new(&[]); 1 + MAX_PACKETS];
        let (header, rest) = slices.split_at_mut(1);
        header[0] = IoSlice::new(&offload.0);
        let mut bytes = 0;
        for (slice, piece) in rest.iter_mut().zip(pieces) {
            *slice = IoSlice::new(piece);
            bytes += piece.len();
        }
        let first = usize::from(!self.device.vnet());
        self.device.send(&slices[first..=pieces.len()])?;
        add(&self.meter.writes, 1);
        add(&self.meter.write_bytes, bytes as u64);
        Ok(())
    }

    /// What the kernel has not refused too often.
    fn still(&self, joinable: Joinable) -> Joinable {
        let kinds = [Kind::Tcp4, Kind::Tcp6, Kind::Udp4, Kind::Udp6];
        kinds.into_iter().fold(joinable, |joinable, kind| {
            if self.refused[place(kind)] < REFUSALS || !joinable.allows(kind) {
                return joinable;
            }
            tracing::warn!("the kernel refuses joined packets ({kind:?}): they go singly now");
            joinable.without(kind)
        })
    }
}

fn place(kind: Kind) -> usize {
    match kind {
        Kind::Tcp4 => 0,
        Kind::Tcp6 => 1,
        Kind::Udp4 => 2,
        Kind::Udp6 => 3,
    }
}

/// The kernel does not take this kind of frame, or not this one.
fn is_refusal(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::EINVAL as i32)
}
