//! A data thread's work, without the thread: batches of frames from a [`Device`],
//! through the forwarding table or the agent, and back into the device.
//!
//! A batch is read into one buffer that stays in the processor's cache. It ends with
//! the first super-packet, which is handled at once while it is hot, or when nothing
//! more waits; so small packets are gathered exactly when they come faster than they
//! are handled, and nothing ever waits for a later packet.
//!
//! Per packet there is no allocation, no lock and no system call but the read and its
//! share of a write. The agent is asked, under its lock, about what the table does not
//! know.

use std::io;
use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Instant;

use nix::errno::Errno;
use tokio::sync::mpsc;

use super::Device;
use super::sink::{Joins, Sink};
use crate::agent::{Agent, Output, Verdict};
use crate::clock::Now;
use crate::counters::{Cause, Counters};
use crate::fib::{Candidate, Direction, Fib, Reader, Slot};
use crate::frame::{MAX_FRAME, Offload};
use crate::gso::MAX_PACKETS;
use crate::io::meter::{Meter, add};

/// Frames of a batch: as many as are ever joined into one.
pub(super) const BATCH: usize = MAX_PACKETS;

/// Room for a batch of full-sized Ethernet packets, each on a cache line of its own,
/// and behind it for one more frame of any size: 196 KiB, less than any second-level
/// cache of the last ten years has.
const ARENA: usize = BATCH * 2048 + MAX_FRAME;
const CACHE_LINE: usize = 64;

/// What all data threads share.
pub(super) struct Shared {
    pub(super) agent: Mutex<Agent>,
    pub(super) fib: Arc<Fib>,
    pub(super) counters: Arc<Counters>,
    pub(super) wanted: mpsc::UnboundedSender<Output>,
    pub(super) control_port: u16,
}

impl Shared {
    /// The agent, for whoever is in no batch.
    pub(super) fn agent(&self) -> MutexGuard<'_, Agent> {
        // A thread that panicked ends the process; until then the agent is whole enough.
        self.agent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A frame of the batch.
struct Arrival {
    offload: Offload,
    /// The packet in the arena.
    at: Range<usize>,
}

pub(super) struct Worker<D> {
    shared: Arc<Shared>,
    reader: Reader,
    sink: Sink<D>,
    arena: Vec<u8>,
    batch: Vec<Arrival>,
    candidates: Vec<Option<Candidate>>,
    run: Run,
}

impl<D: Device> Worker<D> {
    pub(super) fn new(device: D, joins: Joins, shared: Arc<Shared>, meter: Arc<Meter>) -> Self {
        let counters = Arc::clone(&shared.counters);
        Worker {
            reader: shared.fib.reader(),
            shared,
            sink: Sink::new(device, joins, BATCH, meter, counters),
            arena: vec![0; ARENA],
            batch: Vec::with_capacity(BATCH),
            candidates: Vec::with_capacity(BATCH),
            run: Run::default(),
        }
    }

    pub(super) fn device(&self) -> &D {
        &self.sink.out.device
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(super) fn meter(&self) -> &Arc<Meter> {
        &self.sink.out.meter
    }

    /// Handles one batch; `true` if there may be more.
    pub(super) fn pump(&mut self, now: Now) -> io::Result<bool> {
        let meter = &self.sink.out.meter;
        let batches = meter.batches.load(Relaxed);
        let more = self.gather()?;
        if self.batch.is_empty() {
            return Ok(more);
        }
        let timed = batches.is_multiple_of(Meter::SAMPLING).then(Instant::now);
        self.handle(now);
        let meter = &self.sink.out.meter;
        add(&meter.batches, 1);
        if let Some(start) = timed {
            meter.latency.record(start.elapsed());
        }
        Ok(more)
    }

    /// Does what the agent wants done after an input that is no packet.
    pub(super) fn drain(&mut self, agent: &mut Agent) {
        let Worker {
            shared,
            reader,
            sink,
            arena,
            ..
        } = self;
        drain(agent, shared, reader, sink, arena);
    }

    /// Reads a batch; `true` if there may be more.
    fn gather(&mut self) -> io::Result<bool> {
        self.batch.clear();
        let device = &self.sink.out.device;
        let vnet = device.vnet();
        let (mut bytes, mut supers) = (0, 0);
        let mut used = 0;
        let mut more = true;
        while self.batch.len() < BATCH && used + MAX_FRAME <= self.arena.len() {
            // Without the header the packet lies where it would lie with it.
            let start = used + if vnet { 0 } else { Offload::LEN };
            let length = match device.recv(&mut self.arena[start..used + MAX_FRAME]) {
                Ok(Some(length)) => length,
                Ok(None) => {
                    more = false;
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // The device is down for a moment: somebody is reconfiguring it.
                Err(error) if error.raw_os_error() == Some(Errno::EIO as i32) => {
                    more = false;
                    break;
                }
                Err(error) => return Err(error),
            };
            let mut offload = Offload::default();
            if vnet {
                if length < Offload::LEN {
                    let text = "a frame without its header";
                    return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                }
                offload
                    .0
                    .copy_from_slice(&self.arena[used..used + Offload::LEN]);
            }
            let at = used + Offload::LEN..start + length;
            bytes += at.len() as u64;
            used = at.end.next_multiple_of(CACHE_LINE);
            let whole = offload.is_super_packet();
            self.batch.push(Arrival { offload, at });
            if whole {
                supers = 1;
                break;
            }
        }
        let meter = &self.sink.out.meter;
        add(&meter.reads, self.batch.len() as u64);
        add(&meter.read_bytes, bytes);
        add(&meter.super_reads, supers);
        Ok(more)
    }

    fn handle(&mut self, now: Now) {
        let Worker {
            shared,
            reader,
            sink,
            arena,
            batch,
            candidates,
            run,
        } = self;
        let fib = &*shared.fib;
        reader.enter();
        candidates.clear();
        candidates.extend(
            batch
                .iter()
                .map(|arrival| Candidate::of(fib, &arena[arrival.at.clone()], shared.control_port)),
        );
        candidates.iter().flatten().for_each(|c| c.fetch(fib));
        let mut forwarded = 0;
        for (Arrival { offload, at }, candidate) in batch.iter().zip(&*candidates) {
            if !offload.is_known() {
                shared.counters.count(Cause::UnknownGso);
                continue;
            }
            let packet = &mut arena[at.clone()];
            let hit = candidate.as_ref();
            let hit = hit.and_then(|c| c.forward(fib, offload, packet, now.time));
            if let Some((slot, direction)) = hit {
                forwarded += 1;
                run.add(fib, slot, direction, packet.len(), now);
                sink.push(arena, *offload, at.clone(), direction);
                continue;
            }
            let mut agent = match shared.agent.try_lock() {
                Ok(agent) => agent,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => {
                    // Whoever has it may be waiting for the end of our batch.
                    run.end(fib, now);
                    sink.flush(arena);
                    reader.leave();
                    let agent = shared.agent();
                    reader.enter();
                    agent
                }
            };
            match agent.handle_packet(now, offload, &mut arena[at.clone()]) {
                Verdict::Send => sink.push(arena, *offload, at.clone(), Direction::Out),
                Verdict::Taken | Verdict::Held | Verdict::Drop(_) => {}
            }
            drain(&mut agent, shared, reader, sink, arena);
        }
        run.end(fib, now);
        sink.flush(arena);
        reader.leave();
        add(&sink.out.meter.forwarded, forwarded);
    }
}

/// Does what the agent wants done, behind everything that was decided before.
fn drain<D: Device>(
    agent: &mut Agent,
    shared: &Shared,
    reader: &Reader,
    sink: &mut Sink<D>,
    arena: &mut [u8],
) {
    let mut first = true;
    while let Some(output) = agent.poll_output() {
        if std::mem::take(&mut first) {
            sink.flush(arena);
            shared.fib.synchronize(Some(reader));
        }
        match output {
            Output::Write(frame) => sink.write_frame(&frame),
            // The receiver ends after the data threads.
            other => drop(shared.wanted.send(other)),
        }
    }
}

/// Packets of one pair in a row, to be counted together.
#[derive(Default)]
struct Run {
    pair: Option<(Slot, Direction)>,
    packets: u64,
    bytes: u64,
}

impl Run {
    fn add(&mut self, fib: &Fib, slot: Slot, direction: Direction, bytes: usize, now: Now) {
        if self.pair != Some((slot, direction)) {
            self.end(fib, now);
            self.pair = Some((slot, direction));
        }
        self.packets += 1;
        self.bytes += bytes as u64;
    }

    fn end(&mut self, fib: &Fib, now: Now) {
        if let Some((slot, direction)) = self.pair.take() {
            fib.count(slot, direction, self.packets, self.bytes, now.time);
        }
        (self.packets, self.bytes) = (0, 0);
    }
}
