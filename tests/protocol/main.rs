//! The run of the protocol: every refusal and fault by name, none of which lets the workload run.

mod launch;
mod plan;
mod prepare;
mod wiring;

use std::process::ExitCode;

use portcullis_core::Params;
use portcullis_core::plan::{LoweringEntry, Standing};
use portcullis_mechanisms as _;
use portcullis_tests::{Host, Outcome, Test, run, tests};

const SCRUB: &str = "linux.ambient.scrub.v1";

const EXEC: &str = "linux.exec.v1";

const LANDLOCK: &str = "linux.landlock.apply.v1";

const SECCOMP: &str = "linux.seccomp.apply.v1";

const NETNS: &str = "linux.netns.enter.v1";

const USERNS: &str = "linux.userns.enter.v1";

const CGROUP: &str = "linux.cgroup.enter.v1";

/// The outcome of a launch that is good but for `spoil`.
fn spoilt(spoil: impl FnOnce(&mut Host)) -> Outcome {
    let mut host = Host::default();
    spoil(&mut host);
    host.run()
}

fn test_launcher(host: &mut Host) {
    host.launcher = env!("CARGO_BIN_EXE_test-launcher").into();
}

/// An entry for a mechanism that only the test launcher has, as another supervisor would write it.
fn foreign(id: &str) -> LoweringEntry {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_test-launcher"))
        .arg("--mechanisms")
        .output()
        .unwrap();
    let known: Vec<portcullis::MechanismInfo> = serde_json::from_slice(&output.stdout).unwrap();
    let found = known.into_iter().find(|it| it.id == id).unwrap();
    let digest: Vec<u8> = (0..32)
        .map(|at| u8::from_str_radix(&found.decl_digest[at * 2..at * 2 + 2], 16).unwrap())
        .collect();
    LoweringEntry {
        id: found.id,
        version: found.version,
        phase_code: found.phase_code,
        params: Params::default(),
        param_digest: Params::default().digest(),
        decl_digest: Some(<[u8; 32]>::try_from(digest).unwrap().into()),
        standing: Standing::Scheduled,
    }
}

fn every_rule_of_the_documentation_has_its_test() {
    let text = include_str!("../../docs/protocol.md");
    let (_, table) = text.split_once("## Rules and their tests").unwrap();
    let rows = table.lines().filter_map(|line| {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let (rule, test) = (cells.next()?, cells.next()?);
        let test = test.strip_prefix('`')?.strip_suffix('`')?;
        Some((rule, test))
    });
    let mut named = std::collections::BTreeSet::new();
    for (rule, test) in rows {
        assert!(!rule.is_empty());
        assert!(listed().iter().any(|it| it.name == test), "{rule}: there is no test {test}");
        named.insert(test);
    }
    for test in listed() {
        assert!(named.contains(test.name), "{} proves no rule of docs/protocol.md", test.name);
    }
}

fn listed() -> Vec<Test> {
    let rule = tests![every_rule_of_the_documentation_has_its_test: []];
    let parts = [wiring::listed(), plan::listed(), prepare::listed(), launch::listed(), rule];
    parts.into_iter().flatten().collect()
}

fn main() -> ExitCode {
    run(listed())
}
