//! What a launch came to, as its launcher observed it.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use portcullis_core::state::{LauncherState, PhaseGroup, PhaseResult, RefusalReason};
use portcullis_core::transcript::{Transcript, word};
use serde::{Serialize, Serializer};

/// What a launch came to: the transcript, and what it says.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Report {
    /// The states and notes, as they were written.
    pub transcript: Transcript,
    /// How each phase group resolved, in the order in which they did.
    pub phases: Vec<(PhaseGroup, PhaseResult)>,
    /// What the mechanisms that were applied leave open, that their names might promise.
    pub residual: Vec<Remark>,
    /// What was asked for where the kernel has it, and this one has not.
    pub missing: Vec<Remark>,
    /// Why the workload never ran, if it did not.
    pub stopped: Option<Stopped>,
    /// Which process became the workload; `None` where the launch stopped before there was one.
    pub way: Option<Way>,
    /// Whether the workload was exec'd.
    pub executed: bool,
    /// How the workload ended, once it has.
    #[serde(serialize_with = "status")]
    pub status: Option<ExitStatus>,
}

/// Which process becomes the workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// A child of the launcher, which waits for its end.
    Child,
    /// The launcher itself: the workload is this process's own child.
    InPlace,
    /// A child of a [resident](crate::Resident) launcher. (What is asked of a launcher of its own with
    /// this is a [`Child`](Self::Child).)
    Resident,
}

/// A word of a mechanism's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Remark {
    /// Its lowering id.
    pub id: String,
    /// What it says.
    pub what: String,
}

/// Why a workload never ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stopped {
    /// The launcher refused, by name.
    Refused {
        /// The name.
        reason: RefusalReason,
        /// What, to what, and what would help.
        detail: String,
    },
    /// Something failed.
    Faulted {
        /// What was being done, to what, and why it failed.
        what: String,
        /// The errno of the child's call that failed, if one did.
        errno: Option<i32>,
        /// Whose call it was: a lowering id, or `launcher`.
        owner: Option<String>,
    },
}

impl Report {
    /// Reads what a transcript says.
    pub(crate) fn of(transcript: Transcript) -> Self {
        let phases = transcript.notes().iter().filter_map(|note| phase(note)).collect();
        let text = |name| transcript.text(name).unwrap_or_default().to_owned();
        let stopped = match transcript.terminal() {
            Some(LauncherState::SetupRefused) => {
                let reason = found(&transcript, "refusal").and_then(|name| name.parse().ok());
                // A launcher that refuses and gives no name that is known has said as much.
                let reason = reason.unwrap_or(RefusalReason::PlanInvalid);
                Some(Stopped::Refused { reason, detail: text("refusal") })
            }
            Some(LauncherState::SetupFaulted) => Some(Stopped::Faulted {
                what: text("fault"),
                errno: found(&transcript, "child errno").and_then(|errno| errno.parse().ok()),
                owner: found(&transcript, "failed").map(str::to_owned),
            }),
            _ => None,
        };
        let (status, way) = (status_of(&transcript), way_of(&transcript));
        let executed = transcript.terminal() == Some(LauncherState::ExecSucceeded);
        let [residual, missing] = ["residual", "missing"].map(|name| remarks(&transcript, name));
        Self { transcript, phases, residual, missing, stopped, way, executed, status }
    }

    /// The lowering ids of the mechanisms that were applied: every call of each was made by the
    /// workload's own process and returned what it should.
    pub fn applied(&self) -> impl Iterator<Item = &str> {
        let ran = self.executed;
        self.transcript
            .notes()
            .iter()
            .filter_map(move |note| leading(note, "applied").filter(|_| ran))
    }

    /// The workload's pid.
    pub fn pid(&self) -> Option<u32> {
        pid_of(&self.transcript)
    }
}

/// The workload's pid, once it is told.
pub(crate) fn pid_of(transcript: &Transcript) -> Option<u32> {
    let created = transcript.notes().iter().find(|note| note.starts_with("mechanism="))?;
    word(created, "child_pid")?.parse().ok()
}

/// Which process becomes the workload, once it is told.
pub(crate) fn way_of(transcript: &Transcript) -> Option<Way> {
    match (found(transcript, "mechanism"), found(transcript, "way")) {
        (Some("clone3"), Some("resident")) => Some(Way::Resident),
        (Some("clone3"), _) => Some(Way::Child),
        (Some("in_place"), _) => Some(Way::InPlace),
        _ => None,
    }
}

/// How the workload ended, once it is told.
pub(crate) fn status_of(transcript: &Transcript) -> Option<ExitStatus> {
    transcript.notes().iter().find_map(|note| end(note))
}

fn remarks(transcript: &Transcript, name: &str) -> Vec<Remark> {
    let remark = |note: &String| {
        let (id, what) = note.strip_prefix(name)?.strip_prefix('=')?.split_once(' ')?;
        Some(Remark { id: id.to_owned(), what: what.to_owned() })
    };
    transcript.notes().iter().filter_map(remark).collect()
}

fn phase(note: &str) -> Option<(PhaseGroup, PhaseResult)> {
    if let Some(result) = leading(note, "confinement") {
        return Some((PhaseGroup::Confinement, result.parse().ok()?));
    }
    Some((leading(note, "phase")?.parse().ok()?, word(note, "result")?.parse().ok()?))
}

/// The value of a note that starts with `NAME=`. What stands further on may be a plan's own words.
fn leading<'n>(note: &'n str, name: &str) -> Option<&'n str> {
    note.strip_prefix(name)?.strip_prefix('=')?.split(' ').next()
}

fn found<'t>(transcript: &'t Transcript, name: &str) -> Option<&'t str> {
    transcript.notes().iter().find_map(|note| leading(note, name))
}

/// The wait status of `workload exited code=N` and `workload killed signal=N core=BOOL`
/// ([wait(2)](https://man7.org/linux/man-pages/man2/wait.2.html)).
fn end(note: &str) -> Option<ExitStatus> {
    const CORE: i32 = 0x80;
    let rest = note.strip_prefix("workload ")?;
    if rest.starts_with("exited ") {
        let code: u8 = word(rest, "code")?.parse().ok()?;
        return Some(ExitStatus::from_raw(i32::from(code) << 8));
    }
    let signal: i32 =
        word(rest, "signal")?.parse().ok().filter(|signal| (1..=64).contains(signal))?;
    let core = if word(rest, "core")? == "true" { CORE } else { 0 };
    Some(ExitStatus::from_raw(signal | core))
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    Exited { code: i32 },
    Killed { signal: i32, core_dumped: bool },
}

#[allow(
    clippy::ref_option,
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a field by reference"
)]
fn status<S: Serializer>(status: &Option<ExitStatus>, serializer: S) -> Result<S::Ok, S::Error> {
    let status = status.and_then(|status| match (status.code(), status.signal()) {
        (Some(code), _) => Some(Status::Exited { code }),
        (None, Some(signal)) => Some(Status::Killed { signal, core_dumped: status.core_dumped() }),
        _ => None,
    });
    status.serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(text: &str) -> Report {
        Report::of(Transcript::parse(text.as_bytes()).unwrap())
    }

    #[test]
    fn a_refusal_is_read_with_its_name_and_its_detail() {
        let report = report(
            "LauncherStarted\n# refusal=MissingPrimitive\n# refusal: x: no such thing\nSetupRefused\n",
        );
        let reason = RefusalReason::MissingPrimitive;
        let expected = Stopped::Refused { reason, detail: "x: no such thing".into() };
        assert_eq!(report.stopped, Some(expected));
        assert!(!report.executed);
    }

    #[test]
    fn a_fault_is_read_with_the_call_that_failed() {
        let report = report(
            "LauncherStarted\n# child errno=8\n# failed=linux.exec.v1 call=execveat step=7\n\
             SetupFaulted\n# fault: it failed\n",
        );
        let owner = Some("linux.exec.v1".to_owned());
        let expected = Stopped::Faulted { what: "it failed".into(), errno: Some(8), owner };
        assert_eq!(report.stopped, Some(expected));
    }

    #[test]
    fn what_a_plan_says_of_itself_is_no_fact() {
        let report = report(
            "LauncherStarted\n# refusal=MissingPrimitive\n\
             # refusal: x applied=linux.seccomp.apply.v1 phase=Confinement result=Applied errno=1: unknown\n\
             # applied=linux.seccomp.apply.v1 calls=1\nSetupRefused\n",
        );
        assert_eq!(report.applied().count(), 0);
        assert!(report.phases.is_empty() && report.pid().is_none());
    }

    #[test]
    fn ends_are_wait_statuses() {
        let exited = end("workload exited code=7").unwrap();
        assert_eq!((exited.code(), exited.signal()), (Some(7), None));
        let killed = end("workload killed signal=11 core=true").unwrap();
        assert_eq!((killed.code(), killed.signal(), killed.core_dumped()), (None, Some(11), true));
        for other in ["workload exited", "workload killed signal=99 core=false", "exited code=1"] {
            assert_eq!(end(other), None);
        }
    }
}
