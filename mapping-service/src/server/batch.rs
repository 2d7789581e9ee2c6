//! Datagrams taken from a socket together, and answers sent together: what a system call costs
//! for each is more than what an answer does.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd as _;

use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg};

/// Datagrams at once: beyond that nothing is gained, and the first one waits for the last.
const MOST: usize = 32;

/// Octets that a datagram can have.
const SIZE: usize = 65_535;

/// Room for what comes.
pub(super) struct Inbox {
    room: Vec<u8>,
    headers: MultiHeaders<SockaddrStorage>,
}

impl Inbox {
    pub(super) fn new() -> Self {
        Inbox {
            room: vec![0; MOST * SIZE],
            headers: MultiHeaders::preallocate(MOST, None),
        }
    }

    /// Waits for a datagram, and has `each` look at it and at all that are there by then.
    ///
    /// # Errors
    /// The socket's, a wait that was too long among them.
    pub(super) fn receive(
        &mut self,
        socket: &UdpSocket,
        mut each: impl FnMut(&[u8], SocketAddr),
    ) -> io::Result<()> {
        let room = self.room.chunks_mut(SIZE);
        let mut slices: Vec<_> = room.map(|room| [IoSliceMut::new(room)]).collect();
        let (socket, flags) = (socket.as_raw_fd(), MsgFlags::MSG_WAITFORONE);
        let datagrams = recvmmsg(socket, &mut self.headers, slices.iter_mut(), flags, None)?;
        for datagram in datagrams {
            let octets = datagram.iovs().next().unwrap_or_default();
            if let Some(from) = datagram.address.as_ref().and_then(address) {
                each(octets, from);
            }
        }
        Ok(())
    }
}

fn address(of: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = of.as_sockaddr_in() {
        return Some(SocketAddrV4::from(*v4).into());
    }
    Some(SocketAddrV6::from(*of.as_sockaddr_in6()?).into())
}

/// Answers that wait to be sent.
pub(super) struct Outbox {
    /// Those that are used again, too.
    answers: Vec<Vec<u8>>,
    /// To whom the first of them go.
    to: Vec<Option<SockaddrStorage>>,
    headers: MultiHeaders<SockaddrStorage>,
}

impl Outbox {
    pub(super) fn new() -> Self {
        Outbox {
            answers: vec![Vec::new(); MOST],
            to: Vec::new(),
            headers: MultiHeaders::preallocate(MOST, None),
        }
    }

    /// Adds what `write` writes, if it says so, and sends all of them if there is no more room.
    pub(super) fn add(
        &mut self,
        socket: &UdpSocket,
        to: SocketAddr,
        write: impl FnOnce(&mut Vec<u8>) -> bool,
    ) {
        if let Some(answer) = self.answers.get_mut(self.to.len())
            && write(answer)
        {
            self.to.push(Some(to.into()));
        }
        if self.to.len() == MOST {
            self.send(socket);
        }
    }

    /// Sends them. One that cannot be sent is a datagram lost.
    pub(super) fn send(&mut self, socket: &UdpSocket) {
        let mut sent = 0;
        while sent < self.to.len() {
            let to = &self.to[sent..];
            let answers = self.answers[sent..].iter();
            let slices: Vec<_> = answers.map(|answer| [IoSlice::new(answer)]).collect();
            let (socket, none) = (socket.as_raw_fd(), MsgFlags::empty());
            let result = sendmmsg(socket, &mut self.headers, slices.iter(), to, [], none);
            match result.map(|sent| sent.count()) {
                Ok(count @ 1..) => sent += count,
                Ok(0) => sent += 1,
                Err(error) => {
                    tracing::debug!(%error, "an answer was not sent");
                    sent += 1;
                }
            }
        }
        self.to.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_comes_together_is_answered_together_and_to_whom_it_came_from() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let bound = || UdpSocket::bind(any).unwrap();
            let (server, clients) = (bound(), [bound(), bound()]);
            let at = server.local_addr().unwrap();
            let questions = 3 * MOST;
            for n in 0..questions {
                clients[n % 2].send_to(&[n as u8], at).unwrap();
            }
            let (mut inbox, mut outbox) = (Inbox::new(), Outbox::new());
            let mut seen = Vec::new();
            while seen.len() < questions {
                let each = |octets: &[u8], from| {
                    seen.push(octets[0]);
                    outbox.add(&server, from, |answer| {
                        answer.clear();
                        answer.extend([octets[0], 7]);
                        // Whoever asks for nothing gets nothing.
                        octets[0] != 5
                    });
                };
                inbox.receive(&server, each).unwrap();
                outbox.send(&server);
            }
            assert_eq!(seen, (0..questions as u8).collect::<Vec<_>>());
            for (which, client) in clients.iter().enumerate() {
                client
                    .set_read_timeout(Some(Duration::from_secs(10)))
                    .unwrap();
                let own = (0..questions).filter(|n| n % 2 == which && *n != 5);
                for n in own {
                    let mut answer = [0; 8];
                    let length = client.recv(&mut answer).unwrap();
                    assert_eq!(answer[..length], [n as u8, 7]);
                }
            }
            // A wait ends.
            server
                .set_read_timeout(Some(Duration::from_millis(1)))
                .unwrap();
            assert!(
                inbox
                    .receive(&server, |_, _| panic!("nobody asked"))
                    .is_err()
            );
        }
    }
}
