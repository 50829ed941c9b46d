//! Reading a frame as far as it goes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const TAGS: usize = 2;
const EXTENSIONS: usize = 6;
const IPV6_HEADER: usize = 40;

/// A frame with a network header that can be read.
#[derive(Clone, Debug)]
pub struct Packet<'a> {
    /// All of it.
    pub frame: &'a [u8],
    /// Where the network header starts.
    pub l3: usize,
    /// Where the upper protocol starts.
    pub l4: usize,
    /// Where the packet ends by its own word; the frame may be longer or, if cut short, shorter.
    pub end: usize,
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Upper protocol.
    pub protocol: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Which part of a larger packet this is, if it is one.
    pub part: Option<Part>,
}

/// A fragment's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// In units of eight bytes.
    pub offset: u16,
    /// Identification.
    pub id: u32,
    /// What an IPv4 header says is in there.
    pub protocol: u8,
}

/// Why a frame is no packet to steer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// Another kind of frame.
    Foreign,
    /// ARP, with where it starts.
    Arp(usize),
    /// Cut short or nonsense before there is a destination.
    Unreadable,
    /// Cut short behind its destination.
    CutShort(IpAddr),
}

/// A big-endian number of two bytes.
pub fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// Reads a frame.
///
/// # Errors
/// It is none that could be steered.
pub fn read(frame: &[u8]) -> Result<Packet<'_>, Unread> {
    let mut at = 12;
    for _ in 0..=TAGS {
        let kind = half(frame, at).ok_or(Unread::Unreadable)?;
        match kind {
            0x8100 | 0x88a8 => at += 4,
            0x0800 => return v4(frame, at + 2),
            0x86dd => return v6(frame, at + 2),
            0x0806 => return Err(Unread::Arp(at + 2)),
            _ => return Err(Unread::Foreign),
        }
    }
    Err(Unread::Foreign)
}

fn v4(frame: &[u8], l3: usize) -> Result<Packet<'_>, Unread> {
    let header = frame.get(l3..l3 + 20).ok_or(Unread::Unreadable)?;
    let length = usize::from(header[0] & 15) * 4;
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if header[0] >> 4 != 4 || length < 20 || total < length {
        return Err(Unread::Unreadable);
    }
    let place = u16::from_be_bytes([header[6], header[7]]);
    let (more, offset) = (place & 0x2000 != 0, place & 0x1fff);
    let id = u32::from(u16::from_be_bytes([header[4], header[5]]));
    let address =
        |at: usize| IpAddr::from(Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]));
    Ok(Packet {
        frame,
        l3,
        l4: l3 + length,
        end: l3 + total,
        source: address(12),
        destination: address(16),
        protocol: header[9],
        ttl: header[8],
        part: (more || offset > 0).then_some(Part { offset, id, protocol: header[9] }),
    })
}

fn v6(frame: &[u8], l3: usize) -> Result<Packet<'_>, Unread> {
    let header = frame.get(l3..l3 + IPV6_HEADER).ok_or(Unread::Unreadable)?;
    if header[0] >> 4 != 6 {
        return Err(Unread::Unreadable);
    }
    let address = |at: usize| {
        let octets: [u8; 16] = header[at..at + 16].try_into().expect("sixteen bytes");
        IpAddr::from(Ipv6Addr::from(octets))
    };
    let mut packet = Packet {
        frame,
        l3,
        l4: l3 + IPV6_HEADER,
        end: l3 + IPV6_HEADER + usize::from(u16::from_be_bytes([header[4], header[5]])),
        source: address(8),
        destination: address(24),
        protocol: header[6],
        ttl: header[7],
        part: None,
    };
    for _ in 0..EXTENSIONS {
        if !matches!(packet.protocol, 0 | 43 | 44 | 51 | 60) || packet.is_later() {
            break;
        }
        packet.extension()?;
    }
    Ok(packet)
}

impl Packet<'_> {
    /// Steps over one IPv6 extension header.
    fn extension(&mut self) -> Result<(), Unread> {
        let cut = Unread::CutShort(self.destination);
        let header = self.within(8).ok_or(cut)?;
        let (next, length) = (header[0], usize::from(header[1]));
        let length = match self.protocol {
            44 => {
                let place = u16::from_be_bytes([header[2], header[3]]);
                let id = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
                // The numbers of what is inside may differ between IPv6 fragments of one packet.
                self.part = (place & 0xfff9 != 0).then_some(Part { offset: place >> 3, id, protocol: 0 });
                8
            }
            51 => (length + 2) * 4,
            _ => (length + 1) * 8,
        };
        if self.l4 + length > self.end {
            return Err(cut);
        }
        (self.protocol, self.l4) = (next, self.l4 + length);
        Ok(())
    }

    /// So many bytes of the upper protocol, if both the frame and the packet hold them.
    pub fn within(&self, length: usize) -> Option<&[u8]> {
        if self.l4 + length > self.end {
            return None;
        }
        self.frame.get(self.l4..self.l4 + length)
    }

    /// Whether the frame holds all that the packet claims.
    pub fn is_whole(&self) -> bool {
        self.end <= self.frame.len()
    }

    /// Whether the network header is IPv6.
    pub fn is_v6(&self) -> bool {
        self.destination.is_ipv6()
    }

    /// A fragment that is not the first.
    pub fn is_later(&self) -> bool {
        self.part.is_some_and(|part| part.offset > 0)
    }

    /// Source and destination ports, if the frame holds them; whether they are part of the packet is a matter of
    /// its whole transport header.
    pub fn ports(&self) -> Option<(u16, u16)> {
        Some((half(self.frame, self.l4)?, half(self.frame, self.l4 + 2)?))
    }

    /// Bytes of the upper protocol, as far as the frame holds them.
    pub fn upper(&self) -> &[u8] {
        let end = self.end.min(self.frame.len());
        self.frame.get(self.l4..end).unwrap_or_default()
    }

    /// Bytes of the packet by its own word.
    pub fn length(&self) -> usize {
        self.end - self.l3
    }
}
