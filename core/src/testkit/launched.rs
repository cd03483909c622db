//! What a mechanism does in real launches.

use super::filled::{Filled, Unfilled};
use super::lowered::Own;
use super::{Answer, Check, End, Experiment, Outcome, Subject};
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
        self.demonstration(filled);
        self.control();
        self.descriptors(filled);
        self.fails_closed(filled, own);
    }

    /// A mechanism that is not supported must not pass for one that is.
    pub(super) fn stays_out(&mut self, filled: &Filled) {
        let outcome = self.apply(filled, MARK, None);
        let stopped = matches!(outcome.end, End::Stopped { .. }) && outcome.stdout.is_empty();
        self.expect(stopped, Check::Support, || {
            format!("the probe says that it can't be had here, and the launch went on: {outcome}")
        });
    }

    fn demonstration(&mut self, filled: &Filled) {
        let shows = self.mechanism.declaration().demonstration.shows;
        let outcome = self.apply(filled, &filled.script, None);
        self.expect(outcome.stdout == shows, Check::Demonstration, || {
            format!(
                "with it the script should print {shows:?}: {outcome}; script: {}",
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

    /// The same script and the same company, in a folder of its own.
    fn control(&mut self) {
        let declared = self.mechanism.declaration();
        let filled = match Filled::new(declared, self.laboratory) {
            Ok(filled) => filled,
            Err(Unfilled::Unavailable(what) | Unfilled::Malformed(what)) => {
                return self.fail(Check::Control, what);
            }
        };
        let without = if self.laboratory.always().contains(&self.id()) {
            self.laboratory.bare(&filled.script)
        } else {
            let outcome = self.launch(&filled.with, &filled.script, None);
            match outcome.end {
                End::Ran { .. } => Ok(outcome.stdout),
                _ => Err(outcome.to_string()),
            }
        };
        let shows = declared.demonstration.shows;
        match without {
            Err(what) => self.fail(Check::Control, format!("without it nothing ran: {what}")),
            Ok(printed) => self.expect(printed != shows, Check::Control, || {
                format!("without it the script prints {shows:?} too; script: {}", filled.script)
            }),
        }
    }

    fn descriptors(&mut self, filled: &Filled) {
        let outcome = self.apply(filled, LIST_FDS, None);
        self.expect(outcome.stdout == "0 1 2", Check::Descriptors, || {
            format!("the workload should have the fds 0, 1 and 2: {outcome}")
        });
    }

    fn fails_closed(&mut self, filled: &Filled, own: &Own) {
        let mut answered: Vec<(&'static str, Answer, &Expect)> = Vec::new();
        if own.shapes_clone {
            let (number, arguments) = (libc::SYS_clone3, vec![]);
            answered.push(("clone3", Answer { number, arguments, errno: 0 }, &Expect::NonNegative));
        }
        for op in &own.ops {
            let answer = Answer { number: op.number(), arguments: integers(op), errno: 0 };
            if answered.iter().all(|(_, known, _)| *known != answer) {
                answered.push((op.name(), answer, op.expect()));
            }
        }
        for (name, answer, expect) in answered {
            for &(error, errno) in ERRORS {
                if !matches!(expect, Expect::Tolerate(errnos) if errnos.contains(&errno)) {
                    self.answered(filled, name, error, Answer { errno, ..answer.clone() });
                }
            }
        }
    }

    fn answered(&mut self, filled: &Filled, call: &str, error: &str, answer: Answer) {
        let whole = Answer { arguments: vec![], ..answer.clone() };
        let mut outcome = self.apply(filled, MARK, Some(answer));
        // A number that depends on the fds that are open (close_range's) is another one in the launcher:
        // there the call is answered whatever its arguments are.
        if matches!(outcome.end, End::Ran { .. }) {
            outcome = self.apply(filled, MARK, Some(whole));
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
            format!("{call} is answered {error}; the launch should stop, and name {id}: {outcome}")
        });
    }

    /// Launches with the mechanism, as the demonstration has it.
    fn apply(&self, filled: &Filled, script: &str, answer: Option<Answer>) -> Outcome {
        self.launch(&filled.entries(self.id()), script, answer)
    }

    fn launch(
        &self,
        entries: &[(&'static str, crate::Params)],
        script: &str,
        answer: Option<Answer>,
    ) -> Outcome {
        self.laboratory.launch(&Experiment { entries, script, answer })
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
