//! A server that does nothing but answer: what signed updates a second there can be at most on
//! these processors, whoever serves, since dnsperf makes and signs them on the same ones.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use mat_netns::Host;

use crate::OUTSTANDING;
use crate::load::{Load, Said};
use crate::servers::ADDRESS;

/// A DNS message's header.
const HEADER: usize = 12;
/// In its third octet: an answer.
const RESPONSE: u8 = 0x80;

/// The updates that it answers, with each number outstanding.
pub fn measure(host: &Host, load: &Load) -> Result<[Said; 2]> {
    let socket = host.enter(|| UdpSocket::bind(ADDRESS))??;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let over = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&over);
    let server = thread::spawn(move || answer(&socket, &seen));
    let said = OUTSTANDING.map(|outstanding| load.updates(host, outstanding));
    over.store(true, Ordering::Relaxed);
    server.join().expect("answering does not panic");
    let [few, many] = said;
    Ok([few?, many?])
}

/// NOERROR to everything.
fn answer(socket: &UdpSocket, over: &AtomicBool) {
    let mut message = [0; 4096];
    while !over.load(Ordering::Relaxed) {
        // Nothing came for a moment, perhaps.
        let Ok((_, from)) = socket.recv_from(&mut message) else {
            continue;
        };
        message[2] |= RESPONSE;
        message[3] = 0;
        message[4..HEADER].fill(0);
        // What is lost dnsperf counts.
        let _ = socket.send_to(&message[..HEADER], from);
    }
}
