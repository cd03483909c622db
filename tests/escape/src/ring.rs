//! One operation of `io_uring`, which no filter of system calls sees.
//!
//! The rings lie in memory of the program's own (`IORING_SETUP_NO_MMAP`), so that they can be read and
//! written as the atomics that they are.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::io::Errno;

use crate::attempt::Failure;
use crate::sys::{call, owned};

#[repr(align(4096))]
struct Page([AtomicU32; 1024]);

static RINGS: Page = Page([const { AtomicU32::new(0) }; 1024]);
static ENTRIES: Page = Page([const { AtomicU32::new(0) }; 1024]);

const NO_MMAP: u32 = 1 << 14;
const NO_SQ_ARRAY: u32 = 1 << 16;
const GET_EVENTS: i32 = 1;

/// What is asked for: the fields of `struct io_uring_sqe` that differ.
#[derive(Debug, Default)]
pub(crate) struct Operation {
    pub(crate) code: u8,
    pub(crate) fd: i32,
    pub(crate) address: u64,
    pub(crate) offset: u64,
    pub(crate) length: u32,
}

/// A ring.
#[derive(Debug)]
pub(crate) struct Ring {
    fd: OwnedFd,
    tail: usize,
    completions: usize,
}

fn address(page: &'static Page) -> [u8; 8] {
    (page.0.as_ptr().expose_provenance() as u64).to_ne_bytes()
}

impl Ring {
    pub(crate) fn new() -> Result<Self, Failure> {
        let mut parameters = [0; 120];
        parameters[8..12].copy_from_slice(&(NO_MMAP | NO_SQ_ARRAY).to_ne_bytes());
        parameters[72..80].copy_from_slice(&address(&ENTRIES));
        parameters[112..120].copy_from_slice(&address(&RINGS));
        let fd = owned(call!(libc::SYS_io_uring_setup, 1, &mut parameters)?)?;
        let offset = |at: usize| {
            u32::from_ne_bytes([0, 1, 2, 3].map(|byte| parameters[at + byte])) as usize / 4
        };
        Ok(Self { fd, tail: offset(44), completions: offset(100) })
    }

    /// Submits an operation and waits for its result.
    pub(crate) fn perform(&self, operation: &Operation) -> Result<i64, Failure> {
        let halves = |number: u64| {
            let [a, b, c, d, e, f, g, h] = number.to_ne_bytes();
            [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])]
        };
        let [offset, address] = [operation.offset, operation.address].map(halves);
        let code = u32::from_ne_bytes([operation.code, 0, 0, 0]);
        let words = [
            code,
            u32::from_ne_bytes(operation.fd.to_ne_bytes()),
            offset[0],
            offset[1],
            address[0],
            address[1],
        ];
        for (word, value) in ENTRIES.0.iter().zip(words.into_iter().chain([operation.length])) {
            word.store(value, Ordering::Relaxed);
        }
        RINGS.0[self.tail].store(1, Ordering::Release);
        call!(libc::SYS_io_uring_enter, &self.fd, 1, 1, GET_EVENTS, 0, 0)?;
        // struct io_uring_cqe: eight bytes of the user's, then the result.
        let result = RINGS.0[self.completions + 2].load(Ordering::Acquire);
        let result = i32::from_ne_bytes(result.to_ne_bytes());
        if result < 0 {
            return Err(Errno::from_raw_os_error(-result).into());
        }
        Ok(result.into())
    }
}
