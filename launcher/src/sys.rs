//! The parent's system calls that Rust calls unsafe, behind functions that are safe to call.

use std::ffi::{CStr, OsStr, OsString, c_char};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicU32, Ordering};

use portcullis_child::{CloneOptions, Cloned, Failure, Gate};
use portcullis_core::program::Program;
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::assembly::Assembly;

mod arena;

pub use arena::Arena;

/// How `fd` was opened; `None` where it is closed.
fn flags(fd: RawFd) -> Option<OFlags> {
    // SAFETY: F_GETFL reads the flags of an open file, or fails with EBADF.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    u32::try_from(flags).ok().map(OFlags::from_bits_retain)
}

/// The fd that the launcher was started with at this number, if there is one, and how it was opened.
pub(crate) fn inherited_as(fd: RawFd) -> Option<(BorrowedFd<'static>, OFlags)> {
    let flags = flags(fd)?;
    // SAFETY: the fd is open, and an inherited fd is never closed before the process ends: the one
    // that is, is taken by `take_inherited`, whose caller keeps no borrow of it.
    Some((unsafe { BorrowedFd::borrow_raw(fd) }, flags))
}

/// The fd that the launcher was started with at this number, if there is one.
pub(crate) fn inherited(fd: RawFd) -> Option<BorrowedFd<'static>> {
    inherited_as(fd).map(|(fd, _)| fd)
}

/// Takes the fd that the launcher was started with at this number, to close it. Nothing else may use
/// the number: the wiring sees to it that its four fds differ.
pub(crate) fn take_inherited(fd: RawFd) -> Option<OwnedFd> {
    // SAFETY: the fd is open, it came with the process, and its one owner is who takes it here.
    flags(fd).map(|_| unsafe { OwnedFd::from_raw_fd(fd) })
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

/// Those of `signals` that this process handles. Of those that C libraries keep for themselves, too.
pub(crate) fn handled(signals: impl Iterator<Item = i32>) -> impl Iterator<Item = i32> {
    signals.filter(|signal| {
        // struct kernel_sigaction, whose first word is the handler.
        let mut action = [0usize; 4];
        // SAFETY: the call writes an action to the place that it is given, and changes none.
        let asked = unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                *signal,
                std::ptr::null::<usize>(),
                action.as_mut_ptr(),
                SIGNAL_SET_LEN,
            )
        };
        asked == 0 && action[0] != libc::SIG_DFL && action[0] != libc::SIG_IGN
    })
}

/// Whether a child of this process that has ended is kept until it is waited for, which is not so where
/// SIGCHLD is ignored or has `SA_NOCLDWAIT` ([wait(2)](https://man7.org/linux/man-pages/man2/wait.2.html),
/// NOTES).
pub(crate) fn children_are_kept() -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: the call writes an action to the place that it is given, and changes none.
    let asked = unsafe { libc::sigaction(libc::SIGCHLD, std::ptr::null(), action.as_mut_ptr()) };
    // SAFETY: it was written, or is zeros, which are an action too.
    let action = unsafe { action.assume_init() };
    asked == 0 && action.sa_sigaction != libc::SIG_IGN && action.sa_flags & libc::SA_NOCLDWAIT == 0
}

/// The group that this process is in, where that has a number in its PID namespace.
pub(crate) fn own_group() -> Option<rustix::process::Pid> {
    // SAFETY: the call touches no memory.
    rustix::process::Pid::from_raw(unsafe { libc::getpgrp() })
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

fn stack() -> Box<[MaybeUninit<u8>]> {
    Box::new_uninit_slice(portcullis_child::STACK_LEN)
}

/// A child and the memory that it runs in, neither of which goes before the child is done with it.
pub(crate) struct Spawned {
    pub(crate) pid: i32,
    pub(crate) pidfd: Option<OwnedFd>,
    /// Boxed, for the child counts in it wherever this value is moved to.
    assembly: Box<Assembly>,
    #[expect(dead_code, reason = "the child's")]
    stack: Box<[MaybeUninit<u8>]>,
    /// Boxed, for the kernel writes there when the child leaves this memory.
    shares: Box<AtomicU32>,
    /// Where it is handed its program, and what it runs before that, where it was made ahead.
    ahead: Option<(Box<Gate>, Box<Assembly>)>,
}

impl Spawned {
    /// Clones a child that runs `assembly`, which comes back where that fails.
    pub(crate) fn new(
        assembly: Box<Assembly>,
        report_fd: RawFd,
        options: CloneOptions,
    ) -> Result<Self, (Box<Assembly>, Errno)> {
        let (mut stack, shares) = (stack(), Box::<AtomicU32>::default());
        let window = assembly.window(report_fd);
        // SAFETY: the program's ops are what their constructors vouch for, their addresses lie in the
        // assembly, and the assembly, the stack and the word are this value's, used by nothing else: it is
        // dropped by `process::Child` alone, after the child has exec'd or ended.
        match unsafe { portcullis_child::spawn(window, options, &mut stack, &shares) } {
            Ok(cloned) => Ok(Self::of(cloned, assembly, stack, shares, None)),
            Err(errno) => Err((assembly, Errno::from_raw_os_error(errno))),
        }
    }

    /// Clones a child that runs `first`, and then waits for what it is to [take on](Self::take_on).
    pub(crate) fn ahead(first: Assembly, options: CloneOptions) -> Result<Self, Errno> {
        let (gate, first) = (Box::<Gate>::default(), Box::new(first));
        let (mut stack, shares) = (stack(), Box::<AtomicU32>::default());
        let window = first.window(-1);
        // SAFETY: that of `new`; the gate is this value's as well.
        let cloned =
            unsafe { portcullis_child::spawn_ahead(window, &gate, options, &mut stack, &shares) };
        let cloned = cloned.map_err(Errno::from_raw_os_error)?;
        let nothing = Box::new(Assembly::new(Program::default(), 0));
        Ok(Self::of(cloned, nothing, stack, shares, Some((gate, first))))
    }

    fn of(
        Cloned { pid, pidfd }: Cloned,
        assembly: Box<Assembly>,
        stack: Box<[MaybeUninit<u8>]>,
        shares: Box<AtomicU32>,
        ahead: Option<(Box<Gate>, Box<Assembly>)>,
    ) -> Self {
        // SAFETY: the clone opened it, and this is its one owner.
        let pidfd = pidfd.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
        Self { pid, pidfd, assembly, stack, shares, ahead }
    }

    /// Hands `assembly` to a child that was made [ahead](Self::ahead), and has not been handed one.
    pub(crate) fn take_on(&mut self, assembly: Assembly, report_fd: RawFd) {
        let Some((gate, _)) = &self.ahead else { return };
        *self.assembly = assembly;
        // SAFETY: that of `new`; and the child has yet to be told of what is there.
        unsafe { gate.open(self.assembly.window(report_fd)) };
    }

    /// Whether the child is in this process's memory: it has neither exec'd nor ended.
    pub(crate) fn shares_memory(&self) -> bool {
        self.shares.load(Ordering::Acquire) != 0
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
