//! What one side of a measurement has seen: the vocabulary in which the far side reports.
//!
//! All times are microseconds after time zero of the run, on the client's axis.

use serde::{Deserialize, Serialize};
use std::{fmt, io};

use super::gaps::GapSummary;

/// Why a connection did not survive; one variant per cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// The connection was reset.
    Reset,
    /// The peer's end of the stream came before the run was over.
    ClosedEarly,
    /// No progress for longer than the stall limit.
    Stalled {
        /// The limit that was passed, in milliseconds.
        limit_ms: u64,
    },
    /// The kernel gave the connection up (ETIMEDOUT).
    TimedOut,
    /// The bytes still under way when the run ended did not arrive in the time allowed.
    NotDrained,
    /// Another socket error.
    Socket {
        /// The system's words for it.
        error: String,
    },
}

impl Failure {
    /// The cause behind a socket error.
    pub fn from_io(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionAborted => Self::Reset,
            // A timeout of our own polling is EAGAIN, so this one is the kernel's verdict.
            io::ErrorKind::TimedOut => Self::TimedOut,
            _ => Self::Socket {
                error: error.to_string(),
            },
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reset => write!(f, "connection reset"),
            Self::ClosedEarly => write!(f, "closed before the run was over"),
            Self::Stalled { limit_ms } => write!(f, "no progress for {limit_ms} ms"),
            Self::TimedOut => write!(f, "given up by the kernel"),
            Self::NotDrained => write!(f, "the last bytes did not arrive in time"),
            Self::Socket { error } => write!(f, "socket error: {error}"),
        }
    }
}

/// The sending end of the bulk stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamSent {
    /// Bytes handed to the kernel.
    pub bytes: u64,
    /// Segments sent again (`tcpi_total_retrans`).
    pub retransmits: u64,
    /// Retransmission timeouts.
    pub rtos: u64,
    /// Whether `rtos` is the kernel's own count (`tcpi_total_rto`, Linux 6.7 and later) or was
    /// sampled, and so is a lower bound.
    pub rtos_exact: bool,
    /// Why sending ended before its time.
    pub failure: Option<Failure>,
}

/// The receiving end of the bulk stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamReceived {
    /// Bytes received.
    pub bytes: u64,
    /// Position of the first byte that was not the one sent.
    pub first_bad_offset: Option<u64>,
    /// Bytes by bin of [`super::bins::BIN_MS`].
    pub bins: Vec<u64>,
    /// Times without a byte.
    pub stalls: GapSummary,
    /// Why receiving ended before its time.
    pub failure: Option<Failure>,
}

/// The sending end of the probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeSent {
    /// Probes sent, those included which the kernel refused.
    pub sent: u64,
    /// Probes which the kernel refused (no route, for instance). They count as lost.
    pub refused: u64,
    /// The longest time this sender itself paused between two probes: gaps up to this length
    /// may be the machine's, not the network's.
    pub longest_pause_us: u64,
}

/// The receiving end of the probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeReceived {
    /// Distinct probes received.
    pub received: u64,
    /// One more than the highest number received.
    pub sent_at_least: u64,
    /// Copies of a probe received before.
    pub duplicated: u64,
    /// Probes that came after a later one.
    pub reordered: u64,
    /// Datagrams that were not of this run.
    pub foreign: u64,
    /// Datagrams dropped because this receiver did not keep up. They count as lost.
    pub overflowed: u64,
    /// Slowest minus fastest transit, in microseconds (clock offsets cancel).
    pub transit_spread_us: u64,
    /// Times without a probe, by the kernel's time stamps.
    pub gaps: GapSummary,
}

/// One end of one member of the crowd of connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberEnd {
    /// Bytes sent.
    pub sent: u64,
    /// Bytes received.
    pub received: u64,
    /// Position of the first byte that was not the one sent.
    pub first_bad_offset: Option<u64>,
    /// Longest time without a byte, in microseconds, seen every [`super::crowd::SWEEP_MS`].
    pub longest_stall_us: u64,
    /// Why it did not survive.
    pub failure: Option<Failure>,
}

/// Everything one side has seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Side {
    /// The stream this side sends.
    pub stream_sent: StreamSent,
    /// The stream this side receives.
    pub stream_received: StreamReceived,
    /// The probes this side sends.
    pub probe_sent: ProbeSent,
    /// The probes this side receives.
    pub probe_received: ProbeReceived,
    /// Its ends of the crowd, by index.
    pub crowd: Vec<MemberEnd>,
}
