//! Counters and gauges, read out of the maps.

use std::collections::BTreeMap;

use aya::{
    Ebpf,
    maps::{Map, MapData, PerCpuArray},
};
use lb_common::{
    layout::{self, Histogram, Traffic},
    reason::Reason,
    slot::GAUGES,
};

use super::error::Error;

/// `Traffic` as aya reads it.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct TrafficPod(Traffic);

// SAFETY: `repr(C)` integers without padding; every bit pattern is valid.
unsafe impl aya::Pod for TrafficPod {}

/// A backend's live flows, in the order of [`lb_common::slot::Gauge`].
///
/// A gauge is below zero for a moment when a flow leaves a state before the CPU that moved it there has counted it;
/// it is read as zero, as a pick does.
pub fn live(gauges: &[u32; GAUGES]) -> [u32; GAUGES] {
    gauges.map(|gauge| gauge.cast_signed().max(0).cast_unsigned())
}

/// Packets of a VIP, or of [`layout::NO_VIP`], by what became of them, over all CPUs; reasons that never came
/// up are left out.
///
/// # Errors
///
/// When the map cannot be read.
pub fn reasons(ebpf: &Ebpf, vip: u16) -> Result<BTreeMap<Reason, u64>, Error> {
    let map = per_cpu::<u64>(ebpf, "REASONS_SEEN")?;
    let mut seen = BTreeMap::new();
    for &reason in Reason::ALL {
        let count: u64 = read(&map, "REASONS_SEEN", layout::reason_element(vip, reason))?.iter().sum();
        if count > 0 {
            seen.insert(reason, count);
        }
    }
    Ok(seen)
}

/// What was forwarded to a backend, over all CPUs.
///
/// # Errors
///
/// When the map cannot be read.
pub fn traffic(ebpf: &Ebpf, backend: u16) -> Result<Traffic, Error> {
    let map = per_cpu::<TrafficPod>(ebpf, "TRAFFIC")?;
    let values = read(&map, "TRAFFIC", u32::from(backend))?;
    Ok(values.iter().fold(Traffic::default(), |sum, TrafficPod(one)| Traffic {
        packets: sum.packets + one.packets,
        bytes: sum.bytes + one.bytes,
        returned_packets: sum.returned_packets + one.returned_packets,
        returned_bytes: sum.returned_bytes + one.returned_bytes,
        evicted: sum.evicted + one.evicted,
        unanswered: sum.unanswered + one.unanswered,
        reserved: [0; 2],
    }))
}

fn per_cpu<'a, T: aya::Pod>(
    ebpf: &'a Ebpf,
    name: &'static str,
) -> Result<PerCpuArray<&'a MapData, T>, Error> {
    let map: &Map = ebpf.map(name).ok_or(Error::Missing(name))?;
    PerCpuArray::try_from(map).map_err(|source| Error::MapInfo { name, source })
}

fn read<T: aya::Pod>(
    map: &PerCpuArray<&MapData, T>,
    name: &'static str,
    index: u32,
) -> Result<aya::maps::PerCpuValues<T>, Error> {
    map.get(&index, 0).map_err(|source| Error::MapInfo { name, source })
}

/// The mean of a histogram of times, in seconds. None when nothing was counted.
pub fn mean(histogram: &Histogram) -> Option<f64> {
    (histogram.count > 0).then(|| histogram.sum_ns as f64 / histogram.count as f64 / 1e9)
}

/// A quantile of a histogram of times, in seconds, as if times were spread evenly over their bucket. None when
/// nothing was counted.
pub fn quantile(histogram: &Histogram, quantile: f64) -> Option<f64> {
    let total: u64 = histogram.counts.iter().map(|&count| u64::from(count)).sum();
    if total == 0 {
        return None;
    }
    let rank = (quantile * total as f64).ceil().max(1.0) as u64;
    let mut before = 0;
    for (bucket, &count) in histogram.counts.iter().enumerate() {
        let count = u64::from(count);
        if before + count >= rank {
            let (least, next) = (Histogram::least(bucket) as f64, Histogram::least(bucket + 1) as f64);
            let part = ((rank - before) as f64 - 0.5) / count as f64;
            return Some((least + (next - least) * part) / 1e9);
        }
        before += count;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{live, quantile};
    use lb_common::layout::Histogram;

    #[test]
    fn a_gauge_below_zero_is_read_as_zero() {
        assert_eq!(live(&[3, u32::MAX, 0, 7, 1]), [3, 0, 0, 7, 1]);
    }

    #[test]
    fn a_quantile_lies_within_its_bucket() {
        let mut histogram = Histogram::EMPTY;
        assert_eq!(quantile(&histogram, 0.5), None);
        for milliseconds in [10u64, 12, 14, 900] {
            histogram.counts[Histogram::bucket(milliseconds * 1_000_000)] += 1;
        }
        let median = quantile(&histogram, 0.5).expect("four were counted");
        assert!((0.008..0.017).contains(&median), "{median} s");
        let last = quantile(&histogram, 0.99).expect("four were counted");
        assert!((0.5..1.1).contains(&last), "{last} s");
    }
}
