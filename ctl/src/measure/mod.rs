//! What a move does to connections, measured from the outside.
//!
//! `matctl measure server` and `matctl measure client` run, at the same time and in both
//! directions: a bulk TCP stream whose every byte says where in the stream it belongs
//! ([`pattern`]), a UDP probe at an even rate ([`probe`]), and, if asked for, a crowd of quiet TCP
//! connections ([`crowd`]). Each end judges what it *receives*; the far end's account comes back
//! over a control connection ([`wire`], [`control`]), and [`assemble`] joins both into a
//! [`Report`](crate::report::Report). Nothing here knows about moves: whoever makes them adds
//! them with [`Report::with_moves`](crate::report::Report::with_moves), by wall-clock time.
//!
//! Analysis is pure ([`pattern`], [`bins`], [`gaps`], [`sequence`], [`assemble`],
//! [`progress`]): no clock, no socket. Sockets are blocking, with one thread for each job
//! ([`stream`], [`probe`], [`crowd`], joined by [`engine`]), because a scheduler of tasks would
//! add its own pauses to those measured.
//!
//! Invariant: a run always ends with a report. Every wait is bounded by the plan's duration and
//! stall limit, and "survived" is said only of a connection of which both ends say that it
//! reached its end with all bytes.
//!
//! # Limitations
//! - TCP stalls are seen where the program reads: a receiver that gets no CPU looks like a stall
//!   of the network. Probes are stamped by the kernel; pauses of the sender are reported beside
//!   the gaps.
//! - Two clocks are related by one exchange: times of the far side are right within half a round
//!   trip, and a clock that is stepped during a run displaces its probes.
//! - On kernels before 6.7 retransmission timeouts are sampled, and so are a lower bound.
//! - The probe's two UDP ports must be reachable as they are: there must be no NAT between.
//! - The server trusts its clients: it is a measuring instrument, not a service for strangers.
//!
//! Terms follow RFC 4737 (reordering) and RFC 5560 (duplication).

pub mod assemble;
pub mod bins;
pub mod client;
pub mod clock;
pub mod control;
pub mod crowd;
pub mod engine;
pub mod gaps;
pub mod limits;
pub mod live;
pub mod outcome;
pub mod pattern;
pub mod probe;
pub mod progress;
pub mod sequence;
pub mod server;
mod signal;
pub mod stream;
pub mod tcp_info;
pub mod wire;

use std::process::ExitCode;

pub use client::ClientArgs;
pub use progress::Progress;
pub use server::ServerArgs;

/// TCP and UDP port of a measure server unless another is chosen.
pub const DEFAULT_PORT: u16 = 6284;

/// `matctl measure ...`
#[derive(Clone, Debug, clap::Subcommand)]
pub enum MeasureCommand {
    /// Wait for clients and measure with them
    Server(ServerArgs),
    /// Measure against a server and report
    Client(ClientArgs),
}

/// Runs either end.
///
/// # Errors
/// See [`server::run`] and [`client::run`].
pub fn run(command: MeasureCommand) -> anyhow::Result<ExitCode> {
    match command {
        MeasureCommand::Server(args) => server::run(args),
        MeasureCommand::Client(args) => client::run(args),
    }
}
