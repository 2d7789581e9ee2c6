//! Control messages: into octets with a MAC, and back with the MAC checked.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use mat_proto::auth::{Key, Token};
use mat_proto::message::{Message, Pair, VERSION};
use mat_proto::{Binding, CONTROL_PORT, Epoch, Home, Modes};

fn messages(c: &mut Criterion) {
    let key = Key::of_context(Token([1; 16]), Token([2; 16]));
    for (name, message) in samples() {
        let octets = encode(&message, &key);
        let mut group = c.benchmark_group(format!("control/{name}"));
        group.bench_function("encode", |b| b.iter(|| encode(black_box(&message), &key)));
        group.bench_function("decode", |b| {
            b.iter(|| {
                let received = Message::decode(black_box(&octets)).expect("well formed");
                assert!(!message.needs_mac() || received.verify(&key));
                received.message
            });
        });
        group.finish();
    }
    c.bench_function("control/context key", |b| {
        b.iter(|| Key::of_context(black_box(Token([1; 16])), Token([2; 16])));
    });
}

fn encode(message: &Message, key: &Key) -> Vec<u8> {
    if message.needs_mac() {
        message.encode_signed(key)
    } else {
        message.encode()
    }
}

fn samples() -> [(&'static str, Message); 3] {
    let home = |text: &str| text.parse::<Home>().expect("a literal address");
    let (from, to) = (home("2001:db8:1::10"), home("2001:db8:1::20"));
    let pair = Pair { from, to };
    let locator = "2001:db8:a::101".parse().expect("a literal address");
    let binding = Binding::single(from, Epoch(1_795_000_000), 30, locator, CONTROL_PORT);
    [
        (
            "open, no mac",
            Message::Open {
                pair,
                versions: (VERSION, VERSION),
                modes: Modes::NATIVE,
                resume: false,
                from_epoch: Epoch(1_795_000_000),
                to_epoch: Epoch(1_795_000_000),
                token: Token([1; 16]),
                cookie: Token([0; 16]),
            },
        ),
        ("probe", Message::Probe { pair, sequence: 1 }),
        (
            "moved",
            Message::Moved {
                pair,
                sequence: 1,
                binding: binding.expect("one locator of the same family"),
            },
        ),
    ]
}

criterion_group!(benches, messages);
criterion_main!(benches);
