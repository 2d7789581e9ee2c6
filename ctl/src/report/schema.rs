//! `mat.report/1`, the JSON form of a measurement.
//!
//! Stable: fields are added, never renamed or given another meaning. Units are in the names
//! (`_ms` milliseconds, `_mbps` 10^6 bit/s, `_us` microseconds, `_hz` per second). "Up" is from
//! client to server, "down" from server to client. `null` stands for "not known".

use serde::{Deserialize, Serialize};

/// Value of [`Report::schema`].
pub const SCHEMA: &str = "mat.report/1";

/// One measurement, and the moves that happened during it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: String,
    /// The bulk streams: the worse of both directions, field by field.
    pub tcp: Tcp,
    /// The probes: the worse of both directions, see [`super::worst::udp`].
    pub udp: Udp,
    /// The throughput of the direction which the moves hurt more.
    pub throughput: Throughput,
    /// The moves, in order of time.
    pub moves: Vec<Move>,
    /// The stream from client to server.
    pub tcp_up: TcpDirection,
    /// The stream from server to client.
    pub tcp_down: TcpDirection,
    /// The probes from client to server.
    pub udp_up: UdpDirection,
    /// The probes from server to client.
    pub udp_down: UdpDirection,
    /// Throughput as the server received it.
    pub throughput_up: Throughput,
    /// Throughput as the client received it.
    pub throughput_down: Throughput,
    /// The crowd of quiet connections.
    pub connections: Connections,
    /// How the measurement was made.
    pub meta: Meta,
}

/// What became of a TCP stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tcp {
    /// Both ends reached the end of the stream with the same number of bytes.
    pub survived: bool,
    /// No byte that was received differs from the byte sent at its place, and, if the stream
    /// survived, none is missing. False if the receiver's account is not there.
    pub intact: bool,
    /// Bytes received.
    pub bytes: u64,
    /// Longest time without a byte at the receiver.
    pub longest_stall_ms: Option<f64>,
    /// Segments sent again (`tcpi_total_retrans` of the sender).
    pub retransmits: Option<u64>,
    /// Retransmission timeouts of the sender; `meta.rtos_source` says how they were counted.
    pub rtos: Option<u64>,
}

/// One direction of the bulk stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TcpDirection {
    /// What became of it.
    #[serde(flatten)]
    pub outcome: Tcp,
    /// Mean rate at the receiver over the whole run.
    pub mean_mbps: Option<f64>,
    /// Position in the stream of the first wrong byte.
    pub first_bad_offset: Option<u64>,
    /// Why it did not survive, in words.
    pub failure: Option<String>,
    /// The longest times without a byte, in order of time.
    pub stalls: Vec<Gap>,
}

/// What became of the probes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Udp {
    /// Probes a second.
    pub rate_hz: u32,
    /// Probes sent, those included which the sender's kernel refused.
    pub sent: u64,
    /// Distinct probes received; `sent` is `received` plus `lost`.
    pub received: u64,
    /// Probes which did not arrive.
    pub lost: u64,
    /// Copies of probes that had arrived before (RFC 5560).
    pub duplicated: u64,
    /// Probes that arrived after a later one (RFC 4737).
    pub reordered: u64,
    /// Longest time without a probe at the receiver, by its kernel's time stamps.
    pub longest_gap_ms: f64,
}

/// One direction of the probes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UdpDirection {
    /// What became of them.
    #[serde(flatten)]
    pub outcome: Udp,
    /// Probes the sender's kernel refused, for want of a route for instance; they count as lost.
    pub refused: Option<u64>,
    /// Probes that reached the receiver's kernel and were dropped there because the program did
    /// not keep up; they count as lost.
    pub receiver_overflowed: Option<u64>,
    /// Longest time the sender itself paused: gaps up to this length may be the machine's.
    pub sender_longest_pause_ms: Option<f64>,
    /// Slowest minus fastest transit.
    pub transit_spread_ms: Option<f64>,
    /// Number of gaps by length.
    pub gap_histogram: Vec<GapBucket>,
    /// The longest gaps of at least two intervals, in order of time.
    pub gaps: Vec<Gap>,
}

/// A time in which nothing arrived.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gap {
    /// When it began, after time zero of the run.
    pub t_ms: f64,
    /// How long it was.
    pub gap_ms: f64,
}

/// Gaps of `from_ms` or more, and less than `to_ms`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct GapBucket {
    /// Lower edge, included.
    pub from_ms: f64,
    /// Upper edge, not included; `null` for the last bucket.
    pub to_ms: Option<f64>,
    /// How many.
    pub count: u64,
}

/// Throughput of one direction around the moves; see [`super::throughput`] for the definitions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Throughput {
    /// Which direction it is.
    pub direction: Direction,
    /// Mean rate before the first move; of the whole run if there was none.
    pub before_mbps: Option<f64>,
    /// Mean rate when the last move was over.
    pub after_mbps: Option<f64>,
    /// Longest time, over the moves, from a move's start until 90 % of the rate before it was
    /// back; `null` without moves, or if it did not come back.
    pub recovery_ms: Option<f64>,
    /// The same for each move.
    pub moves: Vec<MoveThroughput>,
    /// Received bytes in bins of `meta.bin_ms`.
    pub series: Vec<Sample>,
}

/// A direction of the measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From client to server.
    Up,
    /// From server to client.
    Down,
}

/// Throughput around one move.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct MoveThroughput {
    /// Mean rate before it.
    pub before_mbps: Option<f64>,
    /// Mean rate from its start to its end.
    pub during_mbps: Option<f64>,
    /// Mean rate when it was over.
    pub after_mbps: Option<f64>,
    /// Time from its start until 90 % of the rate before it was back; `null` if it was not.
    pub recovery_ms: Option<f64>,
}

/// One bin of a throughput series.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Start of the bin, after time zero of the run.
    pub t_ms: u64,
    /// Rate in the bin.
    pub mbps: f64,
}

/// One move of an instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Move {
    /// What made it.
    pub driver: String,
    /// Which instance.
    pub instance: String,
    /// Site it left.
    pub from: String,
    /// Site it went to.
    pub to: String,
    /// Epoch of its binding before.
    pub epoch_before: u64,
    /// Epoch of its binding after.
    pub epoch_after: u64,
    /// Time in which the instance could not be reached at either site, by the driver's account.
    pub blackout_ms: f64,
    /// Time for which the driver stopped the instance; 0 if it does not.
    #[serde(default)]
    pub frozen_ms: f64,
    /// Time the mapping service took to change the binding.
    pub map_update_ms: f64,
    /// Time from the change of the binding until the last peer sent to the new site.
    pub peers_switched_ms: f64,
    /// When the old site was told to let go, in Unix microseconds: what comes before does not
    /// touch the traffic. Minus `meta.start_unix_us` it is a time of the run.
    pub start_unix_us: u64,
    /// End of the move in Unix microseconds.
    pub end_unix_us: u64,
}

/// What became of the crowd of quiet connections.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Connections {
    /// Connections opened.
    pub opened: u64,
    /// Connections of which both ends reached the end with the same number of bytes.
    pub survived: u64,
    /// Connections that survived without a wrong byte.
    pub intact: u64,
    /// Bytes received on all of them, in both directions.
    pub bytes: u64,
    /// Longest time without a byte on any of them, in steps of some 20 ms; includes the 100 ms
    /// between two messages.
    pub longest_stall_ms: Option<f64>,
    /// The first of those that did not survive, with the cause.
    pub dead: Vec<DeadConnection>,
}

/// A crowd connection that did not survive.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeadConnection {
    /// Its number in the crowd.
    pub index: u64,
    /// What ended it.
    pub failure: String,
}

/// How the measurement was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Meta {
    /// Version of the tool.
    pub version: String,
    /// Address and port of the server.
    pub server: String,
    /// Address and port of the client's control connection.
    pub client: String,
    /// Time zero of the run in Unix microseconds of the client's clock.
    pub start_unix_us: u64,
    /// Planned length.
    pub duration_ms: u64,
    /// Length reached.
    pub measured_ms: u64,
    /// Length of a bin of the series.
    pub bin_ms: u64,
    /// Time without progress after which a connection counts as dead.
    pub stall_limit_ms: u64,
    /// Pace of the TCP streams; `null` if as fast as it goes.
    pub tcp_rate_mbps: Option<f64>,
    /// How the run ended, in words.
    pub ending: String,
    /// How `rtos` were counted: `tcpi_total_rto` is exact, `sampled` a lower bound.
    pub rtos_source: String,
    /// The server's clock minus the client's; 0 if the difference is within the uncertainty.
    pub clock_offset_us: i64,
    /// What a reader must know about the numbers.
    pub notes: Vec<String>,
}
