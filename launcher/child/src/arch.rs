//! The two instructions that differ by architecture: a system call, and the clone that comes back on
//! another stack.

use super::CloneArgs;

/// The function that a child enters by.
pub(crate) type Entry = unsafe extern "C" fn(*const ()) -> !;

#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::{EXIT_GROUP, FUTEX, WRITE, clone3, syscall, trap};

#[cfg(target_arch = "aarch64")]
pub(crate) use aarch64::{EXIT_GROUP, FUTEX, WRITE, clone3, syscall, trap};

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("portcullis-child knows the system call instructions of x86_64 and aarch64");

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use core::arch::asm;

    use super::{CloneArgs, Entry};

    pub(crate) const WRITE: usize = 1;
    pub(crate) const FUTEX: usize = 202;
    pub(crate) const EXIT_GROUP: usize = 231;
    const CLONE3: usize = 435;

    /// Makes a system call; the result is the value, or a negated errno.
    ///
    /// # Safety
    ///
    /// The arguments must be good for the call.
    pub(crate) unsafe fn syscall(number: usize, args: [usize; 6]) -> isize {
        let [a, b, c, d, e, f] = args;
        let result;
        // SAFETY: the registers are those of the kernel's calling convention, which overwrites rax,
        // rcx and r11 (syscall(2)); the caller answers for the arguments.
        unsafe {
            asm!(
                "syscall",
                inlateout("rax") number => result,
                in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
                lateout("rcx") _, lateout("r11") _,
                options(nostack),
            );
        }
        result
    }

    /// Ends the process by a signal: an undefined instruction.
    pub(crate) fn trap() -> ! {
        // SAFETY: the instruction raises SIGILL, and nothing after it runs.
        unsafe { asm!("ud2", options(noreturn, nostack)) }
    }

    /// clone3; the child calls `entry(argument)` on the stack that `args` names.
    ///
    /// # Safety
    ///
    /// `args` must be a valid `clone_args` of `size` bytes with a stack that is the child's own.
    pub(crate) unsafe fn clone3(
        args: *const CloneArgs,
        size: usize,
        entry: Entry,
        argument: *const (),
    ) -> isize {
        let result;
        // SAFETY: both processes come back from the call with all registers but rax, rcx and r11 as
        // they were. The parent leaves by the label with its stack untouched; the child, whose frame
        // pointer is cleared as the outermost frame's must be, calls a function that never returns.
        unsafe {
            asm!(
                "syscall",
                "test rax, rax",
                "jnz 2f",
                "xor ebp, ebp",
                "mov rdi, {argument}",
                "call {entry}",
                "ud2",
                "2:",
                argument = in(reg) argument,
                entry = in(reg) entry,
                inlateout("rax") CLONE3 => result,
                in("rdi") args, in("rsi") size,
                // Not late: `argument` and `entry` are read after the call has overwritten these.
                out("rcx") _, out("r11") _,
            );
        }
        result
    }
}

#[cfg(target_arch = "aarch64")]
mod aarch64 {
    use core::arch::asm;

    use super::{CloneArgs, Entry};

    pub(crate) const WRITE: usize = 64;
    pub(crate) const FUTEX: usize = 98;
    pub(crate) const EXIT_GROUP: usize = 94;
    const CLONE3: usize = 435;

    /// Makes a system call; the result is the value, or a negated errno.
    ///
    /// # Safety
    ///
    /// The arguments must be good for the call.
    pub(crate) unsafe fn syscall(number: usize, args: [usize; 6]) -> isize {
        let [a, b, c, d, e, f] = args;
        let result;
        // SAFETY: the registers are those of the kernel's calling convention, which overwrites x0
        // alone (syscall(2)); the caller answers for the arguments.
        unsafe {
            asm!(
                "svc #0",
                in("x8") number,
                inlateout("x0") a => result,
                in("x1") b, in("x2") c, in("x3") d, in("x4") e, in("x5") f,
                options(nostack),
            );
        }
        result
    }

    /// Ends the process by a signal: a breakpoint that nobody set.
    pub(crate) fn trap() -> ! {
        // SAFETY: the instruction raises SIGTRAP, and nothing after it runs.
        unsafe { asm!("brk #1", options(noreturn, nostack)) }
    }

    /// clone3; the child calls `entry(argument)` on the stack that `args` names.
    ///
    /// # Safety
    ///
    /// `args` must be a valid `clone_args` of `size` bytes with a stack that is the child's own.
    pub(crate) unsafe fn clone3(
        args: *const CloneArgs,
        size: usize,
        entry: Entry,
        argument: *const (),
    ) -> isize {
        let result;
        // SAFETY: both processes come back from the call with all registers but x0 as they were. The
        // parent leaves by the label; the child, whose frame record is cleared as the outermost
        // frame's must be, branches to a function that never returns.
        unsafe {
            asm!(
                "svc #0",
                "cbnz x0, 2f",
                "mov x29, xzr",
                "mov x30, xzr",
                "mov x0, {argument}",
                "br {entry}",
                "2:",
                argument = in(reg) argument,
                entry = in(reg) entry,
                in("x8") CLONE3,
                inlateout("x0") args => result,
                in("x1") size,
                out("x30") _,
            );
        }
        result
    }
}
