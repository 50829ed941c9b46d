//! A flow's identity: the client's address and port, and the VIP it came to.

use crate::{
    address::Address,
    siphash::{self, Key},
};

/// What tells one flow of a VIP from another. The VIP's id stands for address, port and protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowKey {
    /// The client's address.
    pub client: Address,
    /// The client's port, network byte order.
    pub client_port_be: u16,
    /// The VIP's id.
    pub vip: u16,
}

impl FlowKey {
    /// The keyed hash: its top 35 bits are the fingerprint, its low bits the set, and both stay disjoint
    /// up to 2^28 sets.
    ///
    /// The VIP comes in last, by an exclusive or: so the slow part, SipHash, need not wait for the look-up of
    /// the VIP. What one client has with two VIPs are then hashes a known distance apart, which helps nobody who
    /// knows neither.
    #[inline(always)]
    pub fn hash(&self, key: Key) -> u64 {
        let port = self.client_port_be as u64;
        let hash = if self.client.is_v4() {
            // Six bytes are one block with their length.
            siphash::hash(key, [], self.client.0[3] as u64 | port << 32, 6)
        } else {
            siphash::hash(key, self.client.halves(), port, 2)
        };
        hash ^ salt(self.vip)
    }

    /// The keyed hash of the client alone, for VIPs whose affinity is the client's address.
    ///
    /// A port of zero is no flow's, so these hashes are a domain of their own.
    #[inline(always)]
    pub fn client_hash(&self, key: Key) -> u64 {
        Self { client_port_be: 0, ..*self }.hash(key)
    }
}

/// A VIP's part of the hash: ids spread over all bits (Fibonacci hashing, Knuth vol. 3 section 6.4).
#[inline(always)]
const fn salt(vip: u16) -> u64 {
    (vip as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Spreads a hash once more (the finaliser of SplitMix64, Steele and others 2014), for draws that must not
/// share bits with the flow table's set and fingerprint.
#[inline(always)]
pub const fn mix(hash: u64) -> u64 {
    let x = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Maps 32 random bits to `0..n` without a division (Lemire 2019, without the rejection step: the bias is
/// below n / 2^32).
#[inline(always)]
pub const fn reduce(bits: u32, n: u32) -> u32 {
    ((bits as u64 * n as u64) >> 32) as u32
}
