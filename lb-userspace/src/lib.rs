//! The Guidevane daemon, its agent and its command line.

pub mod agent;
pub mod api;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod dataplane;
pub mod decap;
pub mod doctor;
pub mod governor;
pub mod gpu;
pub mod health;
mod log;
pub mod net;
pub mod recording;
mod service;
pub mod signals;
pub mod sim;
