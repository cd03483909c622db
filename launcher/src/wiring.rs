//! The fds of a launch: those that a supervisor names in the environment, those of a message, or those that
//! this process has itself.

use std::collections::BTreeMap;
use std::env;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;

use portcullis_core::descriptor::{DescriptorRole, DescriptorSlot};
use portcullis_core::frame::{HEADER_LEN, MAX_BODY_LEN};
use portcullis_core::mechanism::{Fault, Stop};
use portcullis_core::plan::LaunchPlan;
use portcullis_core::state::RefusalReason;
use rustix::fs::{OFlags, SealFlags, fcntl_get_seals, fcntl_getfl};
use rustix::io::{Errno, FdFlags, fcntl_setfd, pread, read, retry_on_intr};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::coordinator::{self, Way};
use crate::here::Here;
use crate::kept::KeptLaunch;
use crate::process::insist;
use crate::request::{Makings, Request};
use crate::sys;

const CONTROL: &str = "BVISOR_CONTROL_FD";
const PLAN: &str = "BVISOR_LAUNCH_PLAN_FD";
const ERROR: &str = "BVISOR_ERROR_FD";
const ERROR_READ: &str = "BVISOR_ERROR_READ_FD";

/// The longest plan.
const MOST: usize = HEADER_LEN + MAX_BODY_LEN;

/// Where a transcript goes.
pub(crate) trait Channel: Write {
    /// With which status this process ends, where a launch has stopped and that is told.
    fn end(&mut self, stop: &Stop) -> u8 {
        coordinator::status(stop)
    }
}

/// The channel that the transcript is written to.
pub(crate) struct Control(BorrowedFd<'static>);

impl Channel for Control {}
impl Channel for io::Sink {}

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

/// What a launch is made from.
pub(crate) struct Channels<'r> {
    /// The plan.
    pub(crate) plan: Source<'r>,
    /// What is told by; `None` where this process is told by itself, or nobody waits for what is told so.
    pub(crate) ends: Option<Ends>,
    /// Where the slots' fds are.
    pub(crate) slots: Slots<'r>,
    /// What the workload is to have at 0, 1 and 2, and at which, where this process has something else there.
    pub(crate) stdio: Vec<(RawFd, RawFd)>,
}

/// Where a plan is read from.
#[derive(Clone, Copy)]
pub(crate) enum Source<'r> {
    /// An fd.
    Fd(BorrowedFd<'r>),
    /// This process, which made it for itself.
    Own(&'r Rc<LaunchPlan>),
    /// A launch that was kept: it is verified.
    Kept(&'r KeptLaunch),
}

/// The fds that a launch is told by.
pub(crate) struct Ends {
    /// The end of the error pipe that the child writes to.
    pub(crate) error: OwnedFd,
    /// The end that the launcher reads; in place held, so that writing is no signal to die of where nobody
    /// else reads.
    pub(crate) error_read: OwnedFd,
    /// The control channel's number.
    pub(crate) control: RawFd,
}

/// Where the fds of a plan's slots are.
pub(crate) enum Slots<'r> {
    /// Each is at its number, at which this process was started with it. These are the numbers of the
    /// launcher's own channels, at which no slot may be.
    Inherited([RawFd; 4]),
    /// They came by a message: their numbers are names.
    Received(&'r BTreeMap<u32, OwnedFd>),
    /// This process opened them, as others: their numbers are names.
    Opened(&'r [(DescriptorSlot, OwnedFd)]),
}

impl<'r> Slots<'r> {
    /// The fd of a slot and how it was opened, or what is wrong with it.
    pub(crate) fn at(&self, slot: DescriptorSlot) -> Result<(BorrowedFd<'r>, OFlags), String> {
        let index = slot.slot_index;
        match self {
            // A mechanism would keep it open, for the workload to write to.
            Self::Inherited(channels)
                if slot.role != DescriptorRole::ControlChannel
                    && channels.iter().any(|fd| u32::try_from(*fd) == Ok(index)) =>
            {
                Err("its number is that of one of the launcher's four fds".into())
            }
            Self::Inherited(_) => {
                let fd = RawFd::try_from(index).ok().and_then(sys::inherited_as);
                fd.ok_or_else(|| "its fd is closed".into())
            }
            Self::Received(fds) => open(fds.get(&index), "no fd came for it"),
            Self::Opened(fds) => {
                let found = fds.iter().find(|(opened, _)| opened.slot_index == index);
                open(found.map(|(_, fd)| fd), "no fd was opened for it")
            }
        }
    }
}

fn open<'r>(fd: Option<&'r OwnedFd>, missing: &str) -> Result<(BorrowedFd<'r>, OFlags), String> {
    let fd = fd.ok_or(missing)?.as_fd();
    let flags = fcntl_getfl(fd).map_err(|errno| format!("fcntl(F_GETFL): {errno}"))?;
    Ok((fd, flags))
}

/// The channels, from the message that asked for the launch or from the environment.
///
/// # Errors
///
/// A [`Fault`] that says which variable is missing, malformed, or of a closed fd; or that no pipe could be
/// made.
pub(crate) fn channels(way: Way<'_>) -> Result<Channels<'_>, Fault> {
    match way {
        Way::Resident { request, .. } => received(request),
        Way::Here(here) => Ok(own(here)),
        Way::Child | Way::InPlace | Way::InPlaceIfPossible => inherited(),
    }
}

fn own<'r>(here: &'r Here<'r>) -> Channels<'r> {
    Channels {
        plan: Source::Own(&here.plan),
        ends: None,
        slots: Slots::Opened(here.slots),
        stdio: here.stdio.clone(),
    }
}

fn received(request: &Request) -> Result<Channels<'_>, Fault> {
    let (plan, slots) = match &request.makings {
        Makings::Handed(it) | Makings::ToKeep(_, it) => {
            (Source::Fd(it.plan.as_fd()), Slots::Received(&it.slots))
        }
        Makings::Kept(launch) => (Source::Kept(launch), Slots::Received(&launch.slots)),
    };
    // Where nothing need be told before the workload's end nobody waits for the exec, and what the pipe would say of it
    // the child's memory and the kernel do.
    let ends = if request.at_end || matches!(request.makings, Makings::ToKeep(..)) {
        None
    } else {
        // Other children on their way may have copies of the child's end, and must not be waited for.
        let (error_read, error) = error_pipe(PipeFlags::NONBLOCK)?;
        Some(Ends { error, error_read, control: request.control })
    };
    let stdio = request.stdio.iter().map(AsRawFd::as_raw_fd).zip(0..).collect();
    Ok(Channels { plan, ends, slots, stdio })
}

fn inherited() -> Result<Channels<'static>, Fault> {
    let fault = |what| Fault { what, note: None };
    let plan = named(PLAN).map_err(fault)?;
    let error_read = number(ERROR_READ).map_err(fault)?;
    let error = number(ERROR).map_err(fault)?;
    let control = number(CONTROL).map_err(fault)?;
    let numbers = [plan.as_raw_fd(), error_read, error, control];
    for (name, fd) in [(ERROR, error), (ERROR_READ, error_read)] {
        if numbers.iter().filter(|other| **other == fd).count() > 1 {
            return Err(fault(format!("{name} is {fd}, and so is another of the four fds")));
        }
    }
    let error_read =
        sys::take_inherited(error_read).ok_or_else(|| fault(closed(ERROR_READ, error_read)))?;
    let (error_read, error) = match sys::take_inherited(error) {
        Some(error) => {
            // So that the exec shows as end of file. It is inherited, so the supervisor could not set it.
            fcntl_setfd(&error, FdFlags::CLOEXEC)
                .map_err(|errno| fault(format!("setting close-on-exec of {ERROR}: {errno}")))?;
            (error_read, error)
        }
        // bvisor 0.10 hosts leave close-on-exec set on this end, so the launcher's own exec has closed
        // it. The pipe is between the launcher and its child; one of the launcher's own does as well.
        None => error_pipe(PipeFlags::empty())?,
    };
    Ok(Channels {
        plan: Source::Fd(plan),
        ends: Some(Ends { error, error_read, control }),
        slots: Slots::Inherited(numbers),
        stdio: Vec::new(),
    })
}

fn error_pipe(flags: PipeFlags) -> Result<(OwnedFd, OwnedFd), Fault> {
    pipe_with(PipeFlags::CLOEXEC | flags)
        .map_err(|errno| Fault { what: format!("making an error pipe: {errno}"), note: None })
}

/// The fd that a variable names.
///
/// # Errors
///
/// What is wrong with the variable.
pub(crate) fn named(variable: &str) -> Result<BorrowedFd<'static>, String> {
    let fd = number(variable)?;
    sys::inherited(fd).ok_or_else(|| closed(variable, fd))
}

fn closed(variable: &str, fd: RawFd) -> String {
    format!("{variable} is {fd}, and that fd is closed")
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

/// The seals of a plan's memfd; `None` where it is none, so that reading it may block.
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
        let room = bytes.capacity() - bytes.len();
        // Several launches may read one memfd at once, and its offset is all of theirs. What has no place
        // to read from (a pipe) is one launch's alone.
        let result = retry_on_intr(|| {
            let done = bytes.len() as u64;
            let piece = rustix::buffer::spare_capacity(&mut bytes);
            if seals.is_some() { pread(plan, piece, done) } else { read(plan, piece) }
        });
        match result {
            Ok(_) if bytes.len() > MOST => {
                let detail = format!("the plan is longer than {MOST} bytes, the most it may have");
                return Err(Stop::refuse(RefusalReason::PlanInvalid, detail));
            }
            // What is sealed has ended where a reading of it does.
            Ok(length) if length == 0 || (seals.is_some() && length < room) => {
                // The launcher's memory hands out again what the plan does not take.
                bytes.shrink_to_fit();
                return Ok(bytes);
            }
            Ok(_) => {}
            Err(errno) => return Err(Stop::fault(format!("reading the plan: {errno}"))),
        }
    }
}

/// Reads what the child wrote to the error pipe, to its end; where other children may share that, what the child
/// wrote, which has exec'd or ended.
///
/// # Errors
///
/// That of [read(2)](https://man7.org/linux/man-pages/man2/read.2.html).
pub(crate) fn read_errors(pipe: &OwnedFd, is_shared: bool) -> Result<Vec<u8>, Errno> {
    let mut bytes = Vec::new();
    let mut chunk = [0; portcullis_child::Failure::LEN];
    loop {
        let read = || match read(pipe, &mut chunk) {
            Err(Errno::AGAIN) if is_shared => Ok(0),
            read => read,
        };
        match insist(read)? {
            0 => return Ok(bytes),
            length => bytes.extend_from_slice(&chunk[..length]),
        }
    }
}
