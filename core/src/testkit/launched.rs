//! What a mechanism does in real launches.

use super::filled::{Filled, Unfilled};
use super::lowered::{OfClone, Own};
use super::{Answer, Check, End, Experiment, Outcome, Subject, Way};
use crate::program::{Arg, Expect, Op};

/// What a kernel says that lacks a call, lacks a feature of it, or forbids it.
const ERRORS: &[(&str, i32)] =
    &[("ENOSYS", libc::ENOSYS), ("EOPNOTSUPP", libc::EOPNOTSUPP), ("EPERM", libc::EPERM)];

/// What the workload says of itself where it must not run.
const MARK: &str = "echo it ran";

/// Prints the numbers of the shell's fds, without an fd of its own to list them by.
const LIST_FDS: &str = "n=0 fds=; while [ $n -lt 1024 ]; do \
                        [ -e /proc/self/fd/$n ] && fds=\"$fds $n\"; n=$((n+1)); done; echo $fds";

impl Subject<'_> {
    pub(super) fn launches(&mut self, filled: &Filled, own: &Own) {
        self.control();
        for way in [Way::Child, Way::InPlace] {
            // Where it can't be made in place, that would be the same launch again.
            if way == Way::Child || own.in_place {
                self.demonstration(way);
                self.descriptors(filled, way);
                self.fails_closed(filled, own, way);
            }
        }
    }

    /// A mechanism that is not supported must not pass for one that is.
    pub(super) fn stays_out(&mut self, filled: &Filled) {
        let outcome = self.apply(Way::Child, filled, MARK, None);
        let stopped = matches!(outcome.end, End::Stopped { .. }) && outcome.stdout.is_empty();
        self.expect(stopped, Check::Support, || {
            format!("the probe says that it can't be had here, and the launch went on: {outcome}")
        });
    }

    /// In a folder of its own: what the script does may leave traces.
    fn demonstration(&mut self, way: Way) {
        let Some(filled) = self.filled(Check::Demonstration) else { return };
        let shows = self.mechanism.declaration().demonstration.shows;
        let outcome = self.apply(way, &filled, &filled.script, None);
        self.expect(outcome.stdout == shows, Check::Demonstration, || {
            format!(
                "with it, {way}, the script should print {shows:?}: {outcome}; script: {}",
                filled.script
            )
        });
        if let End::Ran { applied } = &outcome.end {
            let reported = applied.iter().any(|id| id == self.id());
            self.expect(reported, Check::Demonstration, || {
                format!("it is scheduled and not among what was applied: {applied:?}")
            });
        }
    }

    fn filled(&mut self, check: Check) -> Option<Filled> {
        match Filled::new(self.mechanism.declaration(), self.laboratory) {
            Ok(filled) => Some(filled),
            Err(Unfilled::Unavailable(what) | Unfilled::Malformed(what)) => {
                self.fail(check, what);
                None
            }
        }
    }

    /// The same script and the same company, in a folder of its own.
    fn control(&mut self) {
        let Some(filled) = self.filled(Check::Control) else { return };
        let without = if self.laboratory.always().contains(&self.id()) {
            self.laboratory.bare(&filled.script)
        } else {
            let outcome = self.launch(Way::Child, &filled.with, &filled.script, None);
            match outcome.end {
                End::Ran { .. } => Ok(outcome.stdout),
                _ => Err(outcome.to_string()),
            }
        };
        let shows = self.mechanism.declaration().demonstration.shows;
        match without {
            Err(what) => self.fail(Check::Control, format!("without it nothing ran: {what}")),
            Ok(printed) => self.expect(printed != shows, Check::Control, || {
                format!("without it the script prints {shows:?} too; script: {}", filled.script)
            }),
        }
    }

    fn descriptors(&mut self, filled: &Filled, way: Way) {
        let outcome = self.apply(way, filled, LIST_FDS, None);
        self.expect(outcome.stdout == "0 1 2", Check::Descriptors, || {
            format!("{way}, the workload should have the fds 0, 1 and 2: {outcome}")
        });
    }

    fn fails_closed(&mut self, filled: &Filled, own: &Own, way: Way) {
        // What the launcher does for a mechanism: namespaces and cgroup at the clone of a child, and in place
        // by unshare and by a file.
        let launchers = match way {
            Way::Child if own.of_clone != OfClone::default() => Some(("clone3", libc::SYS_clone3)),
            Way::InPlace if own.of_clone.namespaces => Some(("unshare", libc::SYS_unshare)),
            _ => None,
        };
        let launchers = launchers.map(|(name, number)| {
            (name, Answer { number, arguments: vec![], errno: 0 }, &Expect::NonNegative)
        });
        let mut answered: Vec<_> = launchers.into_iter().collect();
        for op in &own.ops {
            let answer = Answer { number: op.number(), arguments: integers(op), errno: 0 };
            if answered.iter().all(|(_, known, _)| *known != answer) {
                answered.push((op.name(), answer, op.expect()));
            }
        }
        for (name, answer, expect) in answered {
            for &(error, errno) in ERRORS {
                if !matches!(expect, Expect::Tolerate(errnos) if errnos.contains(&errno)) {
                    self.answered(filled, way, (name, error), Answer { errno, ..answer.clone() });
                }
            }
        }
    }

    fn answered(&mut self, filled: &Filled, way: Way, (call, error): (&str, &str), answer: Answer) {
        let whole = Answer { arguments: vec![], ..answer.clone() };
        let mut outcome = self.apply(way, filled, MARK, Some(answer));
        // A number that depends on the fds that are open (close_range's) is another one in the launcher:
        // there the call is answered whatever its arguments are.
        if matches!(outcome.end, End::Ran { .. }) {
            outcome = self.apply(way, filled, MARK, Some(whole));
        }
        let named = match &outcome.end {
            End::Stopped { owner: Some(owner), .. } if owner == self.id() => true,
            End::Stopped { what, .. } if what.contains(self.id()) => true,
            // The launcher itself makes such a call, and says which.
            End::Stopped { owner: None, what } => what.contains(call),
            _ => false,
        };
        let id = self.id();
        self.expect(named && outcome.stdout.is_empty(), Check::FailsClosed, || {
            format!("{way}, {call} is answered {error}; the launch should stop, and name {id}: {outcome}")
        });
    }

    /// Launches with the mechanism, as the demonstration has it.
    fn apply(&self, way: Way, filled: &Filled, script: &str, answer: Option<Answer>) -> Outcome {
        self.launch(way, &filled.entries(self.id()), script, answer)
    }

    fn launch(
        &self,
        way: Way,
        entries: &[(&'static str, crate::Params)],
        script: &str,
        answer: Option<Answer>,
    ) -> Outcome {
        self.laboratory.launch(&Experiment { way, entries, script, answer })
    }
}

/// The arguments that are numbers, each with its place. Fds and addresses are the launcher's own.
fn integers(op: &Op) -> Vec<(u8, u64)> {
    let numbers = (0..).zip(op.args()).filter_map(|(place, arg)| match arg {
        Arg::Int(value) => Some((place, *value)),
        _ => None,
    });
    numbers.collect()
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.end {
            End::Ran { .. } => write!(f, "it ran, and printed {:?}", self.stdout)?,
            End::Stopped { what, .. } => write!(f, "it was stopped: {what}")?,
            End::Broken { what } => write!(f, "it broke off: {what}")?,
        }
        match self.stderr.trim() {
            "" => Ok(()),
            stderr => write!(f, " (on standard error: {stderr})"),
        }
    }
}
