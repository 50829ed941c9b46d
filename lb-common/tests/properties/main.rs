//! What `lb-common` promises, as properties, tables and models: one file a module.
//!
//! References are written anew from the source of an algorithm, never by calling what they check.
//! Statistics use fixed seeds, so a figure is the same on every run.

mod address;
mod branchless;
mod checksum;
mod decap;
mod event;
mod flow;
mod index;
mod layout;
mod maglev;
mod model;
mod pick;
mod pick_bounded;
mod pick_order;
mod reason;
mod siphash;
mod slot;
mod support;
mod table;
mod table_ageing;
mod table_shared;
mod track;
mod track_http;
