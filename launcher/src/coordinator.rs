//! The run: from a plan on an fd to a workload that is confined, in the protocol's order.

use std::borrow::Cow;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;

use portcullis_child::CloneOptions;
use portcullis_core::Lowering;
use portcullis_core::descriptor::{
    DescriptorKind, DescriptorShape, DescriptorSlot, DescriptorTable,
};
use portcullis_core::lowering::{KeptLowering, Lowered, NoteTime, OpenSlot, Teardown};
use portcullis_core::mechanism::{Attendee, Fault, Refusal, Stop};
use portcullis_core::plan::LaunchPlan;
use portcullis_core::program::{Op, Owner};
use portcullis_core::registry::Registry;
use portcullis_core::schedule::Schedule;
use portcullis_core::state::{LauncherState, Readiness, RefusalReason};
use portcullis_core::transcript::TranscriptWriter;
use rustix::fs::{OFlags, fstat};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{DumpableBehavior, Pid, Signal, getegid, geteuid, getpid};
use tracing::info_span;

use crate::here::Here;
use crate::in_place::{self, InPlace, Verdict};
use crate::kept::Kept;
use crate::launching::{Launched, Launching};
use crate::outline::Outline;
use crate::process;
use crate::request::Request;
use crate::trace::{self, Stopwatch};
use crate::wiring::{self, Channel, Channels, Control, Slots, Source};
use crate::{FAULTED, REFUSED, complain, explain, resident, spare, sys};

/// What a plan was handed over for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To launch it.
    Launch,
    /// To say what the launch would do.
    Explain,
    /// To keep it, all but made.
    Keep,
}

/// Which process becomes the workload.
#[derive(Clone, Copy)]
pub(crate) enum Way<'r> {
    /// A child of the launcher.
    Child,
    /// The launcher itself; what can't be made so is refused.
    InPlace,
    /// The launcher itself where that can be, and a child otherwise.
    InPlaceIfPossible,
    /// A child of the launcher, which lives on for other launches.
    Resident {
        /// What the launch was asked for with.
        request: &'r Request,
        /// What it has from launches before.
        kept: &'r Kept,
        /// How dumpable this process has to be for its child's maps to be its own to write; `None` where
        /// they are anyway.
        dumpable: Option<DumpableBehavior>,
    },
    /// This process, which is no launcher; what can't be made so is left to one.
    Here(&'r Here<'r>),
}

/// Runs a launch to its end and says with which status the launcher exits.
pub(crate) fn run(purpose: Purpose, way: Way<'_>) -> u8 {
    trace::start();
    if purpose == Purpose::Explain {
        return explain(way);
    }
    // 1. The control channel, without which there is nobody to tell but standard error.
    let control = match wiring::control() {
        Ok(control) => control,
        Err(fault) => {
            complain(&fault);
            return FAULTED;
        }
    };
    // 0, 1 and 2 belong to the workload: not even a panic, which aborts, writes there. A reader that
    // is gone is an error to tell, not a signal to die of; and what is sent to the launcher before its
    // child is there, reaches the child.
    std::panic::set_hook(Box::new(|_| {}));
    let mut transcript = TranscriptWriter::new(control);
    transcript.state(LauncherState::LauncherStarted);
    let held =
        process::hold_signals().map_err(|error| Stop::fault(format!("blocking signals: {error}")));
    let landed = held.and_then(|()| match launch(&mut transcript, purpose, way)? {
        Outcome::Launching(mut launching) => {
            launching.land(&mut transcript)?;
            Ok(Some(launching.launched()))
        }
        Outcome::Explained | Outcome::ToKeep { .. } | Outcome::NeedsLauncher(_) => Ok(None),
    });
    match landed {
        Ok(Some(launched)) => observe(&mut transcript, launched),
        Ok(None) => {}
        Err(stop) => end(&mut transcript, &stop),
    }
    sys::exit(0)
}

/// Says what a launch would do. Not inlined, as its frame would be every launch's: a page of the stack.
#[inline(never)]
fn explain(way: Way<'_>) -> u8 {
    let mut untold = TranscriptWriter::new(io::sink());
    untold.state(LauncherState::LauncherStarted);
    match launch(&mut untold, Purpose::Explain, way) {
        Ok(_) => 0,
        Err(stop) => {
            complain(&stop);
            status(&stop)
        }
    }
}

/// What a launch that did not stop came to, where this process is not the workload now.
pub(crate) enum Outcome {
    /// A child is on its way.
    Launching(Launching),
    /// It was explained, and not made.
    Explained,
    /// It could be made; this is what is known of it.
    ToKeep {
        /// The plan.
        plan: Rc<LaunchPlan>,
        /// What it is lowered to, where that may be used again.
        lowering: Option<KeptLowering>,
    },
    /// It was not made [here](Way::Here), for this reason, and this process is as it was.
    NeedsLauncher(String),
}

/// What is to be done when a workload has ended.
pub(crate) struct End {
    pub(crate) teardown: Teardown,
    pub(crate) outline: Outline,
}

/// Steps 2 to 13: what comes after them is [`Launching::land`]'s.
#[allow(clippy::too_many_lines, reason = "the run is one story, told in the order it happens in")]
pub(crate) fn launch<W: Channel>(
    transcript: &mut TranscriptWriter<W>,
    purpose: Purpose,
    way: Way<'_>,
) -> Result<Outcome, Stop> {
    // 2. One task: a second thread could change memory and fds while they are being verified.
    only_task()?;

    // 3. The plan.
    let stage = info_span!("plan").entered();
    let Channels { plan, ends, slots: handed, stdio } = wiring::channels(way)?;
    let (kept, again) = match (way, plan) {
        (Way::Resident { kept, .. }, Source::Kept(launch)) => (Some(kept), Some(launch)),
        (Way::Resident { kept, .. }, _) => (Some(kept), None),
        _ => (None, None),
    };
    // 4. It is what it says it is.
    let verify_identity = |plan: &LaunchPlan| {
        let mismatch = RefusalReason::IdentityMismatch;
        plan.verify_identity().map_err(|error| Stop::refuse(mismatch, error.to_string()))
    };
    let verify = |bytes: &[u8]| {
        let plan = LaunchPlan::decode(bytes).map_err(|error| invalid(&error))?;
        resident::refuse_version_1(way, &plan)?;
        verify_identity(&plan)?;
        Ok(plan)
    };
    let plan = match plan {
        // Nobody but its one thread can change it.
        Source::Own(plan) => {
            verify_identity(plan)?;
            Rc::clone(plan)
        }
        Source::Kept(launch) => Rc::clone(&launch.plan),
        Source::Fd(plan) => {
            let seals = wiring::seals(plan);
            if seals.is_none() {
                resident::refuse_to_block(way)?;
                tell_so_far(transcript, way)?;
            }
            let bytes = wiring::read_plan(plan, seals)?;
            match kept {
                Some(kept) => kept.plan(bytes, verify)?,
                None => Rc::new(verify(&bytes)?),
            }
        }
    };
    let body = plan.body();
    transcript.state(LauncherState::IdentityVerified);
    drop(stage);

    // 5. Its table is one.
    let stage = info_span!("schedule").entered();
    let table = DescriptorTable::new(&body.descriptor_table).map_err(|error| invalid(&error))?;

    // 6. Every entry is a mechanism that is linked into this launcher, and one of them is the exec.
    let registry = match (kept, way) {
        (Some(kept), _) => Cow::Borrowed(&kept.registry),
        (None, Way::Here(here)) => Cow::Borrowed(here.registry),
        (None, _) => {
            Registry::collect().map(Cow::Owned).map_err(|error| Stop::fault(error.to_string()))?
        }
    };
    let schedule = Schedule::classify(&body.lowering, &registry).map_err(Stop::Refused)?;
    transcript.state(LauncherState::PlanVerified);
    drop(stage);

    // 7. Every declared fd is there and is what it is declared as.
    let stage = info_span!("handles").entered();
    let slots = if let Some(launch) = again {
        // What an fd is, and how it was opened, stays as it was seen to be.
        launch.slots(table)
    } else {
        let slots = table.slots().iter().map(|slot| open_slot(*slot, &handed));
        slots.collect::<Result<_, Stop>>()?
    };
    transcript.state(LauncherState::HandlesVerified);
    drop(stage);

    // 8. Every mechanism is lowered. From here on each has done all that can fail for a reason.
    let stage = info_span!("lower").entered();
    let lowered = again.and_then(|launch| launch.lowering.as_ref());
    let lowering = match lowered {
        Some(lowered) => Lowering::of_kept(lowered, &body.target, &slots),
        None => Lowering::new(&body.target, &slots),
    };
    let mut lowering = lowering.within(&schedule);
    if matches!(way, Way::Resident { .. }) {
        lowering = lowering.by_shared_launcher();
    }
    if let Some(ends) = &ends {
        lowering.keep_borrowed(&ends.error);
    }
    let to_lower = if lowered.is_some() { &[][..] } else { schedule.entries() };
    for (index, it) in to_lower.iter().enumerate() {
        lowering.set_owner(Owner::Entry(index));
        it.mechanism
            .lower(&it.entry.params, &mut lowering)
            .map_err(|stop| named(stop, &it.entry.id))?;
    }

    // 9. The phases can resolve as the protocol has it, and the scrub is among them.
    let outline = Outline::of(&schedule);
    let foreseen = outline.resolve(|_| true)?;
    let ready = Readiness { child_created: true, phases: &foreseen, schedule_matches: true };
    if !ready.ready_to_exec() {
        let detail = "fds are not scrubbed: linux.ambient.scrub.v1 must be scheduled";
        return Err(Stop::refuse(RefusalReason::PlanInvalid, detail));
    }

    // 10. No mechanism lacks another that makes it safe.
    schedule.check_requirements()?;
    if purpose == Purpose::Keep {
        let lowering = lowering.keep_lowering();
        return Ok(Outcome::ToKeep { plan: Rc::clone(&plan), lowering });
    }

    // 11. Everything that the child needs is built now; after this nothing is allocated for it.
    let in_place = match in_place::decide(way, &plan, &schedule, &lowering)? {
        Verdict::InPlace => true,
        Verdict::Child => false,
        Verdict::NeedsLauncher(why) => return Ok(Outcome::NeedsLauncher(why)),
    };
    let spare = spare::of(way, &lowering, &schedule)?;
    let waits = lowering.clone_request().rendezvous && !in_place && spare.is_none();
    let rendezvous = if waits { Some(rendezvous_pipe()?) } else { None };
    let release_fd = rendezvous.as_ref().map(|(read, _)| read.as_raw_fd());
    let lowered = if in_place {
        lowering.inherit_parent_death_signal(in_place::death_signal()?);
        if let Some(ends) = &ends {
            lowering.keep_borrowed(&ends.control);
            lowering.keep_borrowed(&ends.error_read);
        }
        lowering.finish(in_place::prologue(way, &stdio))
    } else {
        lowering.inherit_parent_death_signal(Some(Signal::KILL.as_raw()));
        let prologue = prologue(&lowering, way, spare.is_some(), release_fd, &stdio);
        lowering.finish(prologue)
    };
    drop(stage);
    let (schedule, foreseen) = (&schedule, &foreseen);
    // What is told is told before anything that may take its time. In place that is the exec alone, before
    // which all of it is told at once, unless namespaces are to be made or a cgroup to be entered.
    let blocks = lowered.clone.namespaces != 0 || lowered.clone.cgroup.is_some();
    if !in_place || blocks {
        tell_so_far(transcript, way)?;
    } else {
        note_trace(transcript);
    }
    let mut here = InPlace { lowered, schedule, outline, foreseen, ends, pid: getpid() };
    if purpose == Purpose::Explain {
        if in_place {
            here.foretell(transcript);
        }
        let mut text = Vec::new();
        explain::write(&mut text, &plan, schedule, &here.lowered, in_place)
            .and_then(|()| io::stdout().write_all(&text))
            .map_err(|error| Stop::fault(format!("writing the explanation: {error}")))?;
        return Ok(Outcome::Explained);
    }
    only_task()?;
    if in_place {
        here.become_workload(transcript);
    }
    let InPlace { lowered, outline, ends, .. } = here;
    if ends.is_none() && !matches!(way, Way::Resident { .. }) {
        return Err(Stop::fault("a child needs a pipe to tell of its failure by"));
    }
    let (error, error_read) = ends.map(|ends| (ends.error, ends.error_read)).unzip();
    let report_fd = error.as_ref().map(AsRawFd::as_raw_fd);
    match (&rendezvous, way) {
        (Some(_), Way::Resident { dumpable: Some(dumpable), .. }) => set_dumpable(dumpable)?,
        // A resident launcher is out of reach from its start on; one with maps to write is when they are.
        (_, Way::Resident { .. }) | (Some(_), _) => {}
        (None, _) => out_of_reach()?,
    }

    // 12. The child. It waits where the launcher has a part to do; otherwise the launcher does, until
    // the child has exec'd or ended, unless others are waiting for it.
    let stage = Stopwatch::start("child");
    let resident = matches!(way, Way::Resident { .. });
    let Lowered { program, clone, attended, notes, remarks, teardown } = lowered;
    let options = CloneOptions {
        namespaces: clone.namespaces,
        cgroup: clone.cgroup,
        concurrent: clone.rendezvous || resident,
        pidfd: resident,
        shares_files: false,
    };
    let ahead = spare.is_some();
    let child = if let Some(mut child) = spare {
        child.take_on(program, report_fd);
        child
    } else {
        let make_room = || kept.is_some_and(|kept| kept.spares.give_up());
        process::spawn_or(program, report_fd, options, make_room)
            .map_err(|error| clone_failed(&error, options))?
    };
    transcript.state(LauncherState::ChildCreated);
    transcript.note(&format!("mechanism=clone3 child_pid={}", child.pid().as_raw_pid()));
    if resident {
        transcript.note("way=resident");
    }
    if ahead {
        transcript.note("child=spare");
    }
    if again.is_some() {
        transcript.note("launch=kept");
    }
    let noted = |time| notes.iter().filter(move |(when, ..)| *when == time);
    noted(NoteTime::Created).for_each(|(_, _, text)| transcript.note(text));

    // 13. The launcher's part, and the release. A child that is dropped, here or below, is killed and
    // reaped.
    if let Some((_, write)) = rendezvous {
        attend(schedule, &attended, attendee_of(child.pid()))?;
        tell_so_far(transcript, way)?;
        out_of_reach()?;
        rustix::io::retry_on_intr(|| rustix::io::write(&write, &[1]))
            .map_err(|errno| Stop::fault(format!("releasing the child: {errno}")))?;
    }
    if clone.rendezvous {
        noted(NoteTime::Released).for_each(|(_, _, text)| transcript.note(text));
    }

    // The child's end is then the last one; a spare has yet to have one.
    let error = error.filter(|_| ahead);
    Ok(Outcome::Launching(Launching {
        child,
        shares_files: ahead,
        error,
        error_read,
        outline,
        remarks,
        teardown,
        stage,
    }))
}

/// Tells that the workload runs, waits for its end, and tells how that was.
fn observe(transcript: &mut TranscriptWriter<Control>, launched: Launched) {
    // A channel that is gone is no reason to leave a workload that nobody waits for.
    note_trace(transcript);
    let _ = transcript.flush();
    match process::wait_and_forward(launched.pid) {
        Ok(status) => {
            let core = libc::WCOREDUMP(status.as_raw());
            note_end(transcript, status.exit_status(), status.terminating_signal(), core);
        }
        Err(error) => transcript.note(&format!("workload not waited for: {error}")),
    }
    launched.end.tear_down(transcript);
    let _ = transcript.flush();
}

/// Notes how a workload ended: with which code, or by which signal and whether that left a core.
pub(crate) fn note_end<W: Write>(
    transcript: &mut TranscriptWriter<W>,
    code: Option<i32>,
    signal: Option<i32>,
    core: bool,
) {
    transcript.note(&match (code, signal) {
        (Some(code), _) => format!("workload exited code={code}"),
        (None, signal) => {
            format!("workload killed signal={} core={core}", signal.unwrap_or_default())
        }
    });
}

impl End {
    /// Runs the teardown, and notes how each step of it went.
    pub(crate) fn tear_down<W: Write>(mut self, transcript: &mut TranscriptWriter<W>) {
        for (owner, result) in self.teardown.run() {
            let id = self.outline.id_of(owner);
            match result {
                Ok(()) => transcript.note(&format!("teardown={id}")),
                Err(why) => transcript.note(&format!("teardown failed: {id}: {why}")),
            }
        }
    }
}

/// Tells that a launch stopped, and why it did.
pub(crate) fn tell<W: Write>(transcript: &mut TranscriptWriter<W>, stop: &Stop) {
    note_stop(transcript, stop);
    note_trace(transcript);
    // Where nobody listens any more, the exit status still says it.
    let _ = transcript.flush();
}

/// Adds the terminal of a launch that stopped, and why it did.
pub(crate) fn note_stop<W: Write>(transcript: &mut TranscriptWriter<W>, stop: &Stop) {
    match stop {
        Stop::Refused(Refusal { reason, detail }) => {
            transcript.note(&format!("refusal={reason}"));
            transcript.note(&format!("refusal: {detail}"));
            transcript.state(LauncherState::SetupRefused);
        }
        Stop::Faulted(Fault { what, note }) => {
            if let Some(note) = note {
                transcript.note(note);
            }
            transcript.state(LauncherState::SetupFaulted);
            transcript.note(&format!("fault: {what}"));
        }
    }
}

/// Tells why a launch stopped, and ends this process.
pub(crate) fn end<W: Channel>(transcript: &mut TranscriptWriter<W>, stop: &Stop) -> ! {
    tell(transcript, stop);
    sys::exit(transcript.channel_mut().end(stop))
}

pub(crate) fn status(stop: &Stop) -> u8 {
    match stop {
        Stop::Refused(_) => REFUSED,
        Stop::Faulted(_) => FAULTED,
    }
}

fn invalid(error: &dyn std::error::Error) -> Stop {
    Stop::refuse(RefusalReason::PlanInvalid, error.to_string())
}

/// Says whose parameters a refusal is about, where it does not say so itself.
fn named(stop: Stop, id: &str) -> Stop {
    match stop {
        Stop::Refused(Refusal { reason, detail }) if !detail.contains(id) => {
            Stop::refuse(reason, format!("{id}: {detail}"))
        }
        other => other,
    }
}

/// Faults unless this process has one task.
fn only_task() -> Result<(), Stop> {
    match tasks()? {
        1 => Ok(()),
        tasks => Err(Stop::fault(format!("the launcher has {tasks} tasks, and must have one"))),
    }
}

/// How many tasks this process has.
pub(crate) fn tasks() -> Result<u64, Stop> {
    // A twentieth of what it takes to look into /proc, which is asked where this does not settle it.
    if sys::is_known_to_have_one_thread() {
        return Ok(1);
    }
    // The directory has a link for each task, and two of its own as every directory does
    // (proc_task_getattr of the kernel's fs/proc/base.c).
    let tasks = rustix::fs::stat("/proc/self/task")
        .map_err(|errno| Stop::fault(format!("counting the tasks in /proc/self/task: {errno}")))?;
    match tasks.st_nlink.checked_sub(2) {
        Some(tasks @ 1..) => Ok(tasks),
        Some(0) | None => Err(Stop::fault("/proc/self/task is not what procfs makes of it")),
    }
}

/// Notes how long the stages took that have ended.
pub(crate) fn note_trace<W: Write>(transcript: &mut TranscriptWriter<W>) {
    for note in trace::notes() {
        transcript.note(&note);
    }
}

/// Tells what there is to tell before a step that may block. None of a resident launcher's steps does, and
/// its loop tells it.
fn tell_so_far<W: Write>(transcript: &mut TranscriptWriter<W>, way: Way<'_>) -> Result<(), Stop> {
    note_trace(transcript);
    if matches!(way, Way::Resident { .. }) {
        return Ok(());
    }
    transcript
        .flush()
        .map_err(|error| Stop::fault(format!("writing to the control channel: {error}")))
}

/// The fd at a slot, seen to be of the declared shape.
fn open_slot<'r>(slot: DescriptorSlot, handed: &Slots<'r>) -> Result<OpenSlot<'r>, Stop> {
    let index = slot.slot_index;
    let fault = |what: String| Stop::fault(format!("slot {index} ({:?}): {what}", slot.role));
    let (fd, flags) = handed.at(slot).map_err(fault)?;
    let mode = fstat(fd).map_err(|errno| fault(format!("fstat: {errno}")))?.st_mode;
    let writable = [OFlags::WRONLY, OFlags::RDWR].contains(&(flags & OFlags::ACCMODE));
    let found = DescriptorKind::from_mode(mode).map(|kind| DescriptorShape { kind, writable });
    if found.is_none_or(|found| !slot.expected.admits(found)) {
        let found = found.map_or("something else".to_owned(), |found| format!("{found:?}"));
        let detail = format!(
            "slot {index} ({:?}) is declared as {:?} and is {found}",
            slot.role, slot.expected
        );
        return Err(Stop::refuse(RefusalReason::HandleMismatch, detail));
    }
    Ok(OpenSlot { slot, fd })
}

/// Has the mechanisms of these entries attend.
pub(crate) fn attend(
    schedule: &Schedule<'_>,
    attended: &[usize],
    attendee: Attendee,
) -> Result<(), Fault> {
    let mut attended = attended.iter().map(|at| &schedule.entries()[*at]);
    attended.try_for_each(|it| it.mechanism.attend(&it.entry.params, attendee))
}

pub(crate) fn attendee_of(pid: Pid) -> Attendee {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    Attendee { pid: pid.as_raw_pid(), uid, gid }
}

/// Keeps a workload of this process's own user from its memory and its fds, the control channel among
/// them: what is not dumpable can't be traced, and its /proc/PID/fd is root's
/// ([ptrace(2)](https://man7.org/linux/man-pages/man2/ptrace.2.html), access mode checking). The exec
/// makes the workload dumpable again; a child that waits for its maps has to be so until then, for else
/// its maps are root's too.
pub(crate) fn out_of_reach() -> Result<(), Stop> {
    set_dumpable(DumpableBehavior::NotDumpable)
}

pub(crate) fn set_dumpable(behavior: DumpableBehavior) -> Result<(), Stop> {
    rustix::process::set_dumpable_behavior(behavior)
        .map_err(|errno| Stop::fault(format!("prctl(PR_SET_DUMPABLE): {errno}")))
}

/// The pipe that a child waits on, and the launcher's end of it.
fn rendezvous_pipe() -> Result<(OwnedFd, OwnedFd), Stop> {
    pipe_with(PipeFlags::CLOEXEC)
        .map_err(|errno| Stop::fault(format!("making the pipe that the child waits on: {errno}")))
}

/// What the child does before any mechanism's ops.
fn prologue(
    lowering: &Lowering<'_>,
    way: Way<'_>,
    ahead: bool,
    release: Option<RawFd>,
    stdio: &[(RawFd, RawFd)],
) -> Vec<Op> {
    // A child that is made for the launch has its directory from the clone on.
    let directory = match way {
        Way::Resident { request, .. } if ahead => request.directory.as_ref(),
        _ => None,
    };
    let directory = directory.map(AsRawFd::as_raw_fd);
    let mut ops = Vec::new();
    // A launcher that dies takes its workload along, whenever it does: one that died before the
    // signal was asked for is no longer the parent. A child that was made ahead has asked.
    if !ahead {
        ops.extend([Op::parent_death_signal(Signal::KILL.as_raw()), Op::parent_is_alive()]);
    }
    // Streams are placed where they came by a message: a resident launcher has other launches' fds too, and
    // those that wait for the end of their pipes must not wait for this child's scrub.
    if !stdio.is_empty() {
        let own = stdio.iter().map(|(fd, _)| *fd).chain(release).chain(directory);
        for (first, last) in lowering.unused(own).into_iter().rev() {
            // From its first step on a child that was made ahead has fds of its own. Of the last range, which is all
            // that follows the fds that are used, the kernel makes next to no copies for it.
            ops.push(if ahead && ops.is_empty() {
                Op::close_range_unshared(first, last)
            } else {
                Op::close_range(first, last)
            });
        }
    }
    ops.extend(directory.map(Op::fchdir));
    ops.extend(release.map(|fd| Op::read_exactly(fd, 1)));
    // Rust's runtime ignores SIGPIPE, and what is ignored stays so across an exec.
    ops.push(Op::default_action(libc::SIGPIPE));
    ops.push(Op::empty_signal_mask());
    ops.extend(in_place::streams(stdio));
    ops
}

/// What may keep a user from new namespaces.
pub(crate) const NAMESPACE_HELP: &str = "(see user.max_user_namespaces and, where they exist, \
     kernel.unprivileged_userns_clone and kernel.apparmor_restrict_unprivileged_userns in sysctl)";

fn clone_failed(error: &io::Error, options: CloneOptions) -> Stop {
    let mut asked = String::new();
    if options.namespaces != 0 {
        asked += " with new namespaces ";
        asked += NAMESPACE_HELP;
    }
    if options.cgroup.is_some() {
        asked += " into the cgroup of the CgroupDir slot (which must be of cgroup version 2, and the \
                  launcher's to write to)";
    }
    Stop::fault(format!("clone3{asked}: {error}"))
}
