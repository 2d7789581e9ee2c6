//! Many datagrams at once, compared byte for byte with what was sent.

use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use mat_netns::Host;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;

use super::sockets;

/// How long nothing may come until datagrams count as lost.
const SILENCE: Duration = Duration::from_secs(2);

/// `from` sends `count` datagrams of `size` bytes to `to` at `address`, all at once. Returns
/// their numbers in the order of arrival; every byte of them was right.
pub fn deliver(from: &Host, to: &Host, address: &str, count: u32, size: usize) -> Result<Vec<u32>> {
    let to_address = SocketAddr::new(address.parse()?, 0);
    let receiver = to.enter(|| UdpSocket::bind(to_address))??;
    receiver.set_read_timeout(Some(SILENCE))?;
    // The default holds 15 datagrams of 8 kB: no test of ours should hang on the receiver.
    setsockopt(&receiver, RcvBufForce, &(8 << 20))?;
    let sender = sockets::udp(from, receiver.local_addr()?)?;
    let receiving = thread::spawn(move || receive(&receiver, count, size));
    for number in 0..count {
        sender.send(&datagram(number, size))?;
    }
    receiving.join().expect("receiving does not panic")
}

fn receive(receiver: &UdpSocket, count: u32, size: usize) -> Result<Vec<u32>> {
    let mut numbers = Vec::new();
    let mut buffer = vec![0; size + 1];
    while numbers.len() < count as usize {
        let Ok(length) = receiver.recv(&mut buffer) else {
            break;
        };
        ensure!(
            length == size,
            "a datagram of {size} bytes arrived with {length}"
        );
        let number = u32::from_be_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]);
        ensure!(
            buffer[..length] == datagram(number, size),
            "datagram {number} is corrupt"
        );
        numbers.push(number);
    }
    Ok(numbers)
}

fn datagram(number: u32, size: usize) -> Vec<u8> {
    let mut octets = sockets::pattern(size);
    octets[..4].copy_from_slice(&number.to_be_bytes());
    octets
}
