//! One side of a run: the threads that send, receive and probe, and their joint result.
//!
//! Client and server run the same engine; only the seeds and the sockets differ.

use std::net::{TcpStream, UdpSocket};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use super::clock::Clock;
use super::live::Live;
use super::outcome::{MemberEnd, ProbeReceived, ProbeSent, Side, StreamReceived, StreamSent};
use super::pattern::Pattern;
use super::wire::Plan;
use super::{crowd, probe, stream};

/// The open connections of one side.
#[derive(Debug)]
pub struct Sockets {
    /// The bulk stream this side sends on.
    pub outgoing: Arc<TcpStream>,
    /// The bulk stream this side receives on.
    pub incoming: TcpStream,
    /// The probe socket, connected to the peer.
    pub probe: UdpSocket,
    /// The crowd, by index.
    pub crowd: Vec<TcpStream>,
}

/// Which payload this side sends and which it expects.
#[derive(Clone, Copy, Debug)]
pub struct Seeds {
    /// Of the stream sent.
    pub sends: u64,
    /// Of the stream received.
    pub expects: u64,
}

/// A running side.
#[derive(Debug)]
pub struct Engine {
    stream_sent: JoinHandle<StreamSent>,
    stream_received: JoinHandle<StreamReceived>,
    probe_sent: JoinHandle<ProbeSent>,
    probe_received: JoinHandle<ProbeReceived>,
    crowd: JoinHandle<Vec<MemberEnd>>,
}

impl Engine {
    /// Starts all threads; they end by themselves when `clock` is over or their connection dies.
    pub fn start(
        plan: &Plan,
        session: u64,
        seeds: Seeds,
        sockets: Sockets,
        clock: &Arc<Clock>,
        live: &Arc<Live>,
    ) -> Self {
        let Sockets {
            outgoing,
            incoming,
            probe,
            crowd,
        } = sockets;
        let probe = Arc::new(probe);
        let (rate_hz, limit) = (plan.udp_rate_hz, plan.probe_limit());
        let (rate_mbps, stall_limit_ms) = (plan.tcp_rate_mbps, plan.stall_limit_ms);
        let shared = || (Arc::clone(clock), Arc::clone(live));
        live.crowd_alive.set(crowd.len() as u64);
        Self {
            stream_sent: {
                let (clock, _) = shared();
                thread::spawn(move || {
                    let pattern = Pattern::new(seeds.sends);
                    stream::send(&outgoing, pattern, rate_mbps, &clock, stall_limit_ms)
                })
            },
            stream_received: {
                let (clock, live) = shared();
                thread::spawn(move || {
                    let pattern = Pattern::new(seeds.expects);
                    stream::receive(&incoming, pattern, &clock, &live, stall_limit_ms)
                })
            },
            probe_sent: {
                let ((clock, live), socket) = (shared(), Arc::clone(&probe));
                thread::spawn(move || probe::send(&socket, session, rate_hz, &clock, &live))
            },
            probe_received: {
                let (clock, live) = shared();
                let interval_us = 1_000_000 / u64::from(rate_hz);
                thread::spawn(move || {
                    probe::receive(&probe, session, limit, interval_us, &clock, &live)
                })
            },
            crowd: {
                let (clock, live) = shared();
                thread::spawn(move || {
                    let seeds = (seeds.sends, seeds.expects);
                    crowd::run(&crowd, seeds, &clock, &live, stall_limit_ms)
                })
            },
        }
    }

    /// Whether every TCP connection of this side is at its end.
    pub fn tcp_is_over(&self) -> bool {
        self.stream_sent.is_finished()
            && self.stream_received.is_finished()
            && self.crowd.is_finished()
    }

    /// Waits for all threads; bounded by the plan's duration and stall limit.
    pub fn join(self) -> Side {
        Side {
            stream_sent: joined(self.stream_sent),
            stream_received: joined(self.stream_received),
            probe_sent: joined(self.probe_sent),
            probe_received: joined(self.probe_received),
            crowd: joined(self.crowd),
        }
    }
}

/// A panic in a measuring thread is a bug, and goes on in the thread that waits for it.
fn joined<T>(thread: JoinHandle<T>) -> T {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
