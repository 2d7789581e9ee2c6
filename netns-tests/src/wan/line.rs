//! One direction of a wide-area link, pure: which frame comes out, and when.
//!
//! The order of things is that of a real path: the wire is cut or not, the frame is lost or not,
//! it waits for the bottleneck (`rate_mbit`, a bounded buffer in front of it), it is spoilt or not
//! (`corrupt`), then it travels (`delay_ms`, `jitter_ms`), perhaps twice (`duplicate`). Time is an
//! argument, counted from any fixed origin. Luck is an argument too: the fate of the n-th frame
//! depends on the seed and on n alone, so that a change of settings in mid-run does not shift the
//! luck of later frames.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::time::Duration;

#[cfg(test)]
mod tests;

/// How a wide-area link behaves, in each of its directions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WanConfig {
    /// One-way delay in milliseconds.
    pub delay_ms: f64,
    /// Each frame's delay varies evenly by up to this much both ways. This alone can reorder.
    pub jitter_ms: f64,
    /// The share of frames that is lost, 0 to 1.
    pub loss: f64,
    /// The share of frames that comes out twice, 0 to 1. The copy travels by itself, with a jitter
    /// of its own, and takes nothing of the bottleneck's time.
    pub duplicate: f64,
    /// The share of frames that is spoilt, 0 to 1: one bit of the TCP or UDP payload is flipped.
    /// Frames without such a payload pass unharmed, and so do those whose checksum is still to be
    /// computed, super-packets among them: nobody could notice there.
    pub corrupt: f64,
    /// The bottleneck's rate in megabits per second; `None` for no bottleneck.
    pub rate_mbit: Option<f64>,
    /// The bottleneck's buffer, as the time its last byte waits; a frame that would wait longer
    /// is dropped (drop tail).
    pub buffer_ms: f64,
    /// The most bytes on the way at any time, whatever the reason: the bound on memory.
    pub max_bytes: usize,
    /// Where the pseudo-random numbers for all that happens by chance start.
    pub seed: u64,
    /// False cuts the wire: nothing enters, and what was on the way is lost.
    pub up: bool,
}

impl Default for WanConfig {
    /// A perfect wire.
    fn default() -> Self {
        Self {
            delay_ms: 0.0,
            jitter_ms: 0.0,
            loss: 0.0,
            duplicate: 0.0,
            corrupt: 0.0,
            rate_mbit: None,
            buffer_ms: 100.0,
            max_bytes: 64 << 20,
            seed: 1,
            up: true,
        }
    }
}

impl WanConfig {
    /// A perfect wire of this round-trip time, half of it in each direction.
    pub fn rtt_ms(rtt: f64) -> Self {
        Self {
            delay_ms: rtt / 2.0,
            ..Self::default()
        }
    }
}

/// What became of the frames of one direction. All of `offered` and `duplicated` that is in no
/// other field is on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LineCounters {
    /// Frames that came to the link.
    pub offered: u64,
    /// Copies made on the way (`duplicate`).
    pub duplicated: u64,
    /// Frames that came out of it.
    pub delivered: u64,
    /// Their bytes, Ethernet header included.
    pub delivered_bytes: u64,
    /// Lost because the wire was cut.
    pub cut: u64,
    /// Lost by chance (`loss`).
    pub lost: u64,
    /// Dropped because the bottleneck's buffer was full (`buffer_ms`).
    pub congested: u64,
    /// Dropped because too much was on the way (`max_bytes`).
    pub overflowed: u64,
}

/// What happens to a frame that comes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// When it is due at the other end.
    pub due: Duration,
    /// When a copy of it is due there too.
    pub copy_due: Option<Duration>,
    /// To be spoilt before it travels; the number decides at which bit.
    pub spoil: Option<u64>,
}

/// Why a frame does not come out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// [`LineCounters::cut`]
    Cut,
    /// [`LineCounters::lost`]
    Lost,
    /// [`LineCounters::congested`]
    Congested,
    /// [`LineCounters::overflowed`]
    Overflowed,
}

/// One direction of the link, holding frames of type `F`.
#[derive(Debug)]
pub struct Line<F> {
    config: WanConfig,
    counters: LineCounters,
    /// When the bottleneck has sent all it accepted so far.
    busy_until: Duration,
    /// The latest time given to any frame: without jitter nobody overtakes.
    last_due: Duration,
    held: BinaryHeap<Reverse<Held<F>>>,
    held_bytes: usize,
}

impl<F> Line<F> {
    /// An empty line.
    pub fn new(config: WanConfig) -> Self {
        Self {
            config,
            counters: LineCounters::default(),
            busy_until: Duration::ZERO,
            last_due: Duration::ZERO,
            held: BinaryHeap::new(),
            held_bytes: 0,
        }
    }

    /// Changes the behaviour for frames that come from now on. Those on the way keep their time,
    /// unless the wire is cut.
    pub fn set_config(&mut self, config: WanConfig) {
        self.config = config;
        if !config.up {
            self.counters.cut += self.held.len() as u64;
            self.held.clear();
            self.held_bytes = 0;
        }
        if config.rate_mbit.is_none() {
            self.busy_until = Duration::ZERO;
        }
    }

    /// Decides on a frame of `bytes` that arrives at `now`: whether and when it is due at the
    /// other end. The caller then either delivers it ([`Self::delivered`]) or lets the line
    /// [`Self::hold`] it, and the same with the copy.
    pub fn admit(&mut self, now: Duration, bytes: usize) -> Result<Admitted, Dropped> {
        let n = self.counters.offered;
        self.counters.offered += 1;
        let verdict = self.decide(now, bytes, n);
        match verdict {
            Ok(admitted) => self.counters.duplicated += u64::from(admitted.copy_due.is_some()),
            Err(Dropped::Cut) => self.counters.cut += 1,
            Err(Dropped::Lost) => self.counters.lost += 1,
            Err(Dropped::Congested) => self.counters.congested += 1,
            Err(Dropped::Overflowed) => self.counters.overflowed += 1,
        }
        verdict
    }

    /// Keeps an admitted frame until it is due.
    pub fn hold(&mut self, due: Duration, bytes: usize, frame: F) {
        self.held_bytes += bytes;
        self.held.push(Reverse(Held {
            due,
            // Frames due at the same time leave in the order of their arrival.
            arrival: self.counters.offered,
            bytes,
            frame,
        }));
    }

    /// The next frame that is due, which counts as delivered.
    pub fn take_due(&mut self, now: Duration) -> Option<F> {
        if self.next_due()? > now {
            return None;
        }
        let Reverse(held) = self.held.pop()?;
        self.held_bytes -= held.bytes;
        self.delivered(held.bytes);
        Some(held.frame)
    }

    /// When [`Self::take_due`] will next have something.
    pub fn next_due(&self) -> Option<Duration> {
        self.held.peek().map(|Reverse(held)| held.due)
    }

    /// Counts a frame that was delivered without being held.
    pub fn delivered(&mut self, bytes: usize) {
        self.counters.delivered += 1;
        self.counters.delivered_bytes += bytes as u64;
    }

    /// The counters so far.
    pub fn counters(&self) -> LineCounters {
        self.counters
    }

    fn decide(&mut self, now: Duration, bytes: usize, n: u64) -> Result<Admitted, Dropped> {
        let config = self.config;
        if !config.up {
            return Err(Dropped::Cut);
        }
        let draw = |what: Draw| draw(config.seed, n, what);
        if share(draw(Draw::Loss)) < config.loss {
            return Err(Dropped::Lost);
        }
        if self.held_bytes + bytes > config.max_bytes {
            return Err(Dropped::Overflowed);
        }
        let departure = match config.rate_mbit {
            Some(rate) => self.serialise(now, bytes, rate)?,
            None => now,
        };
        let spoilt = share(draw(Draw::Corruption)) < config.corrupt;
        let copied = share(draw(Draw::Duplication)) < config.duplicate;
        Ok(Admitted {
            due: self.arrival(departure, draw(Draw::Jitter)),
            copy_due: copied.then(|| self.arrival(departure, draw(Draw::JitterOfCopy))),
            spoil: spoilt.then(|| draw(Draw::Bit)),
        })
    }

    /// When what has left the bottleneck arrives.
    fn arrival(&mut self, departure: Duration, luck: u64) -> Duration {
        let config = self.config;
        let sway = (2.0 * share(luck) - 1.0) * config.jitter_ms;
        let mut due = departure + millis(config.delay_ms + sway);
        if config.jitter_ms <= 0.0 {
            due = due.max(self.last_due);
        }
        self.last_due = due.max(self.last_due);
        due
    }

    /// When the frame's last bit has left the bottleneck. A token bucket without depth: a frame
    /// takes its time on the wire, and time when nothing is sent is not saved up.
    fn serialise(
        &mut self,
        now: Duration,
        bytes: usize,
        rate_mbit: f64,
    ) -> Result<Duration, Dropped> {
        let start = self.busy_until.max(now);
        if start - now > millis(self.config.buffer_ms) {
            return Err(Dropped::Congested);
        }
        let bits = bytes as f64 * 8.0;
        self.busy_until = start + millis(bits / (rate_mbit * 1000.0));
        Ok(self.busy_until)
    }
}

/// What is left to chance about each frame.
#[derive(Clone, Copy, Debug)]
enum Draw {
    Loss,
    Jitter,
    Duplication,
    JitterOfCopy,
    Corruption,
    Bit,
}

/// How many numbers are set aside for each frame.
const DRAWS: u64 = Draw::Bit as u64 + 1;

/// A number for one purpose of the `n`-th frame, out of the sequence that starts at `seed`:
/// SplitMix64, which needs no state but its index.
fn draw(seed: u64, n: u64, what: Draw) -> u64 {
    let index = n.wrapping_mul(DRAWS).wrapping_add(what as u64);
    let mut z = seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The same, evenly spread over [0, 1).
fn share(number: u64) -> f64 {
    (number >> 11) as f64 / (1u64 << 53) as f64
}

/// At least zero, at most an hour: a configuration cannot make the arithmetic overflow.
fn millis(ms: f64) -> Duration {
    Duration::from_secs_f64(ms.clamp(0.0, 3_600_000.0) / 1000.0)
}

#[derive(Debug)]
struct Held<F> {
    due: Duration,
    arrival: u64,
    bytes: usize,
    frame: F,
}

impl<F> Ord for Held<F> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.due, self.arrival).cmp(&(other.due, other.arrival))
    }
}

impl<F> PartialOrd for Held<F> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<F> PartialEq for Held<F> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<F> Eq for Held<F> {}
