//! A resident launcher that is asked for a launch whose end is waited for: what it tells when.

use std::fs::File;
use std::io::Write;
use std::process::{Command as Unconfined, ExitCode};
use std::thread::sleep;
use std::time::{Duration, Instant};

use portcullis::{Command, Resident, Stdio};
use portcullis_core::descriptor::DescriptorRole;
use portcullis_mechanisms as _;
use portcullis_tests::{
    Asked, Host, Resident as Raw, becomes, launcher, run, tests, workloads, write_program,
};
use rustix::process::{Pid, getsid};

const TEST_LAUNCHER: &str = env!("CARGO_BIN_EXE_test-launcher");

/// A launch of a script.
fn asked(resident: &Raw, script: &str, at_end: bool) -> (Asked, File) {
    let mut host = Host::default();
    host.script(script);
    resident.ask_in_writes(host, at_end)
}

fn a_launch_that_ends_soon_is_told_by_one_write_and_others_by_two() {
    let resident = Raw::start();
    let by_one_write = || {
        let (mut asked, release) = asked(&resident, "exit 7", true);
        drop(release);
        let all = asked.write();
        assert!(all.starts_with("LauncherStarted\n"), "{all}");
        let one = all.contains("\nExecSucceeded\n# workload exited code=7\n");
        let outcome = asked.end();
        outcome.succeeded();
        assert!(!one || outcome.text == all, "{}", outcome.text);
        one
    };
    // On a machine that is busy a shell may take longer than "soon".
    assert!((0..100).any(|_| by_one_write()));

    let (mut asked_at_once, release) = asked(&resident, "read end; exit 7", false);
    asked_at_once.pid();
    drop(release);
    assert!(asked_at_once.write().starts_with("# workload exited code=7\n"));
}

fn one_that_takes_longer_is_told_meanwhile_however_busy_the_launcher_is() {
    let resident = Raw::start();
    let (mut long, release) = asked(&resident, "read end; exit 7", true);
    let start = Instant::now();
    while !long.has_told() {
        assert!(start.elapsed() < Duration::from_secs(10), "nothing is told");
        resident.run(Host::default()).succeeded();
    }
    long.pid();
    drop(release);
    assert!(long.write().starts_with("# workload exited code=7\n"));
    assert_eq!(long.write(), "");
}

fn one_in_a_session_of_its_own_is_told_meanwhile_too() {
    let resident = Raw::start();
    let mut host = Host::default();
    host.script("read end; exit 7");
    host.schedule("linux.process.attributes.v1", &serde_json::json!({"new_session": true}));
    let (mut long, release) = resident.ask_in_writes(host, true);
    let pid = Pid::from_raw(long.pid().try_into().unwrap());
    assert_eq!(getsid(pid).ok(), pid);
    drop(release);
    assert!(long.write().starts_with("# workload exited code=7\n"));
}

fn one_that_takes_long_to_reach_its_exec_is_told_of_before_it() {
    let resident = Raw::of(Unconfined::new(TEST_LAUNCHER), None);
    let mut host = Host::default();
    host.foreign(TEST_LAUNCHER, "test.child.wait.v1");
    let (mut long, mut release) = resident.ask_in_writes(host, true);
    let begin = long.write();
    assert!(begin.contains("child_pid=") && !begin.contains("ExecSucceeded"), "{begin}");
    sleep(Duration::from_millis(20));
    assert!(!long.has_told());
    release.write_all(b"!").unwrap();
    let outcome = long.end();
    outcome.succeeded();
    assert!(outcome.text.contains("ExecSucceeded\n# workload exited"), "{}", outcome.text);
}

fn one_that_stops_is_told_as_any_other() {
    let resident = Raw::start();
    let mut refused = Host::default();
    refused.unschedule("linux.ambient.scrub.v1");
    resident.ask_in_writes(refused, true).0.end().refused("PlanInvalid", "scrub");
    let mut faulted = Host::default();
    let text = faulted.folder().join("text");
    write_program(&text, b"no program");
    faulted.body.descriptor_table.retain(|slot| slot.slot_index != Host::EXE);
    faulted.slot(Host::EXE, DescriptorRole::TargetExe, text);
    let outcome = resident.ask_in_writes(faulted, true).0.end();
    outcome.faulted("executing the program");
    assert_eq!(outcome.transcript().value("errno"), Some("8"));
    resident.run(Host::default()).succeeded();
}

fn dropped_it_is_killed_whether_something_was_told_or_not() {
    let resident = Raw::start();
    let (mut long, release) = asked(&resident, "read end", true);
    long.pid();
    drop(long);
    assert!(becomes(|| workloads(resident.id()).is_empty()));
    drop(release);
    for _ in 0..20 {
        let (long, _release) = asked(&resident, "read end", true);
        drop(long);
        assert!(becomes(|| workloads(resident.id()).is_empty()));
    }
    resident.run(Host::default()).succeeded();
}

fn many_on_their_way_hold_no_more_fds_than_they_need() {
    let mut limited = Unconfined::new("/bin/sh");
    limited.args(["-c", "ulimit -n 150; exec \"$0\" \"$@\""]).arg(launcher());
    let resident = Raw::of(limited, None);
    let asked: Vec<_> = (0..30).map(|_| asked(&resident, "read end; exit 0", true)).collect();
    for (asked, release) in asked {
        drop(release);
        asked.end().succeeded();
    }
}

fn with_its_supervisor_gone_it_is_killed_and_told_of() {
    for delay in [0, 1, 2, 20] {
        let resident = Raw::start();
        let (long, _release) = asked(&resident, "read end", true);
        sleep(Duration::from_millis(delay));
        assert_eq!(resident.end(), Some(0));
        let outcome = long.end();
        // One that was not taken by then is not launched, and has nothing to tell.
        let told = outcome.text.is_empty()
            || outcome.text.ends_with("# workload killed signal=9 core=false\n");
        assert!(told || outcome.text.contains("SetupFaulted"), "{}", outcome.text);
    }
}

fn shell(script: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]).env("PATH", "/usr/bin:/bin");
    command
}

fn a_program_may_take_longer_than_its_setup() {
    let resident = Resident::start().unwrap();
    let mut command = shell("sleep 1.5; exit 3");
    let template = command.setup_limit(Duration::from_secs(1)).template().unwrap();
    assert_eq!(resident.status(&template).unwrap().code(), Some(3));
    let output = resident.output(&template).unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(output.report.executed && output.report.status == Some(output.status));
}

fn what_fills_its_pipes_at_once_is_read_meanwhile() {
    let resident = Resident::start().unwrap();
    let both = shell("head -c 300000 /dev/zero; head -c 300000 /dev/zero >&2; cat");
    let output = resident.output(&both.template().unwrap()).unwrap();
    assert_eq!((output.stdout.len(), output.stderr.len()), (300_000, 300_000));
    // A standard input that is a pipe ends with this process's end of it.
    let stdio = [Stdio::piped(), Stdio::piped(), Stdio::null()];
    let output = resident.output_with(&both.template().unwrap(), stdio).unwrap();
    assert_eq!((output.stdout.len(), output.stderr.len()), (300_000, 0));
    assert!(output.status.success());
}

fn many_that_end_at_once_are_all_told() {
    let resident = Resident::start().unwrap();
    let template = Command::new("/bin/true").template().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (resident, template) = (&resident, &template);
            scope.spawn(move || {
                for _ in 0..100 {
                    let status = if thread % 2 == 0 {
                        resident.status(template).unwrap()
                    } else {
                        resident.spawn(template).unwrap().wait().unwrap()
                    };
                    assert!(status.success());
                }
            });
        }
    });
}

fn main() -> ExitCode {
    run(tests![
        a_launch_that_ends_soon_is_told_by_one_write_and_others_by_two: [],
        one_in_a_session_of_its_own_is_told_meanwhile_too: [],
        one_that_takes_longer_is_told_meanwhile_however_busy_the_launcher_is: [],
        one_that_takes_long_to_reach_its_exec_is_told_of_before_it: [],
        one_that_stops_is_told_as_any_other: [],
        dropped_it_is_killed_whether_something_was_told_or_not: [],
        many_on_their_way_hold_no_more_fds_than_they_need: [],
        with_its_supervisor_gone_it_is_killed_and_told_of: [],
        a_program_may_take_longer_than_its_setup: [],
        what_fills_its_pipes_at_once_is_read_meanwhile: [],
        many_that_end_at_once_are_all_told: [],
    ])
}
