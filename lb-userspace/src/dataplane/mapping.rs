//! Map memory, shared with the kernel: an array map's elements as atomic words.
//!
//! aya has no mapping of array maps, so the map's descriptor is mapped here. Elements are read and written
//! word by word and never as a reference to a struct: the kernel changes them at any moment.

use std::{
    io,
    marker::PhantomData,
    os::fd::BorrowedFd,
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use lb_common::{branchless::Hide, table::Word};
use memmap2::{MmapOptions, MmapRaw};

/// The elements of a `BPF_F_MMAPABLE` array map, of type `T`.
pub struct Elements<T> {
    memory: MmapRaw,
    count: usize,
    element: PhantomData<T>,
}

/// A type that a map's element may have: plain integers in `repr(C)`, whole 64-bit words, no padding.
///
/// # Safety
///
/// Every bit pattern must be a valid value, and the type must hold no padding.
pub unsafe trait Element: Copy {}

/// Declares the shared structs as elements.
macro_rules! elements {
    ($($name:ty),* $(,)?) => {
        $(
            const _: () = assert!(size_of::<$name>().is_multiple_of(8));
            // SAFETY: `repr(C)` structs of integers, whose sizes `lb_common` asserts field by field.
            unsafe impl Element for $name {}
        )*
    };
}

elements! {
    u64,
    [u64; lb_common::table::WAYS],
    [u16; lb_common::layout::TABLE_LINE],
    lb_common::address::Address,
    lb_common::layout::Backend,
    lb_common::layout::Clock,
    lb_common::layout::Control,
    lb_common::layout::FlowInfo,
    lb_common::layout::Histogram,
    lb_common::layout::Load,
    lb_common::layout::Meta,
    lb_common::layout::Total,
    lb_common::layout::Vip,
}

impl<T: Element> Elements<T> {
    /// Maps `count` elements of the array map behind `map`.
    ///
    /// # Errors
    ///
    /// The kernel's, when the map is smaller or cannot be mapped.
    pub fn map(map: BorrowedFd<'_>, count: usize) -> io::Result<Self> {
        // The kernel maps whole pages, and a map's memory ends at a page's end.
        let bytes = (count * size_of::<T>()).next_multiple_of(page_size());
        let memory = MmapOptions::new().len(bytes).map_raw(&map)?;
        Ok(Self { memory, count, element: PhantomData })
    }

    /// How many elements there are.
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Reads an element, word by word: each word is whole, the element as such need not be.
    pub fn read(&self, index: usize) -> T {
        let mut value = std::mem::MaybeUninit::<T>::uninit();
        for word in 0..size_of::<T>() / 8 {
            let loaded = self.word(index, word * 8).load(Ordering::Relaxed);
            let place = value.as_mut_ptr().cast::<u64>().wrapping_add(word);
            // SAFETY: the place is within `value`, whose type is made of whole words.
            unsafe { place.write_unaligned(loaded) };
        }
        // SAFETY: every word was written, and every bit pattern is a valid `Element`.
        unsafe { value.assume_init() }
    }

    /// Writes an element, word by word, first word first.
    pub fn write(&self, index: usize, value: &T) {
        let source = std::ptr::from_ref(value).cast::<u64>();
        for word in 0..size_of::<T>() / 8 {
            let place = source.wrapping_add(word);
            // SAFETY: the place is within `value`, whose type is made of whole words.
            let stored = unsafe { place.read_unaligned() };
            self.word(index, word * 8).store(stored, Ordering::Relaxed);
        }
        std::sync::atomic::fence(Ordering::SeqCst);
    }

    /// The 64-bit word at byte `offset` of an element.
    pub fn word(&self, index: usize, offset: usize) -> &AtomicU64 {
        let place = self.place(index, offset, 8);
        // SAFETY: `place` has checked bounds and alignment; the mapping lives as long as `self`, and both
        // sides of it change words atomically.
        unsafe { AtomicU64::from_ptr(place.cast::<u64>().as_ptr()) }
    }

    /// The 32-bit word at byte `offset` of an element.
    pub fn half(&self, index: usize, offset: usize) -> &AtomicU32 {
        let place = self.place(index, offset, 4);
        // SAFETY: as in `word`.
        unsafe { AtomicU32::from_ptr(place.cast::<u32>().as_ptr()) }
    }

    fn place(&self, index: usize, offset: usize, size: usize) -> NonNull<u8> {
        assert!(index < self.count, "element {index} of a map of {}", self.count);
        assert!(
            offset + size <= size_of::<T>() && offset.is_multiple_of(size),
            "word at {offset} of an element"
        );
        let base = NonNull::new(self.memory.as_mut_ptr()).expect("a mapping is never at address zero");
        // SAFETY: the offset is within the mapping, by the assertions above.
        unsafe { base.add(index * size_of::<T>() + offset) }
    }
}

/// A word of the flow table.
pub struct FlowWord<'a>(pub &'a AtomicU64);

impl Hide for FlowWord<'_> {}

impl Word for FlowWord<'_> {
    fn load(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn compare_exchange(&self, old: u64, new: u64) -> u64 {
        match self.0.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(found) | Err(found) => found,
        }
    }
}

fn page_size() -> usize {
    nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
        .ok()
        .flatten()
        .and_then(|bytes| usize::try_from(bytes).ok())
        .expect("the kernel tells its page size")
}
