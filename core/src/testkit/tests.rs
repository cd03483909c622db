//! A mechanism that is right passes; each way of being wrong is found, by its check.

use std::cell::RefCell;

use super::*;
use crate::lowering::Lowering;
use crate::mechanism::{
    Conflict, Declaration, Demonstration, Host, OpenError, Opening, Phase, Repeat, Stop,
};
use crate::program::Op;
use crate::registry::tests::registry_of;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Strict {
    mask: u32,
}

/// A mechanism of a test, right unless told otherwise.
#[derive(Clone, Copy)]
struct Umask {
    declaration: Declaration,
    lenient_open: bool,
    lenient_lower: bool,
    moody: bool,
}

const RIGHT: Umask = Umask {
    declaration: Declaration {
        id: "test.umask.set.v1",
        version: 1,
        phase: Phase::Launch,
        rank: 0,
        rank_reason: "it is alone",
        repeat: Repeat::Once,
        requires: &[],
        conflicts: &[],
        summary: "sets the umask",
        kernel_floor: "any",
        params: "{mask: uint}",
        example: r#"{"mask": 63}"#,
        guide: "A mask.",
        demonstration: Demonstration {
            policy: r#"{"mask": 63}"#,
            with: &[],
            script: "cd @folder; umask",
            shows: "0077",
        },
    },
    lenient_open: false,
    lenient_lower: false,
    moody: false,
};

thread_local! {
    static MOOD: RefCell<u32> = const { RefCell::new(0) };
}

impl Mechanism for Umask {
    fn declaration(&self) -> &'static Declaration {
        Box::leak(Box::new(self.declaration))
    }
    fn open(&self, policy: &Params, _: &mut Opening) -> Result<Params, OpenError> {
        if !self.lenient_open {
            policy.parse::<Strict>()?;
        }
        Ok(policy.clone())
    }
    fn lower(&self, params: &Params, launch: &mut Lowering<'_>) -> Result<(), Stop> {
        if !self.lenient_lower {
            params.parse::<Strict>()?;
        }
        let mood = MOOD.with_borrow_mut(|mood| {
            *mood += u32::from(self.moody);
            *mood
        });
        launch.push(Op::umask(63 + mood));
        Ok(())
    }
    fn probe(&self, _: &dyn Host) -> Support {
        Support::yes("")
    }
}

/// A laboratory that only says what a launch would have come to.
struct Paper {
    supported: bool,
    fds: &'static str,
    control: &'static str,
    /// What becomes of a launch whose calls are answered.
    answered: fn() -> Outcome,
    folder: bool,
}

fn ran(stdout: &str) -> Outcome {
    let applied = vec![RIGHT.declaration.id.to_owned()];
    Outcome { stdout: stdout.into(), stderr: String::new(), end: End::Ran { applied } }
}

fn stopped(owner: Option<&str>, what: &str) -> Outcome {
    let end = End::Stopped { owner: owner.map(str::to_owned), what: what.into() };
    Outcome { stdout: String::new(), stderr: String::new(), end }
}

const GOOD: Paper = Paper {
    supported: true,
    fds: "0 1 2",
    control: "0022",
    answered: || stopped(Some("test.umask.set.v1"), "it failed"),
    folder: true,
};

impl Laboratory for Paper {
    fn always(&self) -> &[&'static str] {
        &[]
    }
    fn support(&self, _: &str) -> Option<Support> {
        Some(if self.supported { Support::yes("") } else { Support::no("the kernel is old") })
    }
    fn folder(&self) -> Result<String, String> {
        if self.folder { Ok("/f".into()) } else { Err("the disk is full".into()) }
    }
    fn cgroup(&self) -> Result<String, String> {
        Err("no cgroup".into())
    }
    fn launch(&self, experiment: &Experiment<'_>) -> Outcome {
        match (experiment.entries, experiment.script, &experiment.answer) {
            (_, _, Some(_)) => (self.answered)(),
            ([], ..) => ran(self.control),
            (_, "cd /f; umask", _) => ran("0077"),
            (_, script, _) if script.starts_with("n=0") => ran(self.fds),
            (_, _, _) => ran("it ran"),
        }
    }
    fn bare(&self, _: &str) -> Result<String, String> {
        Ok(self.control.into())
    }
}

fn found(umask: Umask, paper: &Paper) -> Vec<Check> {
    let findings = check(&registry_of(vec![Box::leak(Box::new(umask))]), paper);
    let mut checks: Vec<_> = findings.failed.iter().map(|it| it.check).collect();
    checks.dedup();
    assert_eq!(
        checks.is_empty(),
        findings.passed.len() + findings.skipped.len() == 1,
        "{findings}"
    );
    checks
}

#[test]
fn a_mechanism_that_is_right_passes() {
    assert_eq!(found(RIGHT, &GOOD), []);
}

#[test]
fn what_is_declared_wrongly_is_found() {
    let declared = |change: fn(&mut Declaration)| {
        let mut umask = RIGHT;
        change(&mut umask.declaration);
        found(umask, &GOOD)
    };
    assert_eq!(declared(|it| it.version = 2), [Check::Id]);
    assert_eq!(declared(|it| it.guide = ""), [Check::Texts]);
    assert_eq!(declared(|it| it.summary = "It sets the umask."), [Check::Texts]);
    assert_eq!(declared(|it| it.example = "63"), [Check::Policy]);
    assert_eq!(declared(|it| it.example = "{}"), [Check::Policy]);
    let reasonless = |it: &mut Declaration| {
        it.conflicts = &[Conflict { id: "test.other.set.v1", reason: "" }];
    };
    assert_eq!(declared(reasonless), [Check::Relations]);
    let needy = |it: &mut Declaration| {
        it.demonstration.with = &[("test.none.set.v1", "{}")];
    };
    assert_eq!(declared(needy), [Check::Schedule]);
}

#[test]
fn what_is_opened_and_lowered_wrongly_is_found() {
    assert_eq!(found(Umask { lenient_open: true, ..RIGHT }, &GOOD), [Check::Policy]);
    assert_eq!(found(Umask { lenient_lower: true, ..RIGHT }, &GOOD), [Check::Params]);
    assert_eq!(found(Umask { moody: true, ..RIGHT }, &GOOD), [Check::Lowering]);
}

#[test]
fn what_goes_wrong_in_a_launch_is_found() {
    assert_eq!(found(RIGHT, &Paper { control: "0077", ..GOOD }), [Check::Control]);
    assert_eq!(found(RIGHT, &Paper { fds: "0 1 2 9", ..GOOD }), [Check::Descriptors]);
    for answered in [
        || ran("it ran"),
        || stopped(None, "something failed"),
        || stopped(Some("test.other.set.v1"), "it failed"),
        || Outcome { stdout: "it ran".into(), ..stopped(Some("test.umask.set.v1"), "it failed") },
        || Outcome { end: End::Broken { what: "it hung".into() }, ..ran("") },
    ] {
        assert_eq!(found(RIGHT, &Paper { answered, ..GOOD }), [Check::FailsClosed]);
    }
    // The launcher's own call, told by its name.
    let answered = || stopped(None, "umask(63) failed");
    assert_eq!(found(RIGHT, &Paper { answered, ..GOOD }), []);
}

#[test]
fn what_is_not_supported_is_skipped_and_must_not_run() {
    assert_eq!(found(RIGHT, &Paper { folder: false, ..GOOD }), []);
    let old = Paper { supported: false, ..GOOD };
    let findings = check(&registry_of(vec![Box::leak(Box::new(RIGHT))]), &old);
    assert_eq!(findings.skipped[0].why, "the kernel is old");
    assert_eq!(findings.failed[0].check, Check::Support);
}
