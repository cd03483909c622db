//! The memory of a launcher's process.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Bytes of the [`Arena`]: several times what a usual launch takes. Untouched pages cost nothing.
const ARENA_LEN: usize = 512 << 10;

/// Room for a block of each size that is used again: powers of two up to the largest.
const CLASSES: usize = 13;
/// The smallest of them: a free one holds the address of the next.
const LEAST: usize = 16;

/// An allocator for a launcher: it hands out memory from one end of a static block to the other, and takes
/// back what it handed out last; what does not fit any more comes from the system's allocator.
///
/// A general allocator maps, touches and unmaps pages as it goes, which in a guest costs ten times
/// what touching the next page of a block does, and together as much as half of a launch.
///
/// A process that lives on has it recycle.
// The counters come first, on the page that the block begins on, which is touched anyway.
#[repr(C)]
pub struct Arena {
    used: AtomicUsize,
    /// Up to where the block has been handed out at some time, and may not be zeros any more.
    reached: AtomicUsize,
    /// From where on in the block what is taken back is handed out again; 0 where nowhere. (An arena is
    /// all zeros at first, or it would be half a megabyte of the launcher's file.)
    recycled: AtomicUsize,
    locked: AtomicBool,
    /// The first free block of each size, which holds the address of the next.
    free: UnsafeCell<[*mut u8; CLASSES]>,
    block: UnsafeCell<[u8; ARENA_LEN]>,
}

// SAFETY: parts of the block are handed out by an atomic addition, so no two callers share one; the lists
// of free ones are used under a lock.
unsafe impl Sync for Arena {}

/// Which of the sizes that are used again a layout needs, and that size; `None` where none is large enough.
fn class(layout: Layout) -> Option<(usize, usize)> {
    let size = layout.size().max(layout.align()).max(LEAST).checked_next_power_of_two()?;
    let class = (size / LEAST).trailing_zeros() as usize;
    (class < CLASSES && size <= ARENA_LEN / 8).then_some((class, size))
}

impl Arena {
    /// An arena of which nothing is used.
    #[allow(clippy::new_without_default, reason = "it is made by a static, which needs a const fn")]
    #[allow(
        clippy::large_stack_arrays,
        reason = "it is a static's initial value, never on a stack"
    )]
    pub const fn new() -> Self {
        Self {
            used: AtomicUsize::new(0),
            reached: AtomicUsize::new(0),
            recycled: AtomicUsize::new(0),
            locked: AtomicBool::new(false),
            free: UnsafeCell::new([null_mut(); CLASSES]),
            block: UnsafeCell::new([0; ARENA_LEN]),
        }
    }

    /// From here on, takes back what it hands out, and hands it out again. Sizes are powers of two, so that
    /// what one launch leaves the next can use: after a few the block is used no further.
    pub fn recycle(&self) {
        self.recycled.store(self.used.load(Ordering::Relaxed).max(1), Ordering::Relaxed);
    }

    /// How far into the block a place is; `ARENA_LEN` or more where it is outside.
    fn offset(&self, place: *mut u8) -> usize {
        place.addr().wrapping_sub(self.block.get().addr())
    }

    fn holds(&self, place: *mut u8) -> bool {
        self.offset(place) < ARENA_LEN
    }

    fn recycles(&self) -> bool {
        self.recycled.load(Ordering::Relaxed) != 0
    }

    /// Whether a block, which the arena holds, is to be handed out again when it is taken back.
    fn takes_back(&self, place: *mut u8) -> bool {
        let from = self.recycled.load(Ordering::Relaxed);
        from != 0 && self.offset(place) >= from
    }

    /// Uses the list of free blocks of a class, alone.
    fn with_free<T>(&self, class: usize, act: impl FnOnce(&mut *mut u8) -> T) -> T {
        while self.locked.swap(true, Ordering::Acquire) {
            std::hint::spin_loop();
        }
        // SAFETY: the lock is held, so there is no other reference, and classes are less than their number.
        let result = act(unsafe { &mut (*self.free.get())[class] });
        self.locked.store(false, Ordering::Release);
        result
    }

    /// The next bytes of the block, or null where it has no more.
    fn next(&self, size: usize, align: usize) -> *mut u8 {
        let base = self.block.get().cast::<u8>();
        let take = |used: usize| {
            let start = (base.addr() + used).checked_next_multiple_of(align)? - base.addr();
            start.checked_add(size).filter(|end| *end <= ARENA_LEN)
        };
        match self.used.fetch_update(Ordering::Acquire, Ordering::Relaxed, take) {
            // SAFETY: `take` gave an end within the block, so its start is within it too.
            Ok(used) => unsafe { base.add(take(used).unwrap_or(ARENA_LEN) - size) },
            Err(_) => null_mut(),
        }
    }

    /// A free block for a layout, or a new one; null where the arena has none.
    #[allow(clippy::cast_ptr_alignment, reason = "these blocks are aligned to 16 bytes")]
    fn recycled(&self, layout: Layout) -> *mut u8 {
        let Some((class, size)) = class(layout) else { return null_mut() };
        let free = self.with_free(class, |first| {
            let place = *first;
            if !place.is_null() {
                // SAFETY: a free block begins with the address of the next, and is aligned for one.
                *first = unsafe { place.cast::<*mut u8>().read() };
            }
            place
        });
        if free.is_null() { self.next(size, layout.align().max(LEAST)) } else { free }
    }
}

// SAFETY: each block is aligned, is as long as was asked for, and stays where it is; what is taken
// back is the system allocator's own, left alone, or free and nobody's. A free block is handed out for the
// class that it came from; its alignment is that of the layout it was made for, or `LEAST`: see `alloc`.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // Free blocks are not told apart by alignment, so those that need more than the usual are not
        // among them.
        let place = if !self.recycles() {
            self.next(layout.size(), layout.align())
        } else if layout.align() <= LEAST {
            self.recycled(layout)
        } else {
            null_mut()
        };
        // SAFETY: the caller's.
        if place.is_null() { unsafe { System.alloc(layout) } } else { place }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's.
        let place = unsafe { self.alloc(layout) };
        if place.is_null() {
            return place;
        }
        let written = if !self.holds(place) || self.recycles() {
            layout.size()
        } else {
            // Beyond what was taken back the block is as zero as it began: its pages are not touched here.
            self.reached
                .load(Ordering::Relaxed)
                .saturating_sub(self.offset(place))
                .min(layout.size())
        };
        // SAFETY: no more bytes than were given.
        unsafe { place.write_bytes(0, written) };
        place
    }

    #[allow(
        clippy::cast_ptr_alignment,
        reason = "the blocks that it takes back are aligned to 16 bytes"
    )]
    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        if !self.holds(place) {
            // SAFETY: what is not the arena's is the system's.
            unsafe { System.dealloc(place, layout) };
        } else if let (true, Some((class, _))) = (self.takes_back(place), class(layout)) {
            self.with_free(class, |first| {
                // SAFETY: the block is nobody's any more, and of this class, so it has room for an address
                // and is aligned for one.
                unsafe { place.cast::<*mut u8>().write(*first) };
                *first = place;
            });
        } else if !self.recycles() {
            // What was handed out last is handed out again: less of the block is touched.
            let start = self.offset(place);
            let end = start + layout.size();
            self.reached.fetch_max(end, Ordering::Relaxed);
            // Released: another thread may be handed what this one wrote to.
            let _ = self.used.compare_exchange(end, start, Ordering::Release, Ordering::Relaxed);
        }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !self.holds(place) {
            // SAFETY: what is not the arena's is the system's.
            return unsafe { System.realloc(place, layout, size) };
        }
        // SAFETY: the caller vouches for the size, and the layout's alignment is one.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        if self.takes_back(place) {
            if class(layout) == class(wanted) {
                return place;
            }
        } else {
            // What was handed out last grows where it is, as a vector that is being filled does.
            let start = self.offset(place);
            let (end, grown) = (start + layout.size(), start.saturating_add(size));
            let swap = |end, new| {
                self.used.compare_exchange(end, new, Ordering::Acquire, Ordering::Relaxed)
            };
            // What it shrinks by is handed out again, and is not zeros any more.
            self.reached.fetch_max(end, Ordering::Relaxed);
            let grows = grown <= ARENA_LEN && !self.recycles() && swap(end, grown).is_ok();
            if size <= layout.size() || grows {
                return place;
            }
        }
        // SAFETY: the caller's.
        let other = unsafe { self.alloc(wanted) };
        if !other.is_null() {
            // SAFETY: both are as long as the shorter size, and what was just handed out is no other's; the
            // old one is the caller's to give back.
            unsafe {
                std::ptr::copy_nonoverlapping(place, other, layout.size().min(size));
                self.dealloc(place, layout);
            }
        }
        other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_handed_out_last_grows_in_place_and_anything_else_moves() {
        static ARENA: Arena = Arena::new();
        let layout = Layout::from_size_align(8, 8).unwrap();
        // SAFETY: sizes are not zero, and each block is used as it was given.
        unsafe {
            let first = ARENA.alloc(layout);
            first.write_bytes(7, 8);
            assert_eq!(ARENA.realloc(first, layout, 64), first);
            let second = ARENA.alloc(layout);
            assert!(second.addr() >= first.addr() + 64);
            let moved = ARENA.realloc(first, Layout::from_size_align(64, 8).unwrap(), 128);
            assert_ne!(moved, first);
            assert_eq!(std::slice::from_raw_parts(moved, 8), [7; 8]);
            let large =
                ARENA.realloc(moved, Layout::from_size_align(128, 8).unwrap(), 2 * ARENA_LEN);
            assert!(!ARENA.holds(large));
            assert_eq!(std::slice::from_raw_parts(large, 8), [7; 8]);
            ARENA.dealloc(large, Layout::from_size_align(2 * ARENA_LEN, 8).unwrap());
        }
    }

    #[test]
    fn one_that_recycles_keeps_what_it_gave_and_gives_again_what_it_took_back() {
        static ARENA: Arena = Arena::new();
        let layout = Layout::from_size_align(24, 8).unwrap();
        // SAFETY: sizes are not zero, and each block is used and given back as it was taken.
        unsafe {
            let before = ARENA.alloc(layout);
            before.write_bytes(7, 24);
            ARENA.recycle();
            ARENA.dealloc(before, layout);
            let first = ARENA.alloc(layout);
            assert!(ARENA.holds(first) && first != before);
            first.write_bytes(9, 24);
            assert_eq!(ARENA.realloc(first, layout, 32), first, "as long as its size class");
            let longer = Layout::from_size_align(32, 8).unwrap();
            let moved = ARENA.realloc(first, longer, 64);
            assert_eq!(std::slice::from_raw_parts(moved, 24), [9; 24]);
            let again = ARENA.alloc_zeroed(layout);
            assert_eq!(again, first);
            assert_eq!(std::slice::from_raw_parts(again, 24), [0; 24]);
            let large = Layout::from_size_align(ARENA_LEN / 4, 8).unwrap();
            let large_place = ARENA.alloc(large);
            assert!(!ARENA.holds(large_place));
            ARENA.dealloc(large_place, large);
            let aligned = Layout::from_size_align(64, 64).unwrap();
            let aligned_place = ARENA.alloc(aligned);
            assert_eq!(aligned_place.addr() % 64, 0);
            ARENA.dealloc(aligned_place, aligned);
        }
    }

    #[test]
    fn threads_recycle_without_sharing_a_block() {
        static ARENA: Arena = Arena::new();
        ARENA.recycle();
        std::thread::scope(|scope| {
            for mark in 0..8u8 {
                scope.spawn(move || {
                    for turn in 0..2000 {
                        let layout = Layout::from_size_align(1 + turn % 500, 8).unwrap();
                        // SAFETY: the size is not zero, and the block is given back as it was taken.
                        unsafe {
                            let place = ARENA.alloc(layout);
                            place.write_bytes(mark, layout.size());
                            std::thread::yield_now();
                            let bytes = std::slice::from_raw_parts(place, layout.size());
                            assert!(bytes.iter().all(|byte| *byte == mark));
                            ARENA.dealloc(place, layout);
                        }
                    }
                });
            }
        });
        assert!(ARENA.used.load(Ordering::Relaxed) < 64 << 10);
    }

    #[test]
    fn an_arena_hands_out_aligned_blocks_that_share_no_byte_and_overflows_to_the_system() {
        static ARENA: Arena = Arena::new();
        let mut blocks: Vec<(usize, usize)> = Vec::new();
        let mut taken = Vec::new();
        for (size, align) in [(1, 1), (24, 8), (3, 1), (4096, 4096), (7, 2), (ARENA_LEN, 16)] {
            let layout = Layout::from_size_align(size, align).unwrap();
            // SAFETY: the size is not zero.
            let place = unsafe { ARENA.alloc_zeroed(layout) };
            assert_eq!(place.addr() % align, 0);
            assert_eq!(ARENA.holds(place), size < ARENA_LEN);
            // SAFETY: as many bytes were given.
            let bytes = unsafe { std::slice::from_raw_parts_mut(place, size) };
            assert!(bytes.iter().all(|byte| *byte == 0));
            bytes.fill(0xff);
            let range = (place.addr(), place.addr() + size);
            assert!(blocks.iter().all(|other| range.1 <= other.0 || other.1 <= range.0));
            blocks.push(range);
            taken.push((place, layout));
        }
        for (place, layout) in taken {
            // SAFETY: it was taken with this layout, and is used no more.
            unsafe { ARENA.dealloc(place, layout) };
        }
    }

    #[test]
    fn what_was_handed_out_last_is_taken_back_and_zero_where_zeros_are_asked_for() {
        static ARENA: Arena = Arena::new();
        let layout = Layout::from_size_align(64, 8).unwrap();
        let longer = Layout::from_size_align(256, 8).unwrap();
        // SAFETY: sizes are not zero, and each block is used and given back as it was taken.
        unsafe {
            let first = ARENA.alloc(layout);
            let second = ARENA.alloc(layout);
            for place in [first, second] {
                place.write_bytes(7, 64);
            }
            ARENA.dealloc(first, layout);
            let third = ARENA.alloc(layout);
            assert!(third != first && third != second, "only the last is taken back");
            third.write_bytes(7, 64);
            ARENA.dealloc(third, layout);
            ARENA.dealloc(second, layout);
            let zeros = ARENA.alloc_zeroed(longer);
            assert_eq!(zeros, second);
            assert_eq!(std::slice::from_raw_parts(zeros, 256), [0; 256]);
            // Nor is what one that shrinks gives back.
            zeros.write_bytes(7, 256);
            assert_eq!(ARENA.realloc(zeros, longer, 64), zeros);
            let zeros = ARENA.alloc_zeroed(longer);
            assert_eq!(zeros.addr(), second.addr() + 64);
            assert_eq!(std::slice::from_raw_parts(zeros, 256), [0; 256]);
        }
    }
}
