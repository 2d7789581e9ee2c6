//! Round trips of a small datagram, one after the other, between two threads of this program.

use std::io;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mat_netns::interrupt;

use crate::course::Course;
use crate::record::RoundTrips;
use crate::stats;

const PORT: u16 = 5302;

/// How many are counted, unless the time is over before.
const TRIPS: u32 = 2000;

/// Before them, for caches and neighbours.
const WARM_UP: u32 = 100;

/// An answer that takes longer is lost.
const LOST: Duration = Duration::from_millis(500);

/// Octets of payload.
const SIZE: usize = 64;

/// From left to right and back.
pub fn run(course: &Course, seconds: u32) -> Result<RoundTrips> {
    let open = |address| {
        let socket = UdpSocket::bind(address)?;
        socket.set_read_timeout(Some(LOST))?;
        Ok::<_, io::Error>(socket)
    };
    let server = course.right.enter(|| open((course.to, PORT)))?;
    let server = server.context("the server's socket")?;
    let client = course.left.enter(|| {
        let client = open((course.from, 0))?;
        client.connect((course.to, PORT))?;
        Ok::<_, io::Error>(client)
    })?;
    let client = client.context("the client's socket")?;

    let stop = AtomicBool::new(false);
    let (answered, lost) = thread::scope(|scope| {
        scope.spawn(|| echo(&server, &stop));
        let trips = ask(&client, Duration::from_secs(seconds.max(2).into()));
        stop.store(true, Relaxed);
        trips
    });
    ensure!(!interrupt::requested(), "interrupted");
    let percentile = |percent| stats::percentile(&answered, percent).context("no answer came back");
    Ok(RoundTrips {
        answered: answered.len() as u32,
        lost,
        p50_us: percentile(50.0)?,
        p90_us: percentile(90.0)?,
        p99_us: percentile(99.0)?,
        longest_us: percentile(100.0)?,
    })
}

/// Octets of payload that must have left the left end.
pub fn octets(trips: &RoundTrips) -> u64 {
    u64::from(trips.answered) * SIZE as u64
}

/// Microseconds of each that was answered, and how many were not.
fn ask(socket: &UdpSocket, time: Duration) -> (Vec<f64>, u32) {
    let start = Instant::now();
    let (mut answered, mut lost) = (Vec::with_capacity(TRIPS as usize), 0);
    for n in 0..WARM_UP + TRIPS {
        if start.elapsed() >= time || interrupt::requested() {
            break;
        }
        let us = round_trip(socket, n);
        match (n < WARM_UP, us) {
            (true, _) => {}
            (false, Some(us)) => answered.push(us),
            (false, None) => lost += 1,
        }
    }
    (answered, lost)
}

fn round_trip(socket: &UdpSocket, n: u32) -> Option<f64> {
    let mut question = [0; SIZE];
    question[..4].copy_from_slice(&n.to_be_bytes());
    let start = Instant::now();
    socket.send(&question).ok()?;
    let mut answer = [0; SIZE];
    // A late answer to an earlier question is not this one's.
    while start.elapsed() < LOST {
        let size = socket.recv(&mut answer).ok()?;
        if answer[..size] == question {
            return Some(start.elapsed().as_secs_f64() * 1e6);
        }
    }
    None
}

fn echo(socket: &UdpSocket, stop: &AtomicBool) {
    let mut buffer = [0; SIZE];
    while !stop.load(Relaxed) {
        if let Ok((size, from)) = socket.recv_from(&mut buffer) {
            // A lost answer is counted where it is missed.
            let _ = socket.send_to(&buffer[..size], from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (UdpSocket, UdpSocket) {
        let open = || UdpSocket::bind("127.0.0.1:0").unwrap();
        let (client, server) = (open(), open());
        client.connect(server.local_addr().unwrap()).unwrap();
        for socket in [&client, &server] {
            socket.set_read_timeout(Some(LOST)).unwrap();
        }
        (client, server)
    }

    #[test]
    fn every_answered_question_is_timed() {
        let (client, server) = pair();
        let stop = AtomicBool::new(false);
        let (answered, lost) = thread::scope(|scope| {
            scope.spawn(|| echo(&server, &stop));
            let trips = ask(&client, Duration::from_secs(60));
            stop.store(true, Relaxed);
            trips
        });
        assert_eq!((answered.len() as u32, lost), (TRIPS, 0));
        assert!(answered.iter().all(|us| *us > 0.0));
    }

    #[test]
    fn the_answer_to_another_question_does_not_count() {
        let (client, server) = pair();
        let late = [0xFF; SIZE];
        let from = client.local_addr().unwrap();
        server.send_to(&late, from).unwrap();
        let stop = AtomicBool::new(false);
        let us = thread::scope(|scope| {
            scope.spawn(|| echo(&server, &stop));
            let us = round_trip(&client, 7);
            stop.store(true, Relaxed);
            us
        });
        assert!(us.is_some());
    }
}
