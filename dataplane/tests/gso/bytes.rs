//! Hostile bytes.

use mat_dataplane::frame::{Frame, Offload};
use mat_dataplane::gso::cut;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::packets::*;

/// A sensible packet with some bytes overwritten and its end cut off, or nothing but bytes.
fn frame() -> impl Strategy<Value = Frame> {
    let noise = (any::<[u8; 10]>(), vec(any::<u8>(), 0..120)).prop_map(|(offload, packet)| Frame {
        offload: Offload(offload),
        packet,
    });
    let bent = (
        0..4usize,
        0..3u8,
        vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        vec((0..10usize, any::<u8>()), 0..3),
        any::<prop::sample::Index>(),
        any::<bool>(),
    )
        .prop_map(|(kind, form, bytes, header, end, cut)| {
            let spec = &train(&Spec::new(KINDS[kind]), &[40])[0];
            let mut frame = match form {
                0 => spec.full(),
                1 => spec.partial(),
                _ => spec.whole(16),
            };
            for (at, value) in bytes {
                let at = at.index(frame.packet.len());
                frame.packet[at] = value;
            }
            for (at, value) in header {
                frame.offload.0[at] = value;
            }
            if cut {
                frame.packet.truncate(end.index(frame.packet.len() + 1));
            }
            frame
        });
    prop_oneof![noise, bent]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn the_cutter_never_panics_and_emits_ip_packets(frame in frame(), room in 0..200usize) {
        let mut total = 0;
        let mut buffer = vec![0; room];
        let result = cut(&frame.offload, &frame.packet, &mut buffer, |packet| total += packet.len());
        prop_assert!(result.is_ok() || total == 0);
        let enough = &mut vec![0; frame.packet.len()];
        if result.is_ok() {
            prop_assert_eq!(cut(&frame.offload, &frame.packet, enough, |_| {}), Ok(()));
        }
    }

    #[test]
    fn the_joiner_never_panics_and_loses_nothing(frames in vec(frame(), 0..24)) {
        let written = join(&frames);
        let packets: usize = written.iter().map(|one| one.packets).sum();
        prop_assert_eq!(packets, frames.len());
        for alone in written.iter().filter(|one| one.joined.is_none()) {
            prop_assert!(frames.contains(&alone.frame));
        }
        for joined in written.iter().filter(|one| one.joined.is_some()) {
            prop_assert_eq!(wire(&joined.frame).len(), joined.packets);
        }
    }
}
