//! Every built-in mechanism goes through the conformance suite, with whatever privileges there are, and
//! once more without.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use portcullis::testkit::{Bench, Check, Laboratory, check, obey};
use portcullis_core::Registry;
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

/// A kernel of which nothing is asked is asked nothing: the suite's own instruments are right.
fn a_launcher_that_lacks_the_mechanisms_is_found_out() {
    let registry = Registry::collect().unwrap();
    let bench = Bench::new(env!("CARGO_BIN_EXE_empty-launcher")).unwrap();
    let findings = check(&registry, &bench);
    assert_eq!(findings.failed.len(), registry.iter().count(), "{findings}");
    assert!(findings.failed.iter().all(|it| it.check == Check::Support), "{findings}");
    assert_eq!(bench.bare("[ -e /proc/self/fd/99 ] && echo open").as_deref(), Ok("open"));
}

fn main() -> ExitCode {
    obey();
    run(tests![
        every_mechanism_conforms: [],
        every_mechanism_conforms_without_privileges: [Need::Root],
        a_launcher_that_lacks_the_mechanisms_is_found_out: [],
    ])
}
