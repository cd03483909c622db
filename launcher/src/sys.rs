//! The parent's system calls that Rust calls unsafe, behind functions that are safe to call.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use portcullis_child::CloneOptions;

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

/// A thread's signal mask, put back when this is dropped.
pub(crate) struct SignalMask(libc::sigset_t);

/// Blocks every signal of this thread that can be blocked.
pub(crate) fn block_signals() -> SignalMask {
    let mut old = MaybeUninit::uninit();
    let all = all_signals();
    // SAFETY: both sets live through the call; it fails only for an unknown first argument, and so
    // has filled `old`.
    unsafe {
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, old.as_mut_ptr());
        SignalMask(old.assume_init())
    }
}

impl Drop for SignalMask {
    fn drop(&mut self) {
        // SAFETY: the set was filled by the call that blocked the signals.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut())
        };
    }
}

fn all_signals() -> libc::sigset_t {
    let mut all = MaybeUninit::uninit();
    // SAFETY: sigfillset fills the set that it is given.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        all.assume_init()
    }
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

/// Waits for a signal, all of which must be blocked.
pub(crate) fn wait_for_signal() -> Signal {
    let all = all_signals();
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    loop {
        // SAFETY: the set and the place for the answer live through the call.
        let number = unsafe { libc::sigwaitinfo(&raw const all, info.as_mut_ptr()) };
        if number > 0 {
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
