//! UDP: every datagram that arrives is one that was sent.

use std::io::{IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
    sockopt,
};

use super::datagrams::{BURST, LARGEST, Ledger, Schedule};
use super::{Ends, PATIENCE};
use crate::interrupt;

/// How many datagrams of a flow may be on the way. That many of the largest fill neither the
/// receiver's buffer nor the device queues on the path.
const WINDOW: u64 = 4 * BURST;
/// When nothing arrives for so long, what was on the way is taken for lost.
const LOST: Duration = Duration::from_millis(20);
/// When nothing arrives for so long after the last was sent, the flow has ended.
const SILENCE: Duration = Duration::from_millis(300);
/// For what waits in a receiver that is not scheduled.
const BUFFER: usize = 8 << 20;
/// The most that one system call receives.
const LARGEST_RECEIVED: usize = 65536;

/// How a flow is sent and received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// One datagram a system call.
    Single,
    /// Whole bursts: UDP_SEGMENT at the sender, UDP_GRO at the receiver.
    Segmented,
    /// Singly, without checksums; IPv4 only.
    Unchecked,
}

/// One flow.
#[derive(Debug)]
pub(super) struct Flow {
    /// Not connected: a connected socket numbers its IPv4 packets by itself, and those of two flows
    /// with the same number at the same time are fragments of one packet to the receiver. Others
    /// share the numbers of their addresses.
    sender: UdpSocket,
    receiver: UdpSocket,
    to: SocketAddr,
    schedule: Schedule,
    kind: Kind,
    progress: Mutex<Progress>,
    changed: Condvar,
}

/// What both ends know of each other.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    sent: u64,
    received: u64,
    done: bool,
}

/// What became of a flow.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcome {
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) bytes: u64,
    pub(super) duplicates: u64,
    pub(super) wrong: u64,
    pub(super) complaints: Vec<String>,
}

impl Flow {
    /// Makes the sockets.
    pub(super) fn open(ends: &Ends, schedule: Schedule, kind: Kind) -> Result<Self> {
        let bind = |address: IpAddr| UdpSocket::bind(SocketAddr::new(address, 0));
        let receiver = ends.receiver.enter(|| bind(ends.receiver_address))??;
        let sender = ends.sender.enter(|| bind(ends.sender_address))??;
        let to = receiver.local_addr()?;
        receiver.connect(sender.local_addr()?)?;
        sender.set_write_timeout(Some(PATIENCE))?;
        receiver.set_read_timeout(Some(LOST))?;
        // The forced size passes the system's limit where that is allowed; less is no error.
        if setsockopt(&receiver, sockopt::RcvBufForce, &BUFFER).is_err() {
            setsockopt(&receiver, sockopt::RcvBuf, &BUFFER)?;
        }
        match kind {
            Kind::Single => {}
            Kind::Segmented => setsockopt(&receiver, sockopt::UdpGroSegment, &true)?,
            Kind::Unchecked => send_without_checksums(&sender)?,
        }
        Ok(Self {
            sender,
            receiver,
            to,
            schedule,
            kind,
            progress: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// Sends until all is sent, the time is over or the run is interrupted.
    pub(super) fn send(&self, until: Option<Instant>) -> Result<()> {
        let outcome = self.send_bursts(until);
        self.progress().done = true;
        outcome.with_context(|| format!("sending datagrams, {:?}", self.kind))
    }

    /// Receives until nothing more comes. `duplicates` says whether the path makes copies.
    pub(super) fn receive(&self, duplicates: bool) -> Result<Outcome> {
        let mut ledger = Ledger::new(self.schedule);
        let mut buffer = vec![0; LARGEST_RECEIVED];
        let mut last = Instant::now();
        loop {
            let before = ledger.received;
            let some = self
                .receive_some(&mut buffer, &mut ledger)
                .with_context(|| format!("receiving datagrams, {:?}", self.kind))?;
            let mut progress = self.progress();
            let Progress { sent, done, .. } = *progress;
            if some {
                progress.received += ledger.received - before;
                self.changed.notify_one();
                last = Instant::now();
            }
            // On a path that makes copies the last of them may come after all is there.
            let all = ledger.received >= sent && !duplicates;
            if done && (all || last.elapsed() > SILENCE) {
                drop(progress);
                let (wrong, complaints) = ledger.close(sent, duplicates);
                return Ok(Outcome {
                    sent,
                    received: ledger.received,
                    bytes: ledger.bytes,
                    duplicates: ledger.duplicates,
                    wrong,
                    complaints,
                });
            }
        }
    }

    fn send_bursts(&self, until: Option<Instant>) -> Result<()> {
        let mut buffer = vec![0; BURST as usize * LARGEST];
        let mut lost = 0;
        for first in (0..self.schedule.total).step_by(BURST as usize) {
            if first > 0 && until.is_some_and(|until| Instant::now() >= until) {
                break;
            }
            if interrupt::requested() {
                bail!("interrupted");
            }
            self.wait_for_room(&mut lost);
            // Known before they are on the way, or one could come that seems never sent.
            self.progress().sent += BURST;
            let size = self.schedule.burst_size(first);
            let mut length = 0;
            for number in first..first + BURST {
                length += self.schedule.write(number, &mut buffer[length..]);
            }
            let burst = &buffer[..length];
            if self.kind == Kind::Segmented && size <= self.schedule.unfragmented {
                self.send_segmented(burst, size as u16)?;
            } else {
                self.send_singly(burst, size)?;
            }
        }
        Ok(())
    }

    fn send_singly(&self, burst: &[u8], size: usize) -> Result<()> {
        for datagram in burst.chunks(size) {
            self.sender.send_to(datagram, self.to)?;
        }
        Ok(())
    }

    /// Waits until few enough are on the way; adds to `lost` what never arrived.
    fn wait_for_room(&self, lost: &mut u64) {
        let mut progress = self.progress();
        loop {
            let Progress { sent, received, .. } = *progress;
            if sent.saturating_sub(received + *lost) < WINDOW {
                return;
            }
            let (next, _) = self
                .changed
                .wait_timeout(progress, LOST)
                .unwrap_or_else(PoisonError::into_inner);
            progress = next;
            if progress.received == received {
                *lost = sent.saturating_sub(received);
            }
        }
    }

    /// One system call, cut by the kernel into datagrams of `size` octets.
    fn send_segmented(&self, burst: &[u8], size: u16) -> Result<()> {
        let control = [ControlMessage::UdpGsoSegments(&size)];
        let socket = self.sender.as_raw_fd();
        let all = [IoSlice::new(burst)];
        let to = SockaddrStorage::from(self.to);
        match sendmsg(socket, &all, &control, MsgFlags::empty(), Some(&to)) {
            Ok(_) => Ok(()),
            // Kernels before 6.11, if the device computes no checksums.
            Err(Errno::EIO) => self.send_singly(burst, size.into()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// False if nothing came in time.
    fn receive_some(&self, buffer: &mut [u8], ledger: &mut Ledger) -> Result<bool> {
        let mut control = cmsg_space!(i32);
        let mut room = [IoSliceMut::new(buffer)];
        let socket = self.receiver.as_raw_fd();
        let flags = MsgFlags::empty();
        let (length, size) = match recvmsg::<()>(socket, &mut room, Some(&mut control), flags) {
            Ok(message) => {
                let mut sizes = message.cmsgs()?.filter_map(|control| match control {
                    ControlMessageOwned::UdpGroSegments(size) => usize::try_from(size).ok(),
                    _ => None,
                });
                (message.bytes, sizes.next())
            }
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        };
        let octets = &buffer[..length];
        match size {
            Some(size) if size > 0 && size < length => {
                octets
                    .chunks(size)
                    .for_each(|datagram| ledger.enter(datagram));
            }
            _ => ledger.enter(octets),
        }
        Ok(true)
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// SO_NO_CHECK: RFC 768 allows IPv4 to leave the checksum out.
fn send_without_checksums(socket: &UdpSocket) -> Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the kernel reads `size_of::<c_int>()` bytes from `on`, which lives through the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NO_CHECK,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result != 0 {
        return Err(std::io::Error::last_os_error()).context("SO_NO_CHECK");
    }
    Ok(())
}
