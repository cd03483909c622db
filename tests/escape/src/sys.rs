//! The one door to the kernel: any system call, by number, with buffers that the caller owns.

#![allow(unsafe_code, reason = "an attacker makes calls that no library wraps")]

use std::ffi::CStr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

/// An argument of a system call.
#[derive(Debug)]
pub(crate) enum Arg<'a> {
    Number(i64),
    In(&'a [u8]),
    Out(&'a mut [u8]),
}

macro_rules! numbers {
    ($($number:ty),*) => {
        $(impl From<$number> for Arg<'_> {
            #[allow(
                clippy::cast_possible_wrap, clippy::cast_lossless, clippy::cast_possible_truncation,
                reason = "a register holds the bits, whatever they stand for"
            )]
            fn from(number: $number) -> Self {
                Self::Number(number as i64)
            }
        })*
    };
}
numbers!(i32, u32, i64, u64, usize);

impl<'a> From<&'a CStr> for Arg<'a> {
    fn from(text: &'a CStr) -> Self {
        Self::In(text.to_bytes_with_nul())
    }
}

impl<'a> From<&'a [u8]> for Arg<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::In(bytes)
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for Arg<'a> {
    fn from(bytes: &'a [u8; N]) -> Self {
        Self::In(bytes)
    }
}

impl<'a, const N: usize> From<&'a mut [u8; N]> for Arg<'a> {
    fn from(bytes: &'a mut [u8; N]) -> Self {
        Self::Out(bytes)
    }
}

impl From<&OwnedFd> for Arg<'_> {
    fn from(fd: &OwnedFd) -> Self {
        fd.as_raw_fd().into()
    }
}

/// Makes a system call.
#[allow(clippy::cast_possible_wrap, reason = "a register holds the bits, whatever they stand for")]
pub(crate) fn make(number: i64, arguments: &mut [Arg<'_>]) -> Result<i64, Errno> {
    let mut words = [0_i64; 6];
    for (word, argument) in words.iter_mut().zip(arguments) {
        *word = match argument {
            Arg::Number(number) => *number,
            Arg::In(bytes) => bytes.as_ptr().expose_provenance() as i64,
            Arg::Out(bytes) => bytes.as_mut_ptr().expose_provenance() as i64,
        };
    }
    let [a, b, c, d, e, f] = words;
    // SAFETY: the buffers are borrowed for the call, and every escape says sizes that they have. What is
    // mapped is mapped where nothing was. A fork is of a process of one thread.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result == -1 { Err(last_errno()) } else { Ok(result) }
}

/// The descriptor that a call returned.
pub(crate) fn owned(fd: i64) -> Result<OwnedFd, Errno> {
    let fd = i32::try_from(fd).map_err(|_| Errno::BADF)?;
    // SAFETY: a system call has just returned it, and nothing else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn last_errno() -> Errno {
    std::io::Error::last_os_error().raw_os_error().map_or(Errno::INVAL, Errno::from_raw_os_error)
}

/// Makes a system call by its name, with up to six arguments.
macro_rules! call {
    ($number:expr $(, $argument:expr)* $(,)?) => {
        $crate::sys::make(i64::from($number), &mut [$($crate::sys::Arg::from($argument)),*])
    };
}
pub(crate) use call;

/// Getpid by the 32-bit entry of an `x86_64` kernel, whose table has it at 20.
#[cfg(target_arch = "x86_64")]
pub(crate) fn getpid_of_i386() -> i64 {
    let result: i64;
    // SAFETY: the call touches no memory, and the entry clears r8 to r11, which are given up here.
    unsafe {
        core::arch::asm!(
            "int 0x80",
            inout("rax") 20_i64 => result,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            options(nostack),
        );
    }
    result
}
