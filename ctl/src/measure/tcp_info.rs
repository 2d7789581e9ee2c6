//! The kernel's own account of a TCP connection (`getsockopt(TCP_INFO)`).

use std::io;
use std::mem::{offset_of, size_of};
use std::net::TcpStream;
use std::os::fd::AsRawFd;

/// The few fields a measurement needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpInfo {
    /// Segments sent again.
    pub total_retransmits: u64,
    /// Timeouts since the last acknowledgement.
    pub timeouts_in_a_row: u8,
    /// All retransmission timeouts; only Linux 6.7 and later count them.
    pub total_rtos: Option<u64>,
    /// Segments sent and not acknowledged, the FIN included.
    pub unacknowledged: u32,
    /// Bytes which still wait to be sent.
    pub unsent_bytes: u32,
    /// Bytes the peer's kernel has acknowledged.
    pub acknowledged_bytes: u64,
}

impl TcpInfo {
    /// Asks the kernel.
    pub fn of(stream: &TcpStream) -> io::Result<Self> {
        let (raw, len) = raw_info(stream)?;
        let has_rtos = len >= offset_of!(libc::tcp_info, tcpi_total_rto) + size_of::<u16>();
        Ok(Self {
            total_retransmits: u64::from(raw.tcpi_total_retrans),
            timeouts_in_a_row: raw.tcpi_retransmits,
            total_rtos: has_rtos.then_some(u64::from(raw.tcpi_total_rto)),
            unacknowledged: raw.tcpi_unacked,
            unsent_bytes: raw.tcpi_notsent_bytes,
            acknowledged_bytes: raw.tcpi_bytes_acked,
        })
    }
}

/// Counts retransmission timeouts, also on kernels which do not (pure).
///
/// Without `tcpi_total_rto` the rises of the in-a-row counter between samples are added up: a
/// timeout that was answered between two samples is missed, so the result is a lower bound.
#[derive(Clone, Copy, Debug, Default)]
pub struct RtoCounter {
    exact: Option<u64>,
    sampled: u64,
    previous: u8,
}

impl RtoCounter {
    /// Takes one sample.
    pub fn observe(&mut self, info: &TcpInfo) {
        self.exact = info.total_rtos.or(self.exact);
        let rise = info.timeouts_in_a_row.saturating_sub(self.previous);
        self.sampled += u64::from(rise);
        self.previous = info.timeouts_in_a_row;
    }

    /// The count, and whether it is the kernel's own.
    pub fn total(&self) -> (u64, bool) {
        match self.exact {
            Some(total) => (total, true),
            None => (self.sampled, false),
        }
    }
}

fn raw_info(stream: &TcpStream) -> io::Result<(libc::tcp_info, usize)> {
    // SAFETY: `tcp_info` consists of integers only, for which all zeros is a value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the pointer and `len` describe `info`, which outlives the call; the kernel writes
    // at most `len` bytes and stores how many it wrote.
    let status = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut len,
        )
    };
    if status == 0 {
        Ok((info, len as usize))
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(in_a_row: u8, total: Option<u64>) -> TcpInfo {
        TcpInfo {
            total_retransmits: 0,
            timeouts_in_a_row: in_a_row,
            total_rtos: total,
            unacknowledged: 0,
            unsent_bytes: 0,
            acknowledged_bytes: 0,
        }
    }

    #[test]
    fn the_kernels_count_is_taken_where_it_exists() {
        let mut counter = RtoCounter::default();
        counter.observe(&sample(1, Some(3)));
        assert_eq!(counter.total(), (3, true));
    }

    #[test]
    fn rises_are_added_up_where_it_does_not() {
        let mut counter = RtoCounter::default();
        for in_a_row in [0, 1, 1, 3, 0, 1] {
            counter.observe(&sample(in_a_row, None));
        }
        assert_eq!(counter.total(), (4, false));
    }

    #[test]
    fn acknowledged_bytes_of_a_real_connection() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
        let address = listener.local_addr().expect("bound");
        let mut client = TcpStream::connect(address).expect("connect");
        let (mut server, _) = listener.accept().expect("accept");
        io::Write::write_all(&mut client, &[7; 1000]).expect("write");
        io::Read::read_exact(&mut server, &mut [0; 1000]).expect("read");
        // The acknowledgement may be delayed, but it comes.
        let acknowledged = |stream| TcpInfo::of(stream).expect("TCP_INFO").acknowledged_bytes;
        while acknowledged(&client) < 1000 {
            std::thread::yield_now();
        }
        assert_eq!(TcpInfo::of(&client).expect("TCP_INFO").unsent_bytes, 0);
    }
}
