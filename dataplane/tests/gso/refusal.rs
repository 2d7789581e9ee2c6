//! A kernel that refuses joined packets.

use mat_dataplane::gso::{Joinable, Joiner, Reply};

use crate::packets::*;

#[test]
fn refused_packets_are_offered_as_they_came() {
    for kind in KINDS {
        let mut specs = train(&Spec::new(kind), &[100, 100, 100, 200, 200]);
        specs[2].flags |= PSH;
        let frames: Vec<_> = (specs.iter().enumerate())
            .map(|(index, spec)| {
                if index % 2 == 0 {
                    spec.partial()
                } else {
                    spec.full()
                }
            })
            .collect();
        let mut joiner = Joiner::new(8, Joinable::ALL);
        let written = batch(&mut joiner, &frames, |_| Reply::Refused);
        let (joined, single): (Vec<_>, Vec<_>) = written
            .into_iter()
            .partition(|written| written.joined.is_some());
        assert_eq!(joined.len(), 2);
        let single: Vec<_> = single.into_iter().map(|written| written.frame).collect();
        assert_eq!(single, frames, "{kind:?}");
    }
}

#[test]
fn one_kind_refused_leaves_the_others_joined() {
    let frames: Vec<_> = KINDS
        .iter()
        .flat_map(|kind| full(&train(&Spec::new(*kind), &[50; 2])))
        .collect();
    for refused in KINDS {
        let mut joiner = Joiner::new(8, Joinable::ALL);
        let mut taken = vec![];
        batch(&mut joiner, &frames, |written| {
            if written.joined == Some(refused) {
                return Reply::Refused;
            }
            taken.push(written.packets);
            Reply::Done
        });
        assert_eq!(taken.iter().sum::<usize>(), 8);
        assert_eq!(taken.iter().filter(|packets| **packets == 1).count(), 2);
    }
}
