//! Starting the launcher: every fd in its slot, and nothing else inherited.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{OwnedFd, RawFd};

use portcullis_child::CloneOptions;
use portcullis_core::program::{FdArg, Op, Program};
use portcullis_launcher::process::{self, Child as Process, Progress};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::{Errno, pwrite, retry_on_intr};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Signal;

use crate::Error;
use crate::launcher::{Launcher, variable};

/// What a launcher is started with.
#[derive(Debug, Default)]
pub(crate) struct Placement {
    /// Fds and the numbers that they are to have: 0, 1 and 2 where they are not this process's own,
    /// and every number from 3 up to the highest.
    pub(crate) fds: Vec<(RawFd, u32)>,
    /// Variables of the environment that are fd numbers.
    pub(crate) wiring: Vec<(&'static str, u32)>,
    /// Whether the launcher notes how long its stages take.
    pub(crate) trace: bool,
    /// The working directory.
    pub(crate) directory: Option<RawFd>,
    /// Whether the launcher dies with the thread that starts it.
    pub(crate) die_with_parent: bool,
}

/// Starts a launcher.
///
/// The child moves each fd out of the numbers that are to be filled, fills them, and marks the rest
/// close-on-exec: this process's fd table is not touched, whatever its other threads do meanwhile.
pub(crate) fn place(
    launcher: &Launcher,
    arguments: &[&str],
    with: &Placement,
) -> Result<Process, Error> {
    let mut envp = Vec::with_capacity(with.wiring.len() + 1);
    for (name, fd) in &with.wiring {
        envp.push(variable(name, fd.to_string().as_ref())?);
    }
    if with.trace {
        envp.push(variable("BVISOR_TRACE", OsStr::new("1"))?);
    }
    let mut program = Program::default();
    if with.die_with_parent {
        program.push(Op::parent_death_signal(Signal::KILL.as_raw()));
        program.push(Op::parent_is_alive());
    }
    if let Some(directory) = with.directory {
        program.push(Op::fchdir(directory));
    }
    let base = with.fds.iter().map(|(_, target)| target + 1).max().unwrap_or(0).max(3);
    // Moved by the child and filled in when all are out of the way.
    let mut fill = Vec::with_capacity(with.fds.len());
    for (fd, target) in &with.fds {
        let to = RawFd::try_from(*target).unwrap_or(RawFd::MAX);
        fill.push(Op::dup3(moved(&mut program, *fd, base), to));
    }
    let image = launcher.image()?.map(|fd| moved(&mut program, fd, base));
    for op in fill {
        program.push(op);
    }
    program.push(Op::close_on_exec_from(base));
    program.push(Op::empty_signal_mask());
    program.push(launcher.exec(image, arguments, envp)?);
    let mut process = process::spawn(program, None, CloneOptions::default())
        .map_err(|error| launcher.error(error))?;
    let (errno, what) = match process.progress() {
        Progress::Complete => {
            process.settle();
            return Ok(process);
        }
        Progress::Failed { step, errno } => (errno, process.program().ops()[step].1.name()),
        Progress::Stopped { step } => (libc::EINTR, process.program().ops()[step].1.name()),
    };
    // It has ended, and is reaped here whatever its end was.
    let _ = process.wait();
    let source = io::Error::from_raw_os_error(errno);
    if what.starts_with("exec") {
        return Err(launcher.error(source));
    }
    Err(Error::System { what, source })
}

/// The fd, out of the numbers below `base`.
fn moved(program: &mut Program, fd: RawFd, base: u32) -> FdArg {
    if u32::try_from(fd).is_ok_and(|fd| fd >= base) {
        return fd.into();
    }
    program.push(Op::dup_from(fd, base)).into()
}

/// A pipe: what is written to the second can be read from the first.
pub(crate) fn pipe() -> Result<(OwnedFd, OwnedFd), Error> {
    pipe_with(PipeFlags::CLOEXEC).map_err(Error::system("making a pipe"))
}

/// A memfd that holds `contents` and can't change any more. `purpose` says whether it is to be executed,
/// which Linux 6.3 wants to be told; before it, the flag is unknown.
pub(crate) fn sealed(name: &str, purpose: MemfdFlags, contents: &[u8]) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = match memfd_create(name, flags | purpose) {
        Err(Errno::INVAL) => memfd_create(name, flags)?,
        result => result?,
    };
    // By pwrite: who is handed the fd shares its offset, and reads from where that stands.
    let mut done = 0;
    while done < contents.len() {
        done += retry_on_intr(|| pwrite(&fd, &contents[done..], done as u64))?;
    }
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    fcntl_add_seals(&fd, seals)?;
    Ok(fd)
}
