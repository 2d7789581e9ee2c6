//! Many quiet connections at once: each end sends a few verified bytes every 100 ms.
//!
//! One thread a side sweeps over all of them, so a thousand connections cost little more than
//! one; the price is that stalls are seen with the sweep's resolution only.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::clock::Clock;
use super::live::Live;
use super::outcome::{Failure, MemberEnd};
use super::pattern::Pattern;
use super::stream::{drain_deadline, is_pause};

/// Time between two looks at the connections, in milliseconds.
pub const SWEEP_MS: u64 = 20;

const SEND_EVERY_US: u64 = 100_000;
const MESSAGE: usize = 16;

/// Runs one side of the crowd to its end; `seeds` are of the stream sent and of the one received.
pub fn run(
    streams: &[TcpStream],
    seeds: (u64, u64),
    clock: &Clock,
    live: &Live,
    stall_limit_ms: u64,
) -> Vec<MemberEnd> {
    let now = clock.now_us();
    let mut members: Vec<Member> = (0u32..)
        .zip(streams)
        .map(|(index, stream)| Member::new(stream, index, seeds, now))
        .collect();
    let mut send_at_us = now;
    let mut sweep_at_us = now;
    let mut closing = false;
    while members.iter().any(Member::is_open) {
        clock.sleep_until(sweep_at_us);
        let now = clock.now_us();
        sweep_at_us = now + SWEEP_MS * 1000;
        if clock.is_over() && !closing {
            closing = true;
            members.iter_mut().for_each(Member::close);
        }
        if !closing && now >= send_at_us {
            send_at_us = now + SEND_EVERY_US;
            members.iter_mut().for_each(Member::send);
        }
        for index in readable(&members) {
            members[index].receive(now);
        }
        for member in &mut members {
            member.check(now, clock, stall_limit_ms);
        }
        let alive = members.iter().filter(|member| member.end.failure.is_none());
        live.crowd_alive.set(alive.count() as u64);
    }
    members.into_iter().map(|member| member.end).collect()
}

struct Member<'a> {
    stream: &'a TcpStream,
    sends: Pattern,
    expects: Pattern,
    end: MemberEnd,
    heard_us: u64,
    finished: bool,
}

impl<'a> Member<'a> {
    fn new(stream: &'a TcpStream, index: u32, seeds: (u64, u64), now_us: u64) -> Self {
        let mut member = Self {
            stream,
            sends: Pattern::member(seeds.0, index),
            expects: Pattern::member(seeds.1, index),
            end: MemberEnd::default(),
            heard_us: now_us,
            finished: false,
        };
        let configured = stream
            .set_nonblocking(true)
            .and_then(|()| stream.set_nodelay(true));
        member.note(configured);
        member
    }

    fn is_open(&self) -> bool {
        !self.finished && self.end.failure.is_none()
    }

    fn send(&mut self) {
        if !self.is_open() {
            return;
        }
        let mut message = [0; MESSAGE];
        self.sends.fill(self.end.sent, &mut message);
        // A full buffer takes less or nothing; the position says where to go on next time.
        let written = self.stream.write(&message);
        self.end.sent += *written.as_ref().unwrap_or(&0) as u64;
        self.note(written.map(|_| ()));
    }

    fn receive(&mut self, now_us: u64) {
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.finished = true,
            Ok(count) => {
                let found = self
                    .expects
                    .first_difference(self.end.received, &buffer[..count]);
                self.end.first_bad_offset = self.end.first_bad_offset.or(found);
                self.end.received += count as u64;
                let stall = now_us.saturating_sub(self.heard_us);
                self.end.longest_stall_us = self.end.longest_stall_us.max(stall);
                self.heard_us = now_us;
            }
            Err(e) => self.note(Err(e)),
        }
    }

    fn check(&mut self, now_us: u64, clock: &Clock, stall_limit_ms: u64) {
        if !self.is_open() {
            return;
        }
        let silence = now_us.saturating_sub(self.heard_us);
        if silence > stall_limit_ms * 1000 {
            self.end.longest_stall_us = self.end.longest_stall_us.max(silence);
            self.end.failure = Some(Failure::Stalled {
                limit_ms: stall_limit_ms,
            });
        } else if now_us > drain_deadline(clock, stall_limit_ms) {
            self.end.failure = Some(Failure::NotDrained);
        }
    }

    fn close(&mut self) {
        if self.is_open() {
            let result = self.stream.shutdown(Shutdown::Write);
            self.note(result);
        }
    }

    fn note(&mut self, result: io::Result<()>) {
        if let Err(error) = result
            && !is_pause(&error)
        {
            self.end.failure.get_or_insert(Failure::from_io(&error));
        }
    }
}

/// Indices of the open members that have something to say.
fn readable(members: &[Member<'_>]) -> Vec<usize> {
    let open: Vec<usize> = (0..members.len())
        .filter(|&index| members[index].is_open())
        .collect();
    let mut asked: Vec<PollFd<'_>> = open
        .iter()
        .map(|&index| PollFd::new(members[index].stream.as_fd(), PollFlags::POLLIN))
        .collect();
    if poll(&mut asked, PollTimeout::ZERO).is_err() {
        return Vec::new();
    }
    open.into_iter()
        .zip(&asked)
        .filter(|(_, fd)| fd.any().unwrap_or(false))
        .map(|(index, _)| index)
        .collect()
}
