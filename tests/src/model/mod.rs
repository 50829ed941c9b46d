//! A plain model of what the kernel program ought to make of a frame: slices and hash maps, no line shared
//! with the program or with `lb-common`.
//!
//! What the program draws from a secret hash (backend, outer source, source port) the model cannot know. It
//! takes such a choice from what the program did ([`Seen`]), but only if it was free to choose so; otherwise
//! it chooses itself, and the outputs differ.

mod check;
mod config;
mod decide;
mod icmp;
mod neighbour;
mod output;
mod read;
pub mod sample;
mod state;
mod sums;

pub use check::{check, frames};
pub use config::{Backend, Config, Mode, Prefix, Quic, Vip};
pub use decide::{Act, Decision, Model, Seen};
pub use read::{Packet, Unread, read};

#[cfg(test)]
mod tests;
