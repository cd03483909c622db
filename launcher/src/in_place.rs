//! The launcher itself becomes the workload: the program is run here, and no child is made.
//!
//! The supervisor's own child is then the workload: its pid, its status, its signals and its terminal
//! need no launcher in between. What the transcript tells it tells before the exec, in one of the
//! program's own steps, the last but one: it is reached when every step before it returned what it
//! should.

use std::convert::Infallible;
use std::io::Write;
use std::os::fd::{BorrowedFd, RawFd};

use portcullis_core::Lowering;
use portcullis_core::lowering::Lowered;
use portcullis_core::mechanism::Stop;
use portcullis_core::plan::LaunchPlan;
use portcullis_core::program::{Op, Program};
use portcullis_core::schedule::Schedule;
use portcullis_core::state::{LauncherState, PhaseGroup, PhaseResult, RefusalReason};
use portcullis_core::transcript::TranscriptWriter;
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, getppid, parent_process_death_signal};

use crate::coordinator::{NAMESPACE_HELP, Way, attend, attendee_of, end, out_of_reach};
use crate::launching::{failed, tell_results};
use crate::outline::Outline;
use crate::wiring::{Channel, Ends};
use crate::{process, sys};

/// Which process becomes the workload.
pub(crate) enum Verdict {
    /// This one.
    InPlace,
    /// A child of it.
    Child,
    /// A launcher or its child, for this reason, and not this process.
    NeedsLauncher(String),
}

/// Which process becomes the workload, as it was asked for and as the plan allows.
pub(crate) fn decide(
    way: Way<'_>,
    plan: &LaunchPlan,
    schedule: &Schedule<'_>,
    lowering: &Lowering<'_>,
) -> Result<Verdict, Stop> {
    let why_not = match lowering.bound_to_child() {
        // A host of version 1 waits for states that come after the exec.
        _ if plan.version() < 2 => Some("the plan is of version 1".into()),
        bound => bound.map(|(owner, why)| format!("{}: {why}", schedule.id_of(owner))),
    };
    match (way, why_not) {
        (Way::Child | Way::Resident { .. }, _) | (Way::InPlaceIfPossible, Some(_)) => {
            Ok(Verdict::Child)
        }
        (Way::InPlace | Way::InPlaceIfPossible | Way::Here(_), None) => Ok(Verdict::InPlace),
        (Way::Here(_), Some(why_not)) => Ok(Verdict::NeedsLauncher(why_not)),
        (Way::InPlace, Some(why_not)) => {
            let detail = format!("a launch in place is asked for, and {why_not}");
            Err(Stop::refuse(RefusalReason::MissingPrimitive, detail))
        }
    }
}

/// The signal that this process gets when its parent dies: its supervisor's choice, which a change of
/// credentials would undo.
pub(crate) fn death_signal() -> Result<Option<i32>, Stop> {
    parent_process_death_signal()
        .map(|signal| signal.map(rustix::process::Signal::as_raw))
        .map_err(|errno| Stop::fault(format!("prctl(PR_GET_PDEATHSIG): {errno}")))
}

/// What is done before any mechanism's ops.
pub(crate) fn prologue(way: Way<'_>, stdio: &[(RawFd, RawFd)]) -> Vec<Op> {
    // As for a child: what is ignored stays so across an exec.
    let mut ops = vec![Op::default_action(libc::SIGPIPE)];
    if let Way::Here(here) = way {
        ops.extend(here.prologue());
    }
    ops.push(Op::empty_signal_mask());
    ops.extend(streams(stdio));
    ops
}

/// Each fd, which is above 2, to where the workload is to have it.
pub(crate) fn streams(stdio: &[(RawFd, RawFd)]) -> impl Iterator<Item = Op> {
    stdio.iter().map(|(fd, at)| Op::dup3(*fd, *at))
}

/// A launch that is ready to be made.
pub(crate) struct InPlace<'a> {
    pub(crate) lowered: Lowered,
    pub(crate) schedule: &'a Schedule<'a>,
    pub(crate) outline: Outline,
    /// How the phases resolve when every step succeeds.
    pub(crate) foreseen: &'a [(PhaseGroup, PhaseResult)],
    /// What is told by, where it is not this process itself that is told.
    pub(crate) ends: Option<Ends>,
    /// This process.
    pub(crate) pid: Pid,
}

impl InPlace<'_> {
    /// Becomes the workload, or tells why not and ends: from here on there is no way back.
    pub(crate) fn become_workload<W: Channel>(self, transcript: &mut TranscriptWriter<W>) -> ! {
        match self.attempt(transcript) {
            Ok(never) => match never {},
            Err(stop) => end(transcript, &stop),
        }
    }

    /// Tells what has been done when all but the exec has.
    fn tell_done<W: Write>(&self, transcript: &mut TranscriptWriter<W>, program: &Program) {
        transcript.state(LauncherState::ChildCreated);
        transcript.note(&format!("mechanism=in_place child_pid={}", self.pid));
        let Lowered { remarks, notes, .. } = &self.lowered;
        for (_, _, text) in notes {
            transcript.note(text);
        }
        tell_results(transcript, &self.outline, program, remarks, self.foreseen);
    }

    /// Adds the step that tells what has been done when it is reached, where somebody else is told.
    pub(crate) fn foretell<W: Write>(
        &mut self,
        transcript: &TranscriptWriter<W>,
    ) -> Option<TranscriptWriter<Vec<u8>>> {
        let control = self.ends.as_ref()?.control;
        let mut ahead = transcript.ahead();
        self.tell_done(&mut ahead, &self.lowered.program);
        self.lowered.program.push_before_last(Op::write_all(control, ahead.take_text()));
        Some(ahead)
    }

    fn attempt<W: Channel>(
        mut self,
        transcript: &mut TranscriptWriter<W>,
    ) -> Result<Infallible, Stop> {
        // 12. What clone3 does for a child. The cgroup first: in a user namespace of its own this
        // process might no longer have the right to.
        if let Some(cgroup) = self.lowered.clone.cgroup {
            enter_cgroup(cgroup)?;
        }
        let namespaces = self.lowered.clone.namespaces;
        // As it is before it enters one.
        let attendee = attendee_of(self.pid);
        if namespaces != 0 {
            sys::unshare(namespaces).map_err(|error| {
                Stop::fault(format!("unshare of namespaces {NAMESPACE_HELP}: {error}"))
            })?;
        }
        // 13. The launcher's part, from inside.
        attend(self.schedule, &self.lowered.attended, attendee)?;
        out_of_reach()?;
        // 14. What is told when all has been done, by the step before the exec.
        if let Some(ends) = &self.ends {
            let control = sys::inherited(ends.control)
                .ok_or_else(|| Stop::fault("the control channel was closed"))?;
            fcntl_setfd(control, FdFlags::CLOEXEC).map_err(|errno| {
                Stop::fault(format!("setting close-on-exec of the control channel: {errno}"))
            })?;
            fcntl_setfd(&ends.error_read, FdFlags::CLOEXEC).map_err(|errno| {
                Stop::fault(format!("setting close-on-exec of the error pipe: {errno}"))
            })?;
        }
        let ahead = self.foretell(transcript);
        let parent = getppid().map_or(0, |pid| pid.as_raw_pid().unsigned_abs());
        let program = std::mem::take(&mut self.lowered.program);
        let (program, failure) = process::become_it(program, parent);
        let Some(failure) = failure else {
            return Err(Stop::fault("the program ended without an exec"));
        };
        let step = failure.step as usize;
        // The exec is the last, and all was done before it; the step before it told so, if one was to.
        if step + 1 == program.ops().len() {
            match &ahead {
                Some(ahead) => transcript.follow(ahead),
                None => self.tell_done(transcript, &program),
            }
        }
        // A filter may be installed by now. It lets write and exit_group pass, or the plan was refused; so
        // nothing else is called from here on, no destructor's close either.
        let stop = failed(transcript, &program, &self.outline, step, Some(failure.errno));
        if let Some(ends) = &self.ends {
            let _ = rustix::io::write(&ends.error, &failure.to_bytes());
        }
        end(transcript, &stop)
    }
}

fn enter_cgroup(cgroup: RawFd) -> Result<(), Stop> {
    let fault = |error: &dyn std::fmt::Display| {
        Stop::fault(format!(
            "entering the cgroup of the CgroupDir slot (which must be of cgroup version 2, and the \
             launcher's to write to): {error}"
        ))
    };
    let folder: BorrowedFd<'_> =
        sys::inherited(cgroup).ok_or_else(|| fault(&"its fd is closed"))?;
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let procs =
        openat(folder, "cgroup.procs", flags, Mode::empty()).map_err(|errno| fault(&errno))?;
    rustix::io::write(&procs, b"0").map_err(|errno| fault(&errno))?;
    Ok(())
}
