//! A child on its way to the exec: from the clone until it is known what became of it.

use std::borrow::Cow;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use portcullis_core::lowering::{Remark, Teardown};
use portcullis_core::mechanism::Stop;
use portcullis_core::program::{Op, Owner, Program};
use portcullis_core::state::{LauncherState, PhaseGroup, PhaseResult, confinement_installed};
use portcullis_core::transcript::TranscriptWriter;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::Pid;

use crate::coordinator::End;
use crate::outline::Outline;
use crate::process::{self, Child, Progress};
use crate::trace::Stopwatch;
use crate::wiring;

/// After how long it is first looked for what nothing shows, and the longest that it is waited between two looks, each
/// twice as long as the one before.
pub(crate) const FIRST_LOOK: Duration = Duration::from_micros(50);
pub(crate) const LAST_LOOK: Duration = Duration::from_millis(10);

/// A launch whose child is on its way.
///
/// Dropped, it kills and reaps the child, and then tears down.
pub(crate) struct Launching {
    pub(crate) child: Child,
    /// Whether the child, which was made ahead, has this process's table of fds, as far as is known.
    pub(crate) shares_files: bool,
    /// The child's end of the error pipe, for as long as it has none of its own.
    pub(crate) error: Option<OwnedFd>,
    /// The error pipe: its end is the exec, or the child's end. `None` where the workload's end is waited for.
    pub(crate) error_read: Option<OwnedFd>,
    pub(crate) outline: Outline,
    pub(crate) remarks: Vec<(Remark, Owner, Cow<'static, str>)>,
    pub(crate) teardown: Teardown,
    pub(crate) stage: Stopwatch,
}

/// A workload that was exec'd.
pub(crate) struct Launched {
    pub(crate) pid: Pid,
    /// Where one was asked for.
    pub(crate) pidfd: Option<OwnedFd>,
    pub(crate) end: End,
    /// The error pipe, which has shown its end, where there was one.
    pub(crate) pipe: Option<OwnedFd>,
}

impl Launching {
    /// The pipe that shows its end when [`land`](Self::land) need not wait, where there is one.
    pub(crate) fn pipe(&self) -> Option<BorrowedFd<'_>> {
        self.error_read.as_ref().map(AsFd::as_fd)
    }

    /// Waits until [`land`](Self::land) need not.
    pub(crate) fn wait(&mut self) {
        while !self.has_own_files() {
            self.child.ends_within(Duration::from_millis(1));
        }
        let Some(pipe) = self.pipe() else {
            let mut pause = FIRST_LOOK;
            while !self.has_arrived() {
                self.child.ends_within(pause);
                pause = LAST_LOOK.min(pause * 2);
            }
            return;
        };
        let pidfd = self.child.pidfd().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        let pipe = PollFd::from_borrowed_fd(pipe, PollFlags::empty());
        let mut polled: Vec<_> = pidfd.into_iter().chain([pipe]).collect();
        // What fails for want of memory is tried again.
        while poll(&mut polled, None).is_err() {}
    }

    /// Whether [`land`](Self::land) need not wait, as far as can be seen: the child has exec'd or ended.
    pub(crate) fn has_arrived(&mut self) -> bool {
        if !self.has_own_files() {
            return false;
        }
        if let Some(pipe) = self.pipe() {
            return process::shows(pipe, PollFlags::empty(), Duration::ZERO);
        }
        let Self { child, .. } = self;
        // What the kernel says of the exec alone may be a security module's word, or of another process.
        child.has_ended() || !child.shares_memory() && process::has_exec_ed_by_now(child.pid())
    }

    /// Whether the child has fds of its own, or needs none any more: then it needs none of this process's.
    pub(crate) fn has_own_files(&mut self) -> bool {
        // It has from its first step on.
        if self.shares_files && (self.child.done() > 0 || self.child.has_ended()) {
            self.shares_files = false;
            self.error = None;
        }
        !self.shares_files
    }

    /// Whether the child makes the memory that it shares with this process not dumpable.
    pub(crate) fn resets_dumpable(&self) -> bool {
        let reset = Op::not_dumpable();
        self.child.program().ops().iter().any(|(_, op)| *op == reset)
    }

    /// Step 14. The child's own word: end of file is the exec, or its end; its count says which, and what
    /// was done before.
    pub(crate) fn land<W: Write>(
        &mut self,
        transcript: &mut TranscriptWriter<W>,
    ) -> Result<(), Stop> {
        // It has its own, or is no more.
        self.error = None;
        let Self { child, outline, .. } = self;
        let is_shared = child.pidfd().is_some();
        // What it would write is in its memory as well, which this process shares with it.
        let written = match &self.error_read {
            Some(pipe) => wiring::read_errors(pipe, is_shared)
                .map_err(|errno| Stop::fault(format!("reading the error pipe: {errno}")))?,
            None => Vec::new(),
        };
        exec_happened(transcript, child, outline, &written)?;
        let results = outline.resolve(|index| {
            let (done, all) = child.program().counted_off(Owner::Entry(index), child.done());
            // The exec itself is counted by nobody: that it happened is known.
            let last = child.program().ops().last();
            done == all || last.is_some_and(|(owner, _)| *owner == Owner::Entry(index))
        })?;
        tell_results(transcript, outline, child.program(), &self.remarks, &results);
        transcript.state(LauncherState::ExecSucceeded);
        if let Some(note) = self.stage.note() {
            transcript.note(&note);
        }
        Ok(())
    }

    /// The workload that the child has become. It must have [landed](Self::land).
    pub(crate) fn launched(mut self) -> Launched {
        let (pid, pidfd) = (self.child.pid(), self.child.settle());
        let end = End { teardown: self.teardown, outline: self.outline };
        Launched { pid, pidfd, end, pipe: self.error_read }
    }
}

/// Tells what was applied, what that leaves open, and how each phase resolved.
pub(crate) fn tell_results<W: Write>(
    transcript: &mut TranscriptWriter<W>,
    outline: &Outline,
    program: &Program,
    remarks: &[(Remark, Owner, Cow<'static, str>)],
    results: &[(PhaseGroup, PhaseResult)],
) {
    for (index, id) in outline.ids().enumerate() {
        let (_, ops) = program.counted_off(Owner::Entry(index), 0);
        transcript.note_of(&["applied=", id, " calls=", &ops.to_string()]);
    }
    for (remark, owner, text) in remarks {
        let name = match remark {
            Remark::Residual => "residual",
            Remark::Missing => "missing",
        };
        transcript.note_of(&[name, "=", outline.id_of(*owner), " ", text]);
    }
    for (group, result) in results {
        if *group == PhaseGroup::Confinement {
            let scheduled = outline.scheduled(*group).count();
            let installed = confinement_installed(scheduled, *result);
            let installed = if installed { "true" } else { "false" };
            transcript.note_of(&["confinement=", result.name(), " installed=", installed]);
        } else {
            transcript.note_of(&["phase=", group.name(), " result=", result.name()]);
        }
        transcript.state(group.state());
    }
    transcript.state(LauncherState::ReadyToExec);
}

/// Whether the exec took place, by the child's record and by its count.
fn exec_happened<W: Write>(
    transcript: &mut TranscriptWriter<W>,
    child: &Child,
    outline: &Outline,
    written: &[u8],
) -> Result<(), Stop> {
    let program = child.program();
    let mut ended = |step| Err(failed(transcript, program, outline, step, None));
    match child.progress() {
        Progress::Failed { step, errno } => {
            Err(failed(transcript, program, outline, step, Some(errno)))
        }
        Progress::Stopped { step } => ended(step),
        Progress::Complete if !process::has_exec_ed(child.pid()) => ended(program.ops().len() - 1),
        Progress::Complete if written.is_empty() => Ok(()),
        Progress::Complete => {
            Err(Stop::fault("the error pipe holds something that the child did not write"))
        }
    }
}

/// Notes which step failed, or was the process's end, and says so.
pub(crate) fn failed<W: Write>(
    transcript: &mut TranscriptWriter<W>,
    program: &Program,
    outline: &Outline,
    step: usize,
    errno: Option<i32>,
) -> Stop {
    let (owner, op) = &program.ops()[step];
    let (whose, call) = (outline.id_of(*owner), op.name());
    let how = match errno {
        Some(errno) => {
            transcript.note(&format!("child errno={errno}"));
            let error = Errno::from_raw_os_error(errno);
            format!("failed: {error}{}", exec_hint(program, step, errno))
        }
        None => "was the child's end".into(),
    };
    transcript.note(&format!("failed={whose} call={call} step={step}"));
    // The arguments of an exec are the workload's own, and may be long.
    let call = if op.is_exec() { "executing the program".into() } else { op.to_string() };
    Stop::fault(format!("{whose}: {call} {how}"))
}

/// What an errno of the exec means ([execve(2)], ERRORS).
///
/// [execve(2)]: https://man7.org/linux/man-pages/man2/execve.2.html
fn exec_hint(program: &Program, step: usize, errno: i32) -> &'static str {
    if !program.ops()[step].1.is_exec() {
        return "";
    }
    match errno {
        libc::ENOEXEC => " (the file is no program for this machine, nor a script with a #! line)",
        libc::EACCES => {
            " (the file, or the interpreter it names, is not executable, is on a noexec mount, or no \
             exec root of the policy covers it)"
        }
        libc::ENOENT => {
            " (the interpreter that the file names does not exist, or can't be seen; or it is a script, \
             and the plan does not say so)"
        }
        libc::ETXTBSY => " (the file is open for writing)",
        libc::E2BIG => {
            " (arguments and environment are too long together, for the kernel or for a quarter of the \
             limit of the stack)"
        }
        libc::EAGAIN => " (its user has as many processes as the limit nproc allows)",
        libc::EPERM => " (a seccomp filter or a security module forbids it)",
        _ => "",
    }
}
