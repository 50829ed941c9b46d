//! What both sides of Guidevane share: the structs of the maps, byte for byte, and every decision as a
//! pure function.
//!
//! | module | decides |
//! |---|---|
//! | [`address`] | how addresses and endpoints are written down and hashed for the indexes |
//! | [`branchless`] | nothing: comparisons that the verifier can follow |
//! | [`checksum`] | how an Internet checksum follows a rewrite |
//! | [`decap`] | which tunnelled packets a backend unpacks, and what becomes of them |
//! | [`event`] | which flows are reported, and what a report holds |
//! | [`flow`] | a flow's key and its keyed hash |
//! | [`fragment`] | where the later fragments of a packet go |
//! | [`header`] | which headers stand before the transport's, which ICMP messages are about a flow |
//! | [`index`] | which bucket of an endpoint index an address and port live in |
//! | [`layout`] | what a map element looks like |
//! | [`maglev`] | which backends a hash may go to, in which order |
//! | [`pick`] | which backend a new flow gets |
//! | [`quic`] | which server a QUIC connection ID names |
//! | [`reason`] | what became of a packet |
//! | [`siphash`] | the keyed hash |
//! | [`slot`] | the eight bytes of a flow: fingerprint, backend, state, age |
//! | [`table`] | where a flow lives and whom it may push out |
//! | [`track`] | what a packet, or silence, does to a flow |
//! | [`tunnel`] | what goes around a packet |
//!
//! Nothing here reads a clock, a packet or a map: callers pass values in and carry decisions out, so the
//! XDP program, the daemon, the simulator and the property tests all run the same code.

#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod address;
pub mod branchless;
pub mod checksum;
pub mod decap;
pub mod event;
pub mod flow;
pub mod fragment;
pub mod header;
pub mod index;
pub mod layout;
pub mod maglev;
pub mod pick;
pub mod quic;
pub mod reason;
pub mod siphash;
pub mod slot;
pub mod table;
pub mod track;
pub mod tunnel;
