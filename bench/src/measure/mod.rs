//! One measurement of one contender.

mod cpu;
mod iperf;
mod latency;
mod spinners;
mod udp;

use anyhow::Result;

use cpu::Usage;
pub use spinners::Spinners;

use crate::course::{Course, Reads};
use crate::plan::Measure;
use crate::record::{Outcome, Transfer};

/// Takes it. Fails if the octets did not go through the contender, or none arrived.
pub fn take(course: &Course, measure: Measure, seconds: u32) -> Result<Outcome> {
    let transfer = |work: &dyn Fn() -> Result<Transfer>| {
        // Asking for counts costs time too, which is not that of the transfer.
        let metered = || {
            let meter = Meter::start(course)?;
            meter.stop(work()?)
        };
        let transfer = course.watch(|transfer: &Transfer| transfer.bytes, metered)?;
        Ok(Outcome::Transfer(transfer))
    };
    match measure {
        Measure::Tcp1 => transfer(&|| iperf::tcp(course, 1, seconds)),
        Measure::Tcp4 => transfer(&|| iperf::tcp(course, 4, seconds)),
        Measure::Udp64 => transfer(&|| iperf::udp(course, 64, seconds)),
        Measure::UdpFlood => transfer(&|| udp::run(course, &udp::SMALL, seconds)),
        Measure::UdpMixed => transfer(&|| udp::run(course, &udp::MIXED, seconds)),
        Measure::Udp1400 => transfer(&|| udp::run(course, &udp::large(course.to), seconds)),
        Measure::Latency => {
            let trips = || latency::run(course, seconds);
            let octets = |trips: &_| latency::octets(trips);
            course.watch(octets, trips).map(Outcome::RoundTrips)
        }
    }
}

/// What a transfer takes, besides time.
struct Meter<'a> {
    course: &'a Course,
    usage: Usage,
    reads: Option<Reads>,
    link_drops: Option<u64>,
}

impl<'a> Meter<'a> {
    fn start(course: &'a Course) -> Result<Self> {
        Ok(Meter {
            course,
            reads: course.carrier.reads()?,
            link_drops: course.link_drops(),
            usage: Usage::now(&course.carrier.processes())?,
        })
    }

    fn stop(self, transfer: Transfer) -> Result<Transfer> {
        let used = Usage::now(&self.course.carrier.processes())?.since(&self.usage);
        let reads = self.course.carrier.reads()?;
        let drops = self.link_drops.zip(self.course.link_drops());
        Ok(Transfer {
            link_drops: drops.map(|(before, after)| after - before),
            cpu_s: used.machine_s,
            forwarders_cpu_s: used.processes_s,
            bytes_per_read: self.reads.zip(reads).and_then(bytes_per_read),
            ..transfer
        })
    }
}

/// The mean between two counts.
fn bytes_per_read((before, after): (Reads, Reads)) -> Option<f64> {
    let count = after.count.checked_sub(before.count)?;
    let bytes = after.bytes.checked_sub(before.bytes)?;
    (count > 0).then(|| bytes as f64 / count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_is_that_of_the_reads_in_between() {
        let reads = |count, bytes| Reads { count, bytes };
        let mean = |before, after| bytes_per_read((before, after));
        assert_eq!(mean(reads(10, 1000), reads(12, 4000)), Some(1500.0));
        assert_eq!(mean(reads(10, 1000), reads(10, 1000)), None);
        assert_eq!(mean(reads(10, 1000), reads(0, 0)), None);
    }
}
