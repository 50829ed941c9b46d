//! The frames that announce an address, byte for byte. Pure.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::Mac;

const BROADCAST: Mac = [0xff; 6];
/// `ff02::1` on Ethernet (RFC 2464, section 7).
const ALL_NODES_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;

/// Hardware type Ethernet, protocol type IPv4, and the lengths of both (RFC 826).
const ARP_ETHERNET_IPV4: [u8; 6] = [0, 1, 0x08, 0, 6, 4];

const NEXT_HEADER_ICMPV6: u8 = 58;
/// A receiver drops neighbour discovery that crossed a router (RFC 4861, section 7.1.2).
const ND_HOP_LIMIT: u8 = 255;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// Solicited unset, override set: replace what the cache holds (RFC 4861, section 4.4).
const FLAG_OVERRIDE: u8 = 0x20;
const OPTION_TARGET_LINK_ADDRESS: u8 = 2;
/// Type, code, checksum, flags, target, and the option in units of 8 bytes.
const ADVERTISEMENT_LEN: u16 = 4 + 4 + 16 + 8;

/// The two forms of gratuitous ARP. Some hosts only heed the one, some only the other
/// (RFC 5944, section 4.6, describes both).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ArpForm {
    Request,
    Reply,
}

pub(super) fn gratuitous_arp(form: ArpForm, mac: Mac, vip: Ipv4Addr) -> Vec<u8> {
    let (operation, target_mac): (u16, Mac) = match form {
        ArpForm::Request => (1, [0; 6]),
        ArpForm::Reply => (2, mac),
    };
    let mut frame = ethernet(BROADCAST, mac, ETHERTYPE_ARP);
    frame.extend(ARP_ETHERNET_IPV4);
    frame.extend(operation.to_be_bytes());
    frame.extend(mac);
    frame.extend(vip.octets());
    frame.extend(target_mac);
    frame.extend(vip.octets());
    frame
}

pub(super) fn unsolicited_advertisement(mac: Mac, vip: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, FLAG_OVERRIDE, 0, 0, 0];
    message.extend(vip.octets());
    message.extend([OPTION_TARGET_LINK_ADDRESS, 1]);
    message.extend(mac);
    let checksum = icmpv6_checksum(vip, ALL_NODES, &message);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());

    let mut frame = ethernet(ALL_NODES_MAC, mac, ETHERTYPE_IPV6);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(ADVERTISEMENT_LEN.to_be_bytes());
    frame.extend([NEXT_HEADER_ICMPV6, ND_HOP_LIMIT]);
    frame.extend(vip.octets());
    frame.extend(ALL_NODES.octets());
    frame.extend(message);
    frame
}

fn ethernet(destination: Mac, source: Mac, ethertype: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(96);
    frame.extend(destination);
    frame.extend(source);
    frame.extend(ethertype.to_be_bytes());
    frame
}

/// RFC 4443, section 2.3: the internet checksum over the pseudo-header and an even-sized message.
fn icmpv6_checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let words = |bytes: &[u8]| -> u32 {
        bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum()
    };
    let mut sum = words(&source.octets())
        + words(&destination.octets())
        + words(message)
        + u32::from(ADVERTISEMENT_LEN)
        + u32::from(NEXT_HEADER_ICMPV6);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded to 16 bits")
}

#[cfg(test)]
mod tests {
    use super::{ArpForm, gratuitous_arp, unsolicited_advertisement};

    const MAC: [u8; 6] = [0x02, 0x11, 0x22, 0x33, 0x44, 0x55];

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: String = hex.split_whitespace().collect();
        (0..digits.len())
            .step_by(2)
            .map(|i| u8::from_str_radix(&digits[i..i + 2], 16).expect("hex"))
            .collect()
    }

    #[test]
    fn a_gratuitous_arp_request_asks_everyone_for_the_address_itself() {
        let expected = bytes(
            "ffffffffffff 021122334455 0806
             0001 0800 06 04 0001
             021122334455 c0000207 000000000000 c0000207",
        );
        assert_eq!(gratuitous_arp(ArpForm::Request, MAC, [192, 0, 2, 7].into()), expected);
    }

    #[test]
    fn a_gratuitous_arp_reply_tells_everyone_the_address() {
        let expected = bytes(
            "ffffffffffff 021122334455 0806
             0001 0800 06 04 0002
             021122334455 c0000207 021122334455 c0000207",
        );
        assert_eq!(gratuitous_arp(ArpForm::Reply, MAC, [192, 0, 2, 7].into()), expected);
    }

    #[test]
    fn an_unsolicited_advertisement_overrides_and_its_checksum_is_right() {
        // Checksum by hand: 2001+0db8+0007 (source) + ff02+0001 (destination) + 0020 (length)
        // + 003a (next header) + 8800+2000+2001+0db8+0007+0201+0211+2233+4455 (message) = 26d77;
        // folded 6d79; inverted 9286.
        let expected = bytes(
            "333300000001 021122334455 86dd
             60000000 0020 3a ff
             20010db8000000000000000000000007
             ff020000000000000000000000000001
             88 00 9286 20000000
             20010db8000000000000000000000007
             02 01 021122334455",
        );
        let vip = "2001:db8::7".parse().expect("address");
        assert_eq!(unsolicited_advertisement(MAC, vip), expected);
    }
}
