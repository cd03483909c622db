//! The launcher itself becomes the workload: the program is run here, and no child is made.
//!
//! The supervisor's own child is then the workload: its pid, its status, its signals and its terminal
//! need no launcher in between. What the transcript tells it tells before the exec, in one of the
//! program's own steps, the last but one: it is reached when every step before it returned what it
//! should.

use std::borrow::Cow;
use std::io::Write;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

use portcullis_core::Lowering;
use portcullis_core::lowering::Lowered;
use portcullis_core::mechanism::{Attendee, Stop};
use portcullis_core::plan::LaunchPlan;
use portcullis_core::program::Op;
use portcullis_core::schedule::Schedule;
use portcullis_core::state::{LauncherState, PhaseGroup, PhaseResult, RefusalReason};
use portcullis_core::transcript::TranscriptWriter;
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{getppid, parent_process_death_signal};

use crate::coordinator::{NAMESPACE_HELP, Way, out_of_reach, tell};
use crate::launching::{failed, tell_results};
use crate::outline::Outline;
use crate::{FAULTED, process, sys};

/// Whether this launch is made in place.
pub(crate) fn is_wanted(
    way: Way<'_>,
    plan: &LaunchPlan,
    schedule: &Schedule<'_>,
    lowering: &Lowering<'_>,
) -> Result<bool, Stop> {
    let why_not = match lowering.bound_to_child() {
        _ if matches!(way, Way::Child | Way::Resident { .. }) => return Ok(false),
        // A host of version 1 waits for states that come after the exec.
        _ if plan.version() < 2 => Cow::from("the plan is of version 1"),
        Some((owner, why)) => format!("{}: {why}", schedule.id_of(owner)).into(),
        None => return Ok(true),
    };
    if matches!(way, Way::InPlaceIfPossible) {
        return Ok(false);
    }
    let detail = format!("a launch in place is asked for, and {why_not}");
    Err(Stop::refuse(RefusalReason::MissingPrimitive, detail))
}

/// The signal that this process gets when its parent dies: its supervisor's choice, which a change of
/// credentials would undo.
pub(crate) fn death_signal() -> Result<Option<i32>, Stop> {
    parent_process_death_signal()
        .map(|signal| signal.map(rustix::process::Signal::as_raw))
        .map_err(|errno| Stop::fault(format!("prctl(PR_GET_PDEATHSIG): {errno}")))
}

/// What is done before any mechanism's ops.
pub(crate) fn prologue() -> Vec<Op> {
    // As for a child: what is ignored stays so across an exec.
    vec![Op::default_action(libc::SIGPIPE), Op::empty_signal_mask()]
}

/// A launch that is ready to be made.
pub(crate) struct InPlace<'a> {
    pub(crate) lowered: Lowered,
    pub(crate) schedule: &'a Schedule<'a>,
    pub(crate) outline: Outline,
    /// How the phases resolve when every step succeeds.
    pub(crate) foreseen: &'a [(PhaseGroup, PhaseResult)],
    /// The control channel's fd.
    pub(crate) control: RawFd,
    /// The error pipe's end to write to.
    pub(crate) error: OwnedFd,
    /// Its other end, held so that writing is no signal to die of where nobody else reads.
    pub(crate) error_read: OwnedFd,
    /// This process, as it is before it enters a namespace.
    pub(crate) attendee: Attendee,
}

impl InPlace<'_> {
    /// Becomes the workload, or says why not.
    pub(crate) fn become_workload<W: Write>(self, transcript: &mut TranscriptWriter<W>) -> Stop {
        match self.attempt(transcript) {
            Ok(never) => match never {},
            Err(stop) => stop,
        }
    }

    /// Adds the step that tells what has been done when it is reached.
    pub(crate) fn foretell<W: Write>(
        &mut self,
        transcript: &TranscriptWriter<W>,
    ) -> TranscriptWriter<Vec<u8>> {
        let mut ahead = transcript.ahead();
        ahead.state(LauncherState::ChildCreated);
        ahead.note(&format!("mechanism=in_place child_pid={}", self.attendee.pid));
        let Lowered { program, remarks, notes, .. } = &mut self.lowered;
        for (_, _, text) in notes.iter() {
            ahead.note(text);
        }
        tell_results(&mut ahead, &self.outline, program, remarks, self.foreseen);
        program.push_before_last(Op::write_all(self.control, ahead.text()));
        ahead
    }

    fn attempt<W: Write>(
        mut self,
        transcript: &mut TranscriptWriter<W>,
    ) -> Result<std::convert::Infallible, Stop> {
        // 12. What clone3 does for a child. The cgroup first: in a user namespace of its own this
        // process might no longer have the right to.
        if let Some(cgroup) = self.lowered.clone.cgroup {
            enter_cgroup(cgroup)?;
        }
        let namespaces = self.lowered.clone.namespaces;
        if namespaces != 0 {
            sys::unshare(namespaces).map_err(|error| {
                Stop::fault(format!("unshare of namespaces {NAMESPACE_HELP}: {error}"))
            })?;
        }
        // 13. The launcher's part, from inside.
        for it in self.schedule.entries() {
            it.mechanism.attend(&it.entry.params, self.attendee)?;
        }
        out_of_reach()?;
        // 14. What is told when all has been done, by the step before the exec.
        let control = sys::inherited(self.control)
            .ok_or_else(|| Stop::fault("the control channel was closed"))?;
        fcntl_setfd(control, FdFlags::CLOEXEC).map_err(|errno| {
            Stop::fault(format!("setting close-on-exec of the control channel: {errno}"))
        })?;
        fcntl_setfd(&self.error_read, FdFlags::CLOEXEC).map_err(|errno| {
            Stop::fault(format!("setting close-on-exec of the error pipe: {errno}"))
        })?;
        let ahead = self.foretell(transcript);
        let parent = getppid().map_or(0, |pid| pid.as_raw_pid().unsigned_abs());
        let program = std::mem::take(&mut self.lowered.program);
        let (program, failure) = process::become_it(program, parent);
        let Some(failure) = failure else {
            return Err(Stop::fault("the program ended without an exec"));
        };
        let step = failure.step as usize;
        // The exec is the last, and the step before it told all.
        if step + 1 == program.ops().len() {
            transcript.follow(&ahead);
        }
        // A filter may be installed by now. It lets write and exit_group pass, or the plan was refused; so
        // nothing else is called from here on, no destructor's close either.
        let stop = failed(transcript, &program, &self.outline, step, Some(failure.errno));
        tell(transcript, &stop);
        let _ = rustix::io::write(&self.error, &failure.to_bytes());
        sys::exit(FAULTED)
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
