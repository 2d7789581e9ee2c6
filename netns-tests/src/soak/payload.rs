//! Pseudo-random octets that anybody who knows the seed can make again, pure.

/// An endless run of octets. Each depends on the seed and its place alone, so no two segments
/// look alike and a receiver can tell which octet is the first wrong one. Several times cheaper
/// than hashing it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Payload {
    seed: u64,
}

impl Payload {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed: mix(seed) }
    }

    /// Writes the octets from `offset` on, which is a multiple of 8.
    pub(super) fn fill(&self, offset: u64, octets: &mut [u8]) {
        let mut words = octets.chunks_exact_mut(8);
        let mut index = offset / 8;
        for word in &mut words {
            word.copy_from_slice(&self.word(index));
            index += 1;
        }
        let rest = words.into_remainder();
        rest.copy_from_slice(&self.word(index)[..rest.len()]);
    }

    /// The place of the first octet that differs from the run; `offset`, a multiple of 8, is the
    /// place of the first one given.
    pub(super) fn first_difference(&self, offset: u64, octets: &[u8]) -> Option<u64> {
        let words = (offset / 8..).zip(octets.chunks(8));
        let (index, word) = words
            .into_iter()
            .find(|(index, word)| self.word(*index)[..word.len()] != **word)?;
        let expected = self.word(index);
        let within = word.iter().zip(expected).position(|(a, b)| *a != b)?;
        Some(index * 8 + within as u64)
    }

    fn word(&self, index: u64) -> [u8; 8] {
        mix(self.seed.wrapping_add(index)).to_le_bytes()
    }
}

/// A number that looks random, for each number another one.
pub(super) fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    z ^ (z >> 29)
}

/// The `index`-th of the seeds that grow from one.
pub(super) fn seed(from: u64, index: u64) -> u64 {
    mix(mix(from) ^ index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_the_same_as_the_whole() {
        let payload = Payload::new(7);
        let mut whole = vec![0; 4096];
        payload.fill(0, &mut whole);
        let mut piece = vec![0; 1003];
        payload.fill(1448, &mut piece);
        assert_eq!(piece, whole[1448..1448 + 1003]);
    }

    #[test]
    fn segments_and_seeds_differ() {
        let block = |seed, offset| {
            let mut block = vec![0; 1448];
            Payload::new(seed).fill(offset, &mut block);
            block
        };
        let same = |a: Vec<u8>, b: Vec<u8>| a.iter().zip(&b).filter(|(a, b)| a == b).count();
        // 1 octet in 256 is equal by chance: 5.7 expected.
        for offset in [1448, 2896, 65536, 1 << 32, 1 << 40] {
            assert!(same(block(1, 0), block(1, offset)) < 25, "at {offset}");
        }
        for seed in [2, 3, 1 << 40] {
            assert!(same(block(1, 0), block(seed, 0)) < 25, "of seed {seed}");
        }
    }

    #[test]
    fn the_first_wrong_octet_is_found_wherever_it_is() {
        let payload = Payload::new(3);
        let mut octets = vec![0; 83];
        payload.fill(160, &mut octets);
        assert_eq!(payload.first_difference(160, &octets), None);
        for at in 0..octets.len() {
            let mut wrong = octets.clone();
            wrong[at..].iter_mut().for_each(|octet| *octet ^= 0x10);
            assert_eq!(payload.first_difference(160, &wrong), Some(160 + at as u64));
        }
    }
}
