//! The bulk stream: one thread sends position-coded bytes, one at the other end verifies them.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use super::bins::Bins;
use super::clock::Clock;
use super::gaps::Gaps;
use super::live::Live;
use super::outcome::{Failure, StreamReceived, StreamSent};
use super::pattern::Pattern;
use super::tcp_info::{RtoCounter, TcpInfo};

/// How long a blocking call may last before the thread looks at the clock again.
pub const POLL: Duration = Duration::from_millis(50);

/// Time for the last bytes to arrive beyond the stall limit, when the run is over.
const DRAIN_US: u64 = 5_000_000;

const CHUNK: usize = 128 * 1024;

/// Unsent bytes the kernel may hold. Small, so that the end of a slow run need not wait for
/// megabytes; large enough that the sender is not woken for each segment.
const UNSENT: u32 = 512 * 1024;

/// Stalls shorter than this are not listed one by one.
const NOTABLE_US: u64 = 10_000;

/// Sends until the run is over, then waits until the peer's kernel has everything.
pub fn send(
    stream: &TcpStream,
    pattern: Pattern,
    rate_mbps: Option<f64>,
    clock: &Clock,
    stall_limit_ms: u64,
) -> StreamSent {
    let mut sender = Sender {
        stream,
        bytes: 0,
        rtos: RtoCounter::default(),
        retransmits: 0,
    };
    let outcome = sender
        .send_all(pattern, rate_mbps, clock, stall_limit_ms)
        .and_then(|()| sender.drain(clock, stall_limit_ms));
    sender.sample();
    let (rtos, rtos_exact) = sender.rtos.total();
    StreamSent {
        bytes: sender.bytes,
        retransmits: sender.retransmits,
        rtos,
        rtos_exact,
        failure: outcome.err(),
    }
}

/// Receives and verifies until the peer's end of stream.
///
/// An end of stream is taken as it comes: only the sender knows how many bytes there were, so
/// whoever joins both accounts decides whether it came too early.
pub fn receive(
    stream: &TcpStream,
    pattern: Pattern,
    clock: &Clock,
    live: &Live,
    stall_limit_ms: u64,
) -> StreamReceived {
    let mut bins = Bins::new(clock.ends_us());
    let mut stalls = Gaps::new(NOTABLE_US);
    let mut bytes = 0;
    let mut first_bad_offset = None;
    let outcome = read_all(stream, clock, stall_limit_ms, |at_us, chunk| {
        first_bad_offset = first_bad_offset.or_else(|| pattern.first_difference(bytes, chunk));
        bytes += chunk.len() as u64;
        bins.add(at_us, chunk.len() as u64);
        stalls.observe(at_us);
        live.stream_bytes.set(bytes);
        live.stream_last_us.set(at_us);
    });
    let end_us = clock.ends_us().min(clock.now_us());
    StreamReceived {
        bytes,
        first_bad_offset,
        bins: bins.until(end_us),
        stalls: stalls.finish(end_us),
        failure: outcome.err(),
    }
}

struct Sender<'a> {
    stream: &'a TcpStream,
    bytes: u64,
    rtos: RtoCounter,
    retransmits: u64,
}

impl Sender<'_> {
    fn send_all(
        &mut self,
        pattern: Pattern,
        rate_mbps: Option<f64>,
        clock: &Clock,
        stall_limit_ms: u64,
    ) -> Result<(), Failure> {
        self.configure().map_err(|e| Failure::from_io(&e))?;
        let mut pace = rate_mbps.map(|rate| Pace::new(rate, clock.now_us()));
        let mut chunk = vec![0; pace.as_ref().map_or(CHUNK, Pace::chunk)];
        let mut pending = 0..0;
        let mut progress_us = clock.now_us();
        let mut sampled_us = 0;
        while !clock.is_over() {
            if pending.is_empty() {
                if let Some(pace) = &mut pace {
                    clock.sleep_until(pace.due_us(clock.now_us(), chunk.len()));
                }
                pattern.fill(self.bytes, &mut chunk);
                pending = 0..chunk.len();
            }
            let written = self.stream.write(&chunk[pending.clone()]);
            let now = clock.now_us();
            match written {
                Ok(count) => {
                    pending.start += count;
                    self.bytes += count as u64;
                    progress_us = now;
                }
                Err(e) if is_pause(&e) => {
                    if now.saturating_sub(progress_us) > stall_limit_ms * 1000 {
                        return Err(Failure::Stalled {
                            limit_ms: stall_limit_ms,
                        });
                    }
                }
                Err(e) => return Err(Failure::from_io(&e)),
            }
            if now >= sampled_us + POLL.as_micros() as u64 {
                sampled_us = now;
                self.sample();
            }
        }
        Ok(())
    }

    fn drain(&mut self, clock: &Clock, stall_limit_ms: u64) -> Result<(), Failure> {
        self.stream
            .shutdown(Shutdown::Write)
            .map_err(|e| Failure::from_io(&e))?;
        let deadline = drain_deadline(clock, stall_limit_ms);
        loop {
            if let Ok(Some(error)) = self.stream.take_error() {
                return Err(Failure::from_io(&error));
            }
            match self.sample() {
                Some(info) if info.unacknowledged > 0 || info.unsent_bytes > 0 => {}
                _ => return Ok(()),
            }
            if clock.now_us() > deadline {
                return Err(Failure::NotDrained);
            }
            clock.sleep_until(clock.now_us() + 5_000);
        }
    }

    fn configure(&self) -> io::Result<()> {
        let socket = socket2::SockRef::from(self.stream);
        socket.set_tcp_notsent_lowat(UNSENT)?;
        socket.set_write_timeout(Some(POLL))
    }

    /// The kernel's account; `None` if it gives none.
    fn sample(&mut self) -> Option<TcpInfo> {
        let info = TcpInfo::of(self.stream).ok()?;
        self.rtos.observe(&info);
        self.retransmits = info.total_retransmits;
        Some(info)
    }
}

/// Hands every chunk with its time of arrival to `accept` until the end of the stream.
fn read_all(
    mut stream: &TcpStream,
    clock: &Clock,
    stall_limit_ms: u64,
    mut accept: impl FnMut(u64, &[u8]),
) -> Result<(), Failure> {
    stream
        .set_read_timeout(Some(POLL))
        .map_err(|e| Failure::from_io(&e))?;
    let mut buffer = vec![0; 2 * CHUNK];
    let mut progress_us = clock.now_us();
    loop {
        let read = stream.read(&mut buffer);
        let now = clock.now_us();
        match read {
            Ok(0) => return Ok(()),
            Ok(count) => {
                accept(now, &buffer[..count]);
                progress_us = now;
            }
            Err(e) if is_pause(&e) => {
                if now.saturating_sub(progress_us) > stall_limit_ms * 1000 {
                    return Err(Failure::Stalled {
                        limit_ms: stall_limit_ms,
                    });
                }
            }
            Err(e) => return Err(Failure::from_io(&e)),
        }
        if now > drain_deadline(clock, stall_limit_ms) {
            return Err(Failure::NotDrained);
        }
    }
}

/// When a run that is over must have delivered its last bytes.
pub fn drain_deadline(clock: &Clock, stall_limit_ms: u64) -> u64 {
    clock.ends_us() + stall_limit_ms * 1000 + DRAIN_US
}

/// Whether a call only ran into its time limit or a signal.
pub fn is_pause(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// Even spacing of chunks.
struct Pace {
    bytes_per_us: f64,
    next_us: u64,
}

impl Pace {
    /// Two milliseconds of data at a time are smooth enough for bins of fifty.
    const CHUNK_US: f64 = 2_000.0;

    /// What was missed in a stall is not made up for, or the rate after it would look too good.
    const CATCH_UP_US: u64 = 20_000;

    fn new(rate_mbps: f64, now_us: u64) -> Self {
        Self {
            bytes_per_us: rate_mbps / 8.0,
            next_us: now_us,
        }
    }

    fn chunk(&self) -> usize {
        ((self.bytes_per_us * Self::CHUNK_US) as usize).clamp(1, CHUNK)
    }

    /// When a chunk of `len` bytes may be sent.
    fn due_us(&mut self, now_us: u64, len: usize) -> u64 {
        let due = self.next_us.max(now_us.saturating_sub(Self::CATCH_UP_US));
        self.next_us = due + (len as f64 / self.bytes_per_us) as u64;
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paced_stream_keeps_its_rate_and_does_not_make_up_for_a_stall() {
        let mut pace = Pace::new(80.0, 0);
        let chunk = pace.chunk();
        assert_eq!(chunk, 20_000);
        let due: Vec<u64> = (0..3).map(|_| pace.due_us(0, chunk)).collect();
        assert_eq!(due, [0, 2_000, 4_000]);
        assert_eq!(pace.due_us(1_000_000, chunk), 980_000);
    }
}
