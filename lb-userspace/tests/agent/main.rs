//! The agent and its subscribers: real processes, real TLS, over loopback.

mod commands;
mod strangers;
mod streams;
mod support;
mod trust;
