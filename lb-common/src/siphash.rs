//! SipHash-1-3 over words in registers: the keyed hash of flows.
//!
//! A secret key is what keeps an outsider from aiming at a set of the flow table or at a backend.
//! Source: Aumasson and Bernstein, "SipHash: a fast short-input PRF" (2012), with one compression and
//! three finalisation rounds, as in the Rust standard library's hash maps.

/// The secret of one hash function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Key {
    /// First half.
    pub k0: u64,
    /// Second half.
    pub k1: u64,
}

struct Lanes {
    v0: u64,
    v1: u64,
    v2: u64,
    v3: u64,
}

impl Lanes {
    #[inline(always)]
    fn round(&mut self) {
        self.v0 = self.v0.wrapping_add(self.v1);
        self.v1 = self.v1.rotate_left(13) ^ self.v0;
        self.v0 = self.v0.rotate_left(32);
        self.v2 = self.v2.wrapping_add(self.v3);
        self.v3 = self.v3.rotate_left(16) ^ self.v2;
        self.v0 = self.v0.wrapping_add(self.v3);
        self.v3 = self.v3.rotate_left(21) ^ self.v0;
        self.v2 = self.v2.wrapping_add(self.v1);
        self.v1 = self.v1.rotate_left(17) ^ self.v2;
        self.v2 = self.v2.rotate_left(32);
    }

    #[inline(always)]
    fn absorb(&mut self, word: u64) {
        self.v3 ^= word;
        self.round();
        self.v0 ^= word;
    }
}

/// Hashes a message under `key`: `words`, each taken as eight little-endian bytes, and the `bytes` low bytes of
/// `tail`, at most seven; the others are zero.
#[inline(always)]
pub fn hash<const N: usize>(key: Key, words: [u64; N], tail: u64, bytes: u64) -> u64 {
    let mut lanes = Lanes {
        v0: key.k0 ^ 0x736f_6d65_7073_6575,
        v1: key.k1 ^ 0x646f_7261_6e64_6f6d,
        v2: key.k0 ^ 0x6c79_6765_6e65_7261,
        v3: key.k1 ^ 0x7465_6462_7974_6573,
    };
    for word in words {
        lanes.absorb(word);
    }
    // The last block carries the message's length in bytes, modulo 256, in its top byte.
    lanes.absorb(tail | (N as u64 * 8 + bytes) << 56);
    lanes.v2 ^= 0xff;
    lanes.round();
    lanes.round();
    lanes.round();
    lanes.v0 ^ lanes.v1 ^ lanes.v2 ^ lanes.v3
}
