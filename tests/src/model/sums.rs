//! Internet checksums, computed and adjusted (RFC 1071, RFC 1624).

fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.chunks(2).map(|word| u64::from(word[0]) << 8 | u64::from(*word.get(1).unwrap_or(&0)));
    words.sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The checksum of all parts together; all but the last are even in length.
pub fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    (!fold(parts.iter().map(|part| sum(part)).sum())).to_be_bytes()
}

/// The checksum at a place, after bytes it covers have changed; both are even in length.
pub fn adjusted(old: [u8; 2], before: &[u8], after: &[u8]) -> [u8; 2] {
    let inverted: Vec<u8> = before.iter().map(|byte| !byte).collect();
    let old = u64::from(!u16::from_be_bytes(old));
    (!fold(old + sum(&inverted) + sum(after))).to_be_bytes()
}

/// Adjusts the checksum at a place of a frame.
pub fn adjust(frame: &mut [u8], at: usize, before: &[u8], after: &[u8]) {
    let new = adjusted([frame[at], frame[at + 1]], before, after);
    frame[at..at + 2].copy_from_slice(&new);
}
