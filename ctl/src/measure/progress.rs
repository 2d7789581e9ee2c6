//! What a client says while it measures: one JSON object a line with `--progress`.

use serde::{Deserialize, Serialize};

use super::live::Live;

/// Time between two lines in milliseconds.
pub const EVERY_MS: u64 = 100;

/// One moment of a run, as far as the client knows it.
///
/// "Up" is client to server. Of the upward stream the client sees what the server's kernel has
/// acknowledged; of the upward probes what the server's own probes say, so during a stall these
/// numbers stand still and catch up after it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Milliseconds after time zero of the run.
    pub t_ms: u64,
    /// The same moment in Unix microseconds.
    pub t_unix_us: u64,
    /// Rate of the upward stream since the previous line.
    pub up_mbps: f64,
    /// Rate of the downward stream since the previous line.
    pub down_mbps: f64,
    /// Upward probes received so far.
    pub udp_up_received: u64,
    /// Downward probes received so far.
    pub udp_down_received: u64,
    /// Upward probes missing so far; may fall again when late ones come.
    pub udp_up_lost: u64,
    /// Downward probes missing so far; may fall again when late ones come.
    pub udp_down_lost: u64,
    /// Longest gap between upward probes so far.
    pub udp_up_longest_gap_ms: f64,
    /// Longest gap between downward probes so far.
    pub udp_down_longest_gap_ms: f64,
    /// Time since the upward stream last moved.
    pub up_quiet_ms: u64,
    /// Time since the downward stream last moved.
    pub down_quiet_ms: u64,
    /// Whether one of the streams has not moved since the previous line.
    pub stalled: bool,
    /// Crowd connections alive as seen by the client.
    pub connections_alive: u64,
}

/// Turns counters into progress; remembers the previous line.
#[derive(Debug, Default)]
pub struct Meter {
    previous_us: u64,
    up_bytes: u64,
    up_moved_us: u64,
    down_bytes: u64,
}

impl Meter {
    /// The progress at `now_us` after time zero, `up_bytes` being acknowledged by then.
    pub fn read(&mut self, now_us: u64, zero_unix_us: u64, up_bytes: u64, live: &Live) -> Progress {
        let first = self.previous_us == 0;
        let down_bytes = live.stream_bytes.get();
        let elapsed_us = now_us.saturating_sub(self.previous_us);
        let mbps = |new: u64, old: u64| match elapsed_us {
            0 => 0.0,
            _ => round(new.saturating_sub(old) as f64 * 8.0 / elapsed_us as f64),
        };
        let (up_mbps, down_mbps) = (
            mbps(up_bytes, self.up_bytes),
            mbps(down_bytes, self.down_bytes),
        );
        let moved = (up_bytes > self.up_bytes, down_bytes > self.down_bytes);
        if moved.0 {
            self.up_moved_us = now_us;
        }
        self.previous_us = now_us;
        self.up_bytes = up_bytes;
        self.down_bytes = down_bytes;
        let quiet_ms = |since_us: u64| now_us.saturating_sub(since_us) / 1000;
        Progress {
            t_ms: now_us / 1000,
            t_unix_us: zero_unix_us + now_us,
            up_mbps,
            down_mbps,
            udp_up_received: live.there.received.get(),
            udp_down_received: live.here.received.get(),
            udp_up_lost: live.there.missing.get(),
            udp_down_lost: live.here.missing.get(),
            udp_up_longest_gap_ms: live.there.longest_gap_us.get() as f64 / 1000.0,
            udp_down_longest_gap_ms: live.here.longest_gap_us.get() as f64 / 1000.0,
            up_quiet_ms: quiet_ms(self.up_moved_us),
            down_quiet_ms: quiet_ms(live.stream_last_us.get()),
            stalled: !(first || moved.0 && moved.1),
            connections_alive: live.crowd_alive.get(),
        }
    }
}

fn round(mbps: f64) -> f64 {
    (mbps * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_stands_still_is_seen() {
        let live = Live::default();
        let mut meter = Meter::default();
        live.stream_bytes.set(1_250_000);
        live.stream_last_us.set(99_000);
        let first = meter.read(100_000, 1_000_000, 125_000, &live);
        assert_eq!((first.up_mbps, first.down_mbps), (10.0, 100.0));
        assert_eq!((first.t_ms, first.t_unix_us), (100, 1_100_000));
        assert!(!first.stalled);
        let second = meter.read(200_000, 1_000_000, 250_000, &live);
        assert!(second.stalled);
        assert_eq!((second.down_mbps, second.down_quiet_ms), (0.0, 101));
    }
}
