//! Any frames in a row: the model never panics, reads as `etherparse` does, and leaves packets that can be
//! read again. The kernel's own parser cannot run here; the tests hold it to the model, packet by packet.

#![no_main]

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;
use model::{Model, check, frames, sample};

#[expect(dead_code, unused_imports, reason = "shared with the tests, which use all of it")]
#[path = "../../tests/src/model/mod.rs"]
mod model;
#[expect(dead_code, unused_imports, reason = "shared with the tests, which use all of it")]
#[path = "../../tests/src/packet/mod.rs"]
mod packet;

thread_local! {
    /// Made once: a clone is cheaper.
    static FRESH: RefCell<Model> = RefCell::new(Model::new(sample::config()));
}

fuzz_target!(|input: &[u8]| {
    let mut model = FRESH.with_borrow(Clone::clone);
    for frame in frames(input) {
        check(&mut model, frame);
    }
});
