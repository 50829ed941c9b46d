//! The daemon and its kernel side, end to end: real connections through XDP, in namespaces of a test bed.

mod agents;
mod builds;
mod churn;
mod connections;
mod failing;
mod first_token;
mod flows;
mod gpu;
mod llama;
mod recording;
mod refusals;
mod reloads;
mod sources;
mod streaming;
mod support;
mod trace;
mod tunnels;
