//! Payload which encodes its own position.
//!
//! The byte stream is a sequence of little-endian 64-bit words, word `i` being `seed + i * STEP`
//! (mod 2^64). STEP is odd, so no two positions share a word before 2^64 words: a byte that is
//! lost, repeated, moved or changed shows, and one addition a word keeps generator and verifier
//! far from the critical path.

/// Odd, with bits spread over all eight bytes.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
const WORD: usize = 8;

/// A stream of bytes in which every position is recognisable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pattern {
    seed: u64,
}

impl Pattern {
    /// The stream of one run and one direction; both ends must use the same seed.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// The stream of member `index` of a crowd of connections under one seed.
    pub fn member(seed: u64, index: u32) -> Self {
        // Rotated, so that two members' seeds never lie a whole number of steps near each other.
        Self::new(seed ^ (u64::from(index) + 1).rotate_right(17))
    }

    /// Writes the bytes that stand at `position` and after it.
    pub fn fill(&self, position: u64, out: &mut [u8]) {
        let (head, words) = self.split(position, out.len());
        let (first, rest) = out.split_at_mut(head);
        for (offset, byte) in first.iter_mut().enumerate() {
            *byte = self.byte(position + offset as u64);
        }
        let mut word = self.word((position + head as u64) / WORD as u64);
        let (whole, tail) = rest.split_at_mut(words * WORD);
        for slot in whole.chunks_exact_mut(WORD) {
            slot.copy_from_slice(&word.to_le_bytes());
            word = word.wrapping_add(STEP);
        }
        tail.copy_from_slice(&word.to_le_bytes()[..tail.len()]);
    }

    /// Position in the stream of the first byte of `bytes` that is wrong, `bytes` having been
    /// received at `position`.
    pub fn first_difference(&self, position: u64, bytes: &[u8]) -> Option<u64> {
        let (head, words) = self.split(position, bytes.len());
        let mut word = self.word((position + head as u64) / WORD as u64);
        let mut difference = 0;
        for slot in bytes[head..head + words * WORD].chunks_exact(WORD) {
            let mut got = [0; WORD];
            got.copy_from_slice(slot);
            difference |= u64::from_le_bytes(got) ^ word;
            word = word.wrapping_add(STEP);
        }
        let edges = (0..head).chain(head + words * WORD..bytes.len());
        let edges_right = edges
            .into_iter()
            .all(|i| bytes[i] == self.byte(position + i as u64));
        if difference == 0 && edges_right {
            return None;
        }
        (position..)
            .zip(bytes)
            .find(|&(at, &byte)| byte != self.byte(at))
            .map(|(at, _)| at)
    }

    /// Bytes before the first whole word, and the number of whole words after them.
    fn split(&self, position: u64, len: usize) -> (usize, usize) {
        let inside = (position % WORD as u64) as usize;
        let head = if inside == 0 { 0 } else { WORD - inside }.min(len);
        (head, (len - head) / WORD)
    }

    fn word(&self, index: u64) -> u64 {
        self.seed.wrapping_add(index.wrapping_mul(STEP))
    }

    fn byte(&self, position: u64) -> u8 {
        self.word(position / WORD as u64).to_le_bytes()[(position % WORD as u64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_cut_of_the_stream_verifies(seed: u64, position in 0..1u64 << 48, len in 0..100usize) {
            let pattern = Pattern::new(seed);
            let mut bytes = vec![0; len];
            pattern.fill(position, &mut bytes);
            prop_assert_eq!(pattern.first_difference(position, &bytes), None);
            for (i, byte) in bytes.iter().enumerate() {
                prop_assert_eq!(*byte, pattern.byte(position + i as u64));
            }
        }

        #[test]
        fn a_changed_byte_is_named(
            seed: u64, position in 0..1u64 << 48, len in 1..100usize, at: prop::sample::Index, flip in 1..=255u8,
        ) {
            let pattern = Pattern::new(seed);
            let mut bytes = vec![0; len];
            pattern.fill(position, &mut bytes);
            let at = at.index(len);
            bytes[at] ^= flip;
            prop_assert_eq!(pattern.first_difference(position, &bytes), Some(position + at as u64));
        }

        #[test]
        fn a_shifted_stream_never_verifies(seed: u64, position in 0..1u64 << 48, shift in 1..1u64 << 20) {
            let pattern = Pattern::new(seed);
            let mut bytes = [0; 64];
            pattern.fill(position + shift, &mut bytes);
            prop_assert!(pattern.first_difference(position, &bytes).is_some());
        }

        #[test]
        fn members_do_not_share_a_stream(seed: u64, a in 0..10_000u32, b in 0..10_000u32) {
            prop_assume!(a != b);
            let mut bytes = [0; 16];
            Pattern::member(seed, a).fill(0, &mut bytes);
            prop_assert!(Pattern::member(seed, b).first_difference(0, &bytes).is_some());
        }
    }
}
