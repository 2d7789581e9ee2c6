//! The UDP probe: datagrams at an even rate, judged where they arrive.

use std::io::{self, ErrorKind, IoSliceMut};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};
use nix::sys::time::TimeSpec;

use super::clock::{Clock, unix_us};
use super::gaps::Gaps;
use super::live::Live;
use super::outcome::{ProbeReceived, ProbeSent};
use super::sequence::{Arrival, Sequence};
use super::stream::POLL;
use super::wire::Probe;

/// How long late probes are waited for when the run is over.
const LINGER_US: u64 = 500_000;

/// How long a receiver may work on what had arrived by then.
const BACKLOG_US: u64 = 5_000_000;

/// A probe takes below 1 KiB of it: room for seconds in which the receiver gets no CPU.
const BUFFER: usize = 4 * 1024 * 1024;

/// A sender that was held up sends at once what fell due in this time, and drops older slots:
/// a burst of seconds would measure queues, not the path.
const CATCH_UP_US: u64 = 10_000;

/// Sends probes until the run is over.
pub fn send(
    socket: &UdpSocket,
    session: u64,
    rate_hz: u32,
    clock: &Clock,
    live: &Live,
) -> ProbeSent {
    // The default slack of 50 us is a twentieth of the interval; refusal only costs accuracy.
    let _ = nix::sys::prctl::set_timerslack(1_000);
    let interval_us = 1e6 / f64::from(rate_hz);
    let mut sent = ProbeSent {
        sent: 0,
        refused: 0,
        longest_pause_us: 0,
    };
    let mut due_us = clock.now_us() as f64;
    let mut previous_us = None;
    while due_us < clock.ends_us() as f64 {
        clock.sleep_until(due_us as u64);
        let now = clock.now_us();
        let probe = Probe {
            session,
            number: sent.sent,
            sent_us: now,
            missing: live.here.missing.get(),
            longest_gap_us: live.here.longest_gap_us.get(),
            received: live.here.received.get(),
        };
        sent.refused += u64::from(!transmit(socket, &probe.encode()));
        sent.sent += 1;
        let pause = now - previous_us.unwrap_or(now);
        sent.longest_pause_us = sent.longest_pause_us.max(pause);
        previous_us = Some(now);
        due_us = (due_us + interval_us).max(now.saturating_sub(CATCH_UP_US) as f64);
    }
    sent
}

/// Receives probes until the run is over and late ones had their time.
pub fn receive(
    socket: &UdpSocket,
    session: u64,
    limit: u64,
    interval_us: u64,
    clock: &Clock,
    live: &Live,
) -> ProbeReceived {
    let mut sequence = Sequence::new(limit);
    let mut gaps = Gaps::new(2 * interval_us);
    let mut foreign = 0;
    let mut transit = Transit::default();
    let mut inbox = Inbox::new(socket);
    loop {
        let late_us = clock.now_us().saturating_sub(clock.ends_us());
        // What waits in the buffer came in time, even if this thread got no CPU to read it.
        let Some((arrived_unix_us, bytes)) = inbox.next().filter(|_| late_us < BACKLOG_US) else {
            if late_us >= LINGER_US {
                break;
            }
            continue;
        };
        let probe = Probe::decode(bytes).filter(|probe| probe.session == session);
        let Some(probe) = probe else {
            foreign += 1;
            continue;
        };
        let at_us = clock.place(arrived_unix_us);
        match sequence.observe(probe.number) {
            Arrival::OutOfRange => foreign += 1,
            Arrival::Duplicate => {}
            Arrival::InOrder | Arrival::Reordered => {
                gaps.observe(at_us);
                transit.observe(probe.sent_us, at_us);
                live.here.received.set(sequence.received());
                live.here.missing.set(sequence.missing());
                live.here.longest_gap_us.set(gaps.longest_us());
                live.there.received.set(probe.received);
                live.there.missing.set(probe.missing);
                live.there.longest_gap_us.set(probe.longest_gap_us);
                live.probe_last_us.set(at_us);
            }
        }
    }
    ProbeReceived {
        received: sequence.received(),
        sent_at_least: sequence.sent_at_least(),
        duplicated: sequence.duplicated(),
        reordered: sequence.reordered(),
        foreign,
        overflowed: u64::from(inbox.overflowed),
        transit_spread_us: transit.spread_us(),
        gaps: gaps.finish(clock.ends_us()),
    }
}

/// Prepares a socket for [`receive`]: a large buffer, a count of what overflows it, kernel time
/// stamps, and a time limit on waiting.
pub fn configure(socket: &UdpSocket) -> io::Result<()> {
    socket.set_read_timeout(Some(POLL))?;
    socket.set_write_timeout(Some(POLL))?;
    // The kernel silently takes less if its limit is lower.
    socket2::SockRef::from(socket).set_recv_buffer_size(BUFFER)?;
    setsockopt(socket, sockopt::RxqOvfl, &1)?;
    setsockopt(socket, sockopt::ReceiveTimestampns, &true)?;
    Ok(())
}

/// Whether the kernel took the datagram.
fn transmit(socket: &UdpSocket, bytes: &[u8]) -> bool {
    // A connected socket first reports an ICMP error about an *earlier* datagram, without
    // sending this one; the second attempt is the real one.
    let reports_earlier = |e: &io::Error| {
        matches!(
            e.kind(),
            ErrorKind::ConnectionRefused
                | ErrorKind::HostUnreachable
                | ErrorKind::NetworkUnreachable
                | ErrorKind::Interrupted
        )
    };
    match socket.send(bytes) {
        Err(e) if reports_earlier(&e) => socket.send(bytes).is_ok(),
        result => result.is_ok(),
    }
}

/// Slowest and fastest one-way transit; their difference is free of the clocks' offset.
#[derive(Default)]
struct Transit {
    range: Option<(i64, i64)>,
}

impl Transit {
    fn observe(&mut self, sent_us: u64, arrived_us: u64) {
        let transit = arrived_us.wrapping_sub(sent_us) as i64;
        let (low, high) = self.range.unwrap_or((transit, transit));
        self.range = Some((low.min(transit), high.max(transit)));
    }

    fn spread_us(&self) -> u64 {
        self.range.map_or(0, |(low, high)| high.abs_diff(low))
    }
}

struct Inbox<'a> {
    socket: &'a UdpSocket,
    bytes: [u8; 2 * Probe::LEN],
    ancillary: Vec<u8>,
    /// Datagrams the kernel has dropped because this socket's buffer was full.
    overflowed: u32,
}

impl<'a> Inbox<'a> {
    fn new(socket: &'a UdpSocket) -> Self {
        Self {
            socket,
            bytes: [0; 2 * Probe::LEN],
            ancillary: nix::cmsg_space!(TimeSpec, u32),
            overflowed: 0,
        }
    }

    /// The next datagram and when the kernel got it, in Unix microseconds; `None` if none came in
    /// the socket's time limit or an ICMP error was reported.
    fn next(&mut self) -> Option<(u64, &[u8])> {
        let (len, arrived) = {
            let mut parts = [IoSliceMut::new(&mut self.bytes)];
            let message = recvmsg::<()>(
                self.socket.as_raw_fd(),
                &mut parts,
                Some(&mut self.ancillary),
                MsgFlags::empty(),
            );
            let message = match message {
                Ok(message) => message,
                Err(Errno::EAGAIN | Errno::EINTR) => return None,
                Err(_) => {
                    // ICMP errors are handed out once each; anything lasting must not spin.
                    std::thread::sleep(std::time::Duration::from_millis(1));
                    return None;
                }
            };
            let mut arrived = None;
            for part in message.cmsgs().into_iter().flatten() {
                match part {
                    ControlMessageOwned::ScmTimestampns(at) => {
                        arrived = Some(at.tv_sec() as u64 * 1_000_000 + at.tv_nsec() as u64 / 1000);
                    }
                    ControlMessageOwned::RxqOvfl(total) => self.overflowed = total,
                    _ => {}
                }
            }
            (message.bytes, arrived)
        };
        Some((arrived.unwrap_or_else(unix_us), &self.bytes[..len]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transit_spread_ignores_the_offset_of_the_clocks() {
        let mut transit = Transit::default();
        transit.observe(1_000_000, 100);
        transit.observe(1_001_000, 3_100);
        assert_eq!(transit.spread_us(), 2_000);
    }
}
