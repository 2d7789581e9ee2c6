//! The forwarding table: one look-up, a batch of look-ups, and a change, beside other
//! structures that could hold the same.
//!
//! Keys are asked for in an order that no cache foresees. At 1,000,000 pairs every
//! look-up goes to memory, which is what batches are for.

use std::collections::HashMap;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mat_dataplane::clock::Time;
use mat_dataplane::fib::{Fib, Pairs, Probe, Slot, Way, Writer};
use mat_dataplane::rewrite::plain::Ends;
use mat_proto::{Home, Locator};

const NOW: Time = Time(0);
const SIZES: [u32; 2] = [10_000, 1_000_000];
/// Packets whose look-ups are under way at once.
const BATCH: usize = 32;

fn lookup(c: &mut Criterion) {
    for size in SIZES {
        let table = Table::new(size, v4);
        let keys = table.keys::<1>();
        single(c, "ipv4", size, &table.fib.v4, &keys);
        batch(c, "ipv4", size, &table.fib.v4, &keys);
        others(c, size, &keys);
        drop(table);
        let table = Table::new(size, v6);
        let keys = table.keys::<4>();
        single(c, "ipv6", size, &table.fib.v6, &keys);
        batch(c, "ipv6", size, &table.fib.v6, &keys);
    }
}

fn single<const W: usize>(
    c: &mut Criterion,
    name: &str,
    size: u32,
    pairs: &Pairs<W>,
    keys: &[Ends<W>],
) {
    let mut group = c.benchmark_group(format!("table/single look-up/{name}"));
    group.throughput(Throughput::Elements(1));
    let mut keys = keys.iter().cycle();
    group.bench_function(BenchmarkId::from_parameter(size), |b| {
        b.iter(|| {
            pairs
                .find(black_box(keys.next().expect("endless")), NOW)
                .expect("there")
        });
    });
    group.finish();
}

/// As a data thread does it: all searches begin, and fetch, before the first one ends.
fn batch<const W: usize>(
    c: &mut Criterion,
    name: &str,
    size: u32,
    pairs: &Pairs<W>,
    keys: &[Ends<W>],
) {
    let mut group = c.benchmark_group(format!("table/batch of {BATCH}/{name}"));
    group.throughput(Throughput::Elements(BATCH as u64));
    let (chunks, _) = keys.as_chunks::<BATCH>();
    let mut chunks = chunks.iter().cycle();
    group.bench_function(BenchmarkId::from_parameter(size), |b| {
        b.iter(|| {
            let keys = black_box(chunks.next().expect("endless"));
            let probes: [Probe; BATCH] = std::array::from_fn(|i| pairs.probe(&keys[i]));
            probes.iter().for_each(|probe| pairs.fetch(probe));
            for (probe, key) in probes.iter().zip(keys) {
                black_box(pairs.resolve(probe, key, NOW).expect("there"));
            }
        });
    });
    group.finish();
}

/// The same for other structures; every value is what a packet needs, in one piece.
fn others(c: &mut Criterion, size: u32, keys: &[Ends<1>]) {
    let key = |ends: &Ends<1>| ends.0[0];
    let values: Vec<(u64, [u32; 3])> = keys.iter().map(|k| (key(k), [1, 2, 3])).collect();
    let mut group = c.benchmark_group("table/other structures, ipv4");
    group.throughput(Throughput::Elements(1));
    let id = |name: &str| BenchmarkId::new(name, size);

    let plain: HashMap<_, _> = values.iter().copied().collect();
    let mut asked = keys.iter().cycle();
    group.bench_function(id("HashMap of one thread"), |b| {
        b.iter(|| plain[&key(black_box(asked.next().expect("endless")))]);
    });
    let swapped = arc_swap::ArcSwap::from_pointee(plain);
    let mut chunks = keys.chunks(BATCH).cycle();
    group.bench_function(
        id("arc-swap, one snapshot for each batch (time of a batch)"),
        |b| {
            b.iter(|| {
                let snapshot = swapped.load();
                for ends in black_box(chunks.next().expect("endless")) {
                    black_box(snapshot[&key(ends)]);
                }
            });
        },
    );
    drop(swapped);
    let papaya: papaya::HashMap<_, _> = values.iter().copied().collect();
    let mut chunks = keys.chunks(BATCH).cycle();
    group.bench_function(
        id("papaya, one pin for each batch (time of a batch)"),
        |b| {
            b.iter(|| {
                let pinned = papaya.pin();
                for ends in black_box(chunks.next().expect("endless")) {
                    black_box(pinned.get(&key(ends)).expect("there"));
                }
            });
        },
    );
    drop(papaya);
    let dashmap: dashmap::DashMap<_, _> = values.iter().copied().collect();
    let mut asked = keys.iter().cycle();
    group.bench_function(id("dashmap"), |b| {
        b.iter(|| {
            *dashmap
                .get(&key(black_box(asked.next().expect("endless"))))
                .expect("there")
        });
    });
    group.finish();
}

/// One pair's way changes: locators other than before, so that both index entries move.
fn change(c: &mut Criterion) {
    let mut group = c.benchmark_group("table/change of one pair");
    for size in SIZES {
        let mut table = Table::new(size, v4);
        let mut n = 0u32;
        group.bench_function(BenchmarkId::new("nobody reads", size), |b| {
            b.iter(|| {
                n = n.wrapping_add(7_919);
                table.change(n);
            });
        });
        // Readers do nothing but look-ups; what a change costs them is in "look-ups" below.
        group.bench_function(BenchmarkId::new("beside a reader", size), |b| {
            let fib = Arc::clone(&table.fib);
            let keys = table.keys::<1>();
            let stop = AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| read(&fib, &keys, &stop));
                b.iter(|| {
                    n = n.wrapping_add(7_919);
                    table.change(n);
                });
                stop.store(true, Ordering::Relaxed);
            });
        });
    }
    group.finish();
    // 10,000 changes a second beside a reader: the time of a batch of look-ups.
    let mut group = c.benchmark_group(format!("table/batch of {BATCH} beside changes"));
    group.throughput(Throughput::Elements(BATCH as u64));
    let mut table = Table::new(1_000_000, v4);
    let keys = table.keys::<1>();
    let fib = Arc::clone(&table.fib);
    for rate in [0u32, 10_000] {
        let stop = AtomicBool::new(false);
        group.bench_function(BenchmarkId::new("changes a second", rate), |b| {
            stop.store(false, Ordering::Relaxed);
            std::thread::scope(|scope| {
                scope.spawn(|| table.change_at(rate, &stop));
                let (chunks, _) = keys.as_chunks::<BATCH>();
                let mut chunks = chunks.iter().cycle();
                let pairs = &fib.v4;
                b.iter(|| {
                    let keys = chunks.next().expect("endless");
                    let probes: [Probe; BATCH] = std::array::from_fn(|i| pairs.probe(&keys[i]));
                    probes.iter().for_each(|probe| pairs.fetch(probe));
                    for (probe, key) in probes.iter().zip(keys) {
                        black_box(pairs.resolve(probe, key, NOW));
                    }
                });
                stop.store(true, Ordering::Relaxed);
            });
        });
    }
    group.finish();
}

fn read(fib: &Fib, keys: &[Ends<1>], stop: &AtomicBool) {
    let reader = fib.reader();
    for keys in keys.chunks(BATCH).cycle() {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        reader.enter();
        for key in keys {
            black_box(fib.v4.find(key, NOW));
        }
        reader.leave();
    }
}

/// A table in which every pair has a way.
struct Table {
    fib: Arc<Fib>,
    writer: Writer,
    slots: Vec<Slot>,
    address: fn(u8, u32) -> IpAddr,
}

impl Table {
    fn new(size: u32, address: fn(u8, u32) -> IpAddr) -> Self {
        let seed = [0x9e37_79b9_7f4a_7c15, 0xbf58_476d_1ce4_e5b9, 3, 4];
        let (fib, mut writer) = Fib::new(size as usize, seed);
        let slots = (0..size).map(|n| {
            let slot = writer
                .claim(home(address(0, 0)), home(address(1, n)))
                .expect("there is room");
            writer.set(slot, Some(way(address, 0, n)));
            slot
        });
        let slots = slots.collect();
        Table {
            fib,
            writer,
            slots,
            address,
        }
    }

    /// Outbound packets to all peers, in an order that no cache foresees.
    fn keys<const W: usize>(&self) -> Vec<Ends<W>> {
        let size = self.slots.len() as u64;
        let order = (0..size).map(|n| (n * 611_953 % size) as u32);
        let key = |n| Ends::new((self.address)(0, 0), (self.address)(1, n));
        order.map(key).collect()
    }

    fn change(&mut self, n: u32) {
        let pair = n % self.slots.len() as u32;
        let way = way(self.address, 1 + n % 100, pair);
        self.writer.set(self.slots[pair as usize], Some(way));
    }

    fn change_at(&mut self, rate: u32, stop: &AtomicBool) {
        let start = Instant::now();
        let mut done = 0u32;
        while !stop.load(Ordering::Relaxed) {
            let due = (start.elapsed().as_secs_f64() * f64::from(rate)) as u32;
            while done < due {
                done += 1;
                self.change(done.wrapping_mul(7_919));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn way(address: fn(u8, u32) -> IpAddr, local: u32, remote: u32) -> Way {
    let locator = |ip| Locator::new(ip).expect("a unicast address");
    Way {
        local: locator(address(2, local)),
        remote: locator(address(3, remote)),
        until: Time(1 << 40),
    }
}

fn home(ip: IpAddr) -> Home {
    Home::new(ip).expect("a unicast address")
}

/// The n-th address of one of four nets.
fn v4(net: u8, n: u32) -> IpAddr {
    let [_, a, b, c] = (n + 1).to_be_bytes();
    Ipv4Addr::new(20 + net * 40 + a, b, c, 1 + net).into()
}

fn v6(net: u8, n: u32) -> IpAddr {
    let [a, b] = [(n >> 16) as u16, n as u16];
    Ipv6Addr::new(0x2001, 0xdb8, net.into(), 0, 0, 1, a, b).into()
}

criterion_group!(benches, lookup, change);
criterion_main!(benches);
