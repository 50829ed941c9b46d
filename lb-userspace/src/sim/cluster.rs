//! Clusters by name or from a file, and what is loaded onto them from elsewhere.

use std::{fs, io, path::Path, str::FromStr, time::Duration};

use serde::Deserialize;

use super::{
    engine::Refusal,
    profile::{A100_8B, H100_8B, L40S_8B, Profile},
    random::{self, Use},
    scenario::Server,
};

/// A straggler runs at this part of its speed for a part of each period; which part of it, the seed says.
const STRAGGLER_RATE: f64 = 0.4;
const STRAGGLER_PERIOD: Duration = Duration::from_secs(60);
const STRAGGLER_SLOW: Duration = Duration::from_secs(20);

/// The speeds of a mixed cluster, in turn.
const MIXED_RATES: [f64; 8] = [1.0, 0.6, 0.35, 1.0, 0.6, 0.35, 1.0, 0.6];

/// The GPUs of a cluster of profiles, in turn.
const GPUS: [&Profile; 8] = [&H100_8B, &H100_8B, &A100_8B, &L40S_8B, &H100_8B, &H100_8B, &A100_8B, &L40S_8B];

/// A cluster.
#[derive(Debug, Clone, PartialEq)]
pub enum Cluster {
    /// H100s that are all alike.
    Equal,
    /// The same, a quarter of them slowed to 0.4 for 20 s of every minute, each at its own time.
    Straggler,
    /// H100s at 1, 0.6 and 0.35 of their speed; 3, 3 and 2 of eight.
    Mixed,
    /// Four H100, two A100 and two L40S of eight.
    Profiles,
    /// Servers from a file, over and over until there are enough.
    Custom(Vec<Group>),
}

/// Servers of a kind in a file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Name of the profile.
    pub profile: String,
    /// How many there are.
    #[serde(default = "one")]
    pub count: u32,
    /// Part of the profile's speed.
    #[serde(default = "nominal")]
    pub rate: f64,
    /// Batch slots, the profile's without.
    pub slots: Option<u32>,
    /// Requests from elsewhere in the batch.
    #[serde(default)]
    pub foreign: u32,
    /// Later speeds: pairs of seconds and speed, in order.
    #[serde(default)]
    pub changes: Vec<(f64, f64)>,
}

fn one() -> u32 {
    1
}

fn nominal() -> f64 {
    1.0
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    gpu: Vec<Group>,
}

/// Why a cluster cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The file cannot be read.
    #[error(
        "cluster {name:?} is none of equal, straggler, mixed, profiles, and no file that can be read: {source}"
    )]
    Read {
        /// What was asked for.
        name: String,
        /// Why not.
        source: io::Error,
    },
    /// The file is not what it should be.
    #[error("{file}: {problem}")]
    Content {
        /// The file.
        file: String,
        /// What is wrong.
        problem: String,
    },
}

/// Load from elsewhere on every second server.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum PreLoad {
    /// This many requests in the batch; queues show them.
    Foreign(u32),
    /// Only this part of the speed is left; no report shows it.
    Slow(f64),
}

/// Text is no pre-load.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("pre-load {0:?} is not foreign:REQUESTS or slow:RATE with a rate from 0.01 to 1")]
pub struct BadPreLoad(String);

impl FromStr for PreLoad {
    type Err = BadPreLoad;

    fn from_str(text: &str) -> Result<Self, BadPreLoad> {
        let known = match text.split_once(':') {
            Some(("foreign", count)) => count.parse().ok().map(Self::Foreign),
            Some(("slow", rate)) => {
                rate.parse().ok().filter(|rate| (0.01..=1.0).contains(rate)).map(Self::Slow)
            }
            _ => None,
        };
        known.ok_or_else(|| BadPreLoad(text.to_owned()))
    }
}

impl PreLoad {
    /// Puts it on every second server.
    ///
    /// # Errors
    /// [`Refusal`] when foreign requests do not fit a server.
    pub fn apply(self, servers: &mut [Server]) -> Result<(), Refusal> {
        for server in servers.iter_mut().skip(1).step_by(2) {
            match self {
                Self::Foreign(count) => {
                    server.engine.admits_foreign(count)?;
                    server.foreign = count;
                }
                Self::Slow(rate) => {
                    server.rate *= rate;
                    server.changes.iter_mut().for_each(|(_, later)| *later *= rate);
                }
            }
        }
        Ok(())
    }
}

impl Cluster {
    /// By name, or from a TOML file of `[[gpu]]` tables.
    ///
    /// # Errors
    /// [`ClusterError`] when it is neither.
    pub fn load(name: &str) -> Result<Self, ClusterError> {
        Ok(match name {
            "equal" => Self::Equal,
            "straggler" => Self::Straggler,
            "mixed" => Self::Mixed,
            "profiles" => Self::Profiles,
            file => {
                let text = fs::read_to_string(Path::new(file))
                    .map_err(|source| ClusterError::Read { name: name.to_owned(), source })?;
                Self::parse(file, &text)?
            }
        })
    }

    fn parse(file: &str, text: &str) -> Result<Self, ClusterError> {
        let wrong = |problem: String| ClusterError::Content { file: file.to_owned(), problem };
        let File { gpu } = toml::from_str(text).map_err(|error| wrong(error.to_string()))?;
        for group in &gpu {
            let profile = Profile::named(&group.profile).map_err(|error| wrong(error.to_string()))?;
            let rates = group.changes.iter().map(|(_, rate)| *rate).chain([group.rate]);
            if rates.into_iter().any(|rate| !(0.01..=100.0).contains(&rate)) {
                return Err(wrong("a rate is not from 0.01 to 100".to_owned()));
            }
            let times = group.changes.iter().map(|(at, _)| *at);
            if !times.clone().all(|at| (0.0..1e9).contains(&at)) || !times.is_sorted() {
                return Err(wrong("times of changes are not in order or not in seconds from 0".to_owned()));
            }
            let engine = group.server(profile).engine;
            engine.admits_foreign(group.foreign).map_err(|error| wrong(error.to_string()))?;
        }
        if gpu.iter().all(|group| group.count == 0) {
            return Err(wrong("there is no gpu".to_owned()));
        }
        Ok(Self::Custom(gpu))
    }

    /// As many servers as asked for, or as the file has; `end` is how long stragglers keep changing.
    pub fn servers(&self, count: Option<usize>, seed: u64, end: Duration) -> Vec<Server> {
        const USUAL: usize = 8;
        let wanted = count.unwrap_or(USUAL);
        let h100 = || Server::new(&H100_8B, H100_8B.max_num_seqs);
        match self {
            Self::Equal => vec![h100(); wanted],
            Self::Mixed => {
                let rate = |number: usize| MIXED_RATES[number % MIXED_RATES.len()];
                (0..wanted).map(|number| h100().at_rate(rate(number))).collect()
            }
            Self::Profiles => {
                let gpu = |number: usize| GPUS[number % GPUS.len()];
                (0..wanted).map(|number| Server::new(gpu(number), gpu(number).max_num_seqs)).collect()
            }
            Self::Straggler => {
                let server = |number: usize| Server {
                    changes: if number % 4 == 1 { straggle(seed, number, end) } else { Vec::new() },
                    ..h100()
                };
                (0..wanted).map(server).collect()
            }
            Self::Custom(groups) => {
                let all: Vec<Server> = groups.iter().flat_map(Group::servers).collect();
                let wanted = count.unwrap_or(all.len());
                all.into_iter().cycle().take(wanted).collect()
            }
        }
    }
}

impl Group {
    fn server(&self, profile: &Profile) -> Server {
        let changes = self.changes.iter().map(|&(at, rate)| (Duration::from_secs_f64(at), rate)).collect();
        let server = Server::new(profile, self.slots.unwrap_or(profile.max_num_seqs));
        Server { changes, ..server.at_rate(self.rate).with_foreign(self.foreign) }
    }

    fn servers(&self) -> Vec<Server> {
        let profile = Profile::named(&self.profile).expect("profiles were looked up when the file was read");
        vec![self.server(profile); self.count as usize]
    }
}

fn straggle(seed: u64, number: usize, end: Duration) -> Vec<(Duration, f64)> {
    let mut at = STRAGGLER_PERIOD.mul_f64(random::unit(seed, Use::Phase, number as u64 | 1 << 63));
    let mut changes = Vec::new();
    while at < end {
        changes.extend([(at, STRAGGLER_RATE), (at + STRAGGLER_SLOW, 1.0)]);
        at += STRAGGLER_PERIOD;
    }
    changes
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Cluster;

    #[test]
    fn a_file_names_its_servers_and_what_is_wrong_with_it() {
        let good =
            "[[gpu]]\nprofile = \"l40s-8b\"\ncount = 2\nrate = 0.5\nslots = 9\nchanges = [[5, 0.25]]\n";
        let servers = Cluster::parse("c.toml", good).unwrap().servers(Some(3), 1, Duration::ZERO);
        assert_eq!(servers.len(), 3);
        assert_eq!((servers[2].rate, servers[2].engine.max_num_seqs), (0.5, 9));
        assert!((servers[0].mean_rate(Duration::from_secs(10)) - 0.375).abs() < 1e-9);
        let cases = [
            ("", "missing field `gpu`"),
            ("gpu = []", "there is no gpu"),
            ("[[gpu]]\nprofile = \"h1\"\n", "h100-8b"),
            ("[[gpu]]\nprofile = \"h100-8b\"\nrate = 0\n", "a rate is not"),
            ("[[gpu]]\nprofile = \"h100-8b\"\nchanges = [[5, 1], [4, 1]]\n", "times of changes"),
            ("[[gpu]]\nprofile = \"h100-8b\"\nforeign = 5000\n", "batch slots"),
        ];
        for (text, expected) in cases {
            let error = Cluster::parse("c.toml", text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_quarter_of_stragglers_is_slow_a_third_of_the_time() {
        let servers = Cluster::Straggler.servers(Some(8), 3, Duration::from_secs(6000));
        let slow: Vec<f64> =
            servers.iter().map(|server| server.mean_rate(Duration::from_secs(6000))).collect();
        let expected = |rate: &f64| if *rate < 1.0 { (rate - 0.8).abs() < 0.01 } else { true };
        assert_eq!(slow.iter().filter(|rate| **rate < 1.0).count(), 2);
        assert!(slow.iter().all(expected), "{slow:?}");
    }
}
