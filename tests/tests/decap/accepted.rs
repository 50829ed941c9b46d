//! Tunnel packets that end here: the inner packet comes out as it went in.

use guidevane_tests::packet::FRAME_MINIMUM;
use lb_common::decap::{Count, MAX_VIPS, Reason};

use crate::rig::{FRAMES, Outcome, Rig, VIP_V4, VIP_V6, inners, ip, link, links, outers, tunnelled};

#[test]
#[ignore = "needs root: loads the kernel program"]
fn every_tunnel_gives_every_packet_back_under_any_tags() {
    for frames in FRAMES {
        let mut rig = Rig::new(frames);
        for (what, outer, inner) in tunnelled() {
            for link in links() {
                let outcome = rig.send(&link.frame(&outer.around(&inner)));
                let expected = Outcome { reason: Reason::Decapsulated, frame: Some(link.frame(&inner)) };
                assert_eq!(outcome, expected, "{what} under {:?}, {frames:?}", link.tags);
            }
        }
    }
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn padding_of_the_frame_stays_behind_the_inner_packet() {
    let mut rig = Rig::new(FRAMES[0]);
    for (what, outer, inner) in tunnelled() {
        let (mut frame, mut expected) = (link().frame(&outer.around(&inner)), link().frame(&inner));
        let padding = [0; FRAME_MINIMUM];
        frame.extend(padding);
        expected.extend(padding);
        assert_eq!(
            rig.send(&frame),
            Outcome { reason: Reason::Decapsulated, frame: Some(expected) },
            "{what}"
        );
    }
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn each_vip_counts_its_packets_and_their_inner_bytes() {
    let mut rig = Rig::new(FRAMES[0]);
    let mut expected = [Count::default(); 2];
    for (_, outer) in outers() {
        for (_, inner) in inners() {
            rig.send(&link().frame(&outer.around(&inner)));
            let count = &mut expected[usize::from(inner[0] >> 4 == 6)];
            count.packets += 1;
            count.bytes += inner.len() as u64;
        }
    }
    // What does not end here is nobody's.
    rig.send(&link().frame(&inners()[0].1));
    assert_eq!(rig.counts().vips, [(ip(VIP_V4), expected[0]), (ip(VIP_V6), expected[1])].into());
    assert_eq!(rig.counts().others, Count::default());
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn vips_beyond_the_room_for_them_are_counted_together() {
    const BEYOND: usize = 20;
    let mut rig = Rig::new(FRAMES[0]);
    let (_, outer) = &outers()[0];
    let (_, mut inner) = inners().swap_remove(0);
    let frames: Vec<Vec<u8>> = (0..MAX_VIPS + BEYOND)
        .map(|number| {
            inner[18..20].copy_from_slice(&(number as u16).to_be_bytes());
            link().frame(&outer.around(&inner))
        })
        .collect();
    for frame in &frames {
        let (verdict, _) = rig.kernel().test_run(frame).expect("a test run");
        assert_eq!(verdict, 2, "the verdict");
    }
    let counts = rig.kernel().counts().expect("counters are readable");
    assert_eq!(counts.vips.len(), MAX_VIPS);
    assert_eq!(counts.others.packets, BEYOND as u64);
    assert_eq!(counts.others.bytes, (BEYOND * inner.len()) as u64);
}
