//! How many answers go to whom: whoever asks over UDP in another's name has the answers sent
//! there. Each client network has a token bucket. Beyond it every second answer says "truncated"
//! and no more, so that whoever is really there comes by TCP, and the others are not sent. Pure,
//! but for its seed.
//!
//! # Limitations
//! Networks whose hashes are equal share a bucket. Which ones do, nobody outside can know. Whoever
//! has captured a signed question can ask it in another's name until the signature is too old:
//! signed ones are not counted.

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// As many buckets: half a MiB.
const BUCKETS: usize = 1 << 16;

/// What a full bucket holds is gone in this time at the rate (ns).
const BURST: u64 = 1_000_000_000;

/// What to do with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Send it.
    Answer,
    /// Send it empty and truncated.
    Truncate,
    /// Send nothing.
    Drop,
}

/// Token buckets of all networks.
pub(super) struct Limiter {
    seed: RandomState,
    buckets: Box<[AtomicU64]>,
}

impl Default for Limiter {
    /// All of them are full.
    fn default() -> Self {
        Limiter {
            seed: RandomState::new(),
            buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

impl Limiter {
    /// What to do with an answer to `client` at `now`, of which its network may have so many
    /// `per_second`. Times count from any moment, but always from the same.
    pub(super) fn admit(&self, client: IpAddr, per_second: NonZeroU32, now: Duration) -> Verdict {
        let bucket = &self.buckets[self.place(client)];
        let interval = BURST / u64::from(per_second.get());
        let now = now.as_nanos() as u64;
        let changed = bucket.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |before| {
            Some(step(before, interval, now).0)
        });
        match changed {
            Ok(before) | Err(before) => step(before, interval, now).1,
        }
    }

    fn place(&self, client: IpAddr) -> usize {
        self.seed.hash_one(network(client)) as usize % BUCKETS
    }
}

/// The /24 or the /56 that a client is in: what one subscriber may have, and a path leads to.
fn network(client: IpAddr) -> u64 {
    match client.to_canonical() {
        IpAddr::V4(ip) => 1 << 63 | u64::from(ip.to_bits() >> 8),
        IpAddr::V6(ip) => (ip.to_bits() >> 72) as u64,
    }
}

/// A bucket is the time at which it will be full again, in ns, and in its lowest bit whether the
/// last answer that was too many was truncated.
fn step(bucket: u64, interval: u64, now: u64) -> (u64, Verdict) {
    let full = (bucket >> 1).max(now) + interval;
    match (full <= now + BURST, bucket & 1) {
        (true, truncated) => (full << 1 | truncated, Verdict::Answer),
        (false, 0) => (bucket | 1, Verdict::Truncate),
        (false, _) => (bucket & !1, Verdict::Drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// How many of `asked` are answered, truncated, dropped.
    fn ask(limiter: &Limiter, client: &str, rate: u32, now: u64, asked: u32) -> [u32; 3] {
        let rate = NonZeroU32::new(rate).unwrap();
        let mut counts = [0; 3];
        for _ in 0..asked {
            let verdict = limiter.admit(ip(client), rate, Duration::from_millis(now));
            counts[verdict as usize] += 1;
        }
        counts
    }

    #[test]
    fn a_network_gets_a_burst_then_its_rate_and_every_second_other_is_truncated() {
        for rate in [1, 3, 50, 1000] {
            let limiter = Limiter::default();
            let counts = |now| ask(&limiter, "192.0.2.1", rate, now, 2 * rate);
            let beyond = [rate, rate / 2 + rate % 2, rate / 2];
            assert_eq!(counts(0), beyond);
            // Nothing has come back yet, then half of it, then all and no more.
            let answered = |now| counts(now)[0];
            assert_eq!(answered(0), 0);
            assert_eq!(answered(500), rate / 2);
            assert_eq!(answered(60_000), rate);
            assert_eq!(answered(61_000), rate);
        }
    }

    #[test]
    fn the_rate_holds_over_time() {
        let limiter = Limiter::default();
        let answered: u32 = (0..10_000)
            .map(|now| ask(&limiter, "192.0.2.1", 100, now, 5)[0])
            .sum();
        assert_eq!(answered, 100 + 999);
    }

    #[test]
    fn hosts_of_one_network_share_and_others_do_not() {
        let limiter = Limiter::default();
        for (one, neighbour, apart) in [
            ("192.0.2.1", "192.0.2.200", "192.0.3.1"),
            ("192.0.2.1", "::ffff:192.0.2.7", "2001:db8::192.0.2.1"),
            ("2001:db8::1", "2001:db8:0:ff::2", "2001:db8:0:100::1"),
        ] {
            assert_eq!(network(ip(one)), network(ip(neighbour)));
            assert_ne!(network(ip(one)), network(ip(apart)));
            assert_eq!(limiter.place(ip(one)), limiter.place(ip(neighbour)));
        }
        // Most of many networks have a bucket of their own.
        let clients = (0..2000).map(|n: u32| format!("10.{}.{}.1", n / 256, n % 256));
        let full = clients.filter(|client| ask(&limiter, client, 1, 0, 1)[0] == 1);
        assert!(full.count() > 1800);
    }

    /// Threads may read the clock in another order than they come here.
    #[test]
    fn a_clock_that_goes_back_gives_nothing_away() {
        let limiter = Limiter::default();
        assert_eq!(ask(&limiter, "192.0.2.1", 10, 1000, 10)[0], 10);
        assert_eq!(ask(&limiter, "192.0.2.1", 10, 999, 4), [0, 2, 2]);
        assert_eq!(ask(&limiter, "192.0.2.1", 10, 1100, 4)[0], 1);
    }
}
