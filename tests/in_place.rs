//! Launches in place: the launcher itself becomes the workload, or refuses, or makes a child where that
//! is what was asked for.

use std::fs;
use std::process::ExitCode;

use portcullis_core::Params;
use portcullis_core::descriptor::DescriptorRole;
use portcullis_core::state::LauncherState;
use portcullis_mechanisms as _;
use portcullis_tests::{Host, Need, Outcome, VERSION_1_FRAMES, run, tests, write_program};
use serde_json::json;
use tempfile::TempDir;

/// One with mechanisms of its own.
const TEST_LAUNCHER: &str = env!("CARGO_BIN_EXE_test-launcher");

fn launch(argument: &str, make: impl FnOnce(&mut Host)) -> Outcome {
    let mut host = Host::default();
    host.arguments =
        Some(argument).filter(|it| !it.is_empty()).map(Into::into).into_iter().collect();
    make(&mut host);
    host.run()
}

fn the_transcript_ends_ready_to_exec_and_the_status_is_the_workloads() {
    let outcome = launch("--in-place", |host| host.script("exit 7"));
    assert_eq!((outcome.status, outcome.ran), (Some(7), true), "{outcome:?}");
    let transcript = outcome.transcript();
    assert_eq!(transcript.states().last(), Some(&LauncherState::ReadyToExec));
    assert!(outcome.text.ends_with("ReadyToExec\n"), "{}", outcome.text);
    assert_eq!(transcript.value("mechanism"), Some("in_place"));
}

fn the_workload_has_the_launchers_pid_and_is_confined_as_a_child_is() {
    let status = |argument: &'static str| {
        let outcome = launch(argument, |host| {
            host.everything();
            host.script("echo $PPID $$ $(cat /proc/$$/status /proc/$$/uid_map)");
        });
        assert!(outcome.ran, "{outcome:?}");
        outcome
    };
    let words = |outcome: &Outcome| -> Vec<String> {
        outcome.stdout.split_whitespace().map(str::to_owned).collect()
    };
    let after = |words: &[String], name: &str| {
        let at = words.iter().position(|word| word == name).unwrap();
        words[at + 1].clone()
    };
    let (here, child) = (status("--in-place"), status("--prefer-in-place"));
    for outcome in [&here, &child] {
        let words = words(outcome);
        assert_eq!(outcome.transcript().value("child_pid"), Some(words[1].as_str()));
        // Its parent is this process, and no launcher.
        assert_eq!(words[0], std::process::id().to_string());
        assert_eq!(after(&words, "Seccomp:"), "2");
        assert_eq!(after(&words, "NoNewPrivs:"), "1");
        assert_eq!(after(&words, "SigBlk:"), "0000000000000000");
        assert_eq!(words[words.len() - 3], "0", "the map's id inside");
        assert_eq!(words[words.len() - 1], "1", "the map's length");
    }
    let apart = status("");
    assert_eq!(apart.transcript().value("mechanism"), Some("clone3"));
    for name in ["Seccomp:", "NoNewPrivs:", "Seccomp_filters:", "CapEff:", "SigIgn:", "SigBlk:"] {
        assert_eq!(after(&words(&here), name), after(&words(&apart), name), "{name}");
    }
}

fn what_needs_a_launcher_afterwards_is_refused_by_name_or_made_as_a_child() {
    let folder = TempDir::new().unwrap();
    let ended = folder.path().join("ended");
    let with = |argument: &str| {
        launch(argument, |host| {
            host.launcher = TEST_LAUNCHER.into();
            host.foreign(TEST_LAUNCHER, "test.end.mark.v1");
            host.variables.insert("TEST_LAUNCHER_END", Some(ended.to_str().unwrap().into()));
        })
    };
    let refused = with("--in-place");
    refused.refused("MissingPrimitive", "test.end.mark.v1");
    // What was to be done at the end is done when there was no launch, too.
    assert!(ended.exists());
    fs::remove_file(&ended).unwrap();
    let made = with("--prefer-in-place");
    made.succeeded();
    assert_eq!(made.transcript().value("mechanism"), Some("clone3"));
    assert_eq!(made.transcript().value("teardown"), Some("test.end.mark.v1"));
    assert!(ended.exists());
}

fn version_1_is_never_in_place() {
    let with = |argument: &str| {
        let mut host = Host::version_1(VERSION_1_FRAMES[0], "/bin/true");
        host.arguments = vec![argument.into()];
        host.run()
    };
    with("--in-place").refused("MissingPrimitive", "version 1");
    let made = with("--prefer-in-place").transcript();
    assert_eq!(made.terminal(), Some(LauncherState::ExecSucceeded));
}

fn an_exec_that_fails_is_a_fault_by_name() {
    let outcome = launch("--in-place", |host| {
        host.schedule("linux.seccomp.apply.v1", &json!({"deny": ["close_range"]}));
        let file = host.folder().join("no-program");
        fs::write(&file, "neither ELF nor script").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&file, mode).unwrap();
        host.body.descriptor_table.clear();
        host.slot(Host::EXE, DescriptorRole::TargetExe, &file);
    });
    outcome.faulted("linux.exec.v1");
    let transcript = outcome.transcript();
    assert!(outcome.text.contains("# child errno=8\n"), "{outcome:?}");
    assert!(transcript.states().contains(&LauncherState::ReadyToExec), "all but the exec was done");
}

/// Telling of a failed exec takes `write` and `exit_group` alone: a filter that kills for anything else must not
/// make it look like an exec that happened.
fn a_failed_exec_is_told_under_the_narrowest_filter() {
    let outcome = launch("--in-place", |host| {
        let calls = json!(["execveat", "write", "exit_group"]);
        let allow = json!([{"calls": calls, "action": "allow"}]);
        let filter = json!({"default": "kill-process", "rules": allow});
        host.schedule("linux.seccomp.apply.v1", &filter);
        let script = host.folder().join("no-interpreter");
        write_program(&script, b"#!/no/such/interpreter\n");
        host.body.descriptor_table.clear();
        host.slot(Host::EXE, DescriptorRole::TargetExe, &script);
        host.entry("linux.exec.v1").params = Params::of(&json!({"script": true})).unwrap();
    });
    outcome.faulted("linux.exec.v1");
    assert_eq!(outcome.status, Some(4));
}

fn main() -> ExitCode {
    const LANDLOCK: Need = Need::Mechanism("linux.landlock.apply.v1");
    const NETNS: Need = Need::Mechanism("linux.netns.enter.v1");
    run(tests![
        the_transcript_ends_ready_to_exec_and_the_status_is_the_workloads: [],
        the_workload_has_the_launchers_pid_and_is_confined_as_a_child_is: [LANDLOCK, NETNS],
        what_needs_a_launcher_afterwards_is_refused_by_name_or_made_as_a_child: [],
        version_1_is_never_in_place: [],
        a_failed_exec_is_told_under_the_narrowest_filter:
            [Need::Mechanism("linux.seccomp.apply.v1")],
        an_exec_that_fails_is_a_fault_by_name: [],
    ])
}
