//! Rewriting one packet: parse it, replace both addresses, correct every checksum.
//!
//! Each iteration rewrites the same packet, there and back in turn. The update is incremental, so
//! the length of a packet should not show.

mod packets;

use std::hint::black_box;
use std::net::{IpAddr, SocketAddr};

use criterion::{Bencher, Criterion, Throughput, criterion_group, criterion_main};
use mat_dataplane::rewrite::build::{self, Unreachable};
use mat_dataplane::rewrite::checksum::{self, Delta};
use mat_dataplane::rewrite::plain::{self, Plain};
use mat_dataplane::rewrite::{ChecksumState, Packet, Quoted, Translation, rewrite};

use packets::{Ends, families, tcp};

fn packet(c: &mut Criterion) {
    for ends in families() {
        let mut group = c.benchmark_group(format!("rewrite/{}", ends.name));
        group.throughput(Throughput::Elements(1));
        let cases = [
            ("tcp", tcp(ends.homes, 1400), ChecksumState::Full),
            ("udp", udp(ends.homes, 64), ChecksumState::Full),
            ("icmp error", icmp_error(ends.homes), ChecksumState::Full),
            // A super-packet as it comes from a TUN with offloads.
            (
                "partial checksum",
                tcp(ends.homes, 60_000),
                ChecksumState::Partial,
            ),
        ];
        for (name, mut packet, state) in cases {
            let quoted = name == "icmp error";
            let mut next = translation(ends.locators, quoted);
            let mut after = translation(ends.homes, quoted);
            group.bench_function(name, |b| {
                b.iter(|| {
                    let packet = black_box(packet.as_mut_slice());
                    let headers = Packet::parse(packet).expect("well formed");
                    rewrite(packet, &headers, &next, state).expect("can be rewritten");
                    std::mem::swap(&mut next, &mut after);
                });
            });
        }
        group.finish();
    }
}

/// The same for plain packets of a known pair, as the data threads do it.
fn plain_packet(c: &mut Criterion) {
    for ends in families() {
        let mut group = c.benchmark_group(format!("rewrite/plain, {}", ends.name));
        group.throughput(Throughput::Elements(1));
        for (name, mut packet) in [("tcp", tcp(ends.homes, 1400)), ("udp", udp(ends.homes, 64))] {
            group.bench_function(name, |b| match Plain::parse(&packet, 0) {
                Some(Plain::V4(..)) => there_and_back::<1>(b, &mut packet, &ends),
                Some(Plain::V6(..)) => there_and_back::<4>(b, &mut packet, &ends),
                None => unreachable!("it is plain"),
            });
        }
        group.finish();
    }
}

fn there_and_back<const W: usize>(b: &mut Bencher<'_>, packet: &mut [u8], ends: &Ends) {
    let mut old = plain::Ends::<W>::new(ends.homes.0, ends.homes.1);
    let mut new = plain::Ends::<W>::new(ends.locators.0, ends.locators.1);
    let mut delta = old.delta(&new);
    b.iter(|| {
        let packet = black_box(&mut *packet);
        let shape = match Plain::parse(packet, 0) {
            Some(Plain::V4(shape, _) | Plain::V6(shape, _)) => shape,
            None => unreachable!("it is plain"),
        };
        plain::rewrite(packet, shape, &new, delta, ChecksumState::Full);
        std::mem::swap(&mut old, &mut new);
        delta = -delta;
    });
}

fn delta(c: &mut Criterion) {
    let mut group = c.benchmark_group("checksum delta");
    for Ends {
        name,
        homes,
        locators,
    } in families()
    {
        group.bench_function(name, |b| {
            b.iter(|| {
                let (old, new) = black_box((homes.0, locators.0));
                Delta::between(old, new).update(black_box(0x1234))
            });
        });
    }
    // What an update costs if it is not incremental.
    let packet = tcp(families()[0].homes, 1400);
    group.bench_function("full sum of 1440 bytes", |b| {
        b.iter(|| checksum::sum(black_box(&packet)));
    });
    group.finish();
}

fn translation((from, to): (IpAddr, IpAddr), quoted: bool) -> Translation {
    Translation {
        new_src: Some(from),
        new_dst: Some(to),
        quoted: quoted.then_some(Quoted {
            new_src: Some(to),
            new_dst: Some(from),
        }),
    }
}

fn udp((from, to): (IpAddr, IpAddr), payload: usize) -> Vec<u8> {
    let mut packet = vec![0; 48 + payload];
    let (from, to) = (SocketAddr::new(from, 5000), SocketAddr::new(to, 6000));
    let length = build::udp(&mut packet, from, to, &vec![0x5a; payload]).expect("fits");
    packet.truncate(length);
    packet
}

/// "Host unreachable" about a full-sized TCP segment, quoting as much of it as routers do.
fn icmp_error((from, to): (IpAddr, IpAddr)) -> Vec<u8> {
    let mut packet = vec![0; 1500];
    let offending = tcp((to, from), 1400);
    let length = build::unreachable(&mut packet, from, &offending, Unreachable::Host);
    packet.truncate(length.expect("may be answered"));
    packet
}

criterion_group!(benches, packet, plain_packet, delta);
criterion_main!(benches);
