//! The four fds that a supervisor names in the environment.

use std::env;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use portcullis_core::frame::{HEADER_LEN, MAX_BODY_LEN};
use portcullis_core::mechanism::{Fault, Stop};
use portcullis_core::state::RefusalReason;
use rustix::fs::{SealFlags, fcntl_get_seals};
use rustix::io::{Errno, FdFlags, fcntl_setfd, pread, read, retry_on_intr};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::process::insist;
use crate::sys;

const CONTROL: &str = "BVISOR_CONTROL_FD";
const PLAN: &str = "BVISOR_LAUNCH_PLAN_FD";
const ERROR: &str = "BVISOR_ERROR_FD";
const ERROR_READ: &str = "BVISOR_ERROR_READ_FD";

/// The longest plan.
const MOST: usize = HEADER_LEN + MAX_BODY_LEN;

/// The channel that the transcript is written to.
pub(crate) struct Control(BorrowedFd<'static>);

impl Write for Control {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(retry_on_intr(|| rustix::io::write(self.0, bytes))?)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The control channel.
///
/// # Errors
///
/// What is wrong with its variable.
pub(crate) fn control() -> Result<Control, String> {
    named(CONTROL).map(Control)
}

/// The channels of a launch.
pub(crate) struct Channels {
    /// The plan.
    pub(crate) plan: BorrowedFd<'static>,
    /// The end of the error pipe that the child writes to.
    pub(crate) error: OwnedFd,
    /// The end that the launcher reads.
    pub(crate) error_read: OwnedFd,
    /// The numbers of all four, as they were named: the launcher's own, at which no slot may be.
    pub(crate) numbers: [RawFd; 4],
}

/// The other three.
///
/// # Errors
///
/// A [`Fault`] that says which variable is missing, malformed, or of a closed fd.
pub(crate) fn channels() -> Result<Channels, Fault> {
    let fault = |what| Fault { what, note: None };
    let plan = named(PLAN).map_err(fault)?;
    let error_read = named(ERROR_READ).map_err(fault)?.as_raw_fd();
    let error = number(ERROR).map_err(fault)?;
    let control = number(CONTROL).map_err(fault)?;
    let numbers = [plan.as_raw_fd(), error_read, error, control];
    for (name, fd) in [(ERROR, error), (ERROR_READ, error_read)] {
        if numbers.iter().filter(|other| **other == fd).count() > 1 {
            return Err(fault(format!("{name} is {fd}, and so is another of the four fds")));
        }
    }
    let closed = |name| fault(format!("{name} was closed"));
    let error_read = sys::take_inherited(error_read).ok_or_else(|| closed(ERROR_READ))?;
    let Some(error) = sys::take_inherited(error) else {
        // bvisor 0.10 hosts leave close-on-exec set on this end, so the launcher's own exec has closed
        // it. The pipe is between the launcher and its child; one of the launcher's own does as well.
        let (error_read, error) = pipe_with(PipeFlags::CLOEXEC)
            .map_err(|errno| fault(format!("making an error pipe: {errno}")))?;
        return Ok(Channels { plan, error, error_read, numbers });
    };
    // So that the exec shows as end of file. It is inherited, so the supervisor could not set it.
    fcntl_setfd(&error, FdFlags::CLOEXEC)
        .map_err(|errno| fault(format!("setting close-on-exec of {ERROR}: {errno}")))?;
    Ok(Channels { plan, error, error_read, numbers })
}

fn named(variable: &str) -> Result<BorrowedFd<'static>, String> {
    let fd = number(variable)?;
    sys::inherited(fd).ok_or_else(|| format!("{variable} is {fd}, and that fd is closed"))
}

fn number(variable: &str) -> Result<RawFd, String> {
    let value = env::var_os(variable)
        .ok_or_else(|| format!("{variable} is not set; a supervisor sets it, see --help"))?;
    let number = value.to_str().and_then(|text| text.trim().parse::<RawFd>().ok());
    let number = number.ok_or_else(|| format!("{variable} is {value:?}, which is no fd number"))?;
    // The workload would have it too, and could write to it.
    if (0..=2).contains(&number) {
        return Err(format!("{variable} is {number}, and 0, 1 and 2 are the workload's"));
    }
    Ok(number)
}

/// The seals of the plan's memfd; `None` where it is none, so that reading it may block.
pub(crate) fn seals(plan: BorrowedFd<'_>) -> Option<SealFlags> {
    fcntl_get_seals(plan).ok()
}

/// Reads the plan, which has these [seals], to its end.
///
/// # Errors
///
/// A refusal, `PlanInvalid`, where it is longer than any plan or a memfd without its seals; a fault
/// where it can't be read.
pub(crate) fn read_plan(plan: BorrowedFd<'_>, seals: Option<SealFlags>) -> Result<Vec<u8>, Stop> {
    // What can't be sealed (a pipe, a file of a disk) is read once, and so can't change either.
    let needed = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    if seals.is_some_and(|seals| !seals.contains(needed)) {
        let detail = "the plan's memfd is not sealed against shrinking, growing and writing";
        return Err(Stop::refuse(RefusalReason::PlanInvalid, detail));
    }
    let mut bytes = Vec::with_capacity(8192);
    loop {
        if bytes.len() == bytes.capacity() {
            bytes.reserve(bytes.len());
        }
        // Several launches may read one memfd at once, and its offset is all of theirs. What has no place
        // to read from (a pipe) is one launch's alone.
        let result = retry_on_intr(|| {
            let done = bytes.len() as u64;
            let piece = rustix::buffer::spare_capacity(&mut bytes);
            if seals.is_some() { pread(plan, piece, done) } else { read(plan, piece) }
        });
        match result {
            Ok(0) => return Ok(bytes),
            Ok(_) if bytes.len() > MOST => {
                let detail = format!("the plan is longer than {MOST} bytes, the most it may have");
                return Err(Stop::refuse(RefusalReason::PlanInvalid, detail));
            }
            Ok(_) => {}
            Err(errno) => return Err(Stop::fault(format!("reading the plan: {errno}"))),
        }
    }
}

/// Reads what the child wrote to the error pipe, to its end.
///
/// # Errors
///
/// That of [read(2)](https://man7.org/linux/man-pages/man2/read.2.html).
pub(crate) fn read_errors(pipe: &OwnedFd) -> Result<Vec<u8>, Errno> {
    let mut bytes = Vec::new();
    let mut chunk = [0; portcullis_child::Failure::LEN];
    loop {
        match insist(|| read(pipe, &mut chunk))? {
            0 => return Ok(bytes),
            length => bytes.extend_from_slice(&chunk[..length]),
        }
    }
}
