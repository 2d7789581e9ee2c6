//! The data path allocates nothing: counted, not claimed.

use mat_dataplane::frame::Frame;
use mat_dataplane::gso::{Joinable, Joiner, Reply, cut};

use crate::counting::allocations;
use crate::packets::*;

#[test]
fn joining_and_cutting_allocate_nothing() {
    let mut frames: Vec<Frame> = vec![];
    for kind in KINDS {
        for port in 0..8 {
            let first = Spec {
                ports: (port, 443),
                ..Spec::new(kind)
            };
            frames.extend(full(&train(&first, &[90; 70])));
        }
    }
    frames.push(Frame::plain(vec![0; 3]));
    let super_packets = KINDS.map(|kind| train(&Spec::new(kind), &[900])[0].whole(90));
    let mut fresh = vec![];
    let places: Vec<_> = (frames.iter())
        .map(|frame| {
            fresh.extend(&frame.packet);
            fresh.len() - frame.packet.len()..fresh.len()
        })
        .collect();
    let mut arena = fresh.clone();
    let mut buffer = vec![0; 65_575];
    let mut joiner = Joiner::new(frames.len(), Joinable::ALL);
    let (mut writes, mut cuts) = (0, 0);
    let before = allocations();
    for reply in [Reply::Done, Reply::Refused] {
        arena.copy_from_slice(&fresh);
        for (frame, place) in frames.iter().zip(&places) {
            joiner.push(&arena, frame.offload, place.clone());
        }
        joiner.finish(&mut arena, |_| {
            writes += 1;
            reply
        });
    }
    for whole in &super_packets {
        cut(&whole.offload, &whole.packet, &mut buffer, |_| cuts += 1).unwrap();
    }
    assert_eq!(allocations(), before);
    drop(vec![0u8; 8]);
    assert_ne!(allocations(), before, "the counter counts");
    // Each run of 70 becomes 64 and 6, and one packet is of no flow.
    assert_eq!((writes, cuts), (2 * (32 * 2 + 1) + 32 * 70, 4 * 10));
}
