//! The ways to steer that a recording can be asked about, by name.

use std::{fmt, str::FromStr};

use lb_common::pick;

use crate::{config::PolicyKind, governor::Output};

/// A way to steer new flows. Others than these need to know more than a recording holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The VIP's own policy, over what was written.
    AsWritten,
    /// Each backend in turn.
    RoundRobin,
    /// Consistent hashing alone, by weight.
    Hash,
    /// The fewest open connections by weight: what a VIP does under `observe`.
    LeastConnections,
    /// The kernel's live counts, weights and configured limits: what a VIP does under `static`.
    LiveCounts,
    /// The same with the governor: what a VIP does under `on`.
    Guidevane,
}

/// No way has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} cannot be replayed; there are all, {known}, and observe, static and on for the last three", known = names())]
pub struct UnknownWay(String);

fn names() -> String {
    Way::ALL.map(Way::name).join(", ")
}

impl Way {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::AsWritten,
        Self::RoundRobin,
        Self::Hash,
        Self::LeastConnections,
        Self::LiveCounts,
        Self::Guidevane,
    ];

    /// As command lines and reports call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::AsWritten => "as-written",
            Self::RoundRobin => "round-robin",
            Self::Hash => "hash",
            Self::LeastConnections => "least-connections",
            Self::LiveCounts => "live-counts",
            Self::Guidevane => "guidevane",
        }
    }

    /// How it picks at a VIP that picked by `recorded`.
    pub(super) fn policy(self, recorded: PolicyKind) -> pick::Policy {
        match self {
            Self::AsWritten => match recorded {
                PolicyKind::Least => pick::Policy::Least,
                PolicyKind::Bounded => pick::Policy::Bounded,
                PolicyKind::Hash => pick::Policy::Hash,
                PolicyKind::RoundRobin => pick::Policy::RoundRobin,
                PolicyKind::LeastConnections => pick::Policy::LeastConnections,
            },
            Self::RoundRobin => pick::Policy::RoundRobin,
            Self::Hash => pick::Policy::Hash,
            Self::LeastConnections => pick::Policy::LeastConnections,
            Self::LiveCounts | Self::Guidevane => pick::Policy::Least,
        }
    }

    /// What it goes by at a backend: what was written there, or what the governor would have written with mode `on`.
    pub(super) fn output(self, written: Output, on: Output, configured_limit: Option<u32>) -> Output {
        match self {
            Self::AsWritten => written,
            Self::Guidevane => on,
            Self::RoundRobin | Self::Hash | Self::LeastConnections | Self::LiveCounts => {
                Output { cost: on.static_cost, correction: 0, limit: configured_limit.unwrap_or(0), ..on }
            }
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Way {
    type Err = UnknownWay;

    fn from_str(name: &str) -> Result<Self, UnknownWay> {
        match name {
            "observe" => Ok(Self::LeastConnections),
            "static" => Ok(Self::LiveCounts),
            "on" => Ok(Self::Guidevane),
            _ => {
                let known = Self::ALL.into_iter().find(|way| way.name() == name);
                known.ok_or_else(|| UnknownWay(name.to_owned()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Way;

    #[test]
    fn every_way_is_found_by_its_name_and_others_are_refused_with_the_names() {
        for way in Way::ALL {
            assert_eq!(way.name().parse(), Ok(way));
        }
        assert_eq!("observe".parse(), Ok(Way::LeastConnections));
        let error = "oracle-ttft".parse::<Way>().expect_err("it knows the future").to_string();
        assert!(
            error.starts_with("\"oracle-ttft\" cannot be replayed; there are all, as-written, "),
            "{error}"
        );
    }
}
