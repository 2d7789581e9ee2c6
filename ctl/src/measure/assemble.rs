//! Joins the accounts of both sides into a report (pure).
//!
//! The sender knows how much there was, the receiver how much came: only together do they tell
//! whether a direction survived. If the far side's account is missing, everything it would have
//! confirmed counts as not survived, and its numbers as not known.

use super::bins::BIN_MS;
use super::gaps::{self, EDGES_US, GapSummary};
use super::outcome::{MemberEnd, ProbeReceived, ProbeSent, Side, StreamReceived, StreamSent};
use super::wire::Plan;
use crate::report::Report;
use crate::report::schema::{
    Connections, DeadConnection, Direction, Gap, GapBucket, Meta, Sample, Tcp, TcpDirection, Udp,
    UdpDirection,
};

/// Dead connections named one by one.
const NAMED_DEAD: usize = 20;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// As planned.
    Complete,
    /// The user wanted it.
    Interrupted,
    /// Every connection was dead.
    NothingLeft,
}

/// What is known of a run beside its numbers.
#[derive(Clone, Debug)]
pub struct Conditions {
    /// The plan.
    pub plan: Plan,
    /// The server's address and port.
    pub server: String,
    /// The client's.
    pub client: String,
    /// Time zero.
    pub zero_unix_us: u64,
    /// Length reached.
    pub measured_ms: u64,
    /// The server's clock minus the client's.
    pub clock_offset_us: i64,
    /// How it ended.
    pub ending: Ending,
    /// What the server's probes last said of the client's: the best there is without its account.
    pub said: Said,
}

/// What one end said of the probes sent to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// Distinct probes received.
    pub received: u64,
    /// Longest gap in microseconds.
    pub longest_gap_us: u64,
}

/// The report of the client's (`near`) and the server's (`far`) account; `Err` says why there is
/// none of the server.
pub fn assemble(near: &Side, far: Result<&Side, String>, run: &Conditions) -> Report {
    let missing = far.as_ref().err().cloned();
    let far = far.ok();
    let (sent, received) = (
        far.map(|side| &side.stream_sent),
        far.map(|side| &side.stream_received),
    );
    let tcp_up = stream(Some(&near.stream_sent), received);
    let tcp_down = stream(sent, Some(&near.stream_received));
    let up = Probes {
        sent: Some(&near.probe_sent),
        received: far.map(|side| &side.probe_received),
    };
    let down = Probes {
        sent: far.map(|side| &side.probe_sent),
        received: Some(&near.probe_received),
    };
    let connections = crowd(&near.crowd, far.map(|side| side.crowd.as_slice()));
    let exact = near.stream_sent.rtos_exact && sent.is_none_or(|sent| sent.rtos_exact);
    Report::new(
        [tcp_up, tcp_down],
        [up.judge(run), down.judge(run)],
        [
            (Direction::Up, series(received)),
            (Direction::Down, series(Some(&near.stream_received))),
        ],
        connections,
        meta(run, exact, missing),
    )
}

fn stream(sent: Option<&StreamSent>, received: Option<&StreamReceived>) -> TcpDirection {
    let failure = stream_failure(sent, received);
    let first_bad_offset = received.and_then(|end| end.first_bad_offset);
    let seconds = received.map(|end| (end.bins.len() as u64 * BIN_MS) as f64 / 1000.0);
    let in_bins: u64 = received.map_or(0, |end| end.bins.iter().sum());
    TcpDirection {
        outcome: Tcp {
            survived: failure.is_none(),
            intact: received.is_some() && first_bad_offset.is_none(),
            bytes: received.map_or(0, |end| end.bytes),
            longest_stall_ms: received.map(|end| ms(end.stalls.longest_us)),
            retransmits: sent.map(|end| end.retransmits),
            rtos: sent.map(|end| end.rtos),
        },
        mean_mbps: seconds
            .filter(|&seconds| seconds > 0.0)
            .map(|seconds| hundredths(in_bins as f64 * 8e-6 / seconds)),
        first_bad_offset,
        failure,
        stalls: received.map_or(Vec::new(), |end| listed(&end.stalls)),
    }
}

fn stream_failure(sent: Option<&StreamSent>, received: Option<&StreamReceived>) -> Option<String> {
    let at_receiver = received
        .and_then(|end| end.failure.as_ref())
        .map(|failure| format!("receiver: {failure}"));
    let at_sender = sent
        .and_then(|end| end.failure.as_ref())
        .map(|failure| format!("sender: {failure}"));
    at_receiver
        .or(at_sender)
        .or_else(|| match (sent, received) {
            (Some(sent), Some(received)) if sent.bytes == received.bytes => None,
            (Some(sent), Some(received)) => Some(format!(
                "closed after {} of {} bytes",
                received.bytes, sent.bytes
            )),
            (None, _) => Some("the sender gave no account".to_owned()),
            (_, None) => Some("the receiver gave no account".to_owned()),
        })
}

fn series(received: Option<&StreamReceived>) -> Vec<Sample> {
    let bins = received.map_or(&[][..], |end| &end.bins);
    (0u64..)
        .zip(bins)
        .map(|(index, &bytes)| Sample {
            t_ms: index * BIN_MS,
            mbps: hundredths(bytes as f64 * 8.0 / (BIN_MS * 1000) as f64),
        })
        .collect()
}

/// Both accounts of one direction of the probe, one of which may be missing.
struct Probes<'a> {
    sent: Option<&'a ProbeSent>,
    received: Option<&'a ProbeReceived>,
}

impl Probes<'_> {
    fn judge(&self, run: &Conditions) -> UdpDirection {
        let (sent, received) = (self.sent, self.received);
        let arrived = received.map_or(run.said.received, |end| end.received);
        // Without the sender's account the highest number that came is the best there is.
        let known = received.map_or(0, |end| end.sent_at_least);
        let total = sent.map_or(known, |end| end.sent.max(known)).max(arrived);
        let longest_us = received.map_or(run.said.longest_gap_us, |end| end.gaps.longest_us);
        UdpDirection {
            outcome: Udp {
                rate_hz: run.plan.udp_rate_hz,
                sent: total,
                received: arrived,
                lost: total - arrived,
                duplicated: received.map_or(0, |end| end.duplicated),
                reordered: received.map_or(0, |end| end.reordered),
                longest_gap_ms: ms(longest_us),
            },
            receiver_overflowed: received.map(|end| end.overflowed),
            refused: sent.map(|end| end.refused),
            sender_longest_pause_ms: sent.map(|end| ms(end.longest_pause_us)),
            transit_spread_ms: received.map(|end| ms(end.transit_spread_us)),
            gap_histogram: received.map_or(Vec::new(), |end| histogram(&end.gaps)),
            gaps: received.map_or(Vec::new(), |end| listed(&end.gaps)),
        }
    }
}

fn histogram(gaps: &GapSummary) -> Vec<GapBucket> {
    let edges = || EDGES_US.iter().map(|&edge| ms(edge));
    let lower = std::iter::once(0.0).chain(edges());
    let upper = edges().map(Some).chain([None]);
    lower
        .zip(upper)
        .zip(&gaps.histogram)
        .map(|((from_ms, to_ms), &count)| GapBucket {
            from_ms,
            to_ms,
            count,
        })
        .collect()
}

fn listed(gaps: &GapSummary) -> Vec<Gap> {
    let gap = |gap: &gaps::Gap| Gap {
        t_ms: ms(gap.start_us),
        gap_ms: ms(gap.length_us),
    };
    gaps.notable.iter().map(gap).collect()
}

fn crowd(near: &[MemberEnd], far: Option<&[MemberEnd]>) -> Connections {
    let mut sum = Connections {
        opened: near.len() as u64,
        ..Connections::default()
    };
    let mut longest_us = 0;
    for (index, near) in near.iter().enumerate() {
        let far = far.and_then(|far| far.get(index));
        for end in [Some(near), far].into_iter().flatten() {
            sum.bytes += end.received;
            longest_us = longest_us.max(end.longest_stall_us);
        }
        match member_failure(near, far) {
            Some(failure) if sum.dead.len() < NAMED_DEAD => sum.dead.push(DeadConnection {
                index: index as u64,
                failure,
            }),
            Some(_) => {}
            None => {
                sum.survived += 1;
                let right = [Some(near), far].into_iter().flatten();
                sum.intact +=
                    u64::from(right.into_iter().all(|end| end.first_bad_offset.is_none()));
            }
        }
    }
    sum.longest_stall_ms = (!near.is_empty()).then(|| ms(longest_us));
    sum
}

fn member_failure(near: &MemberEnd, far: Option<&MemberEnd>) -> Option<String> {
    let Some(far) = far else {
        return Some("the server gave no account".to_owned());
    };
    let at = |side: &str, end: &MemberEnd| {
        let failure = end.failure.as_ref();
        failure.map(|failure| format!("{side}: {failure}"))
    };
    at("client", near)
        .or_else(|| at("server", far))
        .or_else(|| {
            let whole = near.sent == far.received && far.sent == near.received;
            (!whole).then(|| "closed before all bytes had arrived".to_owned())
        })
}

fn meta(run: &Conditions, rtos_exact: bool, missing: Option<String>) -> Meta {
    let mut notes = Vec::new();
    if let Some(why) = missing {
        notes.push(format!(
            "The server's account is missing ({why}): which bytes it received is not known, and of \
             the client's probes only what it said before."
        ));
    }
    if !rtos_exact {
        notes.push(
            "A kernel before 6.7 took part: RTOs were sampled and are a lower bound.".to_owned(),
        );
    }
    Meta {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        server: run.server.clone(),
        client: run.client.clone(),
        start_unix_us: run.zero_unix_us,
        duration_ms: run.plan.duration_ms,
        measured_ms: run.measured_ms,
        bin_ms: BIN_MS,
        stall_limit_ms: run.plan.stall_limit_ms,
        tcp_rate_mbps: run.plan.tcp_rate_mbps,
        ending: match run.ending {
            Ending::Complete => "complete",
            Ending::Interrupted => "interrupted",
            Ending::NothingLeft => "ended early, every connection was dead",
        }
        .to_owned(),
        rtos_source: if rtos_exact {
            "tcpi_total_rto"
        } else {
            "sampled"
        }
        .to_owned(),
        clock_offset_us: run.clock_offset_us,
        notes,
    }
}

fn ms(us: u64) -> f64 {
    us as f64 / 1000.0
}

fn hundredths(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::super::outcome::Failure;
    use super::*;

    fn side() -> Side {
        let gaps = || GapSummary {
            longest_us: 1_500,
            histogram: vec![0; EDGES_US.len() + 1],
            notable: Vec::new(),
        };
        Side {
            stream_sent: StreamSent {
                bytes: 1000,
                retransmits: 1,
                rtos: 0,
                rtos_exact: true,
                failure: None,
            },
            stream_received: StreamReceived {
                bytes: 1000,
                first_bad_offset: None,
                bins: vec![500, 500],
                stalls: gaps(),
                failure: None,
            },
            probe_sent: ProbeSent {
                sent: 100,
                refused: 0,
                longest_pause_us: 1_100,
            },
            probe_received: ProbeReceived {
                received: 98,
                sent_at_least: 99,
                duplicated: 0,
                reordered: 0,
                foreign: 0,
                overflowed: 0,
                transit_spread_us: 10,
                gaps: gaps(),
            },
            crowd: vec![MemberEnd {
                sent: 16,
                received: 16,
                ..MemberEnd::default()
            }],
        }
    }

    fn run() -> Conditions {
        Conditions {
            plan: Plan {
                duration_ms: 100,
                udp_rate_hz: 1000,
                tcp_rate_mbps: None,
                connections: 1,
                stall_limit_ms: 10_000,
                seed_up: 0,
                seed_down: 0,
                udp_port: 0,
            },
            server: "192.0.2.1:6284".to_owned(),
            client: "192.0.2.2:40000".to_owned(),
            zero_unix_us: 1,
            measured_ms: 100,
            clock_offset_us: 0,
            ending: Ending::Complete,
            said: Said {
                received: 90,
                longest_gap_us: 2_000,
            },
        }
    }

    #[test]
    fn two_agreeing_sides_survive() {
        let report = assemble(&side(), Ok(&side()), &run());
        assert!(report.all_survived_intact());
        assert_eq!((report.udp.sent, report.udp.lost), (100, 2));
        assert_eq!(report.throughput_up.series[1].mbps, 0.08);
        assert_eq!(
            (report.connections.survived, report.connections.intact),
            (1, 1)
        );
    }

    #[test]
    fn a_missing_byte_a_wrong_byte_and_a_failure_are_each_seen() {
        let mut far = side();
        far.stream_received.bytes = 999;
        let report = assemble(&side(), Ok(&far), &run());
        assert!(!report.tcp.survived && report.tcp_down.outcome.survived);
        let words = report.tcp_up.failure.unwrap_or_default();
        assert_eq!(words, "closed after 999 of 1000 bytes");

        let mut far = side();
        far.stream_received.first_bad_offset = Some(77);
        let report = assemble(&side(), Ok(&far), &run());
        assert!(report.tcp.survived && !report.tcp.intact && !report.all_survived_intact());
        assert_eq!(report.tcp_up.first_bad_offset, Some(77));

        let mut near = side();
        near.stream_received.failure = Some(Failure::Reset);
        let report = assemble(&near, Ok(&side()), &run());
        assert_eq!(
            report.tcp_down.failure.as_deref(),
            Some("receiver: connection reset")
        );
        assert!(!report.tcp.survived);
    }

    #[test]
    fn without_the_servers_account_nothing_is_claimed() {
        let report = assemble(&side(), Err("it went away".to_owned()), &run());
        assert!(!report.tcp.survived && !report.tcp_up.outcome.intact);
        assert_eq!(report.tcp_up.outcome.longest_stall_ms, None);
        assert_eq!(report.tcp_down.outcome.retransmits, None);
        assert_eq!(
            (report.udp_up.outcome.lost, report.udp_down.outcome.lost),
            (10, 1)
        );
        assert_eq!(report.connections.survived, 0);
        assert!(report.meta.notes[0].contains("it went away"));
    }

    #[test]
    fn a_crowd_connection_that_ended_short_did_not_survive() {
        let mut far = side();
        far.crowd[0].received = 8;
        let report = assemble(&side(), Ok(&far), &run());
        assert_eq!(report.connections.survived, 0);
        assert_eq!(report.connections.dead[0].index, 0);
        assert!(!report.all_survived_intact());
    }
}
