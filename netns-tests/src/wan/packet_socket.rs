//! A packet socket on one device: whole Ethernet frames in and out, see packet(7).
//!
//! Every frame starts with a virtio-net header (PACKET_VNET_HDR), which carries unfinished
//! checksums and super-packets (GSO) across untouched. The caller treats the two as one.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{MsgFlags, recv, send, setsockopt, sockopt};
use socket2::{Domain, Socket, Type};

// From <linux/if_packet.h>; the libc crate does not have them all.
const PACKET_STATISTICS: libc::c_int = 6;
const PACKET_VNET_HDR: libc::c_int = 15;
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;

/// Length of the virtio-net header before each frame.
pub(super) const VNET_HEADER: usize = 10;

/// Room for the largest frame: header, Ethernet with a VLAN tag, a super-packet of 64 KiB.
pub(super) const MAX_FRAME: usize = VNET_HEADER + 18 + 65536;

/// Frames that wait while the thread is not scheduled: 8 MiB are 16 ms of 4 Gbit/s.
const BUFFER: usize = 8 << 20;

#[derive(Debug)]
pub(super) struct PacketSocket(OwnedFd);

impl PacketSocket {
    /// Opens the socket on a device of the calling thread's namespace.
    pub(super) fn open(device: &str) -> Result<Self> {
        let index = if_nametoindex(device).with_context(|| format!("no device {device}"))?;
        // Protocol 0 receives nothing, so that no frame of another device comes before the bind.
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)
            .with_context(|| format!("cannot open a packet socket on {device}"))?;
        let socket = Self(socket.into());
        socket.enable(PACKET_VNET_HDR)?;
        socket.enable(PACKET_IGNORE_OUTGOING)?;
        socket.bind(index)?;
        // The forced size passes the system's limit where that is allowed; less is no error.
        if setsockopt(&socket.0, sockopt::RcvBufForce, &BUFFER).is_err() {
            setsockopt(&socket.0, sockopt::RcvBuf, &BUFFER)?;
        }
        if setsockopt(&socket.0, sockopt::SndBufForce, &BUFFER).is_err() {
            setsockopt(&socket.0, sockopt::SndBuf, &BUFFER)?;
        }
        Ok(socket)
    }

    /// The next frame's length, or `None` if none waits. A length above that of `buffer` says
    /// that the frame was cut.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> nix::Result<Option<usize>> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
        match recv(self.0.as_raw_fd(), buffer, flags) {
            Ok(length) => Ok(Some(length)),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Sends one frame. Waits while the device's queue is full.
    pub(super) fn send(&self, frame: &[u8]) -> nix::Result<()> {
        send(self.0.as_raw_fd(), frame, MsgFlags::empty()).map(drop)
    }

    /// How many frames the kernel dropped since the last call because nobody read in time.
    pub(super) fn take_overruns(&self) -> io::Result<u32> {
        // struct tpacket_stats: packets, drops.
        let mut stats = [0u32; 2];
        let mut length = size_of_val(&stats) as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes, the size of `stats`, into `stats`.
        let result = unsafe {
            libc::getsockopt(
                self.0.as_raw_fd(),
                libc::SOL_PACKET,
                PACKET_STATISTICS,
                stats.as_mut_ptr().cast(),
                &mut length,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(stats[1])
    }

    fn enable(&self, option: libc::c_int) -> Result<()> {
        let on: libc::c_int = 1;
        // SAFETY: the kernel reads `size_of::<c_int>()` bytes from `on`, which lives through the call.
        let result = unsafe {
            libc::setsockopt(
                self.0.as_raw_fd(),
                libc::SOL_PACKET,
                option,
                (&raw const on).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error())
                .with_context(|| format!("packet socket option {option}"));
        }
        Ok(())
    }

    fn bind(&self, index: libc::c_uint) -> Result<()> {
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            // All protocols: a tap that names one comes after a netdev-ingress chain's drop.
            sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
            sll_ifindex: index as i32,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        // SAFETY: `address` is a whole sockaddr_ll and its size is given.
        let result = unsafe {
            libc::bind(
                self.0.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error()).context("cannot bind a packet socket");
        }
        Ok(())
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
