//! The flow table under stress, by traffic that is made in the kernel and steered by the real program.
//!
//! | module | owns |
//! |---|---|
//! | [`layout`] | what is shared with the program in the kernel |
//! | [`bed`] | the data plane, its VIPs and the traffic program |
//! | [`frames`] | templates of the traffic, and the packets of clients that behave |
//! | [`gauges`] | what the table holds, beside what the gauges say |
//! | [`churn`] | flows that open, live and end on all CPUs at once |
//! | [`flood`] | floods of forged packets beside streams that must not break |
//! | [`clients`] | these streams, and connections that open during a flood |
//! | [`report`] | what is printed and written |
//!
//! Nothing here is judged by the clock: what takes how long is told, never demanded.

pub mod bed;
pub mod churn;
pub mod clients;
pub mod flood;
pub mod frames;
pub mod gauges;
#[path = "../../../lb-ebpf/src/bench/storm/layout.rs"]
pub mod layout;
pub mod report;
