//! Which packets go together.

use mat_dataplane::frame::Offload;
use mat_dataplane::gso::{Joinable, Joiner, Kind, Reply};

use crate::packets::*;

/// Four packets of one flow, the third of them changed.
#[track_caller]
fn third_stays_alone(kind: Kind, what: &str, change: impl Fn(&mut Spec)) {
    let mut specs = train(&Spec::new(kind), &[100; 4]);
    change(&mut specs[2]);
    let frames = full(&specs);
    assert_eq!(sizes(&frames), [2, 1, 1], "{kind:?}: {what}");
    let sent: Vec<_> = specs.iter().map(Spec::bytes).collect();
    assert_arrives(&frames, &sent);
}

#[test]
fn consecutive_packets_of_one_flow_go_together() {
    for kind in KINDS {
        for dont_fragment in [true, false] {
            let first = Spec {
                dont_fragment,
                ..Spec::new(kind)
            };
            let specs = train(&first, &[101; 5]);
            let sent: Vec<_> = specs.iter().map(Spec::bytes).collect();
            let frames = full(&specs);
            assert_eq!(sizes(&frames), [5], "{kind:?}");
            assert_arrives(&frames, &sent);
            let partial: Vec<_> = specs.iter().map(Spec::partial).collect();
            assert_eq!(sizes(&partial), [5], "{kind:?}");
            assert_arrives(&partial, &sent);
        }
    }
}

#[test]
fn the_ip_header_must_be_the_same() {
    for kind in KINDS {
        third_stays_alone(kind, "time to live", |spec| spec.ttl -= 1);
        third_stays_alone(kind, "service", |spec| spec.class ^= 0x20);
        third_stays_alone(kind, "congestion", |spec| spec.class ^= 0x01);
    }
    for kind in [Kind::Tcp4, Kind::Udp4] {
        third_stays_alone(kind, "may be fragmented", |spec| spec.dont_fragment = false);
    }
    for kind in [Kind::Tcp6, Kind::Udp6] {
        third_stays_alone(kind, "flow label", |spec| spec.label ^= 1);
    }
}

#[test]
fn the_tcp_header_must_go_on() {
    for kind in [Kind::Tcp4, Kind::Tcp6] {
        third_stays_alone(kind, "gap", |spec| {
            spec.sequence = spec.sequence.wrapping_add(1)
        });
        third_stays_alone(kind, "again", |spec| {
            spec.sequence = spec.sequence.wrapping_sub(100)
        });
        third_stays_alone(kind, "acknowledgement", |spec| spec.ack += 1);
        third_stays_alone(kind, "window", |spec| spec.window += 1);
        third_stays_alone(kind, "urgent pointer", |spec| spec.urgent = 1);
        third_stays_alone(kind, "time stamp", |spec| spec.options[7] += 1);
        third_stays_alone(kind, "other length of options", |spec| spec.options.clear());
        third_stays_alone(kind, "congestion echo", |spec| spec.flags |= ECE);
        third_stays_alone(kind, "no acknowledgement", |spec| spec.flags = 0);
        for flag in [FIN, SYN, RST, URG, CWR] {
            third_stays_alone(kind, "flag", |spec| spec.flags |= flag);
        }
    }
}

#[test]
fn flags_that_mean_an_event_are_never_joined() {
    for kind in [Kind::Tcp4, Kind::Tcp6] {
        for flag in [FIN, SYN, RST, URG, CWR] {
            let first = Spec {
                flags: ACK | flag,
                ..Spec::new(kind)
            };
            assert_eq!(
                sizes(&full(&train(&first, &[50; 3]))),
                [1, 1, 1],
                "{flag:#x}"
            );
        }
        let echo = Spec {
            flags: ACK | ECE,
            ..Spec::new(kind)
        };
        assert_eq!(sizes(&full(&train(&echo, &[50; 3]))), [3]);
    }
}

#[test]
fn identifications_matter_only_where_packets_may_be_fragmented() {
    for kind in [Kind::Tcp4, Kind::Udp4] {
        for (dont_fragment, expected) in [(true, vec![4]), (false, vec![2, 1, 1])] {
            let first = Spec {
                dont_fragment,
                ..Spec::new(kind)
            };
            let mut specs = train(&first, &[100; 4]);
            specs[2].id = 5;
            assert_eq!(sizes(&full(&specs)), expected, "{kind:?} {dont_fragment}");
            let sent: Vec<_> = specs.iter().map(Spec::bytes).collect();
            assert_arrives(&full(&specs), &sent);
        }
    }
}

#[test]
fn a_pure_acknowledgement_stays_alone_and_parts_what_is_around_it() {
    for kind in [Kind::Tcp4, Kind::Tcp6] {
        let specs = train(&Spec::new(kind), &[100, 100, 0, 100, 100, 0, 0]);
        assert_eq!(sizes(&full(&specs)), [2, 1, 2, 1, 1], "{kind:?}");
    }
}

#[test]
fn a_shorter_packet_is_the_last_and_a_longer_one_the_first() {
    for kind in KINDS {
        let specs = train(&Spec::new(kind), &[100, 100, 99, 99, 100, 100, 1, 1, 1]);
        let frames = full(&specs);
        assert_eq!(sizes(&frames), [3, 1, 3, 2], "{kind:?}");
        let sent: Vec<_> = specs.iter().map(Spec::bytes).collect();
        assert_arrives(&frames, &sent);
    }
}

#[test]
fn a_push_is_the_last_and_is_kept() {
    for kind in [Kind::Tcp4, Kind::Tcp6] {
        let mut specs = train(&Spec::new(kind), &[100; 6]);
        specs[2].flags |= PSH;
        specs[3].flags |= PSH;
        let written = join(&full(&specs));
        let packets: Vec<_> = written.iter().map(|one| one.packets).collect();
        assert_eq!(packets, [3, 1, 2]);
        let flags = |one: &Written| one.frame.packet[specs[0].transport() + 13];
        assert_eq!(flags(&written[0]), ACK | PSH);
        assert_eq!(flags(&written[2]), ACK);
        let sent: Vec<_> = specs.iter().map(Spec::bytes).collect();
        assert_arrives(&full(&specs), &sent);
    }
}

#[test]
fn datagrams_without_payload_stay_alone() {
    for kind in [Kind::Udp4, Kind::Udp6] {
        let specs = train(&Spec::new(kind), &[0, 0, 5, 5, 0, 5]);
        assert_eq!(sizes(&full(&specs)), [1, 1, 2, 1, 1], "{kind:?}");
    }
}

#[test]
fn datagrams_without_checksum_stay_alone() {
    for kind in [Kind::Udp4, Kind::Udp6] {
        for flags in [0, 2] {
            let mut frames = full(&train(&Spec::new(kind), &[64; 3]));
            for frame in &mut frames {
                let at = Spec::new(kind).checksum();
                frame.packet[at..at + 2].fill(0);
                frame.offload.0[0] = flags;
            }
            assert_eq!(sizes(&frames), [1, 1, 1], "{kind:?}");
            let sent: Vec<_> = frames.iter().map(|frame| frame.packet.clone()).collect();
            assert_arrives(&frames, &sent);
        }
    }
}

#[test]
fn a_datagram_whose_two_lengths_differ_stays_alone() {
    for kind in [Kind::Udp4, Kind::Udp6] {
        let mut frames = full(&train(&Spec::new(kind), &[64; 3]));
        let at = Spec::new(kind).transport() + 5;
        for frame in &mut frames {
            frame.packet[at] -= 1;
            // Nothing but the length keeps it from being joined.
            frame.offload.0[0] = 2;
        }
        assert_eq!(sizes(&frames), [1, 1, 1], "{kind:?}");
    }
}

#[test]
fn bytes_behind_the_packet_are_left_out_of_joined_ones_only() {
    for kind in KINDS {
        let specs = train(&Spec::new(kind), &[100, 100, 100, 101]);
        let mut frames = full(&specs);
        for frame in &mut frames {
            frame.packet.extend([0xAA; 9]);
        }
        let written = join(&frames);
        let packets: Vec<_> = written.iter().map(|one| one.packets).collect();
        assert_eq!(packets, [3, 1]);
        assert_eq!(written[0].frame.packet.len(), specs[0].header() + 300);
        assert_eq!(written[1].frame, frames[3]);
        let sent: Vec<_> = specs.iter().map(Spec::bytes).collect();
        assert_arrives(&frames[..3], &sent[..3]);
    }
}

#[test]
fn a_super_packet_is_left_as_it_is() {
    for kind in KINDS {
        let specs = train(&Spec::new(kind), &[100, 100, 200, 100, 100]);
        let mut frames = full(&specs);
        frames[2] = specs[2].whole(100);
        let written = join(&frames);
        let packets: Vec<_> = written.iter().map(|one| one.packets).collect();
        assert_eq!(packets, [2, 1, 2], "{kind:?}");
        assert_eq!(written[1].frame, frames[2]);
    }
}

#[test]
fn what_a_header_says_in_unknown_flags_is_not_lost() {
    for kind in KINDS {
        let mut frames = full(&train(&Spec::new(kind), &[100; 3]));
        frames[1].offload.0[0] = 4;
        assert_eq!(sizes(&frames), [1, 1, 1], "{kind:?}");
        assert_eq!(join(&frames)[1].frame, frames[1]);
    }
}

#[test]
fn each_kind_can_be_turned_off_between_batches() {
    let mut joiner = Joiner::new(8, Joinable::ALL);
    let mut left = KINDS.to_vec();
    loop {
        for kind in KINDS {
            assert_eq!(joiner.joinable.allows(kind), left.contains(&kind));
            let frames = full(&train(&Spec::new(kind), &[100; 3]));
            let written = batch(&mut joiner, &frames, |_| Reply::Done);
            let expected = if left.contains(&kind) { 1 } else { 3 };
            assert_eq!(written.len(), expected, "{kind:?} of {left:?}");
        }
        let Some(kind) = left.pop() else { break };
        joiner.joinable = joiner.joinable.without(kind);
    }
    assert_eq!(joiner.joinable, Joinable::NONE);
}

#[test]
fn a_packet_alone_is_written_as_it_came() {
    for kind in KINDS {
        let spec = &train(&Spec::new(kind), &[100])[0];
        let mut valid = spec.full();
        valid.offload = Offload([2, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
        for frame in [spec.full(), spec.partial(), valid] {
            let written = join(std::slice::from_ref(&frame));
            assert_eq!(written.len(), 1);
            assert_eq!((&written[0].frame, written[0].joined), (&frame, None));
        }
    }
    assert_eq!(join(&[]), []);
}
