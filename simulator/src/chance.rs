//! Numbers from a seed (SplitMix64): the same on every machine.

/// A source of numbers.
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// The numbers of this seed.
    pub fn new(seed: u64) -> Self {
        Chance(seed)
    }

    /// A source of its own for something named `label`: what it draws does not change
    /// what others get.
    pub fn apart(&self, label: u64) -> Self {
        let mut other = Chance(self.0 ^ label.wrapping_mul(0xd6e8_feb8_6659_fd93));
        Chance(other.next())
    }

    /// Any number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// One from `low` to `high`, both included.
    pub fn from(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True once in so many times.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// True with this probability in 1000.
    pub fn per_mille(&mut self, chance: u64) -> bool {
        self.below(1000) < chance
    }

    /// Octets.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        for octet in buffer {
            *octet = self.next() as u8;
        }
    }
}
