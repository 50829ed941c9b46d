//! `guidevane sim --record` on a daemon that steers real connections, and a replay of what it has seen.

use std::{net::IpAddr, process::Command};

use guidevane::sim::replay::{Way, replay};
use guidevane_tests::daemon::{Daemon, binary};

use crate::support::{Mode, Plan, Server, curl, quick};

const REQUESTS: u64 = 12;

#[test]
#[ignore = "needs root: network namespaces and XDP"]
fn what_a_daemon_saw_can_be_recorded_and_replayed() {
    let bed = Mode::L2.topology(3);
    let _servers = Server::everywhere(&bed, &quick());
    let plan = Plan { vips: vec![IpAddr::V4(bed.vip.v4)], ..Plan::new(&bed, Mode::L2) };
    let mut daemon = Daemon::start(&bed.balancer.namespace, &plan.toml());
    daemon.wait_until_up();

    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("recording");
    let mut recorder = Command::new(binary())
        .arg("--socket")
        .arg(daemon.socket())
        .args(["sim", "--every", "20ms", "--record"])
        .arg(&file)
        .spawn()
        .expect("start guidevane sim");
    daemon.wait_for("recording", |_| std::fs::metadata(&file).is_ok_and(|file| file.len() > 0));
    for _ in 0..REQUESTS {
        curl(&bed, IpAddr::V4(bed.vip.v4), 16);
    }
    let status = daemon.status().expect("the daemon answers");
    // One more sample than the last flow's, so that it is in an interval.
    std::thread::sleep(std::time::Duration::from_millis(500));
    // The daemon's end is the recording's.
    assert!(daemon.terminate().success(), "{}", daemon.log());
    let _ = recorder.wait().expect("wait for guidevane sim");

    let recording = guidevane::recording::read(&file).expect("a good recording");
    let replayed = replay(&recording, &Way::ALL);
    let [vip] = &replayed.vips[..] else { panic!("one VIP: {replayed:?}") };
    assert_eq!(vip.new_flows, REQUESTS, "{}", replayed.table());
    for (number, backend) in status.vips[0].backends.iter().enumerate() {
        assert_eq!(vip.backends[number].name, backend.name);
        let flows = (vip.recorded.shares[number] * REQUESTS as f64).round() as u64;
        assert_eq!(flows, backend.requests, "{}: {}", backend.name, replayed.table());
        let heard = |source| backend.signals.iter().find(|signal| signal.source == source);
        let metrics = heard(guidevane::api::SignalSource::Metrics).expect("it is scraped");
        assert!(metrics.server.is_some() && metrics.age_seconds.is_some(), "{metrics:?}");
    }
    let reports =
        recording.segments.iter().flat_map(|segment| &segment.samples).flat_map(|it| &it.vips[0].backends);
    assert!(reports.filter(|backend| backend.reported.is_some()).count() > 0, "no report was recorded");
    for way in &vip.ways {
        let sum: f64 = way.shares.iter().sum();
        assert!((sum - 1.0).abs() < 1e-9 && way.refused == 0, "{}: {:?}", way.name, way.shares);
    }
}
