//! Nanoseconds a packet, ours beside a reference in the shape that everyone uses.
//!
//! | module | owns |
//! |---|---|
//! | [`layout`] | what is shared with the programs in the kernel |
//! | [`services`] | the VIPs and backends that both steer |
//! | [`shots`] | the packets |
//! | [`cases`] | what is measured, and what must become of the packets; `exits` those that are not steered |
//! | [`bed`] | the programs and their maps |
//! | [`reference`] | the reference's maps |
//! | [`measure`] | rounds, medians and the mix of what really happened |
//! | [`report`] | what is printed and written |
//!
//! Figures are compared within one case of one run only: the machine's own speed changes from minute to minute.

pub mod bed;
pub mod cases;
mod exits;
#[path = "../../../lb-ebpf/src/bench/layout.rs"]
pub mod layout;
pub mod measure;
pub mod reference;
pub mod report;
pub mod services;
pub mod shots;
