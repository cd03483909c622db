//! A confined program that runs.

use std::io;
use std::os::fd::OwnedFd;
use std::process::{ChildStderr, ChildStdin, ChildStdout, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use portcullis_core::state::LauncherState;
use portcullis_core::transcript::Transcript;
use portcullis_launcher::process;
use rustix::event::{PollFd, PollFlags};
use rustix::io::{Errno, read, retry_on_intr};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::control::{Control, Deadline, wait_for, wait_for_any};
use crate::error::Error;
use crate::process::Process;
use crate::report::{Remark, Report, Way, pid_of, status_of, way_of};

/// Our ends of the pipes that were asked for.
#[derive(Debug, Default)]
pub(crate) struct Pipes {
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
}

impl Pipes {
    /// Our end of the pipe at 0, 1 or 2.
    pub(crate) fn set(&mut self, target: u32, fd: OwnedFd) {
        match target {
            0 => self.stdin = Some(fd.into()),
            1 => self.stdout = Some(fd.into()),
            _ => self.stderr = Some(fd.into()),
        }
    }
}

/// A program that runs confined, and the launcher that waits for it.
///
/// Dropped before its end was [waited](Self::wait) for, it is killed and reaped, unless it was
/// [detached](Self::detach).
#[derive(Debug)]
pub struct Child {
    /// The program's standard input, where it was piped.
    pub stdin: Option<ChildStdin>,
    /// The program's standard output, where it was piped.
    pub stdout: Option<ChildStdout>,
    /// The program's standard error, where it was piped.
    pub stderr: Option<ChildStderr>,
    launcher: Launcher,
    control: Control,
    left_out: Vec<Remark>,
    /// Whether its end is known, or is nobody's concern any more.
    over: bool,
}

/// What a program came to, and what it wrote.
#[derive(Debug, Clone)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: Vec<u8>,
    /// What was applied to it.
    pub report: Report,
}

/// Whose child the program is, or, in place, is itself.
#[derive(Debug)]
pub(crate) enum Launcher {
    /// A launcher of its own.
    Own(Process),
    /// One that has other programs too, and lives on.
    Resident(Arc<Mutex<Process>>),
}

impl Launcher {
    fn pid(&self) -> Pid {
        match self {
            Self::Own(process) => process.pid(),
            Self::Resident(process) => lock(process).pid(),
        }
    }

    /// Kills it, and says how it ended.
    fn end(&mut self) -> io::Result<ExitStatus> {
        let end = |process: &mut Process| {
            process.kill();
            process.reap()
        };
        match self {
            Self::Own(process) => end(process),
            Self::Resident(process) => end(&mut lock(process)),
        }
    }

    /// Reaps it where it has nothing left to do.
    fn settle(&mut self) -> Result<(), Error> {
        match self {
            Self::Own(process) => {
                process.reap().map_err(Error::system("waiting for the launcher")).map(drop)
            }
            Self::Resident(_) => Ok(()),
        }
    }
}

/// What a mutex guards. Nothing that is done under it leaves it half done.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Child {
    /// The child of a launcher that was started.
    pub(crate) fn new(
        launcher: Launcher,
        control: Control,
        pipes: Pipes,
        left_out: Vec<Remark>,
    ) -> Self {
        let Pipes { stdin, stdout, stderr } = pipes;
        Self { stdin, stdout, stderr, launcher, control, left_out, over: false }
    }

    /// Waits until its program runs.
    pub(crate) fn running(mut self, deadline: &Deadline) -> Result<Self, Error> {
        match self.control.read_to_terminal(deadline)? {
            Some(LauncherState::ExecSucceeded) => Ok(self),
            Some(_) => Err(self.stopped()?),
            None if self.in_place() => Ok(self),
            None => Err(self.launcher_ended()?),
        }
    }

    /// The same, where what is waited for is its program's end: that may have come when this returns. Its standard
    /// input, where it was piped, is closed first.
    pub(crate) fn running_or_over(mut self, deadline: &Deadline) -> Result<Self, Error> {
        drop(self.stdin.take());
        self.control.wait_for_end(deadline)?;
        self.running(deadline)
    }

    /// Waits until the launch, which is to be kept and not made, is.
    pub(crate) fn kept(mut self, deadline: &Deadline) -> Result<(), Error> {
        match self.control.read_to_terminal(deadline)? {
            Some(_) => Err(self.stopped()?),
            None if self.transcript().value("kept").is_some() => {
                self.over = true;
                Ok(())
            }
            None => Err(self.launcher_ended()?),
        }
    }

    /// Waits for its program's end, and collects what it writes meanwhile. That it runs is to be told by
    /// `deadline`.
    pub(crate) fn output(mut self, deadline: &Deadline) -> Result<Output, Error> {
        drop(self.stdin.take());
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let out = self.stdout.take().map(OwnedFd::from);
        let err = self.stderr.take().map(OwnedFd::from);
        self.drain([(out, &mut stdout), (err, &mut stderr)], deadline)?;
        let mut child = self.running(deadline)?;
        let status = child.wait()?;
        Ok(Output { status, stdout, stderr, report: child.report() })
    }

    /// Why the launch stopped, with all that the launcher has to say of it.
    fn stopped(&mut self) -> Result<Error, Error> {
        self.control.read_to_end()?;
        self.launcher.settle()?;
        self.over = true;
        Error::stopped(self.report()).map_or_else(|| self.launcher_ended(), Ok)
    }

    /// The error of a launcher that told no more.
    fn launcher_ended(&mut self) -> Result<Error, Error> {
        // One that closed its channel and lives is no better than one that died.
        self.kill_workload();
        let status = self.launcher.end().map_err(Error::system("waiting for the launcher"))?;
        self.over = true;
        let after = self.control.transcript.states().last();
        let after = after.map_or_else(|| "starting".to_owned(), ToString::to_string);
        Ok(Error::LauncherEnded { status, after })
    }

    /// Whether the launcher has become the program.
    fn in_place(&self) -> bool {
        self.control.ended_by_exec() && way_of(self.transcript()) == Some(Way::InPlace)
    }

    /// The program's pid.
    pub fn id(&self) -> u32 {
        pid_of(self.transcript()).unwrap_or_default()
    }

    /// The launcher's pid, which after a launch in place is the program's. A signal that is sent to it
    /// reaches the program, unless the launcher is a [resident](crate::Resident) one.
    pub fn launcher_id(&self) -> u32 {
        self.launcher.pid().as_raw_nonzero().get().unsigned_abs()
    }

    /// What the launcher has told so far; complete after [`wait`](Self::wait).
    pub fn report(&self) -> Report {
        let mut report = Report::of(self.transcript().clone());
        report.missing.extend_from_slice(&self.left_out);
        if self.in_place() {
            report.executed = true;
            report.status = match &self.launcher {
                Launcher::Own(program) => program.ended(),
                Launcher::Resident(_) => None,
            };
        }
        report
    }

    /// The transcript so far.
    pub fn transcript(&self) -> &Transcript {
        &self.control.transcript
    }

    /// Waits for the program's end. Its standard input, where it was piped, is closed first.
    ///
    /// # Errors
    ///
    /// [`Error::LauncherEnded`] where the launcher ended and did not say how the program did (the
    /// program was then killed), [`Error::Transcript`] where what it said is not of the protocol.
    pub fn wait(&mut self) -> Result<ExitStatus, Error> {
        drop(self.stdin.take());
        self.control.read_to_end()?;
        self.finish()
    }

    /// How the program ended, if it has.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait).
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>, Error> {
        if !self.control.read_available()? {
            return Ok(None);
        }
        if let Some(program) = self.program() {
            let ended = program.try_reap().map_err(Error::system("waiting for the program"))?;
            self.over = ended.is_some();
            return Ok(ended);
        }
        self.finish().map(Some)
    }

    /// Waits for the program's end, and collects what it writes meanwhile.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait), and [`Error::System`] where a pipe can't be read.
    pub fn wait_with_output(self) -> Result<Output, Error> {
        self.output(&Deadline::after(Duration::MAX))
    }

    /// Kills the program. [`wait`](Self::wait) then says that it was.
    ///
    /// # Errors
    ///
    /// [`Error::System`] where the kernel would not.
    pub fn kill(&mut self) -> Result<(), Error> {
        if let Some(program) = self.program() {
            program.kill();
        } else if !self.over && !self.kill_workload() {
            // It has ended, and the launcher is about to say so; or the launcher can't say, and with
            // it goes what it launched.
            let told = wait_for(self.control.fd(), Some(Duration::from_secs(1)));
            if let (false, Launcher::Own(launcher)) =
                (told.map_err(Error::system("waiting for the launcher"))?, &self.launcher)
            {
                launcher.kill();
            }
        }
        Ok(())
    }

    /// Leaves the program and its launcher running when this is dropped. The launcher is then a child
    /// of this process that somebody else must wait for. One that is [resident](crate::Resident) takes
    /// the program along when it ends; until then an fd of this process is left open for it.
    pub fn detach(mut self) {
        self.over = true;
        if let Launcher::Resident(_) = self.launcher {
            // Who closes the control channel of such a program has it killed.
            self.control.leave_open();
        }
    }

    /// The program, where the launcher has become it.
    fn program(&mut self) -> Option<&mut Process> {
        let in_place = self.in_place();
        match &mut self.launcher {
            Launcher::Own(process) if in_place => Some(process),
            Launcher::Own(_) | Launcher::Resident(_) => None,
        }
    }

    fn finish(&mut self) -> Result<ExitStatus, Error> {
        let status = if let Some(program) = self.program() {
            program.status().map_err(Error::system("waiting for the program"))?
        } else {
            let Some(status) = status_of(self.transcript()) else {
                return Err(self.launcher_ended()?);
            };
            self.launcher.settle()?;
            status
        };
        self.over = true;
        Ok(status)
    }

    /// Reads both pipes and the control channel, whichever has something, until the pipes end.
    fn drain(
        &mut self,
        mut streams: [(Option<OwnedFd>, &mut Vec<u8>); 2],
        deadline: &Deadline,
    ) -> Result<(), Error> {
        while streams.iter().any(|(fd, _)| fd.is_some()) {
            let control = (!self.control.ended()).then(|| self.control.fd());
            let left = if self.control.is_to_arrive() { deadline.left() } else { None };
            let fds = [streams[0].0.as_ref(), streams[1].0.as_ref(), control];
            let ready = ready(fds, left).map_err(Error::system("waiting for output"))?;
            let [out, err, told] = ready.ok_or_else(|| deadline.passed())?;
            for ((fd, into), ready) in streams.iter_mut().zip([out, err]) {
                let Some(open) = fd.as_ref().filter(|_| ready) else { continue };
                if !read_some(open, into).map_err(Error::system("reading a pipe"))? {
                    *fd = None;
                }
            }
            if told {
                self.control.read()?;
            }
        }
        Ok(())
    }

    /// Kills the workload, if it is known and is the launcher's child still.
    fn kill_workload(&mut self) -> bool {
        let pid = pid_of(self.transcript()).and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        let Some(pid) = pid else { return false };
        let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
        // The number may be another's by now. A launcher has one child, so its child this is.
        if process::stat_field(pid, 4) != Some(self.launcher_id().into()) {
            return false;
        }
        // A resident one has more, and reaps each after it has told of its end, or before it tells that it stopped.
        let may_be_reaped = matches!(self.launcher, Launcher::Resident(_))
            && (!matches!(self.control.read_available(), Ok(false))
                || status_of(self.transcript()).is_some()
                || self.transcript().terminal() != Some(LauncherState::ExecSucceeded));
        !may_be_reaped && pidfd_send_signal(&pidfd, Signal::KILL).is_ok()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        if self.program().is_none() && self.kill_workload() {
            // A launcher whose child was killed reaps it and says so; one that does not is killed, and
            // what it launched is left to the system to reap.
            const LIMIT: Duration = Duration::from_secs(1);
            match &self.launcher {
                Launcher::Own(launcher) => launcher.kill_after(LIMIT),
                Launcher::Resident(_) => self.control.read_to_end_within(LIMIT),
            }
        }
        // What a resident one still has to do for it, it does when the control channel is closed.
        if let Launcher::Own(launcher) = &mut self.launcher {
            launcher.kill();
            let _ = launcher.reap();
        }
    }
}

/// Waits until one of `fds` has something to read or has ended, and says which do; `None` where that takes longer
/// than `limit`.
fn ready<const N: usize>(
    fds: [Option<&OwnedFd>; N],
    limit: Option<Duration>,
) -> Result<Option<[bool; N]>, Errno> {
    let mut polled: Vec<_> =
        fds.iter().flatten().map(|fd| PollFd::new(*fd, PollFlags::IN)).collect();
    if !wait_for_any(&mut polled, limit)? {
        return Ok(None);
    }
    let mut ready = polled.iter().map(|fd| !fd.revents().is_empty());
    Ok(Some(fds.map(|fd| fd.is_some() && ready.next() == Some(true))))
}

/// Reads once; false at the end.
fn read_some(fd: &OwnedFd, into: &mut Vec<u8>) -> Result<bool, Errno> {
    into.reserve(32 << 10);
    let length = retry_on_intr(|| read(fd, rustix::buffer::spare_capacity(into)))?;
    Ok(length > 0)
}
