//! QUIC connection IDs that name their server in plain text (draft-ietf-quic-load-balancers section 5.2).
//!
//! A packet is only looked at, never trusted: an ID that names no backend leaves the packet to its flow.

/// Bytes of the longest server ID that is supported; the draft allows 15.
pub const SERVER_ID_BYTES: usize = 8;

/// The long header's first byte (RFC 8999 section 5.1).
const LONG: u8 = 0x80;
/// The packet type in the long header's first byte (RFC 9000 section 17.2): Initial, 0-RTT, Handshake, Retry.
const TYPE: u8 = 0x30;
const HANDSHAKE: u8 = 0x20;

/// The version whose packet types are known here (RFC 9000); version 2 numbers them otherwise (RFC 9369).
pub const VERSION_1: u32 = 1;

/// Where the destination connection ID starts: in a short header, and in a long one, behind the version and
/// its own length.
pub const SHORT_START: usize = 1;
/// See [`SHORT_START`].
pub const LONG_START: usize = 6;

/// Where a packet's connection ID starts, from the first byte of the packet; none when the client made it up
/// (Initial and 0-RTT), or when no client sends such a packet.
#[inline(always)]
pub const fn connection_id(first: u8) -> Option<usize> {
    if first & LONG == 0 {
        return Some(SHORT_START);
    }
    if first & TYPE == HANDSHAKE { Some(LONG_START) } else { None }
}

/// Whether a connection ID of so many bytes can hold a server ID of the configured form.
#[inline(always)]
pub const fn has_server_id(form: u8, length: u8) -> bool {
    length > form & 15
}

/// The server ID in a connection ID, given its first octet and the eight behind it as a big-endian number.
/// `form` is [`crate::layout::Vip::quic`].
#[inline(always)]
pub const fn server_id(form: u8, first: u8, rest: u64) -> Option<u64> {
    let length = (form & 15) as u32;
    if first >> 5 != form >> 4 || length == 0 || length > SERVER_ID_BYTES as u32 {
        return None;
    }
    Some(rest >> (8 * (SERVER_ID_BYTES as u32 - length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_server_chose_names_a_server() {
        let cases = [
            ("short", 0x40, Some(1)),
            ("short, key phase set", 0x44, Some(1)),
            ("Initial", 0xc0, None),
            ("0-RTT", 0xd0, None),
            ("Handshake", 0xe0, Some(6)),
            ("Retry, which only servers send", 0xf0, None),
        ];
        for (name, first, place) in cases {
            assert_eq!(connection_id(first), place, "{name}");
        }
    }

    #[test]
    fn a_server_id_is_as_long_as_configured_and_of_its_configuration() {
        const REST: u64 = 0x0102_0304_0506_0708;
        let cases = [
            (0x12, 0x20, Some(0x0102)),
            (0x12, 0x3f, Some(0x0102)),
            (0x12, 0x40, None),
            (0x01, 0x00, Some(0x01)),
            (0x68, 0xc0, Some(REST)),
            (0x00, 0x00, None),
        ];
        for (form, first, id) in cases {
            assert_eq!(server_id(form, first, REST), id, "form {form:x}, first octet {first:x}");
        }
    }
}
