//! How much goes together.

use mat_dataplane::gso::{Kind, MAX_PACKETS};

use crate::packets::*;

#[test]
fn no_more_than_64_packets() {
    for kind in KINDS {
        let specs = train(&Spec::new(kind), &[3; 130]);
        let frames = full(&specs);
        assert_eq!(sizes(&frames), [64, 64, 2], "{kind:?}");
        assert_eq!(MAX_PACKETS, 64);
        let sent: Vec<_> = specs.iter().map(Spec::bytes).collect();
        assert_arrives(&frames, &sent);
    }
}

#[test]
fn no_more_than_the_length_fields_can_say() {
    // Bytes left for payload where the length field counts 65535.
    for (kind, room) in [
        (Kind::Tcp4, 65_535 - 20 - 32),
        (Kind::Tcp6, 65_535 - 32),
        (Kind::Udp4, 65_535 - 20 - 8),
        (Kind::Udp6, 65_535 - 8),
    ] {
        let larger = room - room / 2;
        let fits = train(&Spec::new(kind), &[larger, room - larger]);
        assert_eq!(sizes(&full(&fits)), [2], "{kind:?}");
        let whole = &join(&full(&fits))[0].frame;
        let sent: Vec<_> = fits.iter().map(Spec::bytes).collect();
        assert_eq!(wire(whole).len(), 2);
        assert_arrives(&full(&fits), &sent);
        let too_long = train(&Spec::new(kind), &[larger, larger + 1 - room % 2]);
        assert_eq!(sizes(&full(&too_long)), [1, 1], "{kind:?}");
        let many = train(&Spec::new(kind), &[1400; 60]);
        assert_eq!(sizes(&full(&many)), [46, 14], "{kind:?}");
    }
}

#[test]
fn a_batch_may_be_larger_than_foreseen() {
    let frames = full(&train(&Spec::new(Kind::Udp4), &[9; 100]));
    let mut joiner = mat_dataplane::gso::Joiner::new(2, mat_dataplane::gso::Joinable::ALL);
    for _ in 0..2 {
        let written = batch(&mut joiner, &frames, |_| mat_dataplane::gso::Reply::Done);
        let packets: Vec<_> = written.iter().map(|one| one.packets).collect();
        assert_eq!(packets, [64, 36]);
    }
}
