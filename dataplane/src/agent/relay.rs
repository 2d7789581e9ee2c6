//! Cutting packets into RELAY pieces and joining them again.
//!
//! A relayed packet is never "too big": whatever does not fit one message is
//! cut. Pieces are small enough for the smallest IPv6 path.

use std::collections::VecDeque;

use mat_proto::message::{RELAY_OVERHEAD, Relay};
use mat_proto::{Epoch, Home};

use crate::frame::{Frame, Offload};

/// IPv6 minimum MTU less IPv6, UDP and RELAY headers.
const PIECE: usize = 1280 - 40 - 8 - RELAY_OVERHEAD;
/// Largest packet an IP header can describe, plus the offload header.
const MAX_TOTAL: usize = 65_535 + 40 + Offload::LEN;
/// Packets put together at a time; pieces come nearly in order, so few are open.
const MAX_OPEN: usize = 32;
/// A packet relayed more often than this goes in circles.
pub(crate) const MAX_HOPS: u8 = 4;

/// The pieces of `frame`.
pub(crate) fn cut(home: Home, epoch: Epoch, hops: u8, id: u32, frame: &Frame) -> Vec<Relay> {
    let octets = frame.to_octets();
    octets
        .chunks(PIECE)
        .enumerate()
        .map(|(i, bytes)| Relay {
            home,
            epoch,
            hops,
            id,
            total: octets.len() as u32,
            offset: (i * PIECE) as u32,
            bytes: bytes.to_vec(),
        })
        .collect()
}

/// Packets of one move that have not arrived completely.
#[derive(Debug, Default)]
pub(crate) struct Joiner {
    open: VecDeque<Partial>,
}

#[derive(Debug)]
struct Partial {
    id: u32,
    octets: Vec<u8>,
    /// Which pieces are there; all but the last are `PIECE` long.
    seen: Vec<bool>,
}

impl Joiner {
    /// Takes a piece; gives back the packet that it completes. `None` with a
    /// malformed piece too: the sender is authenticated, so it is only late,
    /// doubled or from a release that cuts otherwise.
    pub(crate) fn add(&mut self, piece: &Relay) -> Option<Frame> {
        let (total, offset) = (piece.total as usize, piece.offset as usize);
        let expected = PIECE.min(total.checked_sub(offset)?);
        if total > MAX_TOTAL || offset % PIECE != 0 || piece.bytes.len() != expected {
            return None;
        }
        let at = match self.open.iter().position(|p| p.id == piece.id) {
            Some(at) => at,
            None => {
                if self.open.len() == MAX_OPEN {
                    self.open.pop_front();
                }
                self.open.push_back(Partial {
                    id: piece.id,
                    octets: vec![0; total],
                    seen: vec![false; total.div_ceil(PIECE)],
                });
                self.open.len() - 1
            }
        };
        let partial = &mut self.open[at];
        if partial.octets.len() != total {
            return None;
        }
        partial.octets[offset..offset + expected].copy_from_slice(&piece.bytes);
        partial.seen[offset / PIECE] = true;
        if partial.seen.iter().all(|seen| *seen) {
            let done = self.open.remove(at)?;
            return Frame::from_octets(&done.octets);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(len: usize) -> Frame {
        Frame {
            offload: Offload([3; Offload::LEN]),
            packet: (0..len).map(|i| i as u8).collect(),
        }
    }

    fn pieces(id: u32, len: usize) -> Vec<Relay> {
        cut("192.0.2.1".parse().unwrap(), Epoch(1), 1, id, &frame(len))
    }

    #[test]
    fn any_length_survives_in_any_order() {
        for len in [0, 1, PIECE - 10, PIECE - 9, 1500, 65_535] {
            let mut joiner = Joiner::default();
            let mut pieces = pieces(7, len);
            pieces.reverse();
            let last = pieces.pop().unwrap();
            for piece in pieces {
                assert_eq!(joiner.add(&piece), None);
            }
            assert_eq!(joiner.add(&last), Some(frame(len)));
            assert!(joiner.open.is_empty());
        }
    }

    #[test]
    fn state_is_bounded_and_oddities_are_ignored() {
        let mut joiner = Joiner::default();
        for id in 0..1000 {
            assert_eq!(joiner.add(&pieces(id, 3000)[1]), None);
        }
        assert_eq!(joiner.open.len(), MAX_OPEN);
        let mut odd = pieces(999, 3000)[0].clone();
        odd.offset = 1;
        assert_eq!(joiner.add(&odd), None);
        odd.offset = 0;
        odd.total = 4000;
        assert_eq!(joiner.add(&odd), None);
    }
}
