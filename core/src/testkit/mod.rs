//! The conformance suite: what every mechanism of a registry is put through, with no way to opt out.
//!
//! # Overview
//!
//! [`check`] takes a registry and a [`Laboratory`], which is where launches take place: this crate makes
//! no system call. The crate `portcullis` has one for any launcher, behind its own feature `testkit`.
//! What is wrong comes back as a list; so does what could not be tried here, with the reason.
//!
//! # What is checked
//!
//! Of the declaration: its id, its texts, its examples, its relations to other mechanisms
//! ([`Check::Id`] to [`Check::Policy`]). Of what it opens and lowers, in this process: [`Check::Params`]
//! to [`Check::Lowering`]. Of real launches: [`Check::Demonstration`] to [`Check::FailsClosed`].

mod declared;
mod filled;
mod launched;
mod lowered;

use std::fmt;

use crate::mechanism::{Mechanism, Support};
use crate::{Params, Registry};

use filled::Filled;
use lowered::Composition;

/// Where mechanisms are launched.
pub trait Laboratory {
    /// The ids of what it schedules in each launch, asked for or not: the exec, the scrub of fds.
    fn always(&self) -> &[&'static str];

    /// What the launcher says of a mechanism, for this kernel and this user; `None` where it has none of
    /// that id.
    fn support(&self, id: &str) -> Option<Support>;

    /// Makes a folder as [`Demonstration`](crate::mechanism::Demonstration) has it, which stays for as
    /// long as the laboratory does.
    ///
    /// # Errors
    ///
    /// Why there can be none.
    fn folder(&self) -> Result<String, String>;

    /// Makes a cgroup, as [`folder`](Self::folder) does a folder.
    ///
    /// # Errors
    ///
    /// Why there can be none: most often, that this user may make none.
    fn cgroup(&self) -> Result<String, String>;

    /// Launches.
    fn launch(&self, experiment: &Experiment<'_>) -> Outcome;

    /// Has a shell run `script` without a launcher, with fd 99 open, and says what it printed.
    ///
    /// # Errors
    ///
    /// Why it could not.
    fn bare(&self, script: &str) -> Result<String, String>;
}

/// Which process becomes the workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// A child of the launcher.
    Child,
    /// The launcher itself.
    InPlace,
}

/// A launch to make.
#[derive(Debug, Clone)]
pub struct Experiment<'e> {
    /// Which process is to become the workload.
    pub way: Way,
    /// What is scheduled, and what a policy says of it.
    pub entries: &'e [(&'static str, Params)],
    /// What `/bin/sh -c` runs. Its standard input is empty; an fd 99 that is not close-on-exec is open
    /// where the launcher starts.
    pub script: &'e str,
    /// What the kernel answers to one call, of the launcher and of its child.
    pub answer: Option<Answer>,
}

/// An errno that the kernel answers to a call, as one that lacks it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The call's number.
    pub number: i64,
    /// The places of arguments, and the values that they must have for the call to be meant.
    pub arguments: Vec<(u8, u64)>,
    /// The errno.
    pub errno: i32,
}

/// What became of a launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What the script wrote to its standard output, whatever else happened, without the last newline.
    pub stdout: String,
    /// What was written to standard error.
    pub stderr: String,
    /// How it went.
    pub end: End,
}

/// How a launch went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The workload ran to its end.
    Ran {
        /// The ids of what the launcher reports as applied.
        applied: Vec<String>,
    },
    /// The launch was refused, or faulted.
    Stopped {
        /// The id of the mechanism whose call failed in the child, if one did.
        owner: Option<String>,
        /// What was told.
        what: String,
    },
    /// Neither: the launcher broke off, or hung.
    Broken {
        /// How.
        what: String,
    },
}

/// What is checked of a mechanism.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Check {
    /// The id has a prefix, a middle and the version: `linux.umask.set.v1`.
    Id,
    /// Every text that is written for people is there, and the facts are without a full stop.
    Texts,
    /// What it requires and conflicts with are other mechanisms, each with a reason.
    Relations,
    /// The example and the demonstration are JSON maps that `open` takes, and a field that is unknown is
    /// an error that names it.
    Policy,
    /// What `open` returns is the same each time, survives a plan's encoding, and is refused by `lower`
    /// once there is an unknown field in it.
    Params,
    /// What is scheduled with it in the demonstration is all that it requires, and lowers.
    Schedule,
    /// Two lowerings of the same are the same.
    Lowering,
    /// The launcher has the mechanism; and where it is not supported here, no workload runs.
    Support,
    /// Applied, the demonstration's script prints what it shows, and the launcher reports it as applied.
    Demonstration,
    /// Not applied, the script prints something else.
    Control,
    /// Applied, the workload has the fds 0, 1 and 2 alone.
    Descriptors,
    /// Where the kernel answers an error to one of its calls, the launch stops, says whose call it was,
    /// and nothing runs.
    FailsClosed,
}

/// Something that is wrong with a mechanism.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The mechanism.
    pub id: &'static str,
    /// Which check found it.
    pub check: Check,
    /// What is wrong.
    pub what: String,
}

/// A mechanism that could not be launched here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// The mechanism.
    pub id: &'static str,
    /// Why not.
    pub why: String,
}

/// What a suite came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Findings {
    /// What is wrong.
    pub failed: Vec<Finding>,
    /// What was declared well and could not be launched here.
    pub skipped: Vec<Skipped>,
    /// The ids of what was checked in full, and is right.
    pub passed: Vec<&'static str>,
}

impl Findings {
    /// Does nothing where nothing is wrong.
    ///
    /// # Panics
    ///
    /// With everything that is wrong, a line each.
    pub fn assert_none(&self) {
        assert!(self.failed.is_empty(), "\n{self}");
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Child => "as a child",
            Self::InPlace => "in place",
        })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}: {}", self.id, self.check, self.what)
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for id in &self.passed {
            writeln!(f, "passed  {id}")?;
        }
        for Skipped { id, why } in &self.skipped {
            writeln!(f, "skipped {id}: {why}")?;
        }
        for finding in &self.failed {
            writeln!(f, "FAILED  {finding}")?;
        }
        Ok(())
    }
}

/// Puts every mechanism of `registry` through the suite.
pub fn check(registry: &Registry, laboratory: &dyn Laboratory) -> Findings {
    let mut findings = Findings::default();
    for mechanism in registry.iter() {
        let id = mechanism.declaration().id;
        let mut subject = Subject { registry, laboratory, mechanism, failed: Vec::new() };
        let skipped = subject.check();
        match (skipped, subject.failed.is_empty()) {
            (Some(why), _) => findings.skipped.push(Skipped { id, why }),
            (None, true) => findings.passed.push(id),
            (None, false) => {}
        }
        findings.failed.append(&mut subject.failed);
    }
    findings
}

/// A mechanism under test.
struct Subject<'s> {
    registry: &'s Registry,
    laboratory: &'s dyn Laboratory,
    mechanism: &'static dyn Mechanism,
    failed: Vec<Finding>,
}

impl Subject<'_> {
    /// Checks all of it; says why some could not be tried here.
    fn check(&mut self) -> Option<String> {
        self.declaration();
        let filled = match Filled::new(self.mechanism.declaration(), self.laboratory) {
            Ok(filled) => filled,
            Err(filled::Unfilled::Unavailable(why)) => return Some(why),
            Err(filled::Unfilled::Malformed(what)) => {
                self.fail(Check::Policy, what);
                return None;
            }
        };
        let composed = Composition::open(self, &filled);
        if let Ok(composition) = &composed {
            self.params(composition);
        }
        match self.laboratory.support(self.id()) {
            Some(Support::Yes { .. }) => {}
            Some(Support::No { why }) => {
                self.stays_out(&filled);
                return Some(why);
            }
            None => {
                let what =
                    "the launcher does not have it: its main.rs must say `use THE_CRATE as _;`";
                self.fail(Check::Support, what);
                return None;
            }
        }
        match composed.and_then(|it| self.lowerings(&it).map_err(|what| (Check::Schedule, what))) {
            Ok(own) => self.launches(&filled, &own),
            Err((check, what)) => self.fail(check, what),
        }
        None
    }

    fn id(&self) -> &'static str {
        self.mechanism.declaration().id
    }

    fn fail(&mut self, check: Check, what: impl Into<String>) {
        self.failed.push(Finding { id: self.id(), check, what: what.into() });
    }

    /// Fails unless `is`.
    fn expect(&mut self, is: bool, check: Check, what: impl FnOnce() -> String) {
        if !is {
            self.fail(check, what());
        }
    }
}

/// A field that no policy and no parameters have.
const UNKNOWN: &str = "unknown_to_every_mechanism";

#[cfg(test)]
mod tests;
