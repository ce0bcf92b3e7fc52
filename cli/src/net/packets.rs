//! How many packets are in a capture that is passed on piece by piece.
//!
//! Guarantees: nothing of it is kept but the head of a block that is not whole yet. What is no
//! pcapng is counted as nothing in particular, and does no harm.

/// How a block begins: its kind, its length, and what it begins with itself.
const HEAD: usize = 12;

/// The kind of a block that begins a section, which reads the same in either order of bytes.
const SECTION: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

/// What such a block begins with where the highest byte comes first.
const HIGHEST_FIRST: [u8; 4] = [0x1a, 0x2b, 0x3c, 0x4d];

/// The kind of a block with a packet ("enhanced packet").
const PACKET: u32 = 6;

/// Counts them.
#[derive(Debug, Default)]
pub(super) struct Packets {
    count: u64,
    /// Of the block that begins.
    head: Vec<u8>,
    /// Bytes of the block to come.
    left: usize,
    highest_first: bool,
}

impl Packets {
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Takes the next piece.
    pub(super) fn add(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let skipped = self.left.min(bytes.len());
            self.left -= skipped;
            bytes = &bytes[skipped..];
            let wanted = (HEAD - self.head.len()).min(bytes.len());
            let (more, rest) = bytes.split_at(wanted);
            self.head.extend(more);
            bytes = rest;
            if self.head.len() == HEAD {
                self.begin();
            }
        }
    }

    /// A block whose head is whole.
    fn begin(&mut self) {
        if let (&[kind, length, first], []) = self.head.as_chunks::<4>() {
            if kind == SECTION {
                self.highest_first = first == HIGHEST_FIRST;
            }
            let number = if self.highest_first { u32::from_be_bytes } else { u32::from_le_bytes };
            self.count += u64::from(number(kind) == PACKET);
            self.left = (number(length) as usize).saturating_sub(HEAD);
        }
        self.head.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A block of this kind with so many bytes in it.
    fn block(kind: [u8; 4], length: usize, number: fn(u32) -> [u8; 4]) -> Vec<u8> {
        let whole = number(u32::try_from(length + HEAD).unwrap());
        [&kind[..], &whole, &vec![6; length], &whole].concat()
    }

    #[test]
    fn packets_are_counted_in_pieces_of_any_size() {
        for number in [u32::to_le_bytes, u32::to_be_bytes] {
            let of = |kind: u32, length: usize| block(number(kind), length, number);
            let mut file = block(SECTION, 16, number);
            file[8..12].copy_from_slice(&number(0x1a2b_3c4d));
            file.extend([of(1, 8), of(6, 60), of(6, 0), of(5, 24), of(6, 1500)].concat());
            for size in [1, 5, 12, 13, 4096] {
                let mut packets = Packets::default();
                file.chunks(size).for_each(|piece| packets.add(piece));
                assert_eq!(packets.count(), 3, "in pieces of {size}");
                assert_eq!((packets.left, packets.head.len()), (0, 0), "at the end of a block");
            }
        }
    }

    #[test]
    fn what_is_no_capture_does_no_harm() {
        let mut packets = Packets::default();
        packets.add(&[0; 100]);
        packets.add(b"error: something else");
        assert_eq!(packets.count(), 0);
    }
}
