//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624, equation 3).
//!
//! Sums are kept folded to 16 bits in ones' complement, where `0x0000` and `0xFFFF` are two
//! spellings of zero. A sum of anything but zeros folds to the spelling `0xFFFF`; [`Delta`] uses
//! `0x0000` for "no change", so that an update by nothing leaves a field bit for bit alone.

use std::net::IpAddr;
use std::ops::{Add, AddAssign, Neg};

/// What a change of covered bytes adds to a ones' complement sum.
///
/// It depends on the old and the new bytes only, so a flow can compute it once and keep it. It is
/// a group under `+`: changes add up, in any order, and `-` undoes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Delta(u16);

impl Delta {
    /// No change.
    pub const ZERO: Delta = Delta(0);

    /// The change when `new` replaces `old`. The families may differ.
    #[inline]
    pub fn between(old: IpAddr, new: IpAddr) -> Delta {
        Delta::new(address_sum(new)) + -Delta::new(address_sum(old))
    }

    /// The change when `new` replaces `old`: words of native byte order, as they lie in memory.
    pub fn words(old: &[u64], new: &[u64]) -> Delta {
        let sum = |words: &[u64]| {
            let halves = words.iter().map(|word| (word & 0xFFFF_FFFF) + (word >> 32));
            Delta::new(u16::from_be(fold(halves.sum())))
        };
        sum(new) + -sum(old)
    }

    /// The change as a number, for keeping; 0 is no change.
    #[inline]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// The reverse of [`Delta::bits`].
    #[inline]
    pub const fn from_bits(bits: u16) -> Delta {
        Delta::new(bits)
    }

    /// The change when one 16-bit word replaces another.
    pub const fn word(old: u16, new: u16) -> Delta {
        Delta::new(fold(!old as u64 + new as u64))
    }

    /// The field after the change, for a complete checksum: `HC' = ~(~HC + ~m + m')`.
    #[inline]
    pub const fn update(self, checksum: u16) -> u16 {
        !self.update_partial(!checksum)
    }

    /// The field after the change, where it holds the *uncomplemented* sum of the pseudo-header
    /// that a network card (or the virtio-net receiver) will complete.
    #[inline]
    pub const fn update_partial(self, sum: u16) -> u16 {
        fold(sum as u64 + self.0 as u64)
    }

    #[inline]
    const fn new(sum: u16) -> Delta {
        Delta(if sum == 0xFFFF { 0 } else { sum })
    }
}

impl Add for Delta {
    type Output = Delta;

    #[inline]
    fn add(self, other: Delta) -> Delta {
        Delta::new(fold(u64::from(self.0) + u64::from(other.0)))
    }
}

impl AddAssign for Delta {
    fn add_assign(&mut self, other: Delta) {
        *self = *self + other;
    }
}

impl Neg for Delta {
    type Output = Delta;

    #[inline]
    fn neg(self) -> Delta {
        Delta::new(!self.0)
    }
}

/// The folded ones' complement sum of `bytes` as big-endian words; an odd last byte is the high
/// half of its word.
///
/// The words are added in native byte order and the sum's own bytes put right at the end: carries
/// run around, so it comes out the same (RFC 1071, section 2B).
#[inline]
pub fn sum(bytes: &[u8]) -> u16 {
    let (words, rest) = bytes.as_chunks::<8>();
    // 33 bits for each word, so that their sum overflows behind 16 GiB only.
    let total: u64 = words
        .iter()
        .map(|word| u64::from_ne_bytes(*word))
        .map(|word| (word & 0xFFFF_FFFF) + (word >> 32))
        .sum();
    u16::from_be(fold(total + sum_of_rest(rest)))
}

/// The [`sum`] of bytes that lie in pieces.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    total: u64,
    /// Whether the next piece begins in the middle of a word.
    odd: bool,
}

impl Sum {
    /// Of a first piece.
    pub fn of(bytes: &[u8]) -> Self {
        let mut sum = Sum::default();
        sum.add(bytes);
        sum
    }

    /// Adds the next piece.
    pub fn add(&mut self, bytes: &[u8]) {
        let sum = sum(bytes);
        self.total += u64::from(if self.odd { sum.swap_bytes() } else { sum });
        self.odd ^= bytes.len() % 2 == 1;
    }

    /// As [`sum`] gives it for all pieces in a row.
    pub fn folded(self) -> u16 {
        fold(self.total)
    }
}

/// The sum, in native byte order and not folded, of fewer than eight bytes.
fn sum_of_rest(bytes: &[u8]) -> u64 {
    let (fours, rest) = bytes.as_chunks::<4>();
    let (twos, rest) = rest.as_chunks::<2>();
    let fours = fours.iter().map(|word| u32::from_ne_bytes(*word));
    let twos = twos.iter().map(|word| u16::from_ne_bytes(*word));
    let ones = rest.iter().map(|byte| u16::from_ne_bytes([*byte, 0]));
    fours.map(u64::from).sum::<u64>() + twos.chain(ones).map(u64::from).sum::<u64>()
}

/// The checksum over a whole IPv4 header, options included. With the checksum field zero it is
/// the value to store; over a correct header it is 0.
pub fn ipv4_header(header: &[u8]) -> u16 {
    !sum(header)
}

/// The folded, uncomplemented sum of a pseudo-header: what a field with a partial checksum holds.
/// `length` is that of the transport header and payload, in bytes.
pub fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, length: u32) -> u16 {
    fold(
        u64::from(address_sum(source))
            + u64::from(address_sum(destination))
            + u64::from(protocol)
            + u64::from(length),
    )
}

/// The folded sum of a pseudo-header and of what follows it, from the bytes as they lie in a packet
/// where the transport header follows the addresses directly. `covered` begins with the addresses;
/// if it ends with them the result is that of [`pseudo_header`], and if it goes on to the end of a
/// correct segment it is `0xFFFF`. `length` is that of the whole segment, in bytes.
pub fn pseudo_header_and(covered: &[u8], protocol: u8, length: usize) -> u16 {
    fold(u64::from(sum(covered)) + u64::from(protocol) + length as u64)
}

/// The checksum over pseudo-header and `segment` (transport header and payload). With the checksum
/// field zero it is the value to store, except that UDP and UDP-Lite store `0xFFFF` for 0; over a
/// correct segment it is 0. Partial coverage (UDP-Lite, DCCP) is not known here.
pub fn transport(source: IpAddr, destination: IpAddr, protocol: u8, segment: &[u8]) -> u16 {
    let pseudo = pseudo_header(source, destination, protocol, segment.len() as u32);
    !fold(u64::from(pseudo) + u64::from(sum(segment)))
}

/// Whether the checksum of a UDP datagram (header and payload) is right. Zero, "none", is right
/// over IPv4 only (RFC 768; RFC 8200, section 8.1).
pub fn is_right_udp(source: IpAddr, destination: IpAddr, datagram: &[u8]) -> bool {
    match datagram.get(6..8) {
        Some([0, 0]) => source.is_ipv4(),
        Some(_) => transport(source, destination, 17, datagram) == 0,
        None => false,
    }
}

fn address_sum(address: IpAddr) -> u16 {
    match address {
        IpAddr::V4(address) => sum(&address.octets()),
        IpAddr::V6(address) => sum(&address.octets()),
    }
}

/// Folds the carries back in; only a total of zero folds to zero.
#[inline]
const fn fold(mut total: u64) -> u16 {
    total = (total & 0xFFFF_FFFF) + (total >> 32);
    total = (total & 0xFFFF_FFFF) + (total >> 32);
    total = (total & 0xFFFF) + (total >> 16);
    total = (total & 0xFFFF) + (total >> 16);
    total = (total & 0xFFFF) + (total >> 16);
    total as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 1624, section 4: the example that equation 2 of RFC 1141 gets wrong.
    #[test]
    fn the_corner_case_of_rfc_1624() {
        assert_eq!(Delta::word(0x5555, 0x3285).update(0xDD2F), 0x0000);
    }

    #[test]
    fn odd_bytes_fill_the_high_half() {
        assert_eq!(sum(&[0x12]), 0x1200);
        assert_eq!(sum(&[0x12, 0x34, 0x56]), 0x1234 + 0x5600);
        assert_eq!(
            sum(&[0x00, 0x01, 0xF2, 0x03, 0xF4, 0xF5, 0xF6, 0xF7]),
            0xDDF2
        );
    }

    #[test]
    fn pieces_sum_up_like_the_whole() {
        let bytes: Vec<u8> = (1..=200).collect();
        for cuts in [[0, 0], [3, 8], [7, 100], [100, 101], [199, 200]] {
            let mut pieces = Sum::of(&bytes[..cuts[0]]);
            pieces.add(&bytes[cuts[0]..cuts[1]]);
            pieces.add(&bytes[cuts[1]..]);
            assert_eq!(pieces.folded(), sum(&bytes), "cut at {cuts:?}");
        }
    }

    #[test]
    fn a_datagram_is_right_or_has_no_checksum() {
        let ends = |text: &str| text.parse::<IpAddr>().unwrap();
        for (from, to) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")] {
            let (from, to) = (ends(from), ends(to));
            let mut datagram = vec![0, 1, 0, 2, 0, 11, 0, 0, 7, 8, 9];
            assert_eq!(is_right_udp(from, to, &datagram), from.is_ipv4());
            let sum = transport(from, to, 17, &datagram);
            datagram[6..8].copy_from_slice(&sum.to_be_bytes());
            assert!(is_right_udp(from, to, &datagram));
            datagram[10] ^= 1;
            assert!(!is_right_udp(from, to, &datagram));
            assert!(!is_right_udp(from, to, &datagram[..7]));
        }
    }

    #[test]
    fn every_length_sums_as_word_by_word() {
        let bytes: Vec<u8> = (0..100u32)
            .map(|i| ((i * 7919) >> 3) as u8 | 0x80)
            .collect();
        for length in 0..bytes.len() {
            let words = bytes[..length].chunks(2).map(|word| match word {
                [high, low] => u64::from(u16::from_be_bytes([*high, *low])),
                _ => u64::from(word[0]) << 8,
            });
            assert_eq!(sum(&bytes[..length]), fold(words.sum()), "{length} bytes");
        }
        assert_eq!(sum(&[0xFF; 70_000]), 0xFFFF);
        assert_eq!(sum(&[0; 70_000]), 0);
    }

    #[test]
    fn a_pseudo_header_sums_the_same_out_of_a_packet() {
        let (source, destination) = ([192, 0, 2, 1], [198, 51, 100, 7]);
        let mut covered = [source, destination].concat();
        let expected = pseudo_header(source.into(), destination.into(), 17, 11);
        assert_eq!(pseudo_header_and(&covered, 17, 11), expected);
        let mut segment = [1, 2, 3, 4, 0, 11, 0, 0, 5, 6, 7];
        let checksum = transport(source.into(), destination.into(), 17, &segment);
        segment[6..8].copy_from_slice(&checksum.to_be_bytes());
        covered.extend(segment);
        assert_eq!(pseudo_header_and(&covered, 17, 11), 0xFFFF);
    }

    #[test]
    fn no_change_leaves_both_spellings_of_zero_alone() {
        let same = Delta::between([192, 0, 2, 1].into(), [192, 0, 2, 1].into());
        assert_eq!(same, Delta::ZERO);
        for field in [0x0000, 0xFFFF, 0x1234] {
            assert_eq!(same.update(field), field);
            assert_eq!(same.update_partial(field), field);
        }
    }

    #[test]
    fn a_change_and_its_inverse_cancel() {
        let there = Delta::between([192, 0, 2, 1].into(), [198, 51, 100, 7].into());
        assert_eq!(there + -there, Delta::ZERO);
        assert_eq!((-there).update(there.update(0xBEEF)), 0xBEEF);
    }

    #[test]
    fn folding_survives_the_largest_totals() {
        assert_eq!(fold(u64::MAX), 0xFFFF);
        assert_eq!(fold(0xFFFF_FFFF_0000_0001), 1);
        assert_eq!(fold(0), 0);
    }
}
