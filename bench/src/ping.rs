//! The round trips that `ping` prints. Pure.

/// Every round trip in the output, in microseconds, in the order of the lines.
pub fn round_trips_us(output: &str) -> Vec<f64> {
    output.lines().filter_map(round_trip_us).collect()
}

fn round_trip_us(line: &str) -> Option<f64> {
    let (_, rest) = line.split_once("time=")?;
    let ms: f64 = rest.strip_suffix(" ms")?.parse().ok()?;
    // `ping` prints whole microseconds at most.
    Some((ms * 1000.0).round())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_run_is_read() {
        let output = "\
PING 127.0.0.1 (127.0.0.1) 56(84) bytes of data.
64 bytes from 127.0.0.1: icmp_seq=1 ttl=64 time=0.016 ms
64 bytes from 127.0.0.1: icmp_seq=2 ttl=64 time=12.1 ms
From 127.0.0.1 icmp_seq=3 Destination Host Unreachable
64 bytes from 127.0.0.1: icmp_seq=4 ttl=64 time=103 ms

--- 127.0.0.1 ping statistics ---
4 packets transmitted, 3 received, +1 errors, 25% packet loss, time 13ms
rtt min/avg/max/mdev = 0.016/0.010/103/0.004 ms
";
        assert_eq!(round_trips_us(output), [16.0, 12_100.0, 103_000.0]);
    }
}
