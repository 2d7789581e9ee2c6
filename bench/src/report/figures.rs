//! From samples to figures: sorted by what they measure, and compared within their rounds.

use std::cmp::Ordering;

use crate::contender;
use crate::plan::{Conditions, Family, Measure, SetUp};
use crate::record::{Outcome, Results, Sample};
use crate::stats::{self, Round, Summary};

/// All that was measured with one family under the same conditions, in any number of runs.
pub struct Section<'a> {
    /// Of the addresses.
    pub family: Family,
    /// The link between the ends, and other load.
    pub conditions: Conditions,
    /// With the number of the run.
    samples: Vec<(usize, &'a Sample)>,
}

/// One measure of one contender.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// In the unit of the measure.
    pub absolute: Summary,
    /// Against direct in the same rounds: the ratio, or for round trips the difference in
    /// microseconds. `None` for direct itself.
    pub relative: Option<Summary>,
}

impl<'a> Section<'a> {
    /// In order: by family, then by round trip.
    pub fn all(results: &'a [Results]) -> Vec<Self> {
        let mut sections: Vec<Section> = Vec::new();
        for (run, one) in results.iter().enumerate() {
            let (family, conditions) = (one.run.family, one.run.conditions);
            let samples = one.samples.iter().map(|sample| (run, sample));
            let same = |s: &&mut Section| s.family == family && s.conditions == conditions;
            match sections.iter_mut().find(same) {
                Some(section) => section.samples.extend(samples),
                None => sections.push(Section {
                    family,
                    conditions,
                    samples: samples.collect(),
                }),
            }
        }
        sections.retain(|section| !section.samples.is_empty());
        let order = |s: &Section| (s.family, s.conditions);
        // Rates and times are never NaN.
        sections.sort_by(|a, b| order(a).partial_cmp(&order(b)).unwrap_or(Ordering::Equal));
        sections
    }

    /// For the name of a file.
    pub fn slug(&self) -> String {
        let family = self.family.label().to_lowercase();
        format!("{family}-{}", self.conditions.slug())
    }

    /// For people.
    pub fn title(&self) -> String {
        format!("{}{}", self.family.label(), self.conditions.label())
    }

    /// Those that were used.
    pub fn set_ups(&self) -> Vec<SetUp> {
        let used = |set_up: &SetUp| self.samples.iter().any(|(_, s)| s.set_up == *set_up);
        SetUp::ALL.into_iter().filter(used).collect()
    }

    /// Those that were taken.
    pub fn measures(&self) -> Vec<Measure> {
        let taken = |measure: &Measure| self.samples.iter().any(|(_, s)| s.measure == *measure);
        Measure::ALL.into_iter().filter(taken).collect()
    }

    /// Those with results, in the order of the table.
    pub fn contenders(&self) -> Vec<&'a str> {
        super::ordered(self.samples.iter().map(|(_, s)| s.contender.as_str()))
    }

    /// What `pick` finds in the samples of one measure of one contender.
    pub fn values(
        &self,
        set_up: SetUp,
        measure: Measure,
        contender: &str,
        pick: impl Fn(&Outcome) -> Option<f64>,
    ) -> Vec<(Round, f64)> {
        let wanted = |s: &Sample| {
            (s.set_up, s.measure, s.contender.as_str()) == (set_up, measure, contender)
        };
        let samples = self.samples.iter().filter(|(_, sample)| wanted(sample));
        samples
            .filter_map(|(run, sample)| Some(((*run, sample.round), pick(&sample.outcome)?)))
            .collect()
    }

    /// `None` without samples.
    pub fn figure(&self, set_up: SetUp, measure: Measure, contender: &str) -> Option<Figure> {
        self.figure_of(set_up, measure, contender, main(measure), against(measure))
    }

    /// The same of something else than the main figure.
    pub fn figure_of(
        &self,
        set_up: SetUp,
        measure: Measure,
        contender: &str,
        pick: fn(&Outcome) -> Option<f64>,
        against: fn(f64, f64) -> f64,
    ) -> Option<Figure> {
        let values = self.values(set_up, measure, contender, pick);
        let references = self.values(set_up, measure, contender::DIRECT, pick);
        let paired = stats::paired(&values, &references, against);
        let only: Vec<f64> = values.into_iter().map(|(_, value)| value).collect();
        Some(Figure {
            absolute: Summary::of(&only)?,
            relative: Summary::of(&paired).filter(|_| contender != contender::DIRECT),
        })
    }

    /// One contender over another in the same rounds, each by a measure of its own.
    pub fn ratio(
        &self,
        set_up: SetUp,
        (above, above_measure): (&str, Measure),
        (below, below_measure): (&str, Measure),
    ) -> Option<Summary> {
        let values = |id, measure| self.values(set_up, measure, id, main(measure));
        let (above, below) = (values(above, above_measure), values(below, below_measure));
        Summary::of(&stats::paired(&above, &below, stats::ratio))
    }

    /// The user-space WireGuard with the highest median.
    pub fn best_wireguard(&self, set_up: SetUp, measure: Measure) -> Option<&'a str> {
        let ids = self.contenders().into_iter();
        let ids = ids.filter(|id| contender::is_wireguard(id));
        let medians = ids.filter_map(|id| {
            let median = self.figure(set_up, measure, id)?.absolute.median;
            Some((id, median))
        });
        let best = medians.max_by(|(_, a), (_, b)| a.total_cmp(b));
        best.map(|(id, _)| id)
    }
}

/// What a measure is about, in its [`unit`].
fn main(measure: Measure) -> fn(&Outcome) -> Option<f64> {
    match measure {
        Measure::Tcp1 | Measure::Tcp4 | Measure::Udp1400 => gbps,
        Measure::Udp64 | Measure::UdpFlood | Measure::UdpMixed => thousands_per_s,
        Measure::Latency => p50_us,
    }
}

/// The unit of the main figure.
pub fn unit(measure: Measure) -> &'static str {
    match measure {
        Measure::Tcp1 | Measure::Tcp4 | Measure::Udp1400 => "Gbit/s",
        Measure::Udp64 | Measure::UdpFlood | Measure::UdpMixed => "k/s",
        Measure::Latency => "µs",
    }
}

fn against(measure: Measure) -> fn(f64, f64) -> f64 {
    match measure {
        Measure::Latency => |value, reference| value - reference,
        _ => stats::ratio,
    }
}

fn gbps(outcome: &Outcome) -> Option<f64> {
    match outcome {
        Outcome::Transfer(t) => Some(t.mbps / 1e3),
        Outcome::RoundTrips(_) => None,
    }
}

fn thousands_per_s(outcome: &Outcome) -> Option<f64> {
    match outcome {
        Outcome::Transfer(t) => t.datagrams_per_s.map(|rate| rate / 1e3),
        Outcome::RoundTrips(_) => None,
    }
}

fn p50_us(outcome: &Outcome) -> Option<f64> {
    match outcome {
        Outcome::RoundTrips(trips) => Some(trips.p50_us),
        Outcome::Transfer(_) => None,
    }
}

/// The 99th percentile of round trips.
pub fn p99_us(outcome: &Outcome) -> Option<f64> {
    match outcome {
        Outcome::RoundTrips(trips) => Some(trips.p99_us),
        Outcome::Transfer(_) => None,
    }
}

/// Processor time of the machine for 10^9 octets of payload.
pub fn cpu_s_per_gb(outcome: &Outcome) -> Option<f64> {
    match outcome {
        Outcome::Transfer(t) => Some(t.cpu_s / (t.bytes as f64 / 1e9)),
        Outcome::RoundTrips(_) => None,
    }
}

/// The same of the forwarders alone.
pub fn forwarders_cpu_s_per_gb(outcome: &Outcome) -> Option<f64> {
    match outcome {
        Outcome::Transfer(t) => Some(t.forwarders_cpu_s? / (t.bytes as f64 / 1e9)),
        Outcome::RoundTrips(_) => None,
    }
}

/// Octets that the first forwarder got by one read.
pub fn bytes_per_read(outcome: &Outcome) -> Option<f64> {
    match outcome {
        Outcome::Transfer(t) => t.bytes_per_read,
        Outcome::RoundTrips(_) => None,
    }
}

/// Frames that the link did not deliver.
pub fn link_drops(outcome: &Outcome) -> Option<f64> {
    match outcome {
        Outcome::Transfer(t) => t.link_drops.map(|count| count as f64),
        Outcome::RoundTrips(_) => None,
    }
}

/// Segments sent again.
pub fn retransmits(outcome: &Outcome) -> Option<f64> {
    match outcome {
        Outcome::Transfer(t) => t.retransmits.map(|count| count as f64),
        Outcome::RoundTrips(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::examples::{latency, results, tcp};

    #[test]
    fn ratios_are_those_within_a_round_of_the_same_run() {
        let runs = [
            results(vec![
                tcp(0, SetUp::Tso, "direct", 10_000.0),
                tcp(0, SetUp::Tso, "mat", 6_000.0),
                tcp(0, SetUp::Wire, "mat", 9_000.0),
            ]),
            results(vec![
                tcp(0, SetUp::Tso, "mat", 8_000.0),
                tcp(0, SetUp::Tso, "direct", 20_000.0),
            ]),
        ];
        let sections = Section::all(&runs);
        assert_eq!(sections.len(), 1);
        let figure = sections[0]
            .figure(SetUp::Tso, Measure::Tcp1, "mat")
            .unwrap();
        assert_eq!(figure.absolute.median, 7.0);
        assert_eq!(figure.relative.unwrap().median, 0.5);
        let alone = sections[0].figure(SetUp::Wire, Measure::Tcp1, "mat");
        assert_eq!(alone.unwrap().relative, None);
        let direct = sections[0].figure(SetUp::Tso, Measure::Tcp1, "direct");
        assert_eq!(direct.unwrap().relative, None);
    }

    #[test]
    fn round_trips_are_compared_by_their_difference() {
        let runs = [results(vec![
            latency(0, "direct", 12.0),
            latency(0, "mat", 90.0),
        ])];
        let sections = Section::all(&runs);
        let figure = sections[0].figure(SetUp::Tso, Measure::Latency, "mat");
        assert_eq!(figure.unwrap().relative.unwrap().median, 78.0);
    }

    #[test]
    fn families_and_links_are_kept_apart() {
        let mut runs = [1, 2, 3].map(|_| results(vec![tcp(0, SetUp::Tso, "direct", 1.0)]));
        runs[0].run.conditions.rtt_ms = 20.0;
        runs[1].run.family = Family::Ipv6;
        let titles: Vec<String> = Section::all(&runs).iter().map(Section::title).collect();
        assert_eq!(titles, ["IPv4", "IPv4, 20 ms round trip", "IPv6"]);
    }

    #[test]
    fn the_best_of_the_others_is_the_fastest() {
        let runs = [results(vec![
            tcp(0, SetUp::Wire, "direct", 10_000.0),
            tcp(0, SetUp::Wire, "mat", 6_000.0),
            tcp(0, SetUp::Wire, "gotatun", 300.0),
            tcp(0, SetUp::Wire, "wireguard-go", 1_000.0),
        ])];
        let sections = Section::all(&runs);
        let best = sections[0].best_wireguard(SetUp::Wire, Measure::Tcp1);
        assert_eq!(best, Some("wireguard-go"));
        let tcp1 = |id| (id, Measure::Tcp1);
        let ratio = sections[0].ratio(SetUp::Wire, tcp1("mat"), tcp1("wireguard-go"));
        assert_eq!(ratio.unwrap().median, 6.0);
        assert_eq!(sections[0].best_wireguard(SetUp::Tso, Measure::Tcp1), None);
    }

    #[test]
    fn processor_time_is_told_for_a_gigabyte() {
        let sample = tcp(0, SetUp::Tso, "mat", 8_000.0);
        assert_eq!(cpu_s_per_gb(&sample.outcome), Some(2.0));
        assert_eq!(forwarders_cpu_s_per_gb(&sample.outcome), None);
    }
}
