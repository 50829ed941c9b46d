//! `guidevane doctor`: whether this host can do what a configuration wants, and what to do where it cannot.
//!
//! | module | owns |
//! |---|---|
//! | [`facts`] | what is known of the host. Plain data |
//! | [`host`], [`ports`], [`reach`] | facts into findings. Pure |
//! | [`gather`] | the facts, from the running system; [`ethtool`] asks that program |
//!
//! It changes nothing: no program is attached, nothing is pinned, and it needs no daemon.

mod ethtool;
mod facts;
mod gather;
mod host;
mod ports;
mod reach;

use serde::Serialize;

pub use facts::Facts;
pub use gather::gather;

/// How grave a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be, or not needed.
    Ok,
    /// It works, but slower or not for everyone; or nobody can say.
    Warn,
    /// It will not work.
    Fail,
}

impl Verdict {
    /// As people read it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warn => "WARN",
            Self::Fail => "FAIL",
        }
    }
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at: `kernel`, `interface eth0`, `backend gpu-0`, ..
    pub subject: String,
    /// How it is.
    pub verdict: Verdict,
    /// What was seen.
    pub seen: String,
    /// What to do, where something is to be done.
    pub remedy: Option<String>,
}

impl Finding {
    fn ok(subject: impl Into<String>, seen: impl Into<String>) -> Self {
        Self { subject: subject.into(), verdict: Verdict::Ok, seen: seen.into(), remedy: None }
    }

    fn warn(subject: impl Into<String>, seen: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { verdict: Verdict::Warn, remedy: Some(remedy.into()), ..Self::ok(subject, seen) }
    }

    fn fail(subject: impl Into<String>, seen: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { verdict: Verdict::Fail, remedy: Some(remedy.into()), ..Self::ok(subject, seen) }
    }
}

/// All findings, in the order in which they are best mended.
pub fn examine(facts: &Facts) -> Vec<Finding> {
    let mut findings = host::examine(facts);
    findings.extend(facts.ports.iter().flat_map(|port| ports::examine(facts, port)));
    findings.extend(reach::examine(facts));
    findings
}
