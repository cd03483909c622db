//! The seccomp filter against the real kernel: what becomes of a call is told by the errno that the caller
//! sees, by how its process ends, and by what `/proc` says of it to another.

use std::fs;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitCode;

use portcullis::mechanism::seccomp::{Profile, Seccomp};
use portcullis::{Command, Output, Stdio};
use portcullis_tests::{Host, Need, Outcome, read_proc, run, tests};
use serde_json::{Value, json};
use tempfile::TempDir;

const ID: &str = "linux.seccomp.apply.v1";
const SECCOMP: Need = Need::Mechanism(ID);
const SIGSYS: i32 = 31;
const EPERM: i32 = 1;
const ENOSYS: i32 = 38;
const EPROTONOSUPPORT: i32 = 93;
const EAFNOSUPPORT: i32 = 97;
/// One that no call fails with by itself.
const OURS: i32 = 1000;

fn policy(value: Value) -> Seccomp {
    serde_json::from_value(value).unwrap()
}

fn profile(profile: Profile) -> Seccomp {
    Seccomp { profile: Some(profile), ..Seccomp::default() }
}

/// A rule about a call that Python does not make by itself.
fn rule(action: &Value, when: &Value) -> Seccomp {
    policy(json!({"rules": [{"calls": ["sched_getscheduler"], "action": action, "when": when}]}))
}

fn output(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{error}"))
}

/// What a program of `tests/python` prints under these filters.
fn python(filters: &[&Seccomp], script: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new("/usr/bin/python3");
    command
        .arg("-B")
        .arg(format!("{}/python/{script}", env!("CARGO_MANIFEST_DIR")))
        .args(arguments);
    for filter in filters {
        command.mechanism(*filter).unwrap();
    }
    output(&mut command)
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The errno of each call under these filters.
fn errnos(filters: &[&Seccomp], calls: &[&str]) -> Vec<i32> {
    let text = text(&python(filters, "calls.py", calls));
    text.lines().map(|line| line.split_once(' ').unwrap().1.parse().unwrap()).collect()
}

/// What a shell prints under these filters, which must let it succeed.
fn shell(filters: &[&Seccomp], script: &str) -> String {
    let mut command = Command::new("/bin/sh");
    command
        .args(["-ec", script])
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("HOME", "/nonexistent");
    for filter in filters {
        command.mechanism(*filter).unwrap();
    }
    text(&output(&mut command))
}

/// How a launch of these filters goes.
fn launch(filters: &[Value]) -> Outcome {
    let mut host = Host::default();
    for filter in filters {
        host.schedule(ID, filter);
    }
    host.run()
}

fn each_action_has_its_effect() {
    let calls = ["handler", "sched_getscheduler:0", "sched_getscheduler:0"];
    let with = |action: Value| python(&[&rule(&action, &json!([]))], "calls.py", &calls);
    let through = "sched_getscheduler 0\nsched_getscheduler 0\n";
    assert_eq!(text(&python(&[], "calls.py", &calls)), through);
    assert_eq!(text(&with(json!("log"))), through);
    let failed = text(&with(json!({"errno": "EXDEV"})));
    assert_eq!(failed, "sched_getscheduler 18\nsched_getscheduler 18\n");
    // Python runs its handler between instructions: once for each call.
    let trapped = text(&with(json!("trap")));
    assert_eq!(trapped.matches("SIGSYS\n").count(), 2, "{trapped}");
    let killed = with(json!("kill-process"));
    assert_eq!((killed.status.signal(), killed.stdout.len()), (Some(SIGSYS), 0));
    // An allowance is seen where the default is something else.
    let rest = policy(json!({"default": {"errno": OURS}, "rules": [
        {"calls": ["@system-service", "@sandbox"], "action": "allow"},
        {"calls": ["personality"], "action": {"errno": "EXDEV"}},
    ]}));
    assert_eq!(
        errnos(&[&rest], &["sched_getscheduler:0", "personality:-1", "mount"]),
        [0, 0, OURS]
    );
}

fn an_untouched_trap_ends_the_process() {
    let trap = rule(&json!("trap"), &json!([]));
    let trapped = python(&[&trap], "calls.py", &["sched_getscheduler:0"]);
    assert_eq!(trapped.status.signal(), Some(SIGSYS));
}

fn arguments_are_compared_in_the_kernel_as_the_policy_says() {
    // sched_getscheduler takes a pid of 32 bits, and the filter sees the whole register.
    let big = 0x7_0000_0005u64;
    let condition = |op: &str, value: u64, width: u8| json!([{"arg": 0, "op": op, "value": value, "width": width}]);
    let masked = |mask: u64, value: u64, width: u8| json!([{"arg": 0, "op": "masked-eq", "mask": mask, "value": value, "width": width}]);
    for (when, fitting, others) in [
        (condition("eq", 5, 32), vec![5, big], vec![4, 6]),
        (condition("eq", big, 64), vec![big], vec![5, big + 1, big ^ 1 << 32]),
        (condition("ne", 5, 64), vec![4, big], vec![5]),
        (condition("lt", big, 64), vec![0, 6, big - 1], vec![big, big + 1, 8 << 32]),
        (condition("le", big, 64), vec![0, 6, big], vec![big + 1, 8 << 32]),
        (condition("gt", big, 64), vec![big + 1, 8 << 32], vec![0, 6, big]),
        (condition("ge", big, 64), vec![big, 8 << 32], vec![0, 6, big - 1]),
        (condition("gt", 5, 32), vec![6, big + 1], vec![5, big]),
        (masked(0xf0, 0x50, 32), vec![0x5a, big << 4], vec![0x6a, 0x15]),
        (masked(7 << 32, 7 << 32, 64), vec![big, 0xf << 32], vec![5, 6 << 32]),
    ] {
        let filter = rule(&json!({"errno": OURS}), &when);
        let ask = |values: &[u64]| -> Vec<i32> {
            let calls: Vec<_> =
                values.iter().map(|it| format!("sched_getscheduler:{it}")).collect();
            errnos(&[&filter], &calls.iter().map(String::as_str).collect::<Vec<_>>())
        };
        assert!(ask(&fitting).iter().all(|errno| *errno == OURS), "{when} {fitting:x?}");
        assert!(ask(&others).iter().all(|errno| *errno != OURS), "{when} {others:x?}");
    }
    // All conditions of a rule, and the first rule that fits.
    let filter = policy(json!({"rules": [
        {"calls": ["socketpair"], "action": {"errno": OURS}, "when": [
            {"arg": 0, "op": "eq", "value": 1, "width": 32}, {"arg": 1, "op": "eq", "value": 2, "width": 32}]},
        {"calls": ["@network-io"], "action": {"errno": OURS + 1}, "when": [
            {"arg": 0, "op": "eq", "value": 1, "width": 32}]},
        {"calls": ["socketpair"], "action": {"errno": OURS + 2}},
    ]}));
    let calls = ["socketpair:1,2", "socketpair:1,1", "socketpair:2,2", "socket:2,2"];
    assert_eq!(errnos(&[&filter], &calls), [OURS, OURS + 1, OURS + 2, 0]);
}

fn a_set_stands_for_its_calls() {
    let folder = TempDir::new().unwrap();
    let script = format!(
        "cd {}; : > file; chown $(id -u) file && echo kept || echo denied",
        folder.path().display()
    );
    let deny = policy(json!({"deny": ["@chown"]}));
    assert_eq!(shell(&[], &script), "kept\n");
    assert_eq!(shell(&[&deny], &script), "denied\n");
    // A list of what is allowed: two sets are all that a shell and its programs need.
    let allow = policy(json!({"default": {"errno": "EPERM"},
                              "rules": [{"calls": ["@system-service"], "action": "allow"}]}));
    assert_eq!(shell(&[&allow], &script), "kept\n");
    assert_eq!(
        shell(&[&allow], "chroot / true 2>/dev/null && echo made || echo denied"),
        "denied\n"
    );
}

/// Calls that fail with something else, or succeed, for a user without privileges.
const FOR_ALL: &[&str] = &[
    "ptrace:999",
    "process_vm_readv:0",
    "process_vm_writev:0",
    "kcmp:0",
    "pidfd_getfd:-1",
    "keyctl:999",
    "add_key",
    "io_uring_setup",
    "io_uring_enter:-1",
    "setns:-1",
    "personality:0x40000",
    "unshare:0x10000000",
];
/// Calls that fail with something else for root.
const FOR_ROOT: &[&str] = &[
    "mount",
    "umount2",
    "fsopen",
    "move_mount:-1,0,-1",
    "pivot_root",
    "chroot",
    "kexec_load:0,99999",
    "init_module",
    "reboot",
    "swapon",
    "quotactl",
    "settimeofday:1",
    "open_by_handle_at:-1",
    "perf_event_open",
    "bpf:999",
    "userfaultfd:1",
];

fn baseline_denies_what_only_attacks_have_in_common() {
    let baseline = profile(Profile::Baseline);
    let root = rustix::process::geteuid().is_root();
    // The others last: the new user namespace takes root's privileges away.
    let first = FOR_ROOT.iter().filter(|_| root);
    let calls: Vec<&str> = first.chain(FOR_ALL).copied().collect();
    for (call, errno) in calls.iter().zip(errnos(&[], &calls)) {
        assert_ne!(errno, EPERM, "{call} without a filter");
    }
    for (call, errno) in calls.iter().zip(errnos(&[&baseline], &calls)) {
        assert_eq!(errno, EPERM, "{call}");
    }
    let harmless = [
        "personality:0",
        "personality:0xffffffff",
        "unshare:0x400",
        "socket:1,1",
        "socket:2,1",
        "socket:10,2",
    ];
    assert_eq!(errnos(&[&baseline], &harmless), [0; 6]);
    let sockets = [
        "socket:16,3",
        "socket:17,3",
        "socket:38,5",
        "socket:2,1,262",
        "socket:2,1,132",
        "socket:2,5",
        "socketpair:30,1",
    ];
    let [n, s] = [EAFNOSUPPORT, EPROTONOSUPPORT];
    assert_eq!(errnos(&[&baseline], &sockets), [n, n, s, s, s, s, n]);
    assert_eq!(errnos(&[], &["socket:16,3"]), [0]);
    let terminal = ["ioctl:0,0x5412", "ioctl:0,0x7fff00005412", "ioctl:0,0x541c", "ioctl:0,0x5401"];
    let denied = errnos(&[&baseline], &terminal);
    assert!(denied[..3].iter().all(|errno| *errno == EPERM) && denied[3] != EPERM, "{denied:?}");
}

fn clone3_is_not_there_and_threads_are_made_without_it() {
    let baseline = profile(Profile::Baseline);
    assert_ne!(errnos(&[], &["clone3"]), [ENOSYS]);
    assert_eq!(errnos(&[&baseline], &["clone3", "clone:0x10000000"]), [ENOSYS, EPERM]);
    let others = text(&python(&[&baseline], "other_programs.py", &[]));
    assert_eq!(others, "thread 1\nfork 0\nspawn 0\n");
}

fn ordinary_programs_survive_baseline() {
    let baseline = profile(Profile::Baseline);
    let folder = TempDir::new().unwrap();
    let script = format!(
        "cd {}
         printf 'int main(void) {{ return 42; }}' > a.c
         ls -l . | grep -c a.c
         if command -v cc >/dev/null; then cc -o a a.c && ./a || [ $? = 42 ]; fi
         if command -v git >/dev/null; then
             git init -q . && git add a.c && git -c user.name=a -c user.email=b commit -qm c && git log --oneline | wc -l
         else echo 1; fi
         tar -cf a.tar a.c && rm a.c && tar -xpf a.tar && cp -p a.c b.c && chmod 600 b.c && test -s b.c",
        folder.path().display()
    );
    assert_eq!(shell(&[&baseline], &script), "1\n1\n");
}

fn no_network_leaves_connected_pairs_and_no_way_out_of_them() {
    let filter = profile(Profile::NoNetwork);
    let calls =
        ["socket:1,1", "socket:2,1", "io_uring_setup", "connect:-1", "bind:-1", "socketpair:2,1"];
    assert!(errnos(&[], &calls).iter().all(|errno| *errno != EPERM));
    assert_eq!(errnos(&[&filter], &calls), [EPERM; 6]);
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("listener");
    let listener = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    listener.set_nonblocking(true).unwrap();
    let script = "import socket, sys
def said(kind):
    try:
        one, other = socket.socketpair(socket.AF_UNIX, kind)
        one.sendall(b'in')
        assert other.recv(2) == b'in'
        one.sendto(b'out', sys.argv[1])
        return 'sent'
    except OSError as error:
        return error.strerror
print(said(socket.SOCK_STREAM), said(socket.SOCK_SEQPACKET), said(socket.SOCK_DGRAM), sep='|')";
    let run = |filters: &[&Seccomp]| {
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-c", script]).arg(&path);
        for filter in filters {
            command.mechanism(*filter).unwrap();
        }
        text(&output(&mut command))
    };
    let control = run(&[]);
    assert!(control.ends_with("|sent\n"), "{control}");
    assert_eq!(listener.recv(&mut [0; 8]).unwrap(), 3, "a pair of datagrams reaches others");
    let confined = run(&[&filter]);
    assert!(confined.ends_with("|Operation not permitted\n"), "{confined}");
    assert!(listener.recv(&mut [0; 8]).is_err(), "nothing arrives");
}

fn compute_starts_one_program_and_no_other() {
    let filter = profile(Profile::Compute);
    let with = |filters: &[&Seccomp], arguments: &[&str]| {
        text(&python(filters, "other_programs.py", arguments))
    };
    assert_eq!(with(&[], &[]), "thread 1\nfork 0\nspawn 0\n");
    // The control's exec takes place, and prints nothing more.
    assert_eq!(with(&[], &["--exec"]), "thread 1\nfork 0\nspawn 0\n");
    let expected = "thread 1\nfork 1\nspawn 1\nexecve 1\nexecveat 1\nexecveat 1\n";
    assert_eq!(with(&[&filter], &["--exec"]), expected);
    // With other filters before and after it, which see the same exec.
    let (baseline, metadata) = (profile(Profile::Baseline), profile(Profile::NoMetadata));
    assert_eq!(with(&[&baseline, &filter, &metadata, &filter], &["--exec"]), expected);
    assert_eq!(errnos(&[&filter], &["socket:1,1", "ptrace:999", "socketpair:1,2"]), [EPERM; 3]);
}

fn a_script_is_a_program_too_and_runs_under_compute() {
    let folder = TempDir::new().unwrap();
    let script = folder.path().join("script");
    portcullis_tests::write_program(&script, b"#!/bin/sh\necho script \"$1\"\n");
    let mut command = Command::new(&script);
    let command = command.arg("runs").mechanism(&profile(Profile::Compute)).unwrap();
    assert_eq!(text(&output(command)), "script runs\n");
}

fn no_metadata_closes_what_landlock_leaves_open() {
    let filter = profile(Profile::NoMetadata);
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "42").unwrap();
    let script = "import fcntl, os, sys, array
file = sys.argv[1]
fd = os.open(file, os.O_RDWR)
def flags(request):
    return lambda: fcntl.ioctl(fd, request, array.array('l', [0] * 4))
for attempt in [
    lambda: os.chmod(file, 0o600), lambda: os.fchmod(fd, 0o600), lambda: os.utime(file), lambda: os.utime(fd, (1, 1)),
    lambda: os.chown(file, os.getuid(), -1), lambda: os.lchown(file, os.getuid(), -1), lambda: os.fchown(fd, os.getuid(), -1),
    lambda: os.setxattr(file, 'user.a', b'b'), lambda: os.removexattr(file, 'user.a'),
    flags(0x40086602), flags(0x401c5820), lambda: os.write(fd, b'43'), lambda: os.mkdir(file + '.d', 0o700),
]:
    try:
        attempt()
        print(0, end=' ')
    except OSError as error:
        print(error.errno, end=' ')";
    let run = |filters: &[&Seccomp]| -> Vec<i32> {
        let _ = fs::remove_dir(folder.path().join("file.d"));
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-c", script]).arg(&file);
        for filter in filters {
            command.mechanism(*filter).unwrap();
        }
        text(&output(&mut command)).split_whitespace().map(|it| it.parse().unwrap()).collect()
    };
    let control = run(&[]);
    assert!(control.len() == 13 && control.iter().all(|errno| *errno != EPERM), "{control:?}");
    let expected: Vec<i32> = [EPERM; 11].into_iter().chain([0, 0]).collect();
    assert_eq!(run(&[&filter]), expected);
    assert_eq!(run(&[&profile(Profile::Baseline), &filter]), expected);
}

fn filters_stack_and_the_kernel_counts_them() {
    let filters = [
        profile(Profile::Baseline),
        profile(Profile::NoMetadata),
        rule(&json!({"errno": OURS}), &json!([])),
    ];
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "echo; read line"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    for filter in &filters {
        command.mechanism(filter).unwrap();
    }
    let mut child = command.spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let status = read_proc(child.id(), "status");
    for (field, value) in [("NoNewPrivs", "1"), ("Seccomp", "2"), ("Seccomp_filters", "3")] {
        assert!(status.contains(&format!("{field}:\t{value}\n")), "{status}");
    }
    let notes = child.transcript().value("seccomp").map(str::to_owned);
    assert_eq!(notes.as_deref(), Some("filter_installed"));
    drop(child);
    let all: Vec<_> = filters.iter().collect();
    // Of what they say the strictest counts: errno before allow, kill before errno.
    assert_eq!(errnos(&all, &["ptrace:999", "sched_getscheduler:0"]), [EPERM, OURS]);
    let kill = rule(&json!("kill-process"), &json!([]));
    for order in [[&kill, &filters[2]], [&filters[2], &kill]] {
        let killed = python(&order, "calls.py", &["sched_getscheduler:0"]);
        assert_eq!(killed.status.signal(), Some(SIGSYS));
    }
}

fn a_call_by_a_foreign_abi_ends_the_process_under_every_filter() {
    let filters = [
        profile(Profile::Baseline),
        profile(Profile::Compute),
        profile(Profile::NoMetadata),
        profile(Profile::NoNetwork),
        rule(&json!({"errno": OURS}), &json!([])),
        policy(json!({"default": "log"})),
        policy(
            json!({"default": {"errno": 38}, "rules": [{"calls": ["@system-service"], "action": "allow"}]}),
        ),
    ];
    for abi in ["int80", "x32"] {
        let control = python(&[], "foreign_call.py", &[abi]);
        if !control.status.success() {
            // A kernel without the 32-bit entry ends the process by itself: there is nothing to deny.
            assert!(abi == "int80" && control.stdout.is_empty());
            continue;
        }
        for filter in &filters {
            let confined = python(&[filter], "foreign_call.py", &[abi]);
            let seen = (confined.status.signal(), confined.stdout.len());
            assert_eq!(seen, (Some(SIGSYS), 0), "{abi} {filter:?}");
        }
    }
}

/// A filter of `count` rules for a call, each of two instructions.
fn long(count: u64) -> Value {
    let rule = |value: u64| {
        json!({"calls": ["sched_getscheduler"], "action": {"errno": OURS}, "when": [
            {"arg": 0, "op": "eq", "value": value * 3 + 1_000_000, "width": 32}]})
    };
    json!({"rules": (0..count).map(rule).collect::<Vec<_>>()})
}

fn a_filter_of_thousands_of_instructions_works_and_a_longer_one_is_refused_by_name() {
    for count in [200, 1950] {
        let filter = policy(long(count));
        let last = (count - 1) * 3 + 1_000_000;
        let calls = [1_000_000, last, last + 1, 0].map(|it| format!("sched_getscheduler:{it}"));
        let seen = errnos(&[&filter], &calls.each_ref().map(String::as_str));
        assert_eq!((&seen[..2], seen[2] != OURS, seen[3]), (&[OURS; 2][..], true, 0), "{seen:?}");
    }
    launch(&[long(1950)]).succeeded();
    launch(&[long(2100)]).refused("MissingPrimitive", "4096");
    let mut command = Command::new("/bin/true");
    let error =
        command.mechanism(&policy(long(2100))).and_then(|it| it.spawn().map(|_| ())).unwrap_err();
    assert!(error.to_string().contains("4096"), "{error}");
}

fn a_filter_that_stops_the_launch_itself_is_refused_by_the_calls_name() {
    for call in ["execveat", "exit_group", "write"] {
        for action in [json!({"errno": 1}), json!("trap"), json!("kill-process")] {
            launch(&[json!({"rules": [{"calls": [call], "action": action}]})])
                .refused("PlanInvalid", call);
        }
    }
    // The fd is the launch's, and another's is not.
    let of = |fd: u32| {
        json!({"rules": [{"calls": ["execveat"], "action": {"errno": 1}, "when": [
            {"arg": 0, "op": "eq", "value": fd, "width": 32}]}]})
    };
    launch(&[of(Host::EXE)]).refused("PlanInvalid", "execveat");
    launch(&[of(Host::EXE + 1)]).succeeded();
    // The last filter may deny what installs a filter; one before it may not.
    let deny = json!({"deny": ["seccomp"]});
    let other = json!({"profile": "baseline"});
    launch(&[other.clone(), deny.clone()]).succeeded();
    launch(&[deny, other]).refused("PlanInvalid", "seccomp may be answered");
}

fn what_a_filter_is_is_noted() {
    for (filter, note) in [
        (json!({"deny_new_tasks": true}), "# seccomp=denylist_installed mode=filter\n"),
        (json!({"profile": "baseline"}), "# seccomp=filter_installed default=allow mode=filter\n"),
        (
            json!({"deny": ["ptrace"], "log": true}),
            "# seccomp=filter_installed default=allow mode=filter\n",
        ),
        (
            json!({"default": {"errno": "ENOSYS"}, "rules": [{"calls": ["@system-service"], "action": "allow"}]}),
            "# seccomp=filter_installed default=errno(ENOSYS) mode=filter\n",
        ),
    ] {
        let outcome = launch(&[filter]);
        outcome.succeeded();
        assert!(outcome.text.contains(note), "{note:?} is not in {outcome:?}");
    }
    for (log, call) in [(false, "seccomp(1, 0, filter"), (true, "seccomp(1, 2, filter")] {
        let mut host = Host::default();
        host.schedule(ID, &json!({"deny": ["ptrace"], "log": log}));
        host.arguments = vec!["--explain".into()];
        let explained = host.run();
        assert!(explained.stdout.contains(call), "{explained:?}");
    }
}

fn a_container_engines_profile_is_in_force_as_it_is() {
    let file =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../mechanisms/src/seccomp/fixtures/engine.json");
    let filter = Seccomp::from_profile_or_file(file.as_ref());
    let calls = [
        "clone3",
        "clone:0x10000000",
        "setns:-1",
        "personality:0x40000",
        "personality:8",
        "socket:40,1",
        "socket:2,1",
    ];
    let seen = errnos(&[&filter], &calls);
    assert_eq!(seen, [ENOSYS, EPERM, EPERM, EPERM, 0, EPERM, 0]);
    assert_eq!(text(&python(&[&filter], "other_programs.py", &[])), "thread 1\nfork 0\nspawn 0\n");
    assert_eq!(shell(&[&filter], "ls / | grep -c bin"), shell(&[], "ls / | grep -c bin"));
}

fn a_seccompiler_filter_is_in_force_and_what_is_not_supported_names_the_file() {
    let folder = TempDir::new().unwrap();
    let write = |content: Value| {
        let file = folder.path().join("filter.json");
        fs::write(&file, content.to_string()).unwrap();
        Seccomp::from_profile_or_file(file.as_os_str())
    };
    let filter = write(json!({"main": {
        "mismatch_action": "allow",
        "match_action": {"errno": OURS},
        "filter": [
            {"syscall": "sched_getscheduler", "args": [
                {"index": 0, "type": "dword", "op": "eq", "val": 7, "comment": "one of them"}]},
            {"syscall": "personality"},
        ],
    }}));
    let calls = ["sched_getscheduler:7", "sched_getscheduler:0", "personality:0"];
    assert_eq!(errnos(&[&filter], &calls), [OURS, 0, OURS]);
    for (content, name) in [
        (json!({"defaultAction": "SCMP_ACT_NOTIFY"}), "SCMP_ACT_NOTIFY"),
        (json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x"}), "listenerPath"),
        (
            json!({"t": {"mismatch_action": {"trace": 1}, "match_action": "allow", "filter": []}}),
            "trace",
        ),
    ] {
        let mut command = Command::new("/bin/true");
        let tried = command.mechanism(&write(content)).and_then(|it| it.spawn().map(|_| ()));
        let error = tried.unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("filter.json"), "{error}");
    }
}

fn main() -> ExitCode {
    run(tests![
        each_action_has_its_effect: [SECCOMP, Need::Python],
        an_untouched_trap_ends_the_process: [SECCOMP, Need::Python],
        arguments_are_compared_in_the_kernel_as_the_policy_says: [SECCOMP, Need::Python],
        a_set_stands_for_its_calls: [SECCOMP],
        baseline_denies_what_only_attacks_have_in_common: [SECCOMP, Need::Python],
        clone3_is_not_there_and_threads_are_made_without_it: [SECCOMP, Need::Python],
        ordinary_programs_survive_baseline: [SECCOMP],
        no_network_leaves_connected_pairs_and_no_way_out_of_them: [SECCOMP, Need::Python],
        compute_starts_one_program_and_no_other: [SECCOMP, Need::Python],
        a_script_is_a_program_too_and_runs_under_compute: [SECCOMP],
        no_metadata_closes_what_landlock_leaves_open: [SECCOMP, Need::Python],
        filters_stack_and_the_kernel_counts_them: [SECCOMP, Need::Python],
        a_call_by_a_foreign_abi_ends_the_process_under_every_filter: [SECCOMP, Need::Python],
        a_filter_of_thousands_of_instructions_works_and_a_longer_one_is_refused_by_name: [SECCOMP, Need::Python],
        a_filter_that_stops_the_launch_itself_is_refused_by_the_calls_name: [SECCOMP],
        what_a_filter_is_is_noted: [SECCOMP],
        a_container_engines_profile_is_in_force_as_it_is: [SECCOMP, Need::Python],
        a_seccompiler_filter_is_in_force_and_what_is_not_supported_names_the_file: [SECCOMP, Need::Python],
    ])
}
