//! Reports across hosts, by the standard that gRPC and Envoy use for it (ORCA, out of band): `guidevane agent`
//! beside the servers, and the daemon that subscribes.
//!
//! | module | owns |
//! |---|---|
//! | [`message`] | the standard's messages |
//! | [`fold`] | what is known into a report, and back |
//! | [`clock`] | when a report was sent, by clocks that need not agree |
//! | `vitals` | the host's CPU and memory, and requests a second |
//! | [`server`] | the agent's end |
//! | `lobby` | who may be on the way in there, before a certificate is seen |
//! | [`subscriber`] | the daemon's end: what arrives is published as if it had been scraped |
//! | `connection`, `url` | one subscription on the wire |
//! | [`tls`], [`enroll`] | who may speak for which backend, and the certificates that say so |
//!
//! It never judges what is reported: the governor does, and bounds what reports may do.

pub mod clock;
mod connection;
pub mod enroll;
pub mod fold;
mod lobby;
pub mod message;
mod run;
pub mod server;
pub mod subscriber;
pub mod tls;
mod url;
mod vitals;

use std::time::Duration;

pub use run::run;
pub use url::{AgentUrl, UrlError};

/// The port of an agent whose URL has none.
pub const DEFAULT_PORT: u16 = 9900;

/// Reports at least this far apart: as often as the daemon computes costs.
pub const SHORTEST_INTERVAL: Duration = Duration::from_millis(5);

/// Reports at most this far apart.
pub const LONGEST_INTERVAL: Duration = Duration::from_secs(3600);

/// Header of a request that says which backend is meant, and of the answer that says which one is. The standard
/// knows one server an end point; a plain client names none and gets the agent's first.
const BACKEND_HEADER: &str = "guidevane-backend";

/// Header of an answer: milliseconds from one report to the next.
const INTERVAL_HEADER: &str = "guidevane-interval-ms";
