//! What headers mean: which ones stand before the transport's, and which ICMP messages are about a flow.

/// TCP's protocol number.
pub const TCP: u8 = 6;
/// UDP's protocol number.
pub const UDP: u8 = 17;
/// ICMP's protocol number.
pub const ICMP: u8 = 1;
/// ICMPv6's protocol number.
pub const ICMPV6: u8 = 58;

/// The IPv6 extension headers that are stepped over to find the transport's (RFC 8200 section 4.1): more than
/// one of each does not occur.
pub const EXTENSIONS: u32 = 6;

/// An IPv6 header by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// Hop-by-hop options, routing, destination options: units of eight bytes, less the first.
    Options,
    /// A fragment header, of eight bytes.
    Fragment,
    /// An authentication header (RFC 4302): units of four bytes, less two.
    Authentication,
    /// The transport's.
    Transport,
}

/// What the header with this number is.
#[inline(always)]
pub const fn header(number: u8) -> Header {
    match number {
        0 | 43 | 60 => Header::Options,
        44 => Header::Fragment,
        51 => Header::Authentication,
        _ => Header::Transport,
    }
}

impl Header {
    /// Its bytes, given its length field.
    #[inline(always)]
    pub const fn bytes(self, length: u8) -> u32 {
        match self {
            Self::Options => (length as u32 + 1) * 8,
            Self::Fragment => 8,
            Self::Authentication => (length as u32 + 2) * 4,
            Self::Transport => 0,
        }
    }
}

/// Whether an ICMP message is an error about a packet, which it quotes: destination unreachable (fragmentation
/// needed among them), time exceeded, parameter problem (RFC 792); for ICMPv6 also packet too big (RFC 4443).
#[inline(always)]
pub const fn is_error(v6: bool, kind: u8) -> bool {
    if v6 { kind >= 1 && kind <= 4 } else { matches!(kind, 3 | 11 | 12) }
}

/// Whether an ICMP message asks for an echo.
#[inline(always)]
pub const fn is_echo_request(v6: bool, kind: u8) -> bool {
    kind == if v6 { 128 } else { 8 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extension_headers_have_the_length_they_say() {
        let cases =
            [(0, 0, 8), (43, 2, 24), (60, 255, 2048), (44, 200, 8), (51, 4, 24), (6, 9, 0), (59, 1, 0)];
        for (number, length, bytes) in cases {
            assert_eq!(header(number).bytes(length), bytes, "header {number} with length {length}");
        }
    }

    #[test]
    fn only_errors_quote_a_packet() {
        let of = |v6| (0..=u8::MAX).filter(move |&kind| is_error(v6, kind)).collect::<std::vec::Vec<_>>();
        assert_eq!(of(false), [3, 11, 12]);
        assert_eq!(of(true), [1, 2, 3, 4]);
    }
}
