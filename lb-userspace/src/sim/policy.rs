//! Who chooses: the policies by name. How each chooses is in [`super::world`].

use std::{fmt, str::FromStr};

/// A way to choose a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Each server in turn.
    RoundRobin,
    /// Any server.
    Random,
    /// Consistent hashing alone.
    Hash,
    /// The fewest open connections of all servers, as proxies count them.
    LeastConnections,
    /// The same over the candidates that the kernel draws.
    LeastConnectionsD,
    /// The better of two random servers by requests on it, known at this moment.
    PowerOfTwo,
    /// The same, known from a poll every five seconds.
    PowerOfTwoStale,
    /// At random by weight: the inverse of the load, recomputed every tick of the governor.
    Weights,
    /// The reference endpoint picker's scorer: queue and KV cache, weighted alike, scraped every 50 ms.
    Epp,
    /// Prequal's hot-cold rule.
    Prequal,
    /// The kernel's live counts with static costs.
    LiveCounts,
    /// The kernel's live counts with the governor.
    Guidevane,
    /// Least connections of all servers, divided by their true speeds.
    OracleSpeeds,
    /// The same with the kernel's weight on connections that await their first token.
    OracleAwaiting,
    /// The server that gives the request's first token soonest.
    OracleTtft,
    /// The server that gives the request's last token soonest.
    OracleLatency,
}

/// No policy has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no policy is called {0:?}; there are all, {known}", known = names())]
pub struct UnknownPolicy(String);

fn names() -> String {
    Policy::ALL.map(Policy::name).join(", ")
}

impl Policy {
    /// All of them: baselines, ours, oracles.
    pub const ALL: [Self; 16] = [
        Self::RoundRobin,
        Self::Random,
        Self::Hash,
        Self::LeastConnections,
        Self::LeastConnectionsD,
        Self::PowerOfTwo,
        Self::PowerOfTwoStale,
        Self::Weights,
        Self::Epp,
        Self::Prequal,
        Self::LiveCounts,
        Self::Guidevane,
        Self::OracleSpeeds,
        Self::OracleAwaiting,
        Self::OracleTtft,
        Self::OracleLatency,
    ];

    /// As command lines and reports call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round-robin",
            Self::Random => "random",
            Self::Hash => "hash",
            Self::LeastConnections => "least-connections",
            Self::LeastConnectionsD => "least-connections-d",
            Self::PowerOfTwo => "power-of-two",
            Self::PowerOfTwoStale => "power-of-two-5s",
            Self::Weights => "weights",
            Self::Epp => "epp",
            Self::Prequal => "prequal",
            Self::LiveCounts => "live-counts",
            Self::Guidevane => "guidevane",
            Self::OracleSpeeds => "oracle-speeds",
            Self::OracleAwaiting => "oracle-awaiting",
            Self::OracleTtft => "oracle-ttft",
            Self::OracleLatency => "oracle-latency",
        }
    }

    /// Whether it knows what no balancer can.
    pub fn is_oracle(self) -> bool {
        matches!(self, Self::OracleSpeeds | Self::OracleAwaiting | Self::OracleTtft | Self::OracleLatency)
    }

    /// Whether a governor runs for it.
    pub(super) fn is_governed(self) -> bool {
        matches!(self, Self::Guidevane | Self::Weights)
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Policy {
    type Err = UnknownPolicy;

    fn from_str(name: &str) -> Result<Self, UnknownPolicy> {
        let known = Self::ALL.into_iter().find(|policy| policy.name() == name);
        known.ok_or_else(|| UnknownPolicy(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::Policy;

    #[test]
    fn every_policy_is_found_by_its_name_and_others_are_refused_with_the_names() {
        for policy in Policy::ALL {
            assert_eq!(policy.name().parse(), Ok(policy));
        }
        let error = "best".parse::<Policy>().unwrap_err().to_string();
        assert!(error.contains("\"best\"") && error.contains("least-connections"), "{error}");
    }
}
