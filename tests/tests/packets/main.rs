//! The kernel program, packet by packet: real frames into the loaded program, and what it made of them.

mod adoption;
mod back;
mod crowd;
mod foreign;
mod foresight;
mod malformed;
mod mirror;
mod missing;
mod neighbours;
mod plane;
mod policies;
mod program;
mod refusals;
mod rewriting;
mod states;
mod trace;
