//! The invariant parts of QUIC packets (RFC 8999, RFC 9000 section 17), as UDP payloads.

/// Types of long header packets of version 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Long {
    /// The first flight of a connection.
    Initial = 0,
    /// Early data.
    ZeroRtt = 1,
    /// What follows the first flight.
    Handshake = 2,
    /// A server's answer that asks for address validation.
    Retry = 3,
}

const LONG: u8 = 0xc0;
const SHORT: u8 = 0x40;
const VERSION_1: [u8; 4] = [0, 0, 0, 1];
/// Stands for what is encrypted.
const CONTENT: [u8; 20] = [0x5a; 20];

/// A long header packet of version 1 with these connection IDs.
///
/// # Panics
/// A connection ID is longer than 255 bytes.
pub fn long(kind: Long, destination: &[u8], source: &[u8]) -> Vec<u8> {
    let length = |id: &[u8]| [u8::try_from(id.len()).expect("a connection ID has a byte for its length")];
    [
        &[LONG | (kind as u8) << 4],
        &VERSION_1[..],
        &length(destination),
        destination,
        &length(source),
        source,
        &CONTENT,
    ]
    .concat()
}

/// A short header packet with this connection ID.
pub fn short(destination: &[u8]) -> Vec<u8> {
    [&[SHORT], destination, &CONTENT].concat()
}
