//! Bits of the TCP header (RFC 9293).

pub(super) const SYN: u8 = 0x02;
pub(super) const RST: u8 = 0x04;
pub(super) const SYN_ACK: u8 = 0x12;

const NAMES: [(u8, &str); 6] =
    [(SYN, "SYN"), (0x10, "ACK"), (0x01, "FIN"), (RST, "RST"), (0x08, "PSH"), (0x20, "URG")];

/// The names of the bits that are set.
pub(super) fn flag_names(flags: u8) -> Vec<&'static str> {
    let set = NAMES.iter().filter(|(bit, _)| flags & bit != 0);
    set.map(|(_, name)| *name).collect()
}
