//! The smallest balancer: a few instructions of XDP that show what the bed's links carry.

use guidevane_tests::bed::{
    Interface,
    xdp::{Instruction, XDP_PASS, XDP_TX},
};

/// A balancer without choice: every TCP frame goes to one MAC address, by `XDP_TX` or out of another interface.
pub fn forwarder(from: Interface, to: Interface, out: Option<Interface>) -> Vec<Instruction> {
    const ETHERTYPE_IPV4: i32 = 0x0008;
    const ETHERTYPE_IPV6: i32 = 0xdd86;
    const IPPROTO_TCP: i32 = 6;
    const REDIRECT: i32 = 23;
    let new = Instruction::new;
    let word = |bytes: &[u8]| i32::from_le_bytes(bytes.try_into().expect("four bytes"));
    let half = |bytes: &[u8]| i32::from(u16::from_le_bytes(bytes.try_into().expect("two bytes")));
    let pass = Instruction::verdict(XDP_PASS);
    let verdict = match out {
        None => Instruction::verdict(XDP_TX).to_vec(),
        Some(out) => vec![
            new(0xb7, 1, 0, 0, out.index.cast_signed()),
            new(0xb7, 2, 0, 0, 0),
            new(0x85, 0, 0, 0, REDIRECT),
            new(0x95, 0, 0, 0, 0),
        ],
    };
    let rewrite = [
        new(0x62, 2, 0, 0, word(&to.mac[..4])),
        new(0x6a, 2, 0, 4, half(&to.mac[4..])),
        new(0x62, 2, 0, 6, word(&from.mac[..4])),
        new(0x6a, 2, 0, 10, half(&from.mac[4..])),
    ];
    let classify = [
        new(0x61, 2, 1, 0, 0), // r2 = data
        new(0x61, 3, 1, 4, 0), // r3 = data_end
        new(0xbf, 4, 2, 0, 0), // r4 = r2 + 24
        new(0x07, 4, 0, 0, 24),
        new(0x2d, 4, 3, 6, 0),  // shorter: pass
        new(0x69, 5, 2, 12, 0), // r5 = ethertype
        new(0x15, 5, 0, 6, ETHERTYPE_IPV4),
        new(0x55, 5, 0, 3, ETHERTYPE_IPV6),
        new(0x71, 5, 2, 20, 0), // r5 = next header
        new(0x55, 5, 0, 1, IPPROTO_TCP),
        new(0x05, 0, 0, 4, 0),
        pass[0],
        pass[1],
        new(0x71, 5, 2, 23, 0), // r5 = protocol
        new(0x55, 5, 0, -4, IPPROTO_TCP),
    ];
    classify.into_iter().chain(rewrite).chain(verdict).collect()
}
