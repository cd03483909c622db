//! The supervisor's library: launchers that misbehave, output that is large, and children that are
//! killed, dropped and asked.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use portcullis::{Child, Command, Error, LauncherState, RefusalReason, Stdio, Way};
use portcullis_core::Params;
use portcullis_tests::{Need, Signal, becomes, launcher, pid, run, send, tests, write_program};
use tempfile::TempDir;

fn shell(script: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]).env("PATH", "/usr/bin:/bin");
    command
}

/// A launcher that is a shell script.
fn false_launcher(folder: &Path, script: &str) -> PathBuf {
    let path = folder.join("launcher");
    write_program(&path, format!("#!/bin/sh\n{script}\n").as_bytes());
    path
}

/// The error of a launch by that script.
fn launched_by(script: &str) -> Error {
    launched_within(Duration::from_secs(30), script)
}

fn launched_within(limit: Duration, script: &str) -> Error {
    let folder = TempDir::new().unwrap();
    let launcher = false_launcher(folder.path(), script);
    let mut command = shell("exit 0");
    command.launcher(launcher).setup_limit(limit);
    command.spawn().expect_err("no launcher")
}

fn a_launcher_that_cannot_be_run_is_told_by_its_path() {
    for (path, errno) in [("/no/such/launcher", 2), ("/etc/passwd", 13), ("/usr", 13)] {
        let error = shell(":").launcher(path).spawn().unwrap_err();
        let Error::Launcher { launcher, source } = &error else { panic!("{error:?}") };
        assert_eq!((launcher.as_str(), source.raw_os_error()), (path, Some(errno)));
    }
}

fn a_launcher_that_is_none_is_an_error_by_name() {
    let say = |text: &str| format!("printf '{text}' >&$BVISOR_CONTROL_FD");
    assert!(matches!(launched_by("exit 0"), Error::LauncherEnded { .. }));
    assert!(
        matches!(launched_by("kill -9 $$"), Error::LauncherEnded { status, .. } if status.signal() == Some(9))
    );
    assert!(matches!(launched_by(&say("hello\\n")), Error::Transcript(_)));
    assert!(matches!(launched_by(&say("LauncherStarted\\nReadyToExec\\n")), Error::Transcript(_)));
    assert!(matches!(launched_by(&say("LauncherStarted\\n")), Error::LauncherEnded { .. }));
    // One that closes its channel early and lives on.
    let closes = "eval \"exec $BVISOR_CONTROL_FD>&-\"; exec sleep 60";
    assert!(matches!(launched_by(closes), Error::LauncherEnded { .. }));
    let garbage = "while :; do printf '# %01000d\\n' 0 >&$BVISOR_CONTROL_FD || exit; done";
    assert!(matches!(
        launched_by(garbage),
        Error::TranscriptTooLong { .. } | Error::TimedOut { .. }
    ));
    for hangs in ["exec sleep 60", "kill -STOP $$"] {
        let start = Instant::now();
        let error = launched_within(Duration::from_millis(500), hangs);
        assert!(matches!(error, Error::TimedOut { .. }));
        assert!(error.to_string().contains(" 500ms"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(20));
    }
}

fn a_launcher_that_is_killed_at_any_state_is_told_by_the_last_one() {
    let mut told = String::new();
    for state in LauncherState::ALL.iter().take_while(|state| !state.is_terminal()) {
        told = format!("{told}{state}\\n");
        let error = launched_by(&format!("printf '{told}' >&$BVISOR_CONTROL_FD; kill -9 $$"));
        let Error::LauncherEnded { status, after } = &error else { panic!("{error:?}") };
        assert_eq!((status.signal(), after.as_str()), (Some(9), state.name()));
    }
    // After the exec that it tells of, waiting for the program finds the launcher gone.
    let folder = TempDir::new().unwrap();
    told += "ExecSucceeded\\n";
    let script = format!("printf '{told}' >&$BVISOR_CONTROL_FD; kill -9 $$");
    let launcher = false_launcher(folder.path(), &script);
    let mut child = shell(":").launcher(launcher).spawn().unwrap();
    assert!(matches!(child.wait(), Err(Error::LauncherEnded { .. })));
}

fn a_refusal_and_a_fault_carry_their_report() {
    let mut command = shell(":");
    let mut entry = portcullis_core::Registry::collect()
        .unwrap()
        .find("linux.userns.enter.v1")
        .unwrap()
        .declaration()
        .entry(Params::default());
    entry.id = "linux.unknown.do.v1".into();
    let error = command.entry(entry).spawn().unwrap_err();
    let Error::Refused { reason, detail, report } = &error else { panic!("{error:?}") };
    assert_eq!(*reason, RefusalReason::MissingPrimitive);
    assert!(detail.contains("linux.unknown.do.v1") && report.stopped.is_some());
    let error = shell(":").policy("linux.netns.enter.v1", Params::default()).spawn().unwrap_err();
    assert!(matches!(&error, Error::Faulted { what, .. } if what.contains("userns")), "{error:?}");
    let error = shell(":").policy("linux.none.v1", Params::default()).spawn().unwrap_err();
    assert!(matches!(error, Error::UnknownMechanism { .. }));
}

fn megabytes_on_each_stream_do_not_deadlock() {
    let script = "head -c 5000000 /dev/zero; head -c 4000000 /dev/zero >&2; echo end";
    let output = shell(script).output().unwrap();
    assert_eq!((output.stdout.len(), output.stderr.len()), (5_000_004, 4_000_000));
    let both = "head -c 3000000 /dev/zero >&2 & head -c 3000000 /dev/zero; wait";
    let output = shell(both).output().unwrap();
    assert_eq!((output.stdout.len(), output.stderr.len()), (3_000_000, 3_000_000));
}

fn streams_are_piped_null_or_files() {
    let mut child = shell("cat; echo done >&2")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"through").unwrap();
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "through");
    assert!(child.wait().unwrap().success());
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("file");
    shell("echo out; echo err >&2")
        .stdout(fs::File::create(&file).unwrap())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(fs::read_to_string(file).unwrap(), "out\n");
}

fn the_working_directory_is_what_was_set() {
    let folder = TempDir::new().unwrap();
    let output = shell("pwd -P").current_dir(folder.path()).output().unwrap();
    let expected = folder.path().canonicalize().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), expected.to_str().unwrap());
    assert!(matches!(shell(":").current_dir("/no/such").spawn(), Err(Error::Policy(_))));
}

const WAYS: [Way; 2] = [Way::Child, Way::InPlace];

fn a_process_that_ignores_its_children_still_learns_how_a_program_ended() {
    let run = |before: &str| {
        let script = format!("{before} exec \"$0\"");
        let mut shell = std::process::Command::new("/bin/sh");
        let output = shell.args(["-c", &script, env!("CARGO_BIN_EXE_status-of-false")]).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    assert_eq!(run(""), "Ok(Some(1))\n");
    // dash ignores what it traps with nothing, and so do its children.
    assert_eq!(run("trap '' CHLD;"), "Ok(Some(1))\n");
}

/// A program that sleeps, launched this way.
fn sleeping(way: Way) -> Child {
    Command::new("/bin/sleep").arg("60").way(way).spawn().unwrap()
}

fn a_status_is_the_workloads_own() {
    for way in WAYS {
        assert_eq!(shell("exit 7").way(way).status().unwrap().code(), Some(7));
        assert_eq!(shell("kill -TERM $$").way(way).status().unwrap().signal(), Some(15));
    }
}

fn a_child_is_asked_without_waiting_and_killed() {
    for way in WAYS {
        let mut child = sleeping(way);
        assert_eq!(child.try_wait().unwrap(), None);
        let workload = child.id();
        assert!(Path::new(&format!("/proc/{workload}")).exists());
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        assert_eq!(child.wait().unwrap().signal(), Some(9), "as often as it is asked");
        assert_eq!(child.try_wait().unwrap().unwrap().signal(), Some(9));
        assert!(!Path::new(&format!("/proc/{workload}")).exists());
        child.kill().unwrap();
    }
}

fn the_report_says_which_process_became_the_workload() {
    for way in WAYS {
        let mut child = sleeping(way);
        let report = child.report();
        assert_eq!((report.way, report.executed, report.status), (Some(way), true, None));
        assert_eq!(report.pid(), Some(child.id()));
        // The kernel's word: whose child it is.
        let parent = match way {
            Way::Child | Way::Resident => child.launcher_id(),
            Way::InPlace => std::process::id(),
        };
        let stat = portcullis_tests::read_proc(child.id(), "stat");
        let (_, rest) = stat.rsplit_once(") ").unwrap();
        assert_eq!(rest.split(' ').nth(1), Some(parent.to_string().as_str()), "{way:?}");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(child.report().status.is_some());
    }
}

fn a_failed_exec_is_told_either_way() {
    for way in WAYS {
        let error = shell(":").way(way).read("/usr").spawn().unwrap_err();
        let Error::Exec { source, report, .. } = &error else { panic!("{error:?}") };
        assert_eq!(source.raw_os_error(), Some(13));
        assert!(!report.executed && report.status.is_none());
    }
}

fn a_launcher_that_is_killed_takes_its_workload_along() {
    let mut child = sleeping(Way::Child);
    let workload = child.id();
    send(child.launcher_id(), Signal::KILL);
    assert!(matches!(child.wait(), Err(Error::LauncherEnded { .. })));
    assert!(ends(workload), "the workload lives on");
}

/// Whether a process is gone, or a zombie that its new parent has yet to reap, before long.
fn ends(pid: u32) -> bool {
    becomes(|| {
        let stat = portcullis_tests::read_proc(pid, "stat");
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
    })
}

fn a_child_that_is_dropped_is_killed_and_one_that_is_detached_is_not() {
    for way in WAYS {
        let child = sleeping(way);
        let workload = child.id();
        drop(child);
        assert!(ends(workload));
        let child = sleeping(way);
        let (workload, launcher) = (child.id(), child.launcher_id());
        child.detach();
        assert!(Path::new(&format!("/proc/{workload}")).exists());
        send(workload, Signal::KILL);
        let options = rustix::process::WaitOptions::empty();
        let (_, status) = rustix::process::waitpid(Some(pid(launcher)), options).unwrap().unwrap();
        let killed = (way == Way::InPlace).then_some(9);
        assert_eq!(status.terminating_signal(), killed);
    }
}

fn a_signal_to_the_launcher_reaches_the_workload() {
    let mut child = shell("trap 'exit 9' TERM; echo; while :; do sleep 0.01; done")
        .way(Way::Child)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    send(child.launcher_id(), Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(9));
}

fn signals_that_a_c_library_keeps_for_itself_reach_the_workload_too() {
    // glibc's SIGRTMIN, which musl has another use for; as /bin/sh has no name for it, by number.
    let mut child = shell("trap 'exit 9' 34; echo; while :; do sleep 0.01; done")
        .way(Way::Child)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let launcher = child.launcher_id().to_string();
    let kill = std::process::Command::new("/bin/kill").args(["-34", &launcher]).status().unwrap();
    assert!(kill.success());
    assert_eq!(child.wait().unwrap().code(), Some(9));
}

fn a_limit_beyond_the_clock_is_none() {
    assert!(shell(":").setup_limit(Duration::MAX).status().unwrap().success());
}

fn a_launcher_that_does_not_answer_is_killed() {
    let folder = TempDir::new().unwrap();
    let launcher = false_launcher(folder.path(), "exec sleep 60");
    let error = shell(":").launcher(launcher).setup_limit(Duration::from_millis(300)).explain();
    assert!(matches!(error, Err(Error::TimedOut { .. })));
    assert!(matches!(shell(":").current_dir("/no/such").explain(), Err(Error::Policy(_))));
}

fn many_roots_push_no_fd_over_another() {
    // More slots than this process has fds, the launcher's own image among them.
    let folder = TempDir::new().unwrap();
    let mut command = shell("echo whole");
    for root in ["/usr", "/bin", "/lib", "/lib64"].iter().filter(|root| Path::new(root).exists()) {
        command.read(root).exec(root);
    }
    for number in 0..200 {
        let root = folder.path().join(number.to_string());
        fs::create_dir(&root).unwrap();
        command.read(root);
    }
    assert_eq!(command.output().unwrap().stdout, b"whole\n");
}

fn a_launcher_by_path_does_what_the_embedded_one_does() {
    let output = shell("echo by path").launcher(launcher()).output().unwrap();
    assert_eq!(output.stdout, b"by path\n");
    let explained = shell(":").launcher(launcher()).explain().unwrap();
    assert!(explained.contains("linux.exec.v1"));
    // By a path of this process's working directory, with another for the program.
    let here = std::env::current_dir().unwrap();
    let up: PathBuf = here.components().skip(1).map(|_| "..").collect();
    let relative = up.join(launcher().strip_prefix("/").unwrap());
    let output = shell("pwd").launcher(relative).current_dir("/usr").output().unwrap();
    assert_eq!(output.stdout, b"/usr\n");
    let own = env!("CARGO_BIN_EXE_test-launcher");
    let known = portcullis::mechanisms(Some(Path::new(own))).unwrap();
    assert!(known.iter().any(|it| it.id == "test.thread.start.v1"), "its own mechanisms");
}

fn what_nobody_can_pass_to_a_program_is_refused_before_anything_runs() {
    let error = shell(":").arg("a\0b").spawn().unwrap_err();
    assert!(matches!(&error, Error::Plan(_)), "{error:?}");
    let error = shell(":").env("A=B", "c").spawn().unwrap_err();
    assert!(matches!(&error, Error::Plan(_)), "{error:?}");
}

/// One plan and one set of fds serve launches at the same time, and what happens to the paths meanwhile
/// is of no consequence.
fn a_template_is_launched_by_many_threads_at_once() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "42").unwrap();
    let mut command = Command::new("/bin/cat");
    for root in ["/usr", "/bin", "/lib", "/lib64"].iter().filter(|root| Path::new(root).exists()) {
        command.read(root).exec(root);
    }
    let template = command.read(folder.path()).current_dir(folder.path()).arg("file").template();
    let template = template.unwrap();
    let moved = folder.path().with_extension("moved");
    fs::rename(folder.path(), &moved).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..25 {
                    assert_eq!(template.output().unwrap().stdout, b"42");
                }
            });
        }
    });
    fs::rename(&moved, folder.path()).unwrap();
}

fn main() -> ExitCode {
    run(tests![
        a_template_is_launched_by_many_threads_at_once: [Need::Mechanism("linux.landlock.apply.v1")],
        a_launcher_that_cannot_be_run_is_told_by_its_path: [],
        a_launcher_that_is_none_is_an_error_by_name: [],
        a_launcher_that_is_killed_at_any_state_is_told_by_the_last_one: [],
        a_refusal_and_a_fault_carry_their_report: [],
        megabytes_on_each_stream_do_not_deadlock: [],
        streams_are_piped_null_or_files: [],
        the_working_directory_is_what_was_set: [],
        a_status_is_the_workloads_own: [],
        a_process_that_ignores_its_children_still_learns_how_a_program_ended: [],
        the_report_says_which_process_became_the_workload: [],
        a_failed_exec_is_told_either_way: [Need::Mechanism("linux.landlock.apply.v1")],
        a_child_is_asked_without_waiting_and_killed: [],
        a_launcher_that_is_killed_takes_its_workload_along: [],
        a_child_that_is_dropped_is_killed_and_one_that_is_detached_is_not: [],
        a_signal_to_the_launcher_reaches_the_workload: [],
        signals_that_a_c_library_keeps_for_itself_reach_the_workload_too: [],
        a_limit_beyond_the_clock_is_none: [],
        a_launcher_that_does_not_answer_is_killed: [],
        many_roots_push_no_fd_over_another: [portcullis_tests::Need::Mechanism("linux.landlock.apply.v1")],
        a_launcher_by_path_does_what_the_embedded_one_does: [],
        what_nobody_can_pass_to_a_program_is_refused_before_anything_runs: [],
    ])
}
