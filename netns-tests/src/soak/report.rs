//! What a run has found: a line for each cell, a verdict, and everything as JSON.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

/// Schema of the JSON form.
pub const SCHEMA: &str = "mat.soak/1";

/// One run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// Where all pseudo-random numbers started.
    pub seed: u64,
    /// How many bytes TCP was to move.
    pub asked: u64,
    /// Version of the kernel.
    pub kernel: String,
    /// How the forwarders move packets, with `offload` on and off, as they say themselves.
    pub packet_paths: BTreeMap<String, String>,
    /// In the order of their turns.
    pub cells: Vec<CellReport>,
}

/// What happened in one combination.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CellReport {
    /// FAMILY/TUN/LINKS/PATH.
    pub cell: String,
    /// How long the traffic took.
    pub seconds: f64,
    /// TCP: received with the right SHA-256.
    pub tcp_bytes: u64,
    /// UDP: datagrams sent.
    pub datagrams_sent: u64,
    /// UDP: datagrams received.
    pub datagrams_received: u64,
    /// UDP: bytes of those.
    pub datagram_bytes: u64,
    /// UDP: received more than once; none unless the path makes copies.
    pub datagrams_twice: u64,
    /// Mean size of the packets that the forwarders sent to each other, in bytes.
    pub mean_packet: f64,
    /// Frames that the path lost.
    pub frames_lost: u64,
    /// Frames that the path doubled.
    pub frames_doubled: u64,
    /// Frames in which the path flipped a bit.
    pub frames_spoilt: u64,
    /// Packets that found a queue on the way full; a super-packet counts once.
    pub queue_drops: u64,
    /// Packets that receiving kernels dropped because of a wrong checksum.
    pub checksum_errors: u64,
    /// What the forwarders did not simply forward, by cause.
    pub causes: BTreeMap<String, u64>,
    /// TCP streams and datagrams whose content was wrong.
    pub wrong: u64,
    /// Everything that is not as it should be, in words; empty if all is well.
    pub faults: Vec<String>,
}

impl Report {
    /// TCP bytes received with the right SHA-256.
    pub fn tcp_bytes(&self) -> u64 {
        self.cells.iter().map(|cell| cell.tcp_bytes).sum()
    }

    /// Whether all was moved, and nothing was wrong.
    pub fn passed(&self) -> bool {
        let sound = self.cells.iter().all(|cell| cell.faults.is_empty());
        sound && self.tcp_bytes() == self.asked
    }
}

impl fmt::Display for CellReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let megabytes = self.tcp_bytes as f64 / 1e6;
        write!(
            f,
            "{:30} {megabytes:9.1} MB in {:5.1} s, {} of {} datagrams, {:.0} bytes a packet",
            self.cell, self.seconds, self.datagrams_received, self.datagrams_sent, self.mean_packet,
        )?;
        for (count, what) in [
            (self.frames_lost, "lost"),
            (self.frames_doubled, "doubled"),
            (self.frames_spoilt, "spoilt"),
            (self.queue_drops, "dropped by queues"),
            (self.checksum_errors, "checksum errors"),
        ] {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        for fault in &self.faults {
            write!(f, "\n    FAULT: {fault}")?;
        }
        Ok(())
    }
}

/// The verdict.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum = |what: fn(&CellReport) -> u64| self.cells.iter().map(what).sum::<u64>();
        let faulty = self.cells.iter().filter(|cell| !cell.faults.is_empty());
        write!(
            f,
            "{}: {} of {} bytes of TCP and {} datagrams in {} cells, {} wrong; {} packets were \
             spoilt, {} checksum errors noticed; {} cells with faults",
            if self.passed() { "PASSED" } else { "FAILED" },
            self.tcp_bytes(),
            self.asked,
            sum(|cell| cell.datagrams_received),
            self.cells.len(),
            sum(|cell| cell.wrong),
            sum(|cell| cell.frames_spoilt),
            sum(|cell| cell.checksum_errors),
            faulty.count(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(asked: u64, moved: u64, faults: &[&str]) -> Report {
        Report {
            schema: SCHEMA,
            seed: 1,
            asked,
            kernel: "6.1.0".to_owned(),
            packet_paths: BTreeMap::new(),
            cells: vec![CellReport {
                cell: "ipv4/offload/wire/clean".to_owned(),
                tcp_bytes: moved,
                faults: faults.iter().map(|fault| (*fault).to_owned()).collect(),
                ..CellReport::default()
            }],
        }
    }

    #[test]
    fn a_run_passes_only_if_all_was_moved_without_a_fault() {
        assert!(report(10, 10, &[]).passed());
        assert!(!report(10, 9, &[]).passed());
        let faulty = report(10, 10, &["SHA-256 differs"]);
        assert!(!faulty.passed());
        assert!(faulty.to_string().starts_with("FAILED"));
        assert!(
            faulty.cells[0]
                .to_string()
                .contains("FAULT: SHA-256 differs")
        );
    }
}
