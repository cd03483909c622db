//! Launches that a resident launcher keeps: each is as it would be, had all of it come with its message.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command as Unconfined, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use portcullis::mechanism::exec::FileDigest;
use portcullis::{Child, Command, Error, Params, Resident, Stdio, Template};
use portcullis_core::descriptor::{DescriptorKind, DescriptorRole};
use portcullis_mechanisms as _;
use portcullis_tests::{
    Host, Kept, Need, Outcome, Resident as Raw, Signal, becomes, has_capability, pid, read_proc,
    run, send, tests, waiting_children, write_program,
};
use rustix::process::{Resource, Rlimit, getrlimit, prlimit};
use serde_json::json;
use tempfile::TempDir;

const TEST_LAUNCHER: &str = env!("CARGO_BIN_EXE_test-launcher");

/// `CAP_SYS_RESOURCE`.
const SYS_RESOURCE: u32 = 24;
/// How many launches are kept at the most.
const MOST: u32 = 64;

/// What is told that would be of a launch that is not kept.
fn told(outcome: &Outcome) -> Vec<String> {
    let mut told = outcome.told(&["# launch=kept", "# child=spare"]);
    // Between fewer fds there are fewer gaps to close.
    let of_scrub = "# applied=linux.ambient.scrub.v1 calls=";
    for line in told.iter_mut().filter(|line| line.starts_with(of_scrub)) {
        line.truncate(of_scrub.len());
    }
    told
}

fn is_noted(outcome: &Outcome) -> bool {
    outcome.transcript().value("launch") == Some("kept")
}

/// Whether what was kept is lowered once and for all.
fn is_lowered(kept: &Kept) -> bool {
    let transcript = kept.told.transcript();
    assert_eq!(transcript.terminal(), None, "{:?}", kept.told);
    match transcript.value("lowered") {
        Some("true") => true,
        Some("false") => false,
        _ => panic!("{:?}", kept.told),
    }
}

/// How a launch of what is not kept goes.
fn is_not_kept(outcome: &Outcome, number: u32) {
    outcome.faulted(&format!("no launch is kept as {number}"));
    assert!(!outcome.ran);
}

/// A way that a launch can go: its name, whether it is lowered once, and what makes a host go it.
type Case = (&'static str, bool, fn(&mut Host));

fn each_goes_as_one_that_is_not_kept() {
    let cases: [Case; 13] = [
        ("good", true, |_| {}),
        ("files and calls", true, Host::files_and_calls),
        ("namespaces", true, Host::everything),
        ("fails", true, |host| host.script("exit 7")),
        ("killed", true, |host| host.script("kill -11 $$")),
        ("limited", true, |host| {
            host.script("ulimit -n; ulimit -Hn");
            host.schedule("linux.rlimits.set.v1", &json!({"nofile": {"soft": 20, "hard": 30}}));
        }),
        ("in a directory", true, |host| {
            host.script("pwd");
            host.slot(30, DescriptorRole::ReadRoot, "/usr");
            host.schedule("linux.cwd.set.v1", &json!({"slot": 30}));
        }),
        ("without an interpreter", true, |host| {
            let file = host.folder().join("none");
            write_program(&file, b"#!/no/such/interpreter\n");
            host.body.descriptor_table.clear();
            host.slot(Host::EXE, DescriptorRole::TargetExe, &file);
        }),
        ("two layers", true, |host| {
            host.files_and_calls();
            host.slot(31, DescriptorRole::WriteRoot, "/");
            let rule = json!({"slot": 31, "access": ["read", "exec", "write"]});
            host.schedule("linux.landlock.apply.v1", &json!({"abi": 3, "rules": [rule]}));
        }),
        ("another user", true, |host| {
            host.script("id -u; id -g");
            host.schedule("linux.userns.enter.v1", &json!({"uid": 7, "gid": 8}));
        }),
        ("without capabilities", true, |host| {
            host.script("grep Cap /proc/self/status");
            host.schedule("linux.userns.enter.v1", &());
            host.schedule("linux.capabilities.set.v1", &());
        }),
        ("with a filter that knows its exec", false, |host| {
            host.schedule("linux.seccomp.apply.v1", &json!({"profile": "compute"}));
        }),
        ("with a mask", false, |host| {
            host.script("umask");
            host.schedule("linux.process.attributes.v1", &json!({"umask": "027"}));
        }),
    ];
    let resident = Raw::start();
    for (number, (name, lowers, make)) in (0..).zip(cases) {
        let host = || {
            let mut host = Host::default();
            make(&mut host);
            host
        };
        let once = resident.run(host());
        let kept = resident.keep(number, host());
        assert_eq!(is_lowered(&kept), lowers, "{name}");
        assert!(!kept.told.ran, "{name}");
        for _ in 0..3 {
            let outcome = resident.run_kept(&kept);
            assert!(is_noted(&outcome), "{name}: {outcome:?}");
            assert_eq!(told(&once), told(&outcome), "{name}");
            assert_eq!((&once.stdout, once.ran), (&outcome.stdout, outcome.ran), "{name}");
        }
    }
    assert_eq!(resident.end(), Some(0));
}

fn what_could_not_be_launched_is_refused_at_once() {
    let resident = Raw::start();
    let refused = |make: fn(&mut Host), reason: &str, part: &str| {
        let mut host = Host::default();
        make(&mut host);
        let kept = resident.keep(1, host);
        kept.told.refused(reason, part);
        is_not_kept(&resident.run_kept(&kept), 1);
    };
    refused(|host| host.plan = Some(b"garbage".to_vec()), "PlanInvalid", "");
    refused(|host| host.sealed = false, "PlanInvalid", "sealed");
    refused(|host| host.piped = true, "PlanInvalid", "sealed memfd");
    refused(|host| host.honest = false, "IdentityMismatch", "");
    refused(
        |host| host.declared(Host::EXE).expected.kind = DescriptorKind::Directory,
        "HandleMismatch",
        "declared",
    );
    refused(
        |host| host.schedule("linux.netns.enter.v1", &()).id = "linux.unknown.do.v1".into(),
        "MissingPrimitive",
        "linux.unknown.do.v1",
    );
    refused(|host| host.unschedule("linux.ambient.scrub.v1"), "PlanInvalid", "scrub");
    refused(
        |host| {
            host.schedule("linux.landlock.apply.v1", &json!({"abi": 3}));
        },
        "HandleMismatch",
        "no rule",
    );
    let mut host = Host::default();
    host.schedule("linux.netns.enter.v1", &());
    resident.keep(1, host).told.faulted("linux.userns.enter.v1");
    let kept = resident.keep(1, Host::default());
    assert!(is_lowered(&kept));
    resident.run_kept(&kept).succeeded();
}

fn a_number_is_one_launchs_until_it_is_forgotten() {
    let resident = Raw::start();
    let host = |word: &str| {
        let mut host = Host::default();
        host.script(&format!("echo {word}"));
        host
    };
    let first = resident.keep(7, host("first"));
    resident.keep(7, host("second")).told.faulted("kept as 7 already");
    assert_eq!(resident.run_kept(&first).stdout, "first\n");
    resident.forget(&first);
    // What is not kept can be forgotten as well.
    resident.forget(&first);
    is_not_kept(&resident.run_kept(&first), 7);
    let second = resident.keep(7, host("second"));
    assert_eq!(resident.run_kept(&second).stdout, "second\n");
    let others: Vec<_> =
        (100..100 + MOST - 1).map(|number| resident.keep(number, host("other"))).collect();
    assert!(others.iter().all(is_lowered));
    resident.keep(8, host("one more")).told.faulted("64 launches are kept");
    resident.forget(&others[3]);
    let more = resident.keep(8, host("one more"));
    assert_eq!(resident.run_kept(&more).stdout, "one more\n");
    assert_eq!(resident.run_kept(&second).stdout, "second\n");
}

/// A confined program, its roots and what it may write to.
fn confined(script: &str, folder: &TempDir) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]).env("PATH", "/usr/bin:/bin");
    command.read("/").exec("/").write(folder.path()).no_new_tasks();
    command
}

fn it_is_confined_each_time() {
    let (inside, outside) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (may, may_not) = (inside.path().join("file"), outside.path().join("file"));
    let script = format!(
        "while read -r line; do echo \"$line\"; done </proc/self/status; echo $$ >{}; echo $$ >{}; (echo task)",
        may.display(),
        may_not.display()
    );
    let resident = Resident::start().unwrap();
    let kept = resident.keep(&confined(&script, &inside).template().unwrap()).unwrap();
    let mut pids = BTreeSet::new();
    for _ in 0..3 {
        let output = resident.output(&kept).unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("Seccomp:\t2\n") && text.contains("NoNewPrivs:\t1\n"), "{output:?}");
        assert!(!text.contains("task"), "{text}");
        assert!(!may_not.exists());
        pids.insert(fs::read_to_string(&may).unwrap());
    }
    assert_eq!(pids.len(), 3);
    // The control: without the confinement the same script does all of it.
    let mut free = Command::new("/bin/sh");
    let free = free.args(["-c", &script]).env("PATH", "/usr/bin:/bin").template().unwrap();
    let output = resident.output(&resident.keep(&free).unwrap()).unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("Seccomp:\t0\n") && text.contains("task"), "{text}");
    assert!(may_not.exists());
}

fn what_is_kept_is_what_was_opened() {
    let folder = TempDir::new().unwrap();
    let program = folder.path().join("program");
    write_program(&program, b"#!/bin/sh\necho old\n");
    let resident = Resident::start().unwrap();
    let mut command = Command::new(&program);
    let template = command.read("/").exec("/").template().unwrap();
    let kept = resident.keep(&template).unwrap();
    drop(template);
    fs::remove_file(&program).unwrap();
    write_program(&program, b"#!/bin/sh\necho new\n");
    for _ in 0..2 {
        assert_eq!(resident.output(&kept).unwrap().stdout, b"old\n");
    }
}

fn what_may_be_executed_no_more_is_not() {
    let folder = TempDir::new().unwrap();
    let program = folder.path().join("true");
    write_program(&program, &fs::read("/bin/true").unwrap());
    let resident = Resident::start().unwrap();
    let keep = |command: &Command| resident.keep(&command.template().unwrap()).unwrap();
    let plain = keep(&Command::new(&program));
    let mut pinned = Command::new(&program);
    let digest = FileDigest::of(&fs::read(&program).unwrap());
    let pinned = keep(pinned.digest(digest));
    for _ in 0..2 {
        assert!(resident.status(&plain).unwrap().success());
        assert!(resident.status(&pinned).unwrap().success());
    }
    fs::set_permissions(&program, fs::Permissions::from_mode(0o644)).unwrap();
    for _ in 0..2 {
        assert!(matches!(resident.status(&plain), Err(Error::Exec { .. })));
        assert!(matches!(resident.status(&pinned), Err(Error::Refused { .. })));
    }
}

fn a_limit_that_was_lowered_meanwhile_is_the_kernels_to_refuse() {
    let resident = Raw::start();
    let own = getrlimit(Resource::Nofile).maximum.unwrap_or(1 << 20);
    let mut host = Host::default();
    host.script("ulimit -Hn");
    host.schedule("linux.rlimits.set.v1", &json!({"nofile": {"soft": 50, "hard": own}}));
    let kept = resident.keep(3, host);
    assert!(is_lowered(&kept));
    let outcome = resident.run_kept(&kept);
    assert_eq!(outcome.stdout, format!("{own}\n"), "{outcome:?}");
    let lower = Rlimit { current: Some(60), maximum: Some(own - 1) };
    prlimit(Some(pid(resident.id())), Resource::Nofile, lower).unwrap();
    let outcome = resident.run_kept(&kept);
    if has_capability(SYS_RESOURCE) {
        // Who may raise it does.
        assert_eq!(outcome.stdout, format!("{own}\n"), "{outcome:?}");
    } else {
        outcome.faulted("linux.rlimits.set.v1: prlimit64");
        assert!(!outcome.ran);
    }
}

/// What a workload sees of the fds that it has.
const FDS: &str = "for fd in /proc/self/fd/*; do echo \"$fd\"; done";

fn its_fds_are_its_own_alone() {
    let resident = Raw::start();
    let host = || {
        let mut host = Host::default();
        host.script(FDS);
        host
    };
    let alone = resident.run(host());
    alone.succeeded();
    let script = || {
        let mut host = Host::default();
        let file = host.folder().join("script");
        // Its fd is not closed by the exec.
        write_program(&file, format!("#!/bin/sh\n{FDS}\n").as_bytes());
        host.body.descriptor_table.clear();
        host.slot(Host::EXE, DescriptorRole::TargetExe, &file);
        host.unschedule("linux.exec.v1");
        host.schedule("linux.exec.v1", &json!({"script": true}));
        host
    };
    let lines = |outcome: &Outcome| outcome.stdout.lines().count();
    let of_script = lines(&resident.run(script()));
    assert!(of_script > lines(&alone));
    let script = resident.keep(0, script());
    let kept: Vec<_> = (1..20)
        .map(|number| {
            let mut host = host();
            host.everything();
            resident.keep(number, host)
        })
        .collect();
    for turn in 0..4 {
        if turn > 0 {
            assert!(becomes(|| !waiting_children(resident.id()).is_empty()));
        }
        let confined = resident.run_kept(&kept[4]);
        assert_eq!(confined.stdout, alone.stdout);
        // Also of a child that had the launcher's at first.
        assert_eq!(confined.transcript().value("child"), (turn > 0).then_some("spare"));
    }
    assert_eq!(resident.run(host()).stdout, alone.stdout);
    assert_eq!(lines(&resident.run_kept(&script)), of_script);
}

/// A launcher whose launches wait on their way to the exec, and one of them that it keeps.
fn waiting() -> (Raw, Kept) {
    let resident = Raw::of(Unconfined::new(TEST_LAUNCHER), None);
    let mut host = Host::default();
    host.files_and_calls();
    host.foreign(TEST_LAUNCHER, "test.child.wait.v1");
    let kept = resident.keep(5, host);
    assert!(!is_lowered(&kept));
    (resident, kept)
}

fn what_is_to_be_undone_is_undone_each_time() {
    let folder = TempDir::new().unwrap();
    let ended = folder.path().join("ended");
    let mut command = Unconfined::new(TEST_LAUNCHER);
    command.env("TEST_LAUNCHER_END", &ended);
    let resident = Raw::of(command, None);
    let mut host = Host::default();
    host.foreign(TEST_LAUNCHER, "test.end.mark.v1");
    let kept = resident.keep(1, host);
    assert!(!is_lowered(&kept));
    fs::remove_file(&ended).unwrap();
    for _ in 0..2 {
        let outcome = resident.run_kept(&kept);
        outcome.succeeded();
        assert_eq!(outcome.transcript().value("teardown"), Some("test.end.mark.v1"));
        fs::remove_file(&ended).unwrap();
    }
}

fn a_file_that_is_written_to_is_emptied_each_time() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("out");
    let resident = Resident::start().unwrap();
    let mut command = Command::new("/bin/echo");
    command
        .arg("hello")
        .policy("linux.stdio.set.v1", Params::of(&json!({"stdout": file})).unwrap());
    let template = command.template().unwrap();
    let kept = resident.keep(&template).unwrap();
    for template in [&template, &template, &kept, &kept] {
        assert!(resident.status(template).unwrap().success());
        assert_eq!(fs::read_to_string(&file).unwrap(), "hello\n");
    }
}

fn what_is_dropped_waits_for_no_launcher() {
    let resident = Resident::start().unwrap();
    let template = Command::new("/bin/true").template().unwrap();
    let kept: Vec<_> = (0..MOST).map(|_| resident.keep(&template).unwrap()).collect();
    send(resident.id(), Signal::STOP);
    assert!(becomes(|| read_proc(resident.id(), "stat").contains(") T ")));
    // More than there is room for.
    let mut hasty = Command::new("/bin/true");
    let hasty = hasty.setup_limit(Duration::from_millis(1)).template().unwrap();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let _ = resident.keep(&hasty);
            }
        });
        thread::sleep(Duration::from_millis(500));
        let start = Instant::now();
        drop(kept);
        assert!(start.elapsed() < Duration::from_secs(5));
        over.store(true, Ordering::Relaxed);
        send(resident.id(), Signal::CONT);
    });
    // What had no room is said with what is asked next.
    assert!(becomes(|| (0..MOST).map(|_| resident.keep(&template)).all(|kept| kept.is_ok())));
}

fn half_of_the_fds_are_for_launches() {
    let resident = Raw::start();
    let limits = Rlimit { current: Some(40), ..getrlimit(Resource::Nofile) };
    prlimit(Some(pid(resident.id())), Resource::Nofile, limits).unwrap();
    let kept: Vec<_> = (0..20).map(|number| resident.keep(number, Host::default())).collect();
    assert!(is_lowered(&kept[5]));
    kept[19].told.faulted("RLIMIT_NOFILE");
    resident.run(Host::default()).succeeded();
    resident.run_kept(&kept[5]).succeeded();
}

fn it_may_be_forgotten_while_it_is_on_its_way() {
    let (resident, kept) = waiting();
    let (mut first, mut release) = resident.ask_kept(&kept);
    let (mut second, mut other) = resident.ask_kept(&kept);
    let (one, two) = (first.child(), second.child());
    assert_ne!(one, two);
    resident.forget(&kept);
    is_not_kept(&resident.run_kept(&kept), 5);
    // Its fds' numbers may be others' by now.
    assert!(is_lowered(&resident.keep(6, Host::default())));
    release.write_all(b"!").unwrap();
    first.end().succeeded();
    other.write_all(b"!").unwrap();
    second.end().succeeded();
}

fn a_child_that_was_made_ahead_takes_it_too() {
    let resident = Raw::start();
    let mut host = Host::default();
    host.everything();
    let kept = resident.keep(9, host);
    resident.run_kept(&kept).succeeded();
    for _ in 0..3 {
        assert!(becomes(|| !waiting_children(resident.id()).is_empty()));
        let spare = waiting_children(resident.id())[0].to_string();
        let (asked, _) = resident.ask_kept(&kept);
        // Until its first step the child has the launcher's fds.
        resident.forget(&kept);
        let outcome = asked.end();
        outcome.succeeded();
        assert_eq!(outcome.transcript().value("child_pid"), Some(&*spare));
        assert!(is_noted(&outcome));
        let mut host = Host::default();
        host.everything();
        assert!(is_lowered(&resident.keep(9, host)));
    }
}

fn launches_of_one_run_at_once_and_keep_to_their_own() {
    let folder = TempDir::new().unwrap();
    let resident = Resident::start().unwrap();
    let template = confined("read line; echo \"$line\"", &folder).template().unwrap();
    let kept = resident.keep(&template).unwrap();
    thread::scope(|scope| {
        for thread in 0..4 {
            let (resident, kept) = (&resident, &kept);
            scope.spawn(move || {
                for turn in 0..50 {
                    let stdio = [Stdio::piped(), Stdio::piped(), Stdio::inherit()];
                    let mut child: Child = resident.spawn_with(kept, stdio).unwrap();
                    let line = format!("{thread} {turn}\n");
                    child.stdin.take().unwrap().write_all(line.as_bytes()).unwrap();
                    let output = child.wait_with_output().unwrap();
                    assert_eq!(String::from_utf8(output.stdout).unwrap(), line);
                }
            });
        }
    });
}

/// How many fds a launcher has.
fn fds(resident: &Resident) -> usize {
    fs::read_dir(format!("/proc/{}/fd", resident.id())).unwrap().count()
}

fn a_template_is_kept_as_long_as_it_lives() {
    let folder = TempDir::new().unwrap();
    let resident = Resident::start().unwrap();
    let template = confined(":", &folder).template().unwrap();
    let one = resident.keep(&template).unwrap();
    let with_one = fds(&resident);
    let mut more = vec![resident.keep(&template).unwrap()];
    let each = fds(&resident) - with_one;
    // The roots, the program, and the ruleset.
    assert_eq!(each, 4);
    more.extend((2..MOST).map(|_| resident.keep(&template).unwrap()));
    let with_all = fds(&resident);
    let Err(Error::Faulted { .. }) = resident.keep(&template) else { panic!("kept") };
    assert!(becomes(|| fds(&resident) == with_all));
    drop(more);
    assert!(becomes(|| fds(&resident) == with_one));
    assert!(resident.status(&one).unwrap().success());
    drop(one);
    assert!(becomes(|| fds(&resident) == with_one - each));
}

fn elsewhere_it_is_a_template_as_any() {
    let resident = Resident::start().unwrap();
    let runs = |template: &Template, resident: &Resident| {
        let output = resident.output(template).unwrap();
        let is_kept = output.report.transcript.value("launch") == Some("kept");
        (String::from_utf8(output.stdout).unwrap(), is_kept)
    };
    let template = Command::new("/bin/echo").arg("one").template().unwrap();
    let kept = resident.keep(&template).unwrap();
    let one = || "one\n".to_owned();
    assert_eq!(runs(&template, &resident), (one(), false));
    assert_eq!(runs(&kept, &resident), (one(), true));
    assert_eq!(runs(&kept, &Resident::start().unwrap()), (one(), false));
    assert_eq!(kept.output().unwrap().stdout, b"one\n");
    let two = kept.with_arguments(["two"]).unwrap();
    assert_eq!(runs(&two, &resident), ("two\n".to_owned(), false));
    // It outlives its launcher, and another's.
    drop(resident);
    assert_eq!(runs(&kept, &Resident::start().unwrap()), (one(), false));
}

fn main() -> ExitCode {
    const LANDLOCK: Need = Need::Mechanism("linux.landlock.apply.v1");
    const NETNS: Need = Need::Mechanism("linux.netns.enter.v1");
    run(tests![
        each_goes_as_one_that_is_not_kept: [LANDLOCK, NETNS],
        what_could_not_be_launched_is_refused_at_once: [LANDLOCK],
        a_number_is_one_launchs_until_it_is_forgotten: [],
        it_is_confined_each_time: [LANDLOCK],
        what_is_kept_is_what_was_opened: [LANDLOCK],
        what_may_be_executed_no_more_is_not: [],
        a_limit_that_was_lowered_meanwhile_is_the_kernels_to_refuse: [],
        its_fds_are_its_own_alone: [LANDLOCK, NETNS],
        what_is_to_be_undone_is_undone_each_time: [],
        a_file_that_is_written_to_is_emptied_each_time: [],
        what_is_dropped_waits_for_no_launcher: [],
        half_of_the_fds_are_for_launches: [],
        it_may_be_forgotten_while_it_is_on_its_way: [LANDLOCK],
        a_child_that_was_made_ahead_takes_it_too: [LANDLOCK, NETNS],
        launches_of_one_run_at_once_and_keep_to_their_own: [LANDLOCK],
        // What a process that is out of reach holds is root's alone to see.
        a_template_is_kept_as_long_as_it_lives: [LANDLOCK, Need::Root],
        elsewhere_it_is_a_template_as_any: [],
    ])
}
