//! Corruption is never hidden.

use mat_dataplane::frame::Frame;

use crate::packets::*;

/// Asserts that frame `index` goes out alone and as it is.
#[track_caller]
fn assert_untouched(frames: &[Frame], index: usize, what: &str) {
    let written = join(frames);
    let alone = written
        .iter()
        .any(|one| one.packets == 1 && one.joined.is_none() && one.frame == frames[index]);
    assert!(alone, "{what}: {written:02x?}");
}

#[test]
fn a_flipped_bit_anywhere_keeps_a_packet_out() {
    for kind in KINDS {
        let frames = full(&train(&Spec::new(kind), &[21; 3]));
        assert_eq!(sizes(&frames), [3]);
        for index in 0..3 {
            for at in 0..frames[0].packet.len() {
                for bit in 0..8 {
                    let mut frames = frames.clone();
                    frames[index].packet[at] ^= 1 << bit;
                    assert_untouched(&frames, index, &format!("{kind:?}, byte {at}, bit {bit}"));
                }
            }
        }
    }
}

#[test]
fn corruption_arrives_as_it_came() {
    for kind in KINDS {
        let specs = train(&Spec::new(kind), &[100; 5]);
        let mut frames = full(&specs);
        for index in [0, 3] {
            *frames[index].packet.last_mut().unwrap() ^= 0x10;
        }
        assert_eq!(sizes(&frames), [1, 2, 1, 1], "{kind:?}");
        let sent: Vec<_> = frames.iter().map(|frame| frame.packet.clone()).collect();
        assert_arrives(&frames, &sent);
    }
}

#[test]
fn a_wrong_partial_sum_keeps_a_packet_out() {
    for kind in KINDS {
        let specs = train(&Spec::new(kind), &[100; 3]);
        for index in 0..3 {
            let mut frames: Vec<_> = specs.iter().map(Spec::partial).collect();
            frames[index].packet[specs[0].checksum() + 1] ^= 1;
            assert_untouched(&frames, index, "wrong sum");
            // The whole checksum is no partial one either, nor the other way round.
            frames[index] = specs[index].partial();
            frames[index].packet = specs[index].bytes();
            assert_untouched(&frames, index, "complete, but said to be partial");
            frames[index] = Frame::plain(specs[index].partial().packet);
            assert_untouched(&frames, index, "partial, but said to be complete");
        }
    }
}

#[test]
fn a_partial_checksum_elsewhere_keeps_a_packet_out() {
    for kind in KINDS {
        let specs = train(&Spec::new(kind), &[100; 3]);
        // csum_start and csum_offset, little or big end.
        for field in 6..10 {
            let mut frames: Vec<_> = specs.iter().map(Spec::partial).collect();
            frames[1].offload.0[field] ^= 4;
            assert_untouched(&frames, 1, "checksum elsewhere");
        }
    }
}

#[test]
fn what_the_kernel_declares_valid_is_not_summed_again() {
    for kind in KINDS {
        let mut frames = full(&train(&Spec::new(kind), &[100; 3]));
        for frame in &mut frames {
            frame.offload.0[0] = 2;
            *frame.packet.last_mut().unwrap() ^= 1;
        }
        assert_eq!(sizes(&frames), [3], "{kind:?}");
    }
}

#[test]
fn the_kernels_word_is_not_taken_for_the_ip_header() {
    for kind in KINDS.into_iter().filter(|kind| is_v4(*kind)) {
        let mut frames = full(&train(&Spec::new(kind), &[100; 3]));
        frames[1].offload.0[0] = 2;
        frames[1].packet[11] ^= 1;
        assert_untouched(&frames, 1, "IPv4 header checksum");
    }
}

#[test]
fn a_zero_checksum_goes_with_the_others_only_as_senders_spell_it() {
    for kind in KINDS {
        let mut specs = train(&Spec::new(kind), &[100; 3]);
        let at = specs[1].checksum();
        // Makes the checksum zero: what it is now goes into the payload.
        let field = specs[1].bytes()[at..at + 2].try_into().unwrap();
        let word = [specs[1].payload[0], specs[1].payload[1]].map(u16::from);
        let sum = u32::from(u16::from_be_bytes(field)) + u32::from(word[0] << 8 | word[1]);
        let sum = (sum & 0xFFFF) + (sum >> 16);
        specs[1].payload[..2].copy_from_slice(&(sum as u16).to_be_bytes());
        let mut frames = full(&specs);
        let zero = &mut frames[1].packet[at..at + 2];
        if is_tcp(kind) {
            assert_eq!(zero, [0, 0]);
        } else {
            assert_eq!(zero, [0xFF, 0xFF]);
        }
        assert_eq!(sizes(&frames), [3], "{kind:?}");
        let sent: Vec<_> = specs.iter().map(Spec::bytes).collect();
        assert_arrives(&frames, &sent);
        for byte in &mut frames[1].packet[at..at + 2] {
            *byte = !*byte;
        }
        for flags in [0, 2] {
            frames[1].offload.0[0] = flags;
            assert_untouched(&frames, 1, "the other zero");
        }
    }
}

#[test]
fn an_ipv4_header_checksum_in_the_other_spelling_keeps_a_packet_out() {
    for kind in KINDS.into_iter().filter(|kind| is_v4(*kind)) {
        let mut specs = train(&Spec::new(kind), &[100; 3]);
        let checksum = u16::from_be_bytes(specs[1].bytes()[10..12].try_into().unwrap());
        let id = u32::from(specs[1].id) + u32::from(checksum);
        specs[1].id = ((id & 0xFFFF) + (id >> 16)) as u16;
        let mut frames = full(&specs);
        assert_eq!(frames[1].packet[10..12], [0, 0]);
        assert_eq!(sizes(&frames), [3]);
        frames[1].packet[10..12].fill(0xFF);
        assert_untouched(&frames, 1, "the other zero");
    }
}
