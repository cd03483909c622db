//! The window between clone and exec: a loop over system calls, and the clone that enters it.
//!
//! The child shares its parent's memory (`CLONE_VM`) and has a stack of its own. What it may do there
//! is what a signal handler may do, and less: no allocation, no lock, no panic, no thread-local
//! (`errno` is one), no destructor. So this crate is `no_std`, has no dependency, makes its system
//! calls itself, and refers to no symbol of another object; a test holds `nm -u` of it to that. The
//! list of what is forbidden here, and why, is that of [signal-safety(7)], [vfork(2)] and the CAVEATS
//! of [clone(2)].
//!
//! [signal-safety(7)]: https://man7.org/linux/man-pages/man7/signal-safety.7.html
//! [vfork(2)]: https://man7.org/linux/man-pages/man2/vfork.2.html
//! [clone(2)]: https://man7.org/linux/man-pages/man2/clone.2.html

#![no_std]
#![deny(missing_docs)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a register's bits are handed on as they are; a checked conversion can panic"
)]

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicIsize, AtomicU32, AtomicUsize, Ordering};

mod arch;

const EINTR: isize = -4;
const EAGAIN: isize = -11;
const SIGCHLD: u64 = 17;
const CLONE_VM: u64 = 0x100;
const CLONE_FILES: u64 = 0x400;
const CLONE_PIDFD: u64 = 0x1000;
const CLONE_VFORK: u64 = 0x4000;
const CLONE_CHILD_CLEARTID: u64 = 0x20_0000;
/// Linux 5.5: the child starts with the default action for each signal that its parent handles.
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// An argument, ready for its register.
#[derive(Debug, Clone, Copy)]
pub enum Word {
    /// This value.
    Value(usize),
    /// What the step at this place returned.
    Result(usize),
}

/// A set of errnos, which end at 133.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Errnos([u64; 3]);

impl Errnos {
    /// The set of these errnos; one beyond the last there is, is left out.
    ///
    /// ```
    /// use portcullis_child::Errnos;
    ///
    /// let set = Errnos::of(&[1, 133]);
    /// assert!(set.contains(133) && !set.contains(2) && !set.contains(-1));
    /// ```
    pub fn of(errnos: &[i32]) -> Self {
        let mut set = Self::default();
        for errno in errnos {
            if let Some(word) = set.0.get_mut(*errno as usize / 64) {
                *word |= 1 << (errno % 64);
            }
        }
        set
    }

    /// Whether `errno` is one of them.
    pub fn contains(self, errno: isize) -> bool {
        match self.0.get(errno as usize / 64) {
            Some(word) => word >> (errno % 64) & 1 == 1,
            None => false,
        }
    }
}

/// What a call must return for the child to go on.
#[derive(Debug, Clone, Copy)]
pub enum Expect {
    /// This value.
    Value(isize),
    /// No error.
    NonNegative,
    /// No error, or one of these errnos.
    Tolerate(Errnos),
}

impl Expect {
    fn admits(self, result: isize) -> bool {
        match self {
            Self::Value(value) => result == value,
            Self::NonNegative => result >= 0,
            Self::Tolerate(errnos) => result >= 0 || errnos.contains(-result),
        }
    }
}

/// No system call returns it: errors end at -4095.
const NOT_MADE: isize = isize::MIN;

/// One system call.
#[derive(Debug)]
pub struct Step {
    number: usize,
    args: [Word; 6],
    expect: Expect,
    result: AtomicIsize,
}

impl Step {
    /// A call that has yet to be made.
    pub fn new(number: usize, args: [Word; 6], expect: Expect) -> Self {
        Self { number, args, expect, result: AtomicIsize::new(NOT_MADE) }
    }

    /// The call's number.
    pub fn number(&self) -> usize {
        self.number
    }

    /// What the call returned, or a negated errno; `None` where it has yet to return, which an exec
    /// that succeeded never does.
    pub fn result(&self) -> Option<isize> {
        match self.result.load(Ordering::Acquire) {
            NOT_MADE => None,
            result => Some(result),
        }
    }

    /// The call's arguments.
    pub fn args(&self) -> &[Word; 6] {
        &self.args
    }
}

/// What the child runs, and where it counts.
#[derive(Debug, Clone, Copy)]
pub struct Window<'a> {
    /// The calls, in order.
    pub steps: &'a [Step],
    /// How many of them returned what was expected.
    pub done: &'a AtomicUsize,
    /// Where a [`Failure`] is written.
    pub report_fd: i32,
}

/// Where a child waits for the window that it is to run.
#[derive(Debug, Default)]
pub struct Gate {
    open: AtomicU32,
    window: UnsafeCell<Option<Window<'static>>>,
}

impl Gate {
    const WAIT_PRIVATE: usize = 128;
    const WAKE_PRIVATE: usize = 129;

    /// Hands `window` to the child that waits here, or has yet to come here.
    ///
    /// # Safety
    ///
    /// - No window must have been handed over here before.
    /// - What the window refers to, and all that [`run`] asks of it, must live until the child has exec'd
    ///   or ended, and so must the gate.
    pub unsafe fn open(&self, window: Window<'_>) {
        // SAFETY: the child does not look at the place before the gate is open, and nobody else writes there.
        // The window lives as long as the child looks at it, by the caller's word.
        unsafe { self.window.get().cast::<Option<Window<'_>>>().write(Some(window)) };
        self.open.store(1, Ordering::Release);
        let args = [self.open.as_ptr() as usize, Self::WAKE_PRIVATE, 1, 0, 0, 0];
        // SAFETY: the address is that of a word that lives through the call.
        unsafe { arch::syscall(arch::FUTEX, args) };
    }

    /// Waits until there is a window; `None` where that can't be waited for.
    fn wait(&self) -> Option<&Window<'static>> {
        while self.open.load(Ordering::Acquire) == 0 {
            let args = [self.open.as_ptr() as usize, Self::WAIT_PRIVATE, 0, 0, 0, 0];
            // SAFETY: the address is that of a word that lives through the call, and there is no time limit.
            if !matches!(unsafe { arch::syscall(arch::FUTEX, args) }, 0 | EAGAIN | EINTR) {
                return None;
            }
        }
        // SAFETY: the gate is open, and nobody writes there any more.
        unsafe { (*self.window.get()).as_ref() }
    }
}

/// What a child that stops writes: errno, then the place of the step, each 32 bits in the machine's
/// byte order. A result that is neither an error nor what was expected counts as `EPROTO`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Failure {
    /// The error of the call.
    pub errno: i32,
    /// The place of the call among the steps.
    pub step: u32,
}

impl Failure {
    /// The bytes of a record.
    pub const LEN: usize = 8;

    /// The bytes of this record.
    ///
    /// ```
    /// use portcullis_child::Failure;
    ///
    /// let failure = Failure { errno: 1, step: 2 };
    /// assert_eq!(Failure::from_bytes(failure.to_bytes()), failure);
    /// ```
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let ([a, b, c, d], [e, f, g, h]) = (self.errno.to_ne_bytes(), self.step.to_ne_bytes());
        [a, b, c, d, e, f, g, h]
    }

    /// Reads a record.
    ///
    /// ```
    /// use portcullis_child::Failure;
    ///
    /// let failure = Failure::from_bytes([1, 0, 0, 0, 2, 0, 0, 0]);
    /// assert_eq!(failure, Failure { errno: 1, step: 2 });
    /// ```
    pub fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        let [a, b, c, d, e, f, g, h] = bytes;
        Self { errno: i32::from_ne_bytes([a, b, c, d]), step: u32::from_ne_bytes([e, f, g, h]) }
    }
}

/// Makes the calls of `window` in order, and ends the process: by the exec that is the last of them,
/// with status 0 where none is, with status 127 after a failure.
///
/// # Safety
///
/// That of [`attempt`]. The process must have nothing left to do.
pub unsafe fn run(window: &Window<'_>) -> ! {
    // SAFETY: the caller's.
    match unsafe { attempt(window) } {
        // SAFETY: the process has nothing left to do, by the caller's word.
        Some(failure) => unsafe { fail(window.report_fd, failure) },
        // SAFETY: as above.
        None => unsafe { exit(0) },
    }
}

/// Makes the calls of `window` in order. Returns where one of them failed, or where none was an exec.
///
/// # Safety
///
/// The steps' arguments must be good for their calls: addresses of memory that lives until the
/// process execs or ends, and that nothing else uses meanwhile where the call writes to it.
pub unsafe fn attempt(window: &Window<'_>) -> Option<Failure> {
    for (place, step) in window.steps.iter().enumerate() {
        let word = |word: &Word| match *word {
            Word::Value(value) => value,
            Word::Result(place) => match window.steps.get(place) {
                Some(earlier) => earlier.result.load(Ordering::Relaxed) as usize,
                None => 0,
            },
        };
        let [a, b, c, d, e, f] = &step.args;
        let args = [word(a), word(b), word(c), word(d), word(e), word(f)];
        let result = loop {
            // SAFETY: the caller answers for the arguments.
            let result = unsafe { arch::syscall(step.number, args) };
            if result != EINTR {
                break result;
            }
        };
        step.result.store(result, Ordering::Release);
        if !step.expect.admits(result) {
            const EPROTO: i32 = 71;
            let errno = if (-4095..0).contains(&result) { -(result as i32) } else { EPROTO };
            return Some(Failure { errno, step: place as u32 });
        }
        window.done.store(place + 1, Ordering::Release);
    }
    None
}

unsafe fn fail(report_fd: i32, failure: Failure) -> ! {
    let record = (&raw const failure) as usize;
    let args = [report_fd as usize, record, Failure::LEN, 0, 0, 0];
    // SAFETY: `record` is the address of as many bytes as are written, on this stack.
    while unsafe { arch::syscall(arch::WRITE, args) } == EINTR {}
    // SAFETY: the caller's.
    unsafe { exit(127) }
}

unsafe fn exit(status: usize) -> ! {
    // SAFETY: the call takes no address, and does not return unless a seccomp filter denies it.
    unsafe { arch::syscall(arch::EXIT_GROUP, [status, 0, 0, 0, 0, 0]) };
    arch::trap()
}

/// `struct clone_args` of [clone(2)](https://man7.org/linux/man-pages/man2/clone.2.html), as of
/// Linux 5.7.
#[derive(Debug, Default)]
#[repr(C)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Bytes of a child's stack that are plenty: its frames are those of this crate alone.
pub const STACK_LEN: usize = 16 << 10;

/// How the child is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CloneOptions {
    /// `CLONE_NEW…` flags.
    pub namespaces: u64,
    /// The cgroup that it is born in.
    pub cgroup: Option<i32>,
    /// Whether the parent runs on while the child does. Otherwise it waits for the exec or the end.
    pub concurrent: bool,
    /// Whether the parent gets a pidfd, which is close-on-exec.
    pub pidfd: bool,
    /// Whether the child has the parent's table of fds, and not a copy of it, until it unshares that.
    pub shares_files: bool,
}

/// A child that was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cloned {
    /// Its pid.
    pub pid: i32,
    /// The pidfd, where one was asked for: the caller's to close.
    pub pidfd: Option<i32>,
}

/// Makes a child that [runs](run) `window` on `stack`, in the memory of this process. `shares` is 1 as long as the child
/// is in that, and 0 from its exec or its end on (`CLONE_CHILD_CLEARTID` of
/// [clone(2)](https://man7.org/linux/man-pages/man2/clone.2.html)).
///
/// # Errors
///
/// The errno of clone3.
///
/// # Safety
///
/// - All signals should be blocked, for the child starts with the caller's mask and its program says
///   when that ends.
/// - `stack`, `shares`, what the window refers to, and all that [`run`] asks of it, must live until the child has
///   exec'd or ended; with `concurrent` that is after this function has returned.
/// - `stack` must be used by nothing else meanwhile, and have [`STACK_LEN`] bytes or more.
pub unsafe fn spawn(
    window: Window<'_>,
    options: CloneOptions,
    stack: &mut [MaybeUninit<u8>],
    shares: &AtomicU32,
) -> Result<Cloned, i32> {
    // SAFETY: the caller's.
    unsafe { clone(Start { window, gate: None }, options, stack, shares) }
}

/// Makes a child that makes the calls of `first`, and then [runs](run) the window that it is handed at `gate`.
///
/// # Errors
///
/// The errno of clone3.
///
/// # Safety
///
/// That of [`spawn`]; `gate` too must live until the child has exec'd or ended.
pub unsafe fn spawn_ahead(
    first: Window<'_>,
    gate: &Gate,
    options: CloneOptions,
    stack: &mut [MaybeUninit<u8>],
    shares: &AtomicU32,
) -> Result<Cloned, i32> {
    // SAFETY: the caller's.
    unsafe { clone(Start { window: first, gate: Some(gate) }, options, stack, shares) }
}

/// What a child starts from.
struct Start<'a> {
    window: Window<'a>,
    /// Where it is handed another window, when it has made the calls of that one.
    gate: Option<&'a Gate>,
}

unsafe fn clone(
    start: Start<'_>,
    options: CloneOptions,
    stack: &mut [MaybeUninit<u8>],
    shares: &AtomicU32,
) -> Result<Cloned, i32> {
    shares.store(1, Ordering::Relaxed);
    let base = stack.as_mut_ptr() as u64;
    // The child's copy of its start lies above its frames, so that it outlives the parent's. Both
    // architectures want the top of a stack aligned to 16 bytes.
    let top = (base + (stack.len() - size_of::<Start<'_>>()) as u64) & !15;
    let place = top as *mut Start<'_>;
    // SAFETY: the place is within the stack, aligned, and nobody's yet.
    unsafe { place.write(start) };
    let mut args = CloneArgs {
        flags: options.namespaces | CLONE_VM | CLONE_CLEAR_SIGHAND,
        exit_signal: SIGCHLD,
        stack: base,
        stack_size: top - base,
        ..CloneArgs::default()
    };
    if options.concurrent {
        args.flags |= CLONE_CHILD_CLEARTID;
        args.child_tid = shares.as_ptr() as u64;
    } else {
        args.flags |= CLONE_VFORK;
    }
    if let Some(cgroup) = options.cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup as u64;
    }
    if options.shares_files {
        args.flags |= CLONE_FILES;
    }
    let mut pidfd = -1;
    if options.pidfd {
        args.flags |= CLONE_PIDFD;
        args.pidfd = &raw mut pidfd as u64;
    }
    let start = place.cast_const().cast();
    // SAFETY: the arguments are a valid clone_args, the child's stack is its own, `enter` never
    // returns, and the caller answers for the rest.
    let result = unsafe { arch::clone3(&raw const args, size_of::<CloneArgs>(), enter, start) };
    if result < 0 {
        return Err(-(result as i32));
    }
    if !options.concurrent {
        shares.store(0, Ordering::Relaxed);
    }
    Ok(Cloned { pid: result as i32, pidfd: if options.pidfd { Some(pidfd) } else { None } })
}

/// The child's first instruction in Rust.
unsafe extern "C" fn enter(start: *const ()) -> ! {
    // SAFETY: `clone` passed the address of a start that lives until the child execs or ends. The callers of
    // `spawn`, `spawn_ahead` and `Gate::open` answer for the windows, and a child without one has nothing left
    // to do.
    unsafe {
        let Start { window, gate } = &*start.cast::<Start<'_>>();
        let Some(gate) = gate else { run(window) };
        if let Some(failure) = attempt(window) {
            fail(window.report_fd, failure)
        }
        match gate.wait() {
            Some(window) => run(window),
            None => exit(127),
        }
    }
}
