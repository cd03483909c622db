//! Every built-in mechanism goes through the conformance suite, with whatever privileges there are, and
//! once more without.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use portcullis::testkit::{Answer, Bench, Check, End, Experiment, Laboratory, Way, check, obey};
use portcullis_core::Registry;
use portcullis_core::program::Op;
use portcullis_mechanisms as _;
use portcullis_tests::{Need, launcher, run, tests, write_program};
use tempfile::TempDir;

fn every_mechanism_conforms() {
    let findings = check(&Registry::collect().unwrap(), &Bench::new(launcher()).unwrap());
    print!("{findings}");
    findings.assert_none();
    for id in ["linux.ambient.scrub.v1", "linux.exec.v1"] {
        assert!(findings.passed.contains(&id), "{findings}");
    }
}

/// In a build of which the standard library checks what it is given: that an fd is dropped once, say.
fn every_mechanism_conforms_in_a_launcher_that_checks_itself() {
    let bench = Bench::new(env!("CARGO_BIN_EXE_test-launcher")).unwrap();
    check(&Registry::collect().unwrap(), &bench).assert_none();
}

/// By a copy of this test that nobody runs, in a folder that everybody may look into.
fn every_mechanism_conforms_without_privileges() {
    const NOBODY: u32 = 65534;
    let folder = TempDir::new().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = folder.path().join("conformance");
    write_program(&copy, &fs::read("/proc/self/exe").unwrap());
    let output = Command::new(copy)
        .args(["--exact", "every_mechanism_conforms", "--nocapture"])
        .current_dir("/")
        .env_remove("PORTCULLIS_NO_SKIP")
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .unwrap();
    let [said, complaint] = [output.stdout, output.stderr].map(|it| String::from_utf8(it).unwrap());
    print!("{said}");
    assert!(output.status.success(), "{said}{complaint}");
}

fn the_kernel_answers_the_call_with_those_arguments_and_no_other() {
    // AT_EMPTY_PATH, the last argument of the exec.
    let exec = |value| Answer {
        number: Op::execveat(0, vec![], vec![]).number(),
        arguments: vec![(4, value)],
        errno: 38,
    };
    let bench = Bench::new(launcher()).unwrap();
    let launch = |way, answer| {
        let script = "[ -e /proc/self/fd/99 ] || echo ran";
        bench.launch(&Experiment { way, entries: &[], script, answer: Some(answer) })
    };
    for way in [Way::Child, Way::InPlace] {
        let outcome = launch(way, exec(0x1000));
        let owner = Some("linux.exec.v1".to_owned());
        assert!(
            matches!(&outcome.end, End::Stopped { owner: it, .. } if *it == owner),
            "{outcome}"
        );
        assert_eq!(outcome.stdout, "");
        let outcome = launch(way, exec(0x1001));
        assert!(matches!(outcome.end, End::Ran { .. }), "{outcome}");
        assert_eq!(outcome.stdout, "ran");
    }
    assert_eq!(bench.bare("[ -e /proc/self/fd/99 ] && echo open").as_deref(), Ok("open"));
}

fn a_launcher_that_lacks_the_mechanisms_is_found_out() {
    let registry = Registry::collect().unwrap();
    let bench = Bench::new(env!("CARGO_BIN_EXE_empty-launcher")).unwrap();
    let findings = check(&registry, &bench);
    // What could not be tried here at all, for want of a cgroup, has passed no more than the others.
    let skipped = findings.skipped.iter().filter(|it| it.why.contains("cgroup")).count();
    assert_eq!(findings.failed.len() + skipped, registry.iter().count(), "{findings}");
    assert!(findings.passed.is_empty(), "{findings}");
    assert!(findings.failed.iter().all(|it| it.check == Check::Support), "{findings}");
}

fn main() -> ExitCode {
    obey();
    run(tests![
        every_mechanism_conforms: [],
        every_mechanism_conforms_in_a_launcher_that_checks_itself: [],
        every_mechanism_conforms_without_privileges: [Need::Root],
        the_kernel_answers_the_call_with_those_arguments_and_no_other: [],
        a_launcher_that_lacks_the_mechanisms_is_found_out: [],
    ])
}
