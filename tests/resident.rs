//! The resident launcher: each launch as it is one shot, and none that is another's concern.

use std::collections::BTreeSet;
use std::env;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command as Unconfined, ExitCode, Stdio as UnconfinedStdio};
use std::time::SystemTime;

use portcullis::{Child, Command, Error, Params, Resident, Stdio, Way};
use portcullis_core::descriptor::{DescriptorKind, DescriptorRole};
use portcullis_core::message::{LaunchMessage, MAX_FDS, MAX_LEN};
use portcullis_mechanisms as _;
use portcullis_tests::{
    Asked, Host, Need, Outcome, Resident as Raw, Signal, VERSION_1_FRAMES, becomes, children,
    is_gone, read_proc, run, send, tests, workloads,
};
use rustix::fs::OFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use serde_json::json;
use tempfile::TempDir;

/// One with mechanisms of its own.
const TEST_LAUNCHER: &str = env!("CARGO_BIN_EXE_test-launcher");

fn shell(script: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]).env("PATH", "/usr/bin:/bin");
    command
}

fn output(resident: &Resident, command: &Command) -> String {
    let output = resident.output(&command.template().unwrap()).unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What is told that would be of a launch by one shot. Of a resident launcher the program has more steps, which move
/// what it received.
fn told(outcome: &Outcome) -> Vec<String> {
    outcome.told(&["# way=resident", "# child=spare"])
}

/// A way that a launch can go, by its name, and what makes a host go it.
type Case = (&'static str, fn(&mut Host));

fn each_launch_goes_as_it_does_one_shot() {
    let resident = Raw::start();
    let cases: [Case; 13] = [
        ("good", |_| {}),
        ("confined", Host::everything),
        ("fails", |host| host.script("exit 7")),
        ("killed", |host| host.script("kill -11 $$")),
        ("unscheduled", |host| host.unschedule("linux.ambient.scrub.v1")),
        ("unknown", |host| {
            host.schedule("linux.userns.enter.v1", &()).id = "linux.unknown.do.v1".into();
        }),
        ("dishonest", |host| host.honest = false),
        ("garbage", |host| host.plan = Some(b"garbage".to_vec())),
        ("unsealed", |host| host.sealed = false),
        ("duplicate", |host| {
            let slot = host.body.descriptor_table[0];
            host.body.descriptor_table.push(slot);
        }),
        ("mismatch", |host| {
            host.declared(Host::EXE).expected.kind = DescriptorKind::Directory;
        }),
        ("unmapped", |host| {
            host.schedule("linux.netns.enter.v1", &());
        }),
        ("no program", |host| {
            let file = host.folder().join("no-program");
            fs::write(&file, "neither ELF nor script").unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            fs::set_permissions(&file, mode).unwrap();
            host.body.descriptor_table.clear();
            host.slot(Host::EXE, DescriptorRole::TargetExe, &file);
        }),
    ];
    for (name, make) in cases {
        let host = || {
            let mut host = Host::default();
            make(&mut host);
            host
        };
        let (alone, here) = (host().run(), resident.run(host()));
        assert_eq!(told(&alone), told(&here), "{name}: {alone:?} {here:?}");
        assert_eq!((alone.status, alone.ran), (here.status, here.ran), "{name}");
    }
    let mut host = Host::default();
    host.fds.clear();
    resident.run(host).faulted("no fd came for it");
    assert_eq!(resident.end(), Some(0));
}

fn what_a_resident_launcher_does_not_take_is_refused_by_name() {
    let resident = Raw::start();
    let host = Host::version_1(VERSION_1_FRAMES[0], "/bin/true");
    resident.run(host).refused("MissingPrimitive", "version 1");
    let mut host = Host::default();
    host.piped = true;
    resident.run(host).refused("PlanInvalid", "sealed memfd");
    resident.run(Host::default()).succeeded();
}

fn pipe() -> (OwnedFd, OwnedFd) {
    pipe_with(PipeFlags::CLOEXEC).unwrap()
}

fn a_message_that_is_none_harms_nobody() {
    let resident = Raw::start();
    let mut host = Host::default();
    host.script("exec sleep 600");
    let mut running = resident.ask(host);
    let pid = running.pid();

    let null = File::open("/dev/null").unwrap();
    let good = LaunchMessage { slots: vec![10], ..LaunchMessage::default() }.encode();
    // Where there is no channel to tell it on, nothing is told.
    resident.send(b"", &[]).unwrap();
    resident.send(b"", &[null.as_fd()]).unwrap();
    resident.send(&good, &[]).unwrap();
    resident.send(&vec![0; 60_000], &[]).unwrap();
    let path = rustix::fs::open("/", OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
    resident.send(&good, &[path.as_fd(); 6]).unwrap();
    resident.send(&good, &[null.as_fd(); 6]).unwrap();
    let (read, closed) = pipe();
    drop(read);
    resident.send(&good, &[closed.as_fd(); 6]).unwrap();

    let fault = |bytes: &[u8], fds: usize, what: &str| {
        let (read, control) = pipe();
        let mut all = vec![control.as_fd()];
        all.resize(fds, null.as_fd());
        resident.send(bytes, &all).unwrap();
        drop(control);
        let mut text = String::new();
        File::from(read).read_to_string(&mut text).unwrap();
        let start = "LauncherStarted\nSetupFaulted\n# fault: the message: ";
        assert!(text.starts_with(start) && text.contains(what), "{what}: {text}");
    };
    fault(b"", 1, "16 are needed");
    fault(b"hello", 1, "16 are needed");
    fault(&[0; 16], 1, "PCLAUNCH");
    fault(&good, 1, "6 are needed");
    fault(&good, 5, "6 are needed");
    fault(&good, 7, "6 are needed");
    fault(&good, MAX_FDS, "6 are needed");
    fault(&good[..19], 6, "20 are needed");
    fault(&[0; MAX_LEN + 1], 6, "longer");
    fault(&vec![b'P'; 60_000], MAX_FDS, "longer");
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    fault(&with(8, 9), 6, "version 9");
    fault(&with(10, 0x80), 6, "flags");
    fault(&with(15, 0xff), 6, "slots");
    let twice = LaunchMessage { slots: vec![10, 10], ..LaunchMessage::default() }.encode();
    fault(&twice, 7, "two fds for slot 10");
    // All of the right number and none of the right kind.
    let (read, control) = pipe();
    let mut fds = vec![control.as_fd()];
    fds.resize(6, null.as_fd());
    resident.send(&good, &fds).unwrap();
    drop(fds);
    drop(control);
    let mut text = String::new();
    File::from(read).read_to_string(&mut text).unwrap();
    assert!(text.contains("refusal=PlanInvalid") && text.ends_with("SetupRefused\n"), "{text}");

    resident.run(Host::default()).succeeded();
    assert!(becomes(|| read_proc(pid, "stat").contains(") S ")), "the launch before goes on");
    drop(running);
    assert!(becomes(|| is_gone(pid)), "who closes its control channel leaves its workload");
}

fn too_few_numbers_for_its_fds_are_a_fault_of_that_message_alone() {
    let mut command = Unconfined::new("/bin/sh");
    let launcher = portcullis_tests::launcher();
    command.args(["-c", "ulimit -n 30; exec \"$0\" \"$@\""]).arg(launcher);
    let resident = Raw::of(command, None);
    let (read, control) = pipe();
    let null = File::open("/dev/null").unwrap();
    let mut fds = vec![control.as_fd()];
    fds.resize(40, null.as_fd());
    resident.send(&LaunchMessage::default().encode(), &fds).unwrap();
    drop(fds);
    drop(control);
    let mut text = String::new();
    File::from(read).read_to_string(&mut text).unwrap();
    assert!(text.contains("RLIMIT_NOFILE"), "{text}");
    resident.run(Host::default()).succeeded();
}

fn a_launcher_that_is_not_given_its_socket_says_so() {
    let launcher = portcullis_tests::launcher();
    let run = |value: Option<&str>| {
        let mut command = Unconfined::new(launcher);
        command.arg("--resident").stdin(UnconfinedStdio::null());
        value.map(|value| command.env("PORTCULLIS_RESIDENT_FD", value));
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(4));
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(run(None).contains("PORTCULLIS_RESIDENT_FD is not set"));
    assert!(run(Some("99")).contains("closed"));
    assert!(run(Some("x")).contains("no fd number"));
    let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut command = Unconfined::new("/bin/sh");
    let exec = "exec \"$0\" --resident 3<&0";
    command.args(["-c", exec]).arg(launcher).env("PORTCULLIS_RESIDENT_FD", "3");
    let output = command.stdin(OwnedFd::from(socket)).output().unwrap();
    assert!(String::from_utf8(output.stderr).unwrap().contains("SOCK_SEQPACKET"));
}

/// What the resident launcher holds: fds, children, and KiB of memory.
fn holdings(resident: &Resident) -> (usize, Vec<u32>, usize) {
    let pid = resident.id();
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let children = workloads(pid);
    let status = read_proc(pid, "status");
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    (fds, children, rss.trim().trim_end_matches(" kB").parse().unwrap())
}

fn a_thousand_launches_leave_nothing_behind() {
    let resident = Resident::start().unwrap();
    let mut confined = Command::new("/bin/true");
    for root in ["/usr", "/bin", "/lib", "/lib64"].iter().filter(|root| Path::new(root).exists()) {
        confined.read(root).exec(root);
    }
    let confined = confined.no_new_tasks().template().unwrap();
    let mut denied = Command::new("/bin/true");
    let denied = denied.read("/usr").template().unwrap();
    let stdio = || [Stdio::null(), Stdio::null(), Stdio::null()];
    let round = || {
        for turn in 0..250 {
            assert!(resident.spawn_with(&confined, stdio()).unwrap().wait().unwrap().success());
            assert!(resident.output(&confined).unwrap().status.success());
            assert!(matches!(resident.spawn(&denied), Err(Error::Exec { .. })));
            let mut child = resident.spawn(&shell("exec sleep 60").template().unwrap()).unwrap();
            if turn % 2 == 0 {
                child.kill().unwrap();
            }
        }
    };
    round();
    // Reaped just after it was told.
    assert!(becomes(|| holdings(&resident).1.is_empty()), "{:?}", holdings(&resident));
    let (fds, _, before) = holdings(&resident);
    (0..4).for_each(|_| round());
    assert!(becomes(|| holdings(&resident).0 == fds), "{:?}", holdings(&resident));
    assert!(becomes(|| holdings(&resident).1.is_empty()), "{:?}", holdings(&resident));
    let (_, _, after) = holdings(&resident);
    assert!(after <= before + 128, "{before} KiB, then {after} KiB");
}

/// The signals that this process ignores, SIGPIPE aside: what a program of it ignores too.
fn ignored() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:\t")).unwrap();
    format!("{:016x}", u64::from_str_radix(mask, 16).unwrap() & !(1 << 12))
}

fn nothing_of_a_launch_reaches_the_next() {
    let resident = Resident::start().unwrap();
    let look = "pwd; umask; ulimit -a; ulimit -Ha; env; nice; ls -l /proc/self/fd | wc -l; \
                readlink /proc/self/ns/*; cat /proc/self/oom_score_adj /proc/self/cgroup; \
                grep -vE '^(V|v|non|volun|Pid|PPid|SigQ|Tgid|NSt|NSp|Ngid|Rss|Hug|Mems|Cpus|Stack|Thr|Kthr|Core)' \
                /proc/self/status | grep -v '^[A-Za-z_]*:[[:space:]]*[0-9]* kB$'";
    let look = shell(look);
    let before = output(&resident, &look);
    assert!(before.contains(&format!("SigIgn:\t{}\n", ignored())), "{before}");
    assert!(before.contains("NoNewPrivs:\t0"), "{before}");

    let folder = TempDir::new().unwrap();
    let acts = "cd /; umask 0777; ulimit -n 10; ulimit -f 1; ulimit -c 0; trap '' TERM HUP INT USR1; \
                exec 7</etc/passwd; exit 3";
    let mut changes = shell(acts);
    changes.env("SECRET", "of another").current_dir(folder.path());
    let mut confined = shell("exit 3");
    confined.read("/").exec("/").no_new_tasks().no_network().env("SECRET", "of another");
    for command in [&changes, &confined] {
        let template = command.template().unwrap();
        assert_eq!(resident.output(&template).unwrap().status.code(), Some(3));
        assert_eq!(before, output(&resident, &look));
    }
    // Those that never run: one in another directory, one that is refused, one that faults.
    let mut fails = Command::new("/bin/true");
    fails.read("/usr").current_dir(folder.path());
    assert!(matches!(resident.spawn(&fails.template().unwrap()), Err(Error::Exec { .. })));
    let lonely = shell(":").policy("linux.netns.enter.v1", Params::default()).template().unwrap();
    assert!(matches!(resident.spawn(&lonely), Err(Error::Faulted { .. })));
    assert_eq!(before, output(&resident, &look));
    // Beside one that runs.
    let mut runs = shell("cd /usr; umask 0777; ulimit -n 10; exec sleep 60");
    let _running = resident.spawn(&runs.no_network().template().unwrap()).unwrap();
    assert_eq!(before, output(&resident, &look));
}

/// Until its exec a child has the launcher's memory, in which the plans of others have been.
fn the_memory_of_a_launch_has_nothing_of_another() {
    // The pattern does not match itself.
    let script = r"
import re
found = set()
with open('/proc/self/mem', 'rb', 0) as memory, open('/proc/self/maps') as maps:
    for line in maps:
        (first, end), flags = (int(it, 16) for it in line.split()[0].split('-')), line.split()[1]
        if 'r' in flags and '[v' not in line:
            memory.seek(first)
            found.update(re.findall(rb'secre[t]-[0-9a-f]{16}', memory.read(end - first)))
print(sorted(found))
";
    let search = || {
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-c", script]);
        command
    };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let secret = format!("secret-{:016x}", now.as_micros());
    let resident = Resident::start().unwrap();
    let mut other = shell(":");
    other.arg(&secret).env("SECRET", &secret);
    let mut held = shell("exec sleep 60");
    held.arg(&secret).env("SECRET", &secret);
    assert!(resident.output(&other.template().unwrap()).unwrap().status.success());
    let _held = resident.spawn(&held.template().unwrap()).unwrap();
    assert_eq!(output(&resident, &search()), "[]\n");
    // The control: whose it is finds it so.
    assert!(output(&resident, search().env("SECRET", &secret)).contains(&secret));
}

fn the_working_directory_is_this_processs_or_the_one_that_was_set() {
    let resident = Resident::start().unwrap();
    let here = env::current_dir().unwrap();
    assert_eq!(output(&resident, &shell("pwd")).trim_end(), here.to_str().unwrap());
    let mut elsewhere = shell("pwd");
    assert_eq!(output(&resident, elsewhere.current_dir("/usr")), "/usr\n");
    // Where a process is that is out of reach is root's alone to see.
    if rustix::process::geteuid().is_root() {
        assert_eq!(fs::read_link(format!("/proc/{}/cwd", resident.id())).unwrap(), Path::new("/"));
    }
}

fn a_script_runs_by_its_fd() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("script");
    portcullis_tests::write_program(&path, b"#!/bin/sh\necho \"$1\"\n");
    let resident = Resident::start().unwrap();
    let mut command = Command::new(&path);
    assert_eq!(output(&resident, command.arg("ran")), "ran\n");
}

fn a_child_is_asked_waited_for_and_killed_as_any_other() {
    let resident = Resident::start().unwrap();
    let sleeping = Command::new("sleep").arg("60").template().unwrap();
    let mut child = resident.spawn(&sleeping).unwrap();
    let report = child.report();
    assert_eq!((report.way, report.executed), (Some(Way::Resident), true));
    assert_eq!(child.launcher_id(), resident.id());
    assert_eq!(read_proc(child.id(), "comm"), "sleep\n");
    assert_eq!(child.try_wait().unwrap(), None);
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    child.kill().unwrap();
    assert!(becomes(|| is_gone(child.id())));
    let status = resident.status(&shell("exit 7").template().unwrap()).unwrap();
    assert_eq!(status.code(), Some(7));
    let mut echo = resident
        .spawn_with(
            &Command::new("cat").template().unwrap(),
            [Stdio::piped(), Stdio::piped(), Stdio::inherit()],
        )
        .unwrap();
    echo.stdin.take().unwrap().write_all(b"through").unwrap();
    assert_eq!(echo.wait_with_output().unwrap().stdout, b"through");
    let dropped = resident.spawn(&sleeping).unwrap();
    let (dropped_id, left) = (dropped.id(), resident.spawn(&sleeping).unwrap());
    drop(dropped);
    assert!(becomes(|| is_gone(dropped_id)));
    let left_id = left.id();
    left.detach();
    assert_eq!(resident.status(&shell("exit 7").template().unwrap()).unwrap().code(), Some(7));
    assert_eq!(read_proc(left_id, "comm"), "sleep\n");
    let mut last = resident.spawn(&sleeping).unwrap();
    let launcher = resident.id();
    drop(resident);
    assert!(is_gone(launcher));
    assert_eq!(last.wait().unwrap().signal(), Some(9));
    assert!(becomes(|| is_gone(left_id)));
}

fn a_template_with_other_arguments_opens_nothing_again() {
    let folder = TempDir::new().unwrap();
    let program = folder.path().join("echo");
    portcullis_tests::write_program(&program, &fs::read("/bin/echo").unwrap());
    let mut command = Command::new(&program);
    let template = command.args(["first", "arguments"]).read("/").exec("/").template().unwrap();
    drop(folder);
    let resident = template.resident().unwrap();
    let other = template.with_arguments(["others"]).unwrap();
    assert_eq!(resident.output(&other).unwrap().stdout, b"others\n");
    assert_eq!(resident.output(&template).unwrap().stdout, b"first arguments\n");
    assert_eq!(other.output().unwrap().stdout, b"others\n");
    assert!(matches!(template.with_arguments(["\0"]), Err(Error::Plan(_))));
}

fn many_are_in_flight() {
    let resident = Resident::start().unwrap();
    let template = shell("read line; echo $1 $line").arg("sh").template().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (resident, template) = (&resident, &template);
            scope.spawn(move || {
                let start = |turn: usize| -> (String, Child) {
                    let name = format!("{thread}.{turn}");
                    let own =
                        template.with_arguments(["-c", "read line; echo $1 $line", "sh", &name]);
                    let stdio = [Stdio::piped(), Stdio::piped(), Stdio::inherit()];
                    (name, resident.spawn_with(&own.unwrap(), stdio).unwrap())
                };
                // Each waits for a word that is said when all of the thread's are there.
                for round in [0, 25] {
                    let children: Vec<_> = (round..round + 25).map(start).collect();
                    for (name, mut child) in children {
                        child.stdin.take().unwrap().write_all(b"word\n").unwrap();
                        let output = child.wait_with_output().unwrap();
                        assert_eq!(output.stdout, format!("{name} word\n").as_bytes());
                    }
                }
            });
        }
    });
    assert!(becomes(|| holdings(&resident).1.is_empty()), "{:?}", holdings(&resident));
}

fn the_death_of_the_supervisor_ends_all_of_it() {
    a_supervisors_death_ends("1", 4);
}

const HELPER: &str = "PORTCULLIS_TEST_SUPERVISOR";

/// Starts a supervisor of this kind, which tells of as many processes, and kills it: they end as well.
fn a_supervisors_death_ends(kind: &str, processes: usize) {
    let mut helper = Unconfined::new(env::current_exe().unwrap())
        .env(HELPER, kind)
        .stdout(UnconfinedStdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(helper.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let pids: Vec<u32> = line.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    assert_eq!(pids.len(), processes);
    assert!(pids.iter().all(|pid| !is_gone(*pid)));
    helper.kill().unwrap();
    helper.wait().unwrap();
    assert!(becomes(|| pids.iter().all(|pid| is_gone(*pid))));
}

/// A supervisor that says which processes it has, and waits to be killed.
fn supervise() -> ! {
    let resident = Resident::start().unwrap();
    let sleeping = shell("exec sleep 60").template().unwrap();
    let children = [(); 3].map(|()| resident.spawn(&sleeping).unwrap());
    let [a, b, c] = children.each_ref().map(Child::id);
    println!("{} {a} {b} {c}", resident.id());
    loop {
        std::thread::park();
    }
}

fn the_death_of_the_launcher_takes_its_workloads_along_and_is_told() {
    let resident = Resident::start().unwrap();
    let sleeping = shell("exec sleep 60").template().unwrap();
    let mut children = [(); 3].map(|()| resident.spawn(&sleeping).unwrap());
    send(resident.id(), Signal::KILL);
    for child in &mut children {
        let error = child.wait().unwrap_err();
        let Error::LauncherEnded { status, after } = &error else { panic!("{error:?}") };
        assert_eq!((status.signal(), after.as_str()), (Some(9), "ExecSucceeded"));
        assert!(becomes(|| is_gone(child.id())));
    }
    let error = resident.spawn(&sleeping).unwrap_err();
    assert!(
        matches!(&error, Error::LauncherEnded { status, .. } if status.signal() == Some(9)),
        "{error:?}"
    );
    // One that is none, and ends at once.
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("launcher");
    portcullis_tests::write_program(&path, b"#!/bin/sh\nexit 4\n");
    let template = shell(":").launcher(&path).template().unwrap();
    let none = template.resident().unwrap();
    let error = none.spawn(&template).unwrap_err();
    assert!(
        matches!(&error, Error::LauncherEnded { status, .. } if status.code() == Some(4)),
        "{error:?}"
    );
}

fn a_reader_that_does_not_read_holds_up_nobody() {
    let resident = Raw::start();
    let (control, theirs) = pipe();
    // Not a byte fits any more.
    let full = rustix::pipe::fcntl_getpipe_size(&theirs).unwrap();
    let noise = [b"# noise\n".as_slice()].concat().repeat(full / 8);
    File::from(theirs.try_clone().unwrap()).write_all(&noise).unwrap();
    let mut host = Host::default();
    host.script("exit 7");
    let stuck = resident.ask_with(host, control, theirs);
    for _ in 0..3 {
        resident.run(Host::default()).succeeded();
    }
    let outcome = stuck.end();
    outcome.succeeded();
    assert!(outcome.text.ends_with("# workload exited code=7\n"), "{}", outcome.text);
}

fn signals_to_it_are_held() {
    let resident = Raw::start();
    resident.run(Host::default()).succeeded();
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::USR1, Signal::CHILD] {
        send(resident.id(), signal);
    }
    resident.run(Host::default()).succeeded();
    let mut host = Host::default();
    host.script("grep -E '^Sig(Blk|Pnd|Ign)' /proc/self/status");
    let outcome = resident.run(host);
    let masks = outcome.stdout.lines().map(|line| line.split_whitespace().last().unwrap());
    let (none, ignored) = ("0000000000000000", ignored());
    assert_eq!(masks.collect::<Vec<_>>(), [none, none, &ignored], "{outcome:?}");
}

fn it_is_out_of_reach_of_its_own_user() {
    let mut command = Unconfined::new(portcullis_tests::launcher());
    command.current_dir("/");
    let resident = Raw::of(command, Some(65534));
    let owner = || fs::metadata(format!("/proc/{}/environ", resident.id())).unwrap().uid();
    let open = || {
        let mut host = Host::default();
        host.open_to_all();
        host.body.target.argv[2] = format!(
            "{}; ls -ln /proc/$PPID/environ",
            host.body.target.argv[2].as_os_str().to_str().unwrap()
        )
        .into();
        host
    };
    let seen = resident.run(open());
    seen.succeeded();
    assert_eq!((owner(), seen.stdout.split_whitespace().nth(2)), (0, Some("0")), "{seen:?}");
    // Its child's maps are its own to write until the child is released.
    let mut host = open();
    host.schedule("linux.userns.enter.v1", &());
    let outcome = resident.run(host);
    outcome.succeeded();
    assert!(outcome.text.contains("user_namespace=mapped"));
    // Those of the next one are too, which is made ahead.
    assert!(becomes(|| owner() == 0));
    let mut host = open();
    host.schedule("linux.userns.enter.v1", &());
    host.body.target.argv[0] = "x".repeat(100_000).as_str().into();
    host.schedule("linux.seccomp.apply.v1", &json!({"deny": ["execveat"]}));
    assert!(!resident.run(host).ran);
    assert!(becomes(|| owner() == 0));
}

fn somebody_elses_launcher_is_resident_too_and_tears_down_at_each_end() {
    let folder = TempDir::new().unwrap();
    let ended = folder.path().join("ended");
    let mut command = Unconfined::new(TEST_LAUNCHER);
    command.env("TEST_LAUNCHER_END", &ended);
    let resident = Raw::of(command, None);
    let mut host = Host::default();
    host.foreign(TEST_LAUNCHER, "test.end.mark.v1");
    let outcome = resident.run(host);
    outcome.succeeded();
    assert_eq!(outcome.transcript().value("teardown"), Some("test.end.mark.v1"));
    fs::remove_file(&ended).unwrap();
    let mut host = Host::default();
    host.foreign(TEST_LAUNCHER, "test.attend.fail.v1");
    resident.run(host).faulted("attending failed");
    resident.run(Host::default()).succeeded();
    // What runs when the supervisor goes is ended as well.
    let mut host = Host::default();
    host.script("exec sleep 60");
    host.foreign(TEST_LAUNCHER, "test.end.mark.v1");
    let mut asked = resident.ask(host);
    asked.pid();
    assert_eq!(resident.end(), Some(0));
    assert!(ended.exists());
    let told = "# workload killed signal=9 core=false\n# teardown=test.end.mark.v1\n";
    assert!(asked.end().text.ends_with(told));
}

/// A launcher whose launches can be [held](held).
fn holder() -> Raw {
    Raw::of(Unconfined::new(TEST_LAUNCHER), None)
}

/// Asks for a launch whose child waits on its way to the exec, for a byte, and says which process that is.
fn held(resident: &Raw, mut host: Host) -> (Asked, File, u32) {
    host.foreign(TEST_LAUNCHER, "test.child.wait.v1");
    let (mut asked, release) = resident.ask_piped(host);
    let child = asked.child();
    (asked, release, child)
}

fn released((asked, mut release, _): (Asked, File, u32)) -> Outcome {
    release.write_all(b"!").unwrap();
    asked.end()
}

/// What a workload tells of all that it could have of another launch.
const LOOK: &str = "pwd; umask; ulimit -a; ulimit -Ha; env; id; ls /proc/self/fd; \
                    readlink /proc/self/ns/mnt; cat /proc/self/oom_score_adj; \
                    grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp|Sig[BI]|THP)' /proc/self/status";

fn looking(make: fn(&mut Host)) -> Host {
    let mut host = Host::default();
    host.script(LOOK);
    make(&mut host);
    host
}

fn what_is_on_its_way_holds_up_nobody_and_has_nothing_of_another() {
    let resident = holder();
    let makes: [fn(&mut Host); 5] = [
        |_| {},
        Host::everything,
        |host| {
            host.schedule("linux.process.attributes.v1", &json!({"umask": 0o777, "nice": 5}));
        },
        |host| {
            let limit = json!({"soft": 20, "hard": 20});
            host.schedule("linux.rlimits.set.v1", &json!({"nofile": limit}));
        },
        |host| {
            host.schedule("linux.seccomp.apply.v1", &json!({"deny": ["ptrace"]}));
        },
    ];
    let alone = makes.map(|make| {
        let outcome = resident.run(looking(make));
        outcome.succeeded();
        outcome.stdout
    });
    // All of them are on their way at once, and others begin and end meanwhile.
    let mut waiting: Vec<_> = makes.map(|make| held(&resident, looking(make))).into();
    for (make, alone) in makes.iter().zip(&alone) {
        assert_eq!(&resident.run(looking(*make)).stdout, alone);
    }
    let mut host = Host::default();
    host.unschedule("linux.ambient.scrub.v1");
    resident.run(host).refused("PlanInvalid", "scrub");
    let mut host = Host::default();
    host.fds.clear();
    resident.run(host).faulted("no fd came for it");
    let mut host = Host::default();
    host.foreign(TEST_LAUNCHER, "test.attend.fail.v1");
    resident.run(host).faulted("attending failed");
    let children = children(resident.id());
    let mut channels = BTreeSet::new();
    for (_, _, child) in &waiting {
        assert!(children.contains(child), "{children:?}");
        // Of fds it has its launch's alone: who waits for the end of another's must not wait for it. They are
        // root's to see: the launcher is out of its own user's reach.
        let fds = match fs::read_dir(format!("/proc/{child}/fd")) {
            Err(_) if !rustix::process::geteuid().is_root() => continue,
            fds => fds.unwrap(),
        };
        let own = [0, 1, 2].map(|fd| fs::read_link(format!("/proc/self/fd/{fd}")).ok());
        let fds = fds.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok());
        let fds: BTreeSet<_> = fds.filter(|to| !own.contains(&Some(to.clone()))).collect();
        let of = |kind| fds.iter().filter(move |to| to.to_string_lossy().contains(kind));
        assert_eq!(of("socket:").count(), 0, "{fds:?}");
        assert!(of("pipe:").count() > 0, "{fds:?}");
        for pipe in of("pipe:") {
            assert!(channels.insert(pipe.clone()), "{} is another launch's too", pipe.display());
        }
    }
    // One that began early ends while those that began later wait, and the first of all ends last.
    waiting.rotate_left(1);
    for (held, alone) in waiting.into_iter().zip(alone.iter().cycle().skip(1)) {
        let outcome = released(held);
        outcome.succeeded();
        assert_eq!(&outcome.stdout, alone);
    }
    assert_eq!(resident.end(), Some(0));
}

fn a_launch_that_is_dropped_on_its_way_is_killed_and_torn_down() {
    let folder = TempDir::new().unwrap();
    let ended = folder.path().join("ended");
    let mut command = Unconfined::new(TEST_LAUNCHER);
    command.env("TEST_LAUNCHER_END", &ended);
    let resident = Raw::of(command, None);
    let other = held(&resident, Host::default());
    let mut host = Host::default();
    host.foreign(TEST_LAUNCHER, "test.end.mark.v1");
    let (asked, _release, child) = held(&resident, host);
    drop(asked);
    assert!(becomes(|| is_gone(child) && ended.exists()));
    // One that ends by itself is told of.
    let (asked, _release, child) = held(&resident, Host::default());
    send(child, Signal::KILL);
    asked.end().faulted("was the child's end");
    released(other).succeeded();
}

fn the_end_of_either_ends_what_is_on_its_way() {
    let resident = holder();
    let (asked, _release, child) = held(&resident, Host::default());
    assert_eq!(resident.end(), Some(0));
    assert!(is_gone(child));
    asked.end().faulted("was the child's end");

    let resident = holder();
    let (asked, _release, child) = held(&resident, Host::default());
    send(resident.id(), Signal::KILL);
    assert!(becomes(|| is_gone(child)));
    assert!(!asked.end().ran);

    a_supervisors_death_ends("holds", 3);
}

/// A supervisor of launches that are on their way.
fn hold() -> ! {
    let resident = holder();
    let held = [(); 2].map(|()| held(&resident, Host::default()));
    println!("{} {} {}", resident.id(), held[0].2, held[1].2);
    loop {
        std::thread::park();
    }
}

fn an_exec_that_waits_for_a_lease_holds_up_nobody() {
    let folder = TempDir::new().unwrap();
    let program = folder.path().join("echo");
    portcullis_tests::write_program(&program, &fs::read("/bin/echo").unwrap());
    // Who opens the file, as the exec does, waits until the lease is given up.
    let script = "import fcntl, os, signal, sys\n\
                  signal.signal(signal.SIGIO, signal.SIG_IGN)\n\
                  file = os.open(sys.argv[1], os.O_RDONLY)\n\
                  fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)\n\
                  print('leased', flush=True)\n\
                  sys.stdin.read()\n";
    let mut lessee = Unconfined::new("/usr/bin/python3")
        .args(["-c", script])
        .arg(&program)
        .stdin(UnconfinedStdio::piped())
        .stdout(UnconfinedStdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(lessee.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "leased\n");
    let resident = Resident::start().unwrap();
    let leased = Command::new(&program).arg("leased").template().unwrap();
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| resident.output(&leased).unwrap());
        assert!(becomes(|| !children(resident.id()).is_empty()));
        for _ in 0..20 {
            assert_eq!(output(&resident, &shell("echo meanwhile")), "meanwhile\n");
        }
        assert!(!waits.is_finished());
        drop(lessee.stdin.take());
        assert_eq!(waits.join().unwrap().stdout, b"leased\n");
    });
    assert!(lessee.wait().unwrap().success());
}

fn launches_of_many_threads_keep_to_their_own() {
    let resident = Resident::start().unwrap();
    let script = "pwd; echo $1; echo $1 >&2; ls /proc/self/fd | wc -l; umask";
    std::thread::scope(|scope| {
        for thread in 0..64 {
            let resident = &resident;
            scope.spawn(move || {
                let folder = TempDir::new().unwrap();
                let here = folder.path().canonicalize().unwrap();
                let mut command = shell(script);
                command.current_dir(&here).read("/").exec("/").write("/dev");
                if thread % 4 == 1 {
                    command.no_network();
                }
                let mut denied = Command::new("/bin/true");
                let denied = denied.read("/usr").template().unwrap();
                let template = command.template().unwrap();
                for turn in 0..4 {
                    let name = format!("{thread}.{turn}");
                    let own = template.with_arguments(["-c", script, "sh", &name]).unwrap();
                    let output = resident.output(&own).unwrap();
                    let out = String::from_utf8(output.stdout).unwrap();
                    let expected = format!("{}\n{name}\n4\n", here.display());
                    assert!(out.starts_with(&expected), "{out}");
                    assert_eq!(output.stderr, format!("{name}\n").as_bytes());
                    if thread % 4 == 2 {
                        assert!(matches!(resident.spawn(&denied), Err(Error::Exec { .. })));
                    }
                    if thread % 4 == 3 {
                        let null = [Stdio::null(), Stdio::null(), Stdio::null()];
                        drop(resident.spawn_with(&own, null).unwrap());
                    }
                }
            });
        }
    });
}

fn stages_are_noted_of_the_launch_that_is_traced() {
    let resident = Resident::start().unwrap();
    let traced = shell(":").trace(true).template().unwrap();
    let plain = shell(":").template().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (resident, traced, plain) = (&resident, &traced, &plain);
            scope.spawn(move || {
                for turn in 0..20 {
                    let is_traced = (thread + turn) % 2 == 0;
                    let template = if is_traced { traced } else { plain };
                    let report = resident.output(template).unwrap().report;
                    let notes = report.transcript.notes().iter();
                    let stages = notes.filter_map(|it| it.strip_prefix("trace stage="));
                    let stages: Vec<_> = stages.map(|it| it.split(' ').next().unwrap()).collect();
                    let all = ["plan", "schedule", "handles", "lower", "child"];
                    assert_eq!(stages, if is_traced { &all[..] } else { &[] });
                }
            });
        }
    });
}

fn what_would_be_every_launchs_is_refused() {
    let resident = Raw::start();
    let adjustment = || read_proc(resident.id(), "oom_score_adj");
    let before = adjustment();
    for policy in [json!({"oom_score_adj": 1000}), json!({"huge_pages": false})] {
        let mut host = Host::default();
        host.schedule("linux.process.attributes.v1", &policy);
        resident.run(host).refused("MissingPrimitive", "a resident one makes other launches");
        assert_eq!(adjustment(), before);
    }
    resident.run(Host::default()).succeeded();
}

fn a_child_that_others_must_not_be_beside_holds_them_up() {
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    // With some powers and not with the one to write maps, it must be dumpable for that, and a child may
    // have taken on another user's credentials.
    let mut powers = Unconfined::new("setpriv");
    powers.args(nobody).args(["--inh-caps=+net_raw", "--ambient-caps=+net_raw"]).arg(TEST_LAUNCHER);
    // Without any, it is so together with its children, and one of them makes all of them not.
    let mut none = Unconfined::new("setpriv");
    none.args(nobody).arg(TEST_LAUNCHER);
    let same = json!({"uid": 65534, "gid": 65534, "groups": []});
    for (mut command, credentials) in [(powers, None), (none, Some(same))] {
        command.current_dir("/");
        let resident = Raw::of(command, None);
        let open = || {
            let host = Host::default();
            host.open_to_all();
            host
        };
        let mut host = open();
        if let Some(credentials) = credentials {
            host.schedule("linux.credentials.set.v1", &credentials);
        }
        host.foreign(TEST_LAUNCHER, "test.child.wait.v1");
        let (first, mut release) = resident.ask_piped(host);
        let mut second = open();
        second.schedule("linux.userns.enter.v1", &());
        let second = resident.ask(second);
        assert!(becomes(|| !children(resident.id()).is_empty()));
        assert_eq!(children(resident.id()).len(), 1);
        release.write_all(b"!").unwrap();
        first.end().succeeded();
        second.end().succeeded();
    }
}

fn main() -> ExitCode {
    const LANDLOCK: Need = Need::Mechanism("linux.landlock.apply.v1");
    const NETNS: Need = Need::Mechanism("linux.netns.enter.v1");
    match env::var_os(HELPER) {
        Some(what) if what == "holds" => hold(),
        Some(_) => supervise(),
        None => {}
    }
    run(tests![
        each_launch_goes_as_it_does_one_shot: [LANDLOCK, NETNS],
        what_a_resident_launcher_does_not_take_is_refused_by_name: [],
        a_message_that_is_none_harms_nobody: [],
        too_few_numbers_for_its_fds_are_a_fault_of_that_message_alone: [],
        a_launcher_that_is_not_given_its_socket_says_so: [],
        // What a process that is out of reach holds is root's alone to see.
        a_thousand_launches_leave_nothing_behind: [LANDLOCK, Need::Root],
        the_memory_of_a_launch_has_nothing_of_another: [Need::Python],
        nothing_of_a_launch_reaches_the_next: [LANDLOCK, NETNS],
        the_working_directory_is_this_processs_or_the_one_that_was_set: [],
        a_script_runs_by_its_fd: [],
        a_child_is_asked_waited_for_and_killed_as_any_other: [],
        a_template_with_other_arguments_opens_nothing_again: [LANDLOCK],
        many_are_in_flight: [Need::Root],
        the_death_of_the_supervisor_ends_all_of_it: [],
        the_death_of_the_launcher_takes_its_workloads_along_and_is_told: [],
        a_reader_that_does_not_read_holds_up_nobody: [],
        signals_to_it_are_held: [],
        it_is_out_of_reach_of_its_own_user: [Need::Root, Need::Mechanism("linux.userns.enter.v1")],
        somebody_elses_launcher_is_resident_too_and_tears_down_at_each_end: [],
        what_is_on_its_way_holds_up_nobody_and_has_nothing_of_another: [LANDLOCK, NETNS],
        a_launch_that_is_dropped_on_its_way_is_killed_and_torn_down: [],
        the_end_of_either_ends_what_is_on_its_way: [],
        an_exec_that_waits_for_a_lease_holds_up_nobody: [Need::Python],
        launches_of_many_threads_keep_to_their_own: [LANDLOCK, NETNS],
        stages_are_noted_of_the_launch_that_is_traced: [],
        what_would_be_every_launchs_is_refused: [],
        a_child_that_others_must_not_be_beside_holds_them_up: [
            Need::Root,
            Need::UtilLinux,
            Need::Mechanism("linux.userns.enter.v1"),
        ],
    ])
}
