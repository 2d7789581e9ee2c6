//! One direction of a wide-area link, pure: which frame comes out, and when.
//!
//! The order of things is that of a real path: the wire is cut or not, the frame is lost or not,
//! it waits for the bottleneck (`rate_mbit`, a bounded buffer in front of it), then it travels
//! (`delay_ms`, `jitter_ms`). Time is an argument, counted from any fixed origin. Luck is an
//! argument too: the fate of the n-th frame depends on the seed and on n alone, so that a change
//! of settings in mid-run does not shift the luck of later frames.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::time::Duration;

/// How a wide-area link behaves, in each of its directions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WanConfig {
    /// One-way delay in milliseconds.
    pub delay_ms: f64,
    /// Each frame's delay varies evenly by up to this much both ways. This alone can reorder.
    pub jitter_ms: f64,
    /// The share of frames that is lost, 0 to 1.
    pub loss: f64,
    /// The bottleneck's rate in megabits per second; `None` for no bottleneck.
    pub rate_mbit: Option<f64>,
    /// The bottleneck's buffer, as the time its last byte waits; a frame that would wait longer
    /// is dropped (drop tail).
    pub buffer_ms: f64,
    /// The most bytes on the way at any time, whatever the reason: the bound on memory.
    pub max_bytes: usize,
    /// Where the pseudo-random numbers for loss and jitter start.
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

/// What became of the frames of one direction. All of `offered` that is in no other field is on
/// its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LineCounters {
    /// Frames that came to the link.
    pub offered: u64,
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

    /// Decides on a frame of `bytes` that arrives at `now`: when it is due at the other end.
    /// The caller then either delivers it ([`Self::delivered`]) or lets the line [`Self::hold`] it.
    pub fn admit(&mut self, now: Duration, bytes: usize) -> Result<Duration, Dropped> {
        let n = self.counters.offered;
        self.counters.offered += 1;
        let verdict = self.decide(now, bytes, n);
        match verdict {
            Ok(_) => {}
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

    fn decide(&mut self, now: Duration, bytes: usize, n: u64) -> Result<Duration, Dropped> {
        let config = self.config;
        if !config.up {
            return Err(Dropped::Cut);
        }
        if luck(config.seed, 2 * n) < config.loss {
            return Err(Dropped::Lost);
        }
        if self.held_bytes + bytes > config.max_bytes {
            return Err(Dropped::Overflowed);
        }
        let departure = match config.rate_mbit {
            Some(rate) => self.serialise(now, bytes, rate)?,
            None => now,
        };
        let sway = (2.0 * luck(config.seed, 2 * n + 1) - 1.0) * config.jitter_ms;
        let mut due = departure + millis(config.delay_ms + sway);
        if config.jitter_ms <= 0.0 {
            due = due.max(self.last_due);
        }
        self.last_due = due.max(self.last_due);
        Ok(due)
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

/// The `index`-th number, evenly spread over [0, 1), of the sequence that starts at `seed`:
/// SplitMix64, which needs no state but its index.
fn luck(seed: u64, index: u64) -> f64 {
    let mut z = seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^= z >> 31;
    (z >> 11) as f64 / (1u64 << 53) as f64
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

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: usize = 1250;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Offers frame number `n` at `now`.
    fn offer(line: &mut Line<u32>, now: Duration, n: u32) -> Result<Duration, Dropped> {
        let due = line.admit(now, FRAME)?;
        line.hold(due, FRAME, n);
        Ok(due)
    }

    fn drain(line: &mut Line<u32>, now: Duration) -> Vec<u32> {
        std::iter::from_fn(|| line.take_due(now)).collect()
    }

    #[test]
    fn a_frame_comes_out_after_the_delay_and_not_before() {
        let mut line = Line::new(WanConfig::rtt_ms(20.0));
        offer(&mut line, ms(5), 1).unwrap();
        assert_eq!(line.next_due(), Some(ms(15)));
        assert!(drain(&mut line, ms(14)).is_empty());
        assert_eq!(drain(&mut line, ms(15)), [1]);
        assert_eq!(line.next_due(), None);
    }

    #[test]
    fn a_shorter_delay_lets_nobody_overtake() {
        let mut line = Line::new(WanConfig::rtt_ms(40.0));
        offer(&mut line, ms(0), 1).unwrap();
        line.set_config(WanConfig::rtt_ms(2.0));
        offer(&mut line, ms(1), 2).unwrap();
        assert!(drain(&mut line, ms(19)).is_empty());
        assert_eq!(drain(&mut line, ms(20)), [1, 2]);
    }

    #[test]
    fn jitter_stays_in_its_bounds_and_reorders() {
        let config = WanConfig {
            jitter_ms: 5.0,
            ..WanConfig::rtt_ms(20.0)
        };
        let mut line = Line::new(config);
        for n in 0..100 {
            let due = offer(&mut line, ms(0), n).unwrap();
            assert!((ms(5)..=ms(15)).contains(&due), "{due:?}");
        }
        let order = drain(&mut line, ms(15));
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
        assert_ne!(sorted, order);
    }

    #[test]
    fn loss_is_as_frequent_as_asked_and_the_same_for_the_same_seed() {
        let losses = |seed| {
            let mut line = Line::<u32>::new(WanConfig {
                loss: 0.05,
                seed,
                ..WanConfig::default()
            });
            (0..20_000)
                .map(|_| line.admit(ms(0), FRAME) == Err(Dropped::Lost))
                .collect::<Vec<_>>()
        };
        let first = losses(7);
        let lost = first.iter().filter(|lost| **lost).count();
        // 1000 expected, standard deviation 31.
        assert!((850..1150).contains(&lost), "{lost} of 20000 lost");
        assert_eq!(first, losses(7));
        assert_ne!(first, losses(8));
    }

    #[test]
    fn loss_of_one_loses_all() {
        let mut line = Line::<u32>::new(WanConfig {
            loss: 1.0,
            ..WanConfig::default()
        });
        assert!((0..1000).all(|_| line.admit(ms(0), FRAME) == Err(Dropped::Lost)));
    }

    #[test]
    fn the_bottleneck_spaces_frames_and_drops_the_tail() {
        // 1250 bytes take 1 ms at 10 Mbit/s; the buffer takes frames that wait up to 5 ms.
        let mut line = Line::new(WanConfig {
            rate_mbit: Some(10.0),
            buffer_ms: 5.0,
            ..WanConfig::default()
        });
        let dues: Vec<_> = (0..7).map(|n| offer(&mut line, ms(0), n)).collect();
        for (n, due) in (1..=6).zip(&dues) {
            assert_eq!(*due, Ok(ms(n)));
        }
        assert_eq!(dues[6], Err(Dropped::Congested));
        // Later the buffer has room again, and idle time gives no credit.
        assert_eq!(offer(&mut line, ms(100), 8), Ok(ms(101)));
    }

    #[test]
    fn what_is_on_the_way_is_bounded() {
        let mut line = Line::new(WanConfig {
            max_bytes: 2 * FRAME,
            ..WanConfig::rtt_ms(20.0)
        });
        assert!(offer(&mut line, ms(0), 1).is_ok());
        assert!(offer(&mut line, ms(0), 2).is_ok());
        assert_eq!(offer(&mut line, ms(0), 3), Err(Dropped::Overflowed));
        drain(&mut line, ms(10));
        assert!(offer(&mut line, ms(10), 4).is_ok());
    }

    #[test]
    fn a_cut_loses_what_is_on_the_way_and_every_frame_is_accounted_for() {
        let mut line = Line::new(WanConfig::rtt_ms(20.0));
        offer(&mut line, ms(0), 1).unwrap();
        assert_eq!(drain(&mut line, ms(10)), [1]);
        offer(&mut line, ms(10), 2).unwrap();
        line.set_config(WanConfig {
            up: false,
            ..WanConfig::rtt_ms(20.0)
        });
        assert_eq!(offer(&mut line, ms(11), 3), Err(Dropped::Cut));
        assert!(drain(&mut line, ms(1000)).is_empty());
        assert_eq!(
            line.counters(),
            LineCounters {
                offered: 3,
                delivered: 1,
                delivered_bytes: FRAME as u64,
                cut: 2,
                ..LineCounters::default()
            }
        );
    }
}
