//! Reading an exposition allocates nothing, however long it is.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    hint::black_box,
    time::Instant,
};

use guidevane::signals::reading::read;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, counting what the current thread asks of it.
struct Counting;

// SAFETY: every call is passed on as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps the contract.
        unsafe { System.realloc(block, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(text: &[u8]) -> u64 {
    let now = Instant::now();
    let before = ALLOCATIONS.get();
    black_box(read(black_box(text), None, now, now));
    ALLOCATIONS.get() - before
}

#[test]
fn reading_an_exposition_allocates_nothing() {
    let counted = ALLOCATIONS.get();
    black_box(Box::new(1));
    assert_eq!(ALLOCATIONS.get(), counted + 1, "allocations are not counted");

    let vllm = include_bytes!("signals/expositions/vllm-0.32.0.txt");
    let sglang = include_bytes!("signals/expositions/sglang-0.5.23.txt");
    // The first reading makes the index of the table.
    allocations(vllm);
    for (name, text) in [
        ("vllm", vllm.to_vec()),
        ("sglang", sglang.to_vec()),
        ("both, ten times", [&vllm[..], &sglang[..]].concat().repeat(10)),
        ("lines of junk", b"vllm:num_requests_running{a=\"\\\"} x\n<html>\n\xff\n".repeat(1000)),
        ("one long line", vec![b'#'; 1 << 20]),
    ] {
        assert_eq!(allocations(&text), 0, "{name}");
    }
}
