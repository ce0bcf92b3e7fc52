//! Internet checksums that follow a change without reading the packet (RFC 1624).
//!
//! Words are taken as they stand in the packet: a ones' complement sum is the same in either byte
//! order as long as it is one of them throughout.

use crate::abi::{Address, U16Be};

/// How much a sum of words changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delta(u64);

impl Delta {
    /// A word at an even distance from the start of what is summed becomes another.
    #[inline(always)]
    pub fn word(&mut self, old: U16Be, new: U16Be) {
        self.0 += u64::from(!old.bits()) + u64::from(new.bits());
    }

    /// An address becomes another of the same family.
    #[inline(always)]
    pub fn address(&mut self, old: &Address, new: &Address) {
        let (old, new) = (old.words(), new.words());
        self.0 += u64::from(!old[0].bits()) + u64::from(new[0].bits());
        self.0 += u64::from(!old[1].bits()) + u64::from(new[1].bits());
        self.0 += u64::from(!old[2].bits()) + u64::from(new[2].bits());
        self.0 += u64::from(!old[3].bits()) + u64::from(new[3].bits());
    }

    /// Both changes.
    #[inline(always)]
    pub const fn add(&mut self, other: Self) {
        self.0 += other.0;
    }

    /// As the kernel takes it: a sum of 32 bits.
    #[inline(always)]
    pub const fn sum(self) -> u32 {
        let once = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        (once + (once >> 32)) as u32
    }

    /// The checksum after the change.
    #[inline(always)]
    pub const fn adjusted(self, checksum: U16Be) -> U16Be {
        let mut sum = self.sum() as u64 + (!checksum.bits()) as u64;
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        U16Be::from_bits(!(sum as u16))
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::fake::sum;
    use proptest::prelude::*;

    proptest! {
        /// Any words changed, and changed back.
        #[test]
        fn an_adjusted_checksum_is_the_one_computed_anew(
            mut bytes in proptest::collection::vec(any::<u8>(), 40),
            changes in proptest::collection::vec((0..20usize, any::<u16>()), 1..8),
        ) {
            bytes[0] = 0x45;
            let before = U16Be::new(!sum(&bytes));
            let mut delta = Delta::default();
            let mut back = Delta::default();
            for (word, new) in changes {
                let at = 2 * word;
                let old = U16Be::new(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
                bytes[at..at + 2].copy_from_slice(&new.to_be_bytes());
                delta.word(old, U16Be::new(new));
                back.word(U16Be::new(new), old);
            }
            let after = delta.adjusted(before);
            let all = [&bytes[..], &after.get().to_be_bytes()].concat();
            prop_assert_eq!(sum(&all), 0xffff, "the sum over all of it has every bit set");
            let again = back.adjusted(after);
            prop_assert!(again == before || (again.get() | before.get()) == 0xffff);
        }

        #[test]
        fn addresses_count_as_their_words(old in any::<[u8; 16]>(), new in any::<[u8; 16]>()) {
            let of = |octets| Address::from(std::net::IpAddr::from(octets));
            let mut whole = Delta::default();
            whole.address(&of(old), &of(new));
            let mut words = Delta::default();
            for at in (0..16).step_by(2) {
                let word = |octets: &[u8; 16]| {
                    U16Be::new(u16::from_be_bytes([octets[at], octets[at + 1]]))
                };
                words.word(word(&old), word(&new));
            }
            let start = U16Be::new(0x1234);
            prop_assert_eq!(whole.adjusted(start), words.adjusted(start));
        }
    }
}
