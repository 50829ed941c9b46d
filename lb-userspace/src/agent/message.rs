//! The messages and the method of the standard: `xds/data/orca/v3/orca_load_report.proto` and
//! `xds/service/orca/v3/orca.proto` of cncf/xds, written by hand so that no build needs `protoc`.

use std::{collections::HashMap, time::Duration};

/// The method that streams reports out of band.
pub const METHOD: &str = "/xds.service.orca.v3.OpenRcaService/StreamCoreMetrics";

/// `xds.data.orca.v3.OrcaLoadReport`. Zero means "not said" in every field of its own.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OrcaLoadReport {
    /// Part of the host's CPU time in use.
    #[prost(double, tag = "1")]
    pub cpu_utilization: f64,
    /// Part of the host's memory in use.
    #[prost(double, tag = "2")]
    pub mem_utilization: f64,
    /// Requests a second, whole; deprecated by the standard.
    #[prost(uint64, tag = "3")]
    pub rps: u64,
    /// What single requests cost; of no use out of band.
    #[prost(map = "string, double", tag = "4")]
    pub request_cost: HashMap<String, f64>,
    /// Parts of named resources in use.
    #[prost(map = "string, double", tag = "5")]
    pub utilization: HashMap<String, f64>,
    /// Requests a second.
    #[prost(double, tag = "6")]
    pub rps_fractional: f64,
    /// Errors a second.
    #[prost(double, tag = "7")]
    pub eps: f64,
    /// Whatever else the server says.
    #[prost(map = "string, double", tag = "8")]
    pub named_metrics: HashMap<String, f64>,
    /// How busy the server says it is; may exceed 1.
    #[prost(double, tag = "9")]
    pub application_utilization: f64,
}

/// `xds.service.orca.v3.OrcaLoadReportRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OrcaLoadReportRequest {
    /// Time from one report to the next.
    #[prost(message, optional, tag = "1")]
    pub report_interval: Option<Interval>,
    /// Request costs to tell; all of them if empty.
    #[prost(string, repeated, tag = "2")]
    pub request_cost_names: Vec<String>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Interval {
    /// Whole seconds.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// The rest in nanoseconds, of the same sign.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

impl From<Duration> for Interval {
    fn from(time: Duration) -> Self {
        Self {
            seconds: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            // Below 10^9.
            nanos: time.subsec_nanos() as i32,
        }
    }
}

impl Interval {
    /// The duration; zero for a negative one.
    pub fn duration(self) -> Duration {
        let seconds = u64::try_from(self.seconds).unwrap_or(0);
        let nanos = u64::try_from(self.nanos).unwrap_or(0);
        Duration::from_secs(seconds).saturating_add(Duration::from_nanos(nanos))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prost::Message as _;

    use super::{Interval, OrcaLoadReport, OrcaLoadReportRequest};

    #[test]
    fn messages_have_the_numbers_and_types_of_the_standard() {
        let report = OrcaLoadReport {
            cpu_utilization: 0.5,
            rps_fractional: 2.0,
            application_utilization: 1.0,
            named_metrics: [("q".to_owned(), 4.0)].into(),
            ..OrcaLoadReport::default()
        };
        // Tag bytes are number * 8 + wire type (1: eight bytes, 2: length and bytes), protobuf's encoding.
        let half = 0.5_f64.to_le_bytes();
        let mut expected = vec![1 << 3 | 1];
        expected.extend(half);
        expected.push(6 << 3 | 1);
        expected.extend(2.0_f64.to_le_bytes());
        expected.extend([8 << 3 | 2, 12, 1 << 3 | 2, 1, b'q', 2 << 3 | 1]);
        expected.extend(4.0_f64.to_le_bytes());
        expected.push(9 << 3 | 1);
        expected.extend(1.0_f64.to_le_bytes());
        assert_eq!(report.encode_to_vec(), expected);

        let request = OrcaLoadReportRequest {
            report_interval: Some(Duration::from_millis(1005).into()),
            request_cost_names: vec!["a".to_owned()],
        };
        let nanos = [2 << 3, 0xc0, 0x96, 0xb1, 0x02];
        let expected = [&[1 << 3 | 2, 7, 1 << 3, 1][..], &nanos, &[2 << 3 | 2, 1, b'a']].concat();
        assert_eq!(request.encode_to_vec(), expected);
    }

    #[test]
    fn an_interval_is_never_negative() {
        for (interval, expected) in [
            (Interval { seconds: 1, nanos: 5_000_000 }, Duration::from_millis(1005)),
            (Interval { seconds: -1, nanos: 0 }, Duration::ZERO),
            (Interval { seconds: 0, nanos: -1 }, Duration::ZERO),
            (
                Interval { seconds: i64::MAX, nanos: i32::MAX },
                Duration::new(i64::MAX as u64 + 2, 147_483_647),
            ),
        ] {
            assert_eq!(interval.duration(), expected, "{interval:?}");
        }
        let long = Duration::from_secs(3600);
        assert_eq!(Interval::from(long).duration(), long);
    }
}
