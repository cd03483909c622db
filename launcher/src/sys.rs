//! The parent's system calls that Rust calls unsafe, behind functions that are safe to call.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ffi::{CStr, OsStr, OsString, c_char};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicUsize, Ordering};

use portcullis_child::{CloneOptions, Failure};

use crate::assembly::Assembly;

/// Whether `fd` is open.
fn is_open(fd: RawFd) -> bool {
    // SAFETY: F_GETFD reads a flag of the descriptor, or fails with EBADF.
    fd >= 0 && unsafe { libc::fcntl(fd, libc::F_GETFD) } >= 0
}

/// The fd that the launcher was started with at this number, if there is one.
pub(crate) fn inherited(fd: RawFd) -> Option<BorrowedFd<'static>> {
    // SAFETY: the fd is open, and an inherited fd is never closed before the process ends: the one
    // that is, is taken by `take_inherited`, whose caller keeps no borrow of it.
    is_open(fd).then(|| unsafe { BorrowedFd::borrow_raw(fd) })
}

/// Takes the fd that the launcher was started with at this number, to close it. Nothing else may use
/// the number: the wiring sees to it that its four fds differ.
pub(crate) fn take_inherited(fd: RawFd) -> Option<OwnedFd> {
    // SAFETY: the fd is open, it came with the process, and its one owner is who takes it here.
    is_open(fd).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether this process is known to have one thread: the kernel refuses to unshare what more than one
/// share, and has nothing to do where there is one
/// ([unshare(2)](https://man7.org/linux/man-pages/man2/unshare.2.html), `CLONE_THREAD`). False may mean
/// that the call itself is forbidden here.
pub(crate) fn is_known_to_have_one_thread() -> bool {
    // SAFETY: with this flag the call checks, and changes nothing.
    unsafe { libc::unshare(libc::CLONE_THREAD) == 0 }
}

/// The kernel's set of signals: a bit for each of 64.
type SignalSet = u64;
const SIGNAL_SET_LEN: usize = size_of::<SignalSet>();
/// Every signal, those too that C libraries keep for themselves and leave out of their own sets: with
/// another library one of them is an ordinary one, such as glibc's SIGRTMIN to musl.
const ALL_SIGNALS: SignalSet = SignalSet::MAX;

/// A thread's signal mask, put back when this is dropped.
pub(crate) struct SignalMask(SignalSet);

/// Blocks every signal of this thread that can be blocked.
pub(crate) fn block_signals() -> io::Result<SignalMask> {
    set_signal_mask(ALL_SIGNALS).map(SignalMask)
}

impl Drop for SignalMask {
    fn drop(&mut self) {
        // It was set before by the same call.
        let _ = set_signal_mask(self.0);
    }
}

fn set_signal_mask(mask: SignalSet) -> io::Result<SignalSet> {
    let mut old: SignalSet = 0;
    // SAFETY: both sets live through the call and are as long as it is told.
    let result = unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const mask,
            &raw mut old,
            SIGNAL_SET_LEN,
        )
    };
    if result == 0 { Ok(old) } else { Err(io::Error::last_os_error()) }
}

/// Lets this process wait for its children: one that inherited an ignored SIGCHLD has none to wait
/// for ([wait(2)](https://man7.org/linux/man-pages/man2/wait.2.html), NOTES).
pub(crate) fn expect_children() {
    // SAFETY: the default action runs no code of ours.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}

/// A signal that was waited for.
pub(crate) struct Signal {
    pub(crate) number: i32,
    /// A process sent it, and not the kernel.
    pub(crate) from_process: bool,
}

/// Ends this process now: nothing that it holds needs putting back by hand.
pub(crate) fn exit(status: u8) -> ! {
    // SAFETY: the call ends the process.
    unsafe { libc::_exit(status.into()) }
}

/// The arguments that C's `main` was called with, without the first.
///
/// # Safety
///
/// `argv` must be what the C runtime passes: `argc` C strings that live as long as the process.
pub(crate) unsafe fn arguments(argc: i32, argv: *const *const c_char) -> Vec<OsString> {
    let count = usize::try_from(argc).unwrap_or(0);
    // SAFETY: the caller's.
    let argument = |at| unsafe { CStr::from_ptr(*argv.add(at)) };
    (1..count).map(|at| OsStr::from_bytes(argument(at).to_bytes()).to_owned()).collect()
}

/// Waits for a signal, all of which must be blocked.
pub(crate) fn wait_for_signal() -> Signal {
    let all = ALL_SIGNALS;
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    loop {
        let forever = std::ptr::null::<libc::timespec>();
        // SAFETY: the set and the place for the answer live through the call, and the set is as long as
        // it is told.
        let number = unsafe {
            libc::syscall(
                libc::SYS_rt_sigtimedwait,
                &raw const all,
                info.as_mut_ptr(),
                forever,
                SIGNAL_SET_LEN,
            )
        };
        if let Some(number) = i32::try_from(number).ok().filter(|number| *number > 0) {
            // SAFETY: the call filled it; zeros are a siginfo_t too.
            let code = unsafe { info.assume_init_ref() }.si_code;
            // SI_USER, SI_QUEUE and SI_TKILL are 0 and below, what the kernel sends is above.
            return Signal { number, from_process: code <= libc::SI_USER };
        }
    }
}

/// Sends a signal of any number to a child that has not been reaped. One that has ended by itself
/// meanwhile takes no harm.
pub(crate) fn send_signal(child: rustix::process::Pid, number: i32) {
    // SAFETY: kill touches no memory of this process.
    unsafe { libc::kill(child.as_raw_pid(), number) };
}

/// A child and the memory that it runs in, neither of which goes before the child is done with it.
pub(crate) struct Spawned {
    pub(crate) pid: i32,
    /// Boxed, for the child counts in it wherever this value is moved to.
    assembly: Box<Assembly>,
    stack: Box<[u8]>,
}

impl Spawned {
    /// Clones a child that runs `assembly`.
    pub(crate) fn new(
        assembly: Assembly,
        report_fd: RawFd,
        options: CloneOptions,
    ) -> io::Result<Self> {
        let stack = vec![0; portcullis_child::STACK_LEN].into_boxed_slice();
        let mut spawned = Self { pid: 0, assembly: Box::new(assembly), stack };
        let window = spawned.assembly.window(report_fd);
        // SAFETY: the program's ops are what their constructors vouch for, their addresses lie in the
        // assembly, and the assembly and the stack are this value's, used by nothing else: it is
        // dropped by `process::Child` alone, after the child has exec'd or ended.
        let result = unsafe { portcullis_child::spawn(window, options, &mut spawned.stack) };
        spawned.pid = result.map_err(io::Error::from_raw_os_error)?;
        Ok(spawned)
    }

    pub(crate) fn assembly(&self) -> &Assembly {
        &self.assembly
    }
}

/// Runs `assembly` in this process, and says where it failed: where it succeeds, this process has become
/// another program.
pub(crate) fn attempt(assembly: &Assembly) -> Option<Failure> {
    // SAFETY: the program's ops are what their constructors vouch for, and their addresses lie in the
    // assembly, which outlives the call.
    unsafe { portcullis_child::attempt(&assembly.window(-1)) }
}

/// Moves this process, which has one thread, into new namespaces: `CLONE_NEW…` flags.
pub(crate) fn unshare(namespaces: u64) -> io::Result<()> {
    let flags =
        i32::try_from(namespaces).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    // SAFETY: the call touches no memory of this process.
    if unsafe { libc::unshare(flags) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Bytes of the [`Arena`]: several times what a usual launch takes. Untouched pages cost nothing.
const ARENA_LEN: usize = 512 << 10;

/// An allocator for a process that lives for one launch: it hands out memory from one end of a static
/// block to the other and takes none back.
///
/// A general allocator maps, touches and unmaps pages as it goes, which in a guest costs ten times
/// what touching the next page of a block does, and together as much as half of a launch. What does
/// not fit any more comes from the system's allocator.
pub struct Arena {
    block: UnsafeCell<[u8; ARENA_LEN]>,
    used: AtomicUsize,
}

// SAFETY: parts of the block are handed out by an atomic addition, so no two callers share one.
unsafe impl Sync for Arena {}

impl Arena {
    /// An arena of which nothing is used.
    #[allow(clippy::new_without_default, reason = "it is made by a static, which needs a const fn")]
    #[allow(
        clippy::large_stack_arrays,
        reason = "it is a static's initial value, never on a stack"
    )]
    pub const fn new() -> Self {
        Self { block: UnsafeCell::new([0; ARENA_LEN]), used: AtomicUsize::new(0) }
    }

    /// Hands out no more of the block: from here on, memory is the system allocator's, which takes it
    /// back. For a process that lives on.
    pub(crate) fn retire(&self) {
        self.used.store(ARENA_LEN, Ordering::Relaxed);
    }

    fn holds(&self, place: *mut u8) -> bool {
        place.addr().wrapping_sub(self.block.get().addr()) < ARENA_LEN
    }
}

// SAFETY: each block is aligned, is as long as was asked for, and stays where it is; what is taken
// back is either the system allocator's own or left alone.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let base = self.block.get().cast::<u8>();
        let take = |used: usize| {
            let start =
                (base.addr() + used).checked_next_multiple_of(layout.align())? - base.addr();
            start.checked_add(layout.size()).filter(|end| *end <= ARENA_LEN)
        };
        match self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            // SAFETY: `take` gave an end within the block, so its start is within it too.
            Ok(used) => unsafe { base.add(take(used).unwrap_or(ARENA_LEN) - layout.size()) },
            // SAFETY: the caller's.
            Err(_) => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's.
        let place = unsafe { self.alloc(layout) };
        // Nothing of the block is handed out twice, so it is as zero as it began. (What a vector grows
        // into in place was never handed out either, and it is asked for as not zeroed.)
        if !place.is_null() && !self.holds(place) {
            // SAFETY: the system's allocator gave as many bytes.
            unsafe { place.write_bytes(0, layout.size()) };
        }
        place
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        if !self.holds(place) {
            // SAFETY: what is not the arena's is the system's.
            unsafe { System.dealloc(place, layout) };
        }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !self.holds(place) {
            // SAFETY: what is not the arena's is the system's.
            return unsafe { System.realloc(place, layout, size) };
        }
        // What was handed out last grows where it is, as a vector that is being filled does.
        let start = place.addr() - self.block.get().addr();
        let (end, grown) = (start + layout.size(), start.saturating_add(size));
        let swap =
            |end, new| self.used.compare_exchange(end, new, Ordering::Relaxed, Ordering::Relaxed);
        if size <= layout.size() || (grown <= ARENA_LEN && swap(end, grown).is_ok()) {
            return place;
        }
        // SAFETY: the caller vouches for the size, and the layout's alignment is one.
        let other = unsafe { self.alloc(Layout::from_size_align_unchecked(size, layout.align())) };
        if !other.is_null() {
            // SAFETY: both are as long as the old size, and what was just handed out is no other's.
            unsafe { std::ptr::copy_nonoverlapping(place, other, layout.size()) };
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
    fn a_retired_arena_keeps_what_it_gave_and_gives_no_more() {
        static ARENA: Arena = Arena::new();
        let layout = Layout::from_size_align(8, 8).unwrap();
        // SAFETY: sizes are not zero, and each block is given back as it was taken.
        unsafe {
            let before = ARENA.alloc(layout);
            before.write_bytes(7, 8);
            ARENA.retire();
            let after = ARENA.alloc_zeroed(layout);
            assert!(ARENA.holds(before) && !ARENA.holds(after));
            assert_eq!(std::slice::from_raw_parts(after, 8), [0; 8]);
            let moved = ARENA.realloc(before, layout, 64);
            assert!(!ARENA.holds(moved));
            assert_eq!(std::slice::from_raw_parts(moved, 8), [7; 8]);
            ARENA.dealloc(after, layout);
            ARENA.dealloc(moved, Layout::from_size_align(64, 8).unwrap());
        }
    }

    #[test]
    fn an_arena_hands_out_aligned_blocks_that_share_no_byte_and_overflows_to_the_system() {
        static ARENA: Arena = Arena::new();
        let mut blocks: Vec<(usize, usize)> = Vec::new();
        for (size, align) in [(1, 1), (24, 8), (3, 1), (4096, 4096), (7, 2), (ARENA_LEN, 16)] {
            let layout = Layout::from_size_align(size, align).unwrap();
            // SAFETY: the size is not zero, and the block is given back as it was taken.
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
            // SAFETY: it was taken with this layout, and is used no more.
            unsafe { ARENA.dealloc(place, layout) };
        }
    }
}
