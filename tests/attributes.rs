//! Limits, attributes, working directory, standard streams and `no_new_privs`: each as the kernel says
//! it of the workload to another process, and as it is without.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::process::ExitCode;

use portcullis::mechanism::cwd::WorkingDirectory;
use portcullis::mechanism::no_new_privs::NoNewPrivs;
use portcullis::mechanism::process_attributes::{
    self, DeathSignal, IoClass, IoPriority, ProcessAttributes, Scheduler, SchedulingPolicy, Umask,
};
use portcullis::mechanism::rlimits::{Bound, Limit, Resource, Rlimits};
use portcullis::mechanism::stdio::StandardStreams;
use portcullis::mechanism::userns::UserNamespace;
use portcullis::{Child, Command, Error, OpenError, Params, RefusalReason, Stdio, Way};
use portcullis_core::descriptor::{
    DescriptorKind, DescriptorRole, DescriptorShape, DescriptorSlot,
};
use portcullis_core::mechanism::Policy;
use portcullis_tests::{Host, Need, Signal, has_capability, read_proc, run, send, status, tests};
use rustix::fs::{Mode, OFlags, open};
use serde_json::json;
use tempfile::TempDir;

const USERNS: Need = Need::Mechanism("linux.userns.enter.v1");

/// A shell that runs `script`.
fn shell(script: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]).env("PATH", "/usr/bin:/bin");
    command
}

/// A shell that waits until it is dropped, for others to look at.
fn waiting<P: Policy>(policy: Option<&P>) -> Child {
    launched(policy, Way::InPlace)
}

fn launched<P: Policy>(policy: Option<&P>, way: Way) -> Child {
    let mut command = shell("echo; read line");
    command.way(way);
    if let Some(policy) = policy {
        command.mechanism(policy).unwrap();
    }
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = child.unwrap_or_else(|error| panic!("{error}"));
    // When it has written, it is itself and no longer the launcher's child on the way to it.
    let mut byte = [0];
    child.stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
    child
}

fn plain() -> Child {
    waiting(None::<&NoNewPrivs>)
}

/// What a confined shell writes.
fn said<P: Policy>(script: &str, policy: &P) -> String {
    let output = shell(script).mechanism(policy).unwrap().output();
    let output = output.unwrap_or_else(|error| panic!("{error}"));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn said_without(script: &str) -> String {
    String::from_utf8(shell(script).output().unwrap().stdout).unwrap().trim().to_owned()
}

/// Why the launcher refuses a policy.
fn refused<P: Policy>(policy: &P, also: impl FnOnce(&mut Command)) -> (RefusalReason, String) {
    let mut command = shell(":");
    also(command.mechanism(policy).unwrap());
    match command.status() {
        Err(Error::Refused { reason, detail, .. }) => (reason, detail),
        other => panic!("{other:?}"),
    }
}

fn limits<const N: usize>(limits: [(Resource, Limit); N]) -> Rlimits {
    Rlimits(limits.into_iter().collect())
}

/// The soft and the hard limit of a line of `/proc/PID/limits`.
fn limit(pid: u32, line: &str) -> [String; 2] {
    let limits = read_proc(pid, "limits");
    let rest = limits.lines().find_map(|found| found.strip_prefix(line)).unwrap();
    let mut words = rest.split_whitespace();
    [words.next().unwrap().to_owned(), words.next().unwrap().to_owned()]
}

/// A field of `/proc/PID/stat`, by its number in `proc_pid_stat(5)`.
fn stat(pid: u32, number: usize) -> i64 {
    let stat = read_proc(pid, "stat");
    let (_, rest) = stat.rsplit_once(") ").unwrap();
    rest.split_whitespace().nth(number - 3).unwrap().parse().unwrap()
}

const LINES: [(Resource, &str); 16] = [
    (Resource::As, "Max address space"),
    (Resource::Core, "Max core file size"),
    (Resource::Cpu, "Max cpu time"),
    (Resource::Data, "Max data size"),
    (Resource::Fsize, "Max file size"),
    (Resource::Locks, "Max file locks"),
    (Resource::Memlock, "Max locked memory"),
    (Resource::Msgqueue, "Max msgqueue size"),
    (Resource::Nice, "Max nice priority"),
    (Resource::Nofile, "Max open files"),
    (Resource::Nproc, "Max processes"),
    (Resource::Rss, "Max resident set"),
    (Resource::Rtprio, "Max realtime priority"),
    (Resource::Rttime, "Max realtime timeout"),
    (Resource::Sigpending, "Max pending signals"),
    (Resource::Stack, "Max stack size"),
];

fn every_limit_is_the_kernels_and_no_other_is_touched() {
    let control = plain();
    for (resource, line) in LINES {
        let before = limit(control.id(), line);
        let hard = before[1].parse().map_or(Bound::Unlimited, Bound::At);
        // As far below what there is as lets a shell run still.
        let wanted = match hard {
            Bound::At(hard) => hard / 2,
            Bound::Unlimited => 1 << 40,
        };
        let child = waiting(Some(&limits([(resource, wanted.into())])));
        let shown = wanted.to_string();
        assert_eq!(limit(child.id(), line), [shown.as_str(), shown.as_str()], "{line}");
        assert!(wanted == 0 || limit(control.id(), line) != limit(child.id(), line), "{line}");
        for (_, other) in LINES.iter().filter(|(it, _)| *it != resource) {
            assert_eq!(limit(child.id(), other), limit(control.id(), other), "{other}");
        }
    }
}

fn soft_and_hard_limits_are_told_apart_and_unlimited_is_one() {
    let policy =
        json!({"nofile": {"soft": 32, "hard": 64}, "core": {"soft": 0, "hard": "unlimited"}});
    let mut command = shell("echo; read line");
    if limit(std::process::id(), "Max core file size")[1] != "unlimited" {
        return;
    }
    command.policy("linux.rlimits.set.v1", Params::of(&policy).unwrap());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    assert_eq!(limit(child.id(), "Max open files"), ["32", "64"]);
    assert_eq!(limit(child.id(), "Max core file size"), ["0", "unlimited"]);
}

fn a_limit_is_enforced() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("file");
    let script = format!("head -c 4096 /dev/zero >{}", file.display());
    let size = || fs::metadata(&file).unwrap().len();
    assert!(shell(&script).status().unwrap().success());
    assert_eq!(size(), 4096);
    let fsize = limits([(Resource::Fsize, 1000.into())]);
    let status = shell(&script).mechanism(&fsize).unwrap().stderr(Stdio::null()).status();
    assert!(!status.unwrap().success());
    assert_eq!(size(), 1000);
}

/// A hard limit above the present one, unless none can be.
fn higher() -> Option<(Resource, u64)> {
    let candidates = [Resource::Rtprio, Resource::Nice, Resource::Memlock, Resource::Sigpending];
    LINES.iter().filter(|(resource, _)| candidates.contains(resource)).find_map(
        |(resource, line)| {
            let hard: u64 = limit(std::process::id(), line)[1].parse().ok()?;
            Some((*resource, hard + 1))
        },
    )
}

fn a_hard_limit_is_raised_by_who_may_and_refused_by_name_to_others() {
    const SYS_RESOURCE: u32 = 24;
    let Some((resource, wanted)) = higher() else { return };
    let policy = limits([(resource, wanted.into())]);
    if has_capability(SYS_RESOURCE) {
        assert!(shell(":").mechanism(&policy).unwrap().status().unwrap().success());
        return;
    }
    let (reason, detail) = refused(&policy, |_| {});
    assert_eq!(reason, RefusalReason::MissingPrimitive);
    let name = resource.to_string();
    for part in ["linux.rlimits.set.v1", &name, "CAP_SYS_RESOURCE", &wanted.to_string()] {
        assert!(detail.contains(part), "{detail}");
    }
}

fn the_capabilities_of_a_user_namespace_raise_no_limit() {
    let Some((resource, wanted)) = higher() else { return };
    let policy = limits([(resource, wanted.into())]);
    let (reason, detail) = refused(&policy, |command| {
        command.mechanism(&UserNamespace::default()).unwrap();
    });
    assert_eq!(reason, RefusalReason::MissingPrimitive);
    assert!(detail.contains("initial user namespace"), "{detail}");
}

fn a_soft_limit_above_the_hard_one_is_an_invalid_plan() {
    // As a supervisor of another make might write it: ours does not get that far.
    let mut host = Host::default();
    host.schedule("linux.rlimits.set.v1", &json!({"nofile": {"soft": 65, "hard": 64}}));
    host.run().refused("PlanInvalid", "nofile");
    let policy = limits([(Resource::Nofile, Limit { soft: Bound::At(2), hard: Bound::At(1) })]);
    let error = shell(":").mechanism(&policy).unwrap().status().unwrap_err();
    assert!(matches!(error, Error::Policy(OpenError::Unusable(_))), "{error}");
}

fn the_umask_is_that_of_the_files_which_are_made() {
    let folder = TempDir::new().unwrap();
    let mode = |name: &str, umask: Option<u32>| {
        let file = folder.path().join(name);
        let mut command = shell(&format!(": >{}", file.display()));
        if let Some(umask) = umask {
            let policy = ProcessAttributes { umask: Some(Umask(umask)), ..Default::default() };
            command.mechanism(&policy).unwrap();
        }
        assert!(command.status().unwrap().success());
        fs::metadata(file).unwrap().permissions().mode() & 0o777
    };
    assert_eq!(mode("confined", Some(0o127)), 0o640);
    let own = u32::from_str_radix(&status(std::process::id(), "Umask"), 8).unwrap();
    assert_eq!(mode("control", None), 0o666 & !own);
    let policy = ProcessAttributes { umask: Some(Umask(0o127)), ..Default::default() };
    assert_eq!(status(waiting(Some(&policy)).id(), "Umask"), "0127");
}

fn nice_values_are_those_that_the_kernel_schedules_by() {
    const NICE: usize = 19;
    let own = stat(std::process::id(), NICE);
    assert_eq!(stat(plain().id(), NICE), own);
    let policy = ProcessAttributes { nice: Some(19), ..Default::default() };
    assert_eq!(stat(waiting(Some(&policy)).id(), NICE), 19);
}

fn priorities_that_take_a_privilege_are_applied_or_refused_by_name() {
    const SYS_NICE: u32 = 23;
    let fifo = Scheduler { policy: SchedulingPolicy::Fifo, priority: 1 };
    let realtime = IoPriority { class: IoClass::Realtime, level: 0 };
    let own = ProcessAttributes::default;
    for (policy, name) in [
        (ProcessAttributes { nice: Some(-5), ..own() }, "nice"),
        (ProcessAttributes { scheduler: Some(fifo), ..own() }, "Fifo"),
        (ProcessAttributes { io_priority: Some(realtime), ..own() }, "realtime"),
    ] {
        let allowed = limit(std::process::id(), "Max nice priority")[0] != "0"
            || limit(std::process::id(), "Max realtime priority")[0] != "0";
        if has_capability(SYS_NICE) {
            let launched = shell(":").mechanism(&policy).unwrap().status();
            // With the cpu controller of cgroup version 1, a group may have no real-time share at all.
            let no_share = matches!(&launched, Err(Error::Faulted { what, .. })
                if what.contains("sched_setscheduler") && what.contains("not permitted"));
            assert!(no_share || launched.unwrap().success(), "{name}");
            let with_namespace = |command: &mut Command| {
                command.mechanism(&UserNamespace::default()).unwrap();
            };
            if !allowed && Need::Mechanism("linux.userns.enter.v1").unmet().is_none() {
                assert_eq!(refused(&policy, with_namespace).0, RefusalReason::MissingPrimitive);
            }
        } else if !allowed {
            let (reason, detail) = refused(&policy, |_| {});
            assert_eq!(reason, RefusalReason::MissingPrimitive);
            assert!(detail.contains(name) && detail.contains("CAP_SYS_NICE"), "{detail}");
        }
    }
}

fn a_privilege_that_only_the_kernel_can_miss_stops_at_the_call_that_takes_it() {
    // With limits of its own the child's are not the launcher's, so the launcher can't know before.
    let rtprio = limits([(Resource::Rtprio, 0.into())]);
    let scheduler = Some(Scheduler { policy: SchedulingPolicy::Rr, priority: 1 });
    let policy = ProcessAttributes { scheduler, ..Default::default() };
    let mut command = shell(":");
    command.mechanism(&UserNamespace::default()).unwrap().mechanism(&rtprio).unwrap();
    let error = command.mechanism(&policy).unwrap().status().unwrap_err();
    let Error::Faulted { what, .. } = &error else { panic!("{error:?}") };
    assert!(what.contains(process_attributes::ID) && what.contains("sched_setscheduler"), "{what}");
}

fn the_scheduling_policy_is_the_kernels() {
    const POLICY: usize = 41;
    assert_eq!(stat(plain().id(), POLICY), stat(std::process::id(), POLICY));
    for (policy, number) in [(SchedulingPolicy::Batch, 3), (SchedulingPolicy::Idle, 5)] {
        let scheduler = Some(Scheduler { policy, priority: 0 });
        let child = waiting(Some(&ProcessAttributes { scheduler, ..Default::default() }));
        assert_eq!(stat(child.id(), POLICY), number);
    }
}

fn the_io_priority_is_the_kernels() {
    let ionice = |pid: u32| {
        let output = std::process::Command::new("ionice").args(["-p", &pid.to_string()]).output();
        String::from_utf8(output.unwrap().stdout).unwrap().trim().to_owned()
    };
    assert!(!ionice(plain().id()).contains("best-effort: prio 7"));
    for (class, level, words) in
        [(IoClass::BestEffort, 7, "best-effort: prio 7"), (IoClass::Idle, 0, "idle")]
    {
        let io_priority = Some(IoPriority { class, level });
        let child = waiting(Some(&ProcessAttributes { io_priority, ..Default::default() }));
        assert_eq!(ionice(child.id()), words);
    }
}

fn an_oom_score_is_adjusted_and_the_launchers_put_back() {
    const FILE: &str = "oom_score_adj";
    let own = read_proc(std::process::id(), FILE);
    assert_eq!(read_proc(plain().id(), FILE), own);
    let policy = ProcessAttributes { oom_score_adj: Some(1000), ..Default::default() };
    let child = waiting(Some(&policy));
    assert_eq!(read_proc(child.id(), FILE).trim(), "1000");
    assert_eq!(read_proc(std::process::id(), FILE), own);
    let mut apart = shell(":");
    let report = apart.mechanism(&policy).unwrap().way(Way::Child).output().unwrap().report;
    let put_back = format!("teardown={}", process_attributes::ID);
    assert!(report.transcript.notes().contains(&put_back), "{report:?}");
}

fn an_oom_score_below_what_is_allowed_is_refused_by_name() {
    const SYS_RESOURCE: u32 = 24;
    if has_capability(SYS_RESOURCE) {
        return;
    }
    let policy = ProcessAttributes { oom_score_adj: Some(-1000), ..Default::default() };
    let (reason, detail) = refused(&policy, |_| {});
    assert_eq!(reason, RefusalReason::MissingPrimitive);
    assert!(detail.contains("oom_score_adj") && detail.contains("CAP_SYS_RESOURCE"), "{detail}");
}

/// What became of a workload that traps TERM and whose launcher is killed.
fn after_the_launchers_death(policy: Option<&ProcessAttributes>) -> String {
    let folder = TempDir::new().unwrap();
    let mark = folder.path().join("mark");
    // The FIFO ends when the last that holds it has: nobody needs to guess how long that takes.
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let script = format!("trap 'echo TERM >{}; exit' TERM; echo >&2; read line", mark.display());
    let mut command = shell(&script);
    command.way(Way::Child);
    if let Some(policy) = policy {
        command.mechanism(policy).unwrap();
    }
    let mut child =
        command.stdin(Stdio::piped()).stdout(write).stderr(Stdio::piped()).spawn().unwrap();
    drop(command);
    child.stderr.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    send(child.launcher_id(), Signal::KILL);
    let mut rest = Vec::new();
    fs::File::from(read).read_to_end(&mut rest).unwrap();
    fs::read_to_string(mark).unwrap_or_default()
}

fn the_signal_of_a_launchers_death_is_the_policys() {
    assert_eq!(after_the_launchers_death(None), "", "SIGKILL can't be trapped");
    let parent_death_signal = Some(DeathSignal(15));
    let policy = ProcessAttributes { parent_death_signal, ..Default::default() };
    assert_eq!(after_the_launchers_death(Some(&policy)), "TERM\n");
}

fn a_session_of_its_own_has_no_terminal() {
    const SESSION: usize = 6;
    const TERMINAL: usize = 7;
    let control = plain();
    assert_eq!(stat(control.id(), SESSION), stat(std::process::id(), SESSION));
    let policy = ProcessAttributes { new_session: true, ..Default::default() };
    let child = waiting(Some(&policy));
    assert_eq!(stat(child.id(), SESSION), i64::from(child.id()));
    assert_eq!(stat(child.id(), TERMINAL), 0);
}

fn the_cpus_are_those_that_are_named() {
    const FIELD: &str = "Cpus_allowed_list";
    let own = status(std::process::id(), FIELD);
    assert_eq!(status(plain().id(), FIELD), own);
    let last = own.rsplit([',', '-']).next().unwrap();
    let cpus = Some([last.parse().unwrap()].into());
    let policy = ProcessAttributes { cpus, ..Default::default() };
    assert_eq!(status(waiting(Some(&policy)).id(), FIELD), last);
    // The kernel itself would leave it out and go on.
    let cpus = Some([last.parse().unwrap(), 5000].into());
    let (reason, detail) = refused(&ProcessAttributes { cpus, ..Default::default() }, |_| {});
    assert_eq!(reason, RefusalReason::MissingPrimitive);
    assert!(detail.contains("5000") && detail.contains(&own), "{detail}");
}

fn timers_are_as_late_as_the_policy_lets_them() {
    // Another process needs a capability to read it, so the workload's own word counts.
    let script = "cat /proc/self/timerslack_ns";
    let policy = ProcessAttributes { timer_slack_ns: Some(1_234_567), ..Default::default() };
    assert_eq!(said(script, &policy), "1234567");
    assert_ne!(said_without(script), "1234567");
}

fn huge_pages_are_off_in_the_workload() {
    assert_eq!(status(plain().id(), "THP_enabled"), "1");
    let policy = ProcessAttributes { huge_pages: false, ..Default::default() };
    assert_eq!(status(waiting(Some(&policy)).id(), "THP_enabled"), "0");
}

fn addresses_are_the_same_each_time() {
    let layout = |policy: &ProcessAttributes| said("grep -F '[stack]' /proc/self/maps", policy);
    let fixed = ProcessAttributes { randomize_addresses: false, ..Default::default() };
    assert_eq!(layout(&fixed), layout(&fixed));
    assert_eq!(read_proc(waiting(Some(&fixed)).id(), "personality"), "00040000\n");
    assert_eq!(read_proc(plain().id(), "personality"), "00000000\n");
    let random = fs::read_to_string("/proc/sys/kernel/randomize_va_space").unwrap();
    let other = ProcessAttributes { umask: Some(Umask(0o77)), ..Default::default() };
    assert!(random.trim() == "0" || (0..4).any(|_| layout(&other) != layout(&fixed)));
}

fn an_attribute_out_of_range_is_an_invalid_plan_by_its_name() {
    for (params, parts) in [
        (json!({"nice": 20}), ["nice", "-20 to 19"]),
        (json!({"umask": 0o1000}), ["umask", "0o777"]),
        (json!({}), ["no attribute", process_attributes::ID]),
    ] {
        let mut host = Host::default();
        host.schedule(process_attributes::ID, &params);
        let outcome = host.run();
        for part in parts {
            outcome.refused("PlanInvalid", part);
        }
    }
    let mut host = Host::default();
    host.schedule(process_attributes::ID, &json!({"dumpable": false}));
    host.run().refused("PlanInvalid", "dumpable");
}

/// Why there is no attribute for it: an exec makes a process dumpable whatever it was.
fn what_is_not_dumpable_is_dumpable_after_an_exec() {
    // The launcher is not, by the time it has a child; a limit of 0 is what leaves no core.
    let child = launched(Some(&limits([(Resource::Core, 0.into())])), Way::Child);
    let environment = |pid: u32| fs::read(format!("/proc/{pid}/environ"));
    assert!(environment(child.id()).is_ok());
    let launcher = environment(child.launcher_id());
    assert!(rustix::process::geteuid().is_root() || launcher.is_err());
    assert_eq!(limit(child.id(), "Max core file size"), ["0", "0"]);
}

fn the_working_directory_is_that_of_the_slot() {
    let folder = TempDir::new().unwrap();
    let place = folder.path().join("place");
    fs::create_dir(&place).unwrap();
    let cwd = |child: &Child| fs::read_link(format!("/proc/{}/cwd", child.id())).unwrap();
    assert_eq!(cwd(&plain()), std::env::current_dir().unwrap());
    let child = waiting(Some(&WorkingDirectory { path: place.as_path().into() }));
    assert_eq!(cwd(&child), place.canonicalize().unwrap());
    let fds = fs::read_dir(format!("/proc/{}/fd", child.id())).unwrap().count();
    assert_eq!(fds, 3, "the directory's fd does not reach the workload");
}

fn a_working_directory_grants_no_reading() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("secret"), "42").unwrap();
    let mut command = shell("cat secret");
    command.mechanism(&WorkingDirectory { path: folder.path().into() }).unwrap();
    assert_eq!(command.output().unwrap().stdout, b"42");
    if Need::Mechanism("linux.landlock.apply.v1").unmet().is_none() {
        for root in ["/usr", "/bin", "/lib", "/lib64"] {
            if fs::exists(root).unwrap() {
                command.read(root).exec(root);
            }
        }
        assert_eq!(command.output().unwrap().stdout, b"");
    }
}

fn a_working_directory_that_is_none_is_refused() {
    let slot = |path: &str| {
        let mut host = Host::default();
        host.slot(11, DescriptorRole::ReadRoot, path);
        host.schedule("linux.cwd.set.v1", &json!({"slot": 11}));
        host.run()
    };
    slot("/etc/passwd").refused("HandleMismatch", "slot 11");
    slot("/").succeeded();
    let mut host = Host::default();
    host.schedule("linux.cwd.set.v1", &json!({"slot": 12}));
    host.run().refused("PlanInvalid", "slot 12");
}

fn streams_are_the_files_that_are_named() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("in"), "line\n").unwrap();
    fs::write(path("out"), "what was there before").unwrap();
    let streams = StandardStreams {
        stdin: Some(path("in").into()),
        stdout: Some(path("out").into()),
        stderr: Some(path("err").into()),
        append: false,
    };
    let script = "read word; echo \"$word out\"; echo \"$word err\" >&2";
    let control = shell(script).output().unwrap();
    assert_eq!((&control.stdout[..], &control.stderr[..]), (&b" out\n"[..], &b" err\n"[..]));
    let launch = |streams: &StandardStreams| {
        let output = shell(script).mechanism(streams).unwrap().output().unwrap();
        assert_eq!((output.stdout.len(), output.stderr.len()), (0, 0));
    };
    launch(&streams);
    assert_eq!(fs::read_to_string(path("out")).unwrap(), "line out\n");
    assert_eq!(fs::read_to_string(path("err")).unwrap(), "line err\n");
    launch(&StandardStreams { append: true, stderr: streams.stdout.clone(), ..streams });
    assert_eq!(fs::read_to_string(path("out")).unwrap(), "line out\nline out\nline err\n");
}

fn a_stream_of_the_workload_is_the_slots_file_and_there_is_no_fd_more() {
    let folder = TempDir::new().unwrap();
    let fifo = folder.path().join("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    // Both ends here: it has a writer until this is dropped, and the workload waits.
    let _both = fs::File::options().read(true).write(true).open(&fifo).unwrap();
    let streams = StandardStreams { stdin: Some(fifo.clone().into()), ..Default::default() };
    let child = waiting(Some(&streams));
    let fd = |number: u32| fs::read_link(format!("/proc/{}/fd/{number}", child.id())).unwrap();
    assert_eq!(fd(0), fifo.canonicalize().unwrap());
    assert!(fd(1).to_str().unwrap().starts_with("pipe:"), "what is not named stays");
    assert_eq!(fs::read_dir(format!("/proc/{}/fd", child.id())).unwrap().count(), 3);
}

/// A launch whose workload says what it reads, with `path` open at `slot` as standard input.
fn reads_from(slot: u32, path: &str) -> Host {
    let mut host = Host::default();
    let fd = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let expected = DescriptorShape { kind: DescriptorKind::Regular, writable: false };
    let row = DescriptorSlot { role: DescriptorRole::Stdin, expected, slot_index: slot };
    host.body.descriptor_table.push(row);
    host.fds.insert(slot, fd);
    host.schedule("linux.stdio.set.v1", &());
    let mark = host.folder().join("ran");
    let script = format!("cat; : >{}", mark.display());
    host.body.target.argv = ["sh", "-c", &script].map(Into::into).to_vec();
    host
}

fn a_slot_may_be_at_any_number() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "what is read").unwrap();
    for slot in [0, 1, 2, 3, 30] {
        let mut host = reads_from(slot, file.to_str().unwrap());
        if slot == 1 {
            // Input is at 1, and output at 0: each is where the other is to be.
            let output = folder.path().join("output");
            host.open_for_writing(0, &output);
            let expected = DescriptorShape { kind: DescriptorKind::Regular, writable: true };
            let role = DescriptorRole::Stdout;
            host.body.descriptor_table.push(DescriptorSlot { role, expected, slot_index: 0 });
            host.run().succeeded();
            assert_eq!(fs::read_to_string(output).unwrap(), "what is read");
            continue;
        }
        let outcome = host.run();
        outcome.succeeded();
        assert_eq!(outcome.stdout, "what is read", "{slot}");
    }
}

fn streams_that_can_not_be_are_refused() {
    let mut host = Host::default();
    host.schedule("linux.stdio.set.v1", &());
    host.run().refused("HandleMismatch", "Stdin, Stdout or Stderr");
    let mut host = Host::default();
    host.slot(11, DescriptorRole::Stdin, "/etc/passwd");
    host.schedule("linux.stdio.set.v1", &());
    host.run().refused("HandleMismatch", "slot 11");
    let mut host = reads_from(11, "/etc/passwd");
    host.slot(0, DescriptorRole::ReadRoot, "/");
    host.run().refused("HandleMismatch", "ReadRoot");
    let null = StandardStreams { stdout: Some("/dev/null".into()), ..Default::default() };
    let error = shell(":").mechanism(&null).unwrap().status().unwrap_err().to_string();
    assert!(error.contains("device") && error.contains("inherited"), "{error}");
}

fn no_new_privs_is_set_with_and_without_others() {
    let field = |child: &Child| status(child.id(), "NoNewPrivs");
    assert_eq!(field(&plain()), status(std::process::id(), "NoNewPrivs"));
    assert_eq!(field(&waiting(Some(&NoNewPrivs {}))), "1");
    let mut command = shell(":");
    command.mechanism(&NoNewPrivs {}).unwrap().no_new_tasks();
    if Need::Mechanism("linux.seccomp.apply.v1").unmet().is_none() {
        let words = command.explain().unwrap();
        assert_eq!(words.matches("prctl(38").count(), 1, "{words}");
        assert!(command.status().unwrap().success());
    }
}

/// A set-user-ID program makes its caller another user, and with the bit it does not.
fn a_set_user_id_bit_gains_nothing() {
    let folder = TempDir::new().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = folder.path().join("id");
    portcullis_tests::write_program(&program, &fs::read("/usr/bin/id").unwrap());
    rustix::fs::chown(&program, Some(rustix::fs::Uid::from_raw(65534)), None).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).unwrap();
    let script = format!("{} -u", program.display());
    if said_without(&script) == "0" {
        // The folder's mount has no such bits.
        return;
    }
    assert_eq!(said_without(&script), "65534");
    assert_eq!(said(&script, &NoNewPrivs {}), "0");
}

fn main() -> ExitCode {
    run(tests![
        every_limit_is_the_kernels_and_no_other_is_touched: [],
        soft_and_hard_limits_are_told_apart_and_unlimited_is_one: [],
        a_limit_is_enforced: [],
        a_hard_limit_is_raised_by_who_may_and_refused_by_name_to_others: [],
        the_capabilities_of_a_user_namespace_raise_no_limit: [USERNS],
        a_soft_limit_above_the_hard_one_is_an_invalid_plan: [],
        the_umask_is_that_of_the_files_which_are_made: [],
        nice_values_are_those_that_the_kernel_schedules_by: [],
        priorities_that_take_a_privilege_are_applied_or_refused_by_name: [],
        a_privilege_that_only_the_kernel_can_miss_stops_at_the_call_that_takes_it: [USERNS],
        the_scheduling_policy_is_the_kernels: [],
        the_io_priority_is_the_kernels: [Need::UtilLinux],
        an_oom_score_is_adjusted_and_the_launchers_put_back: [],
        an_oom_score_below_what_is_allowed_is_refused_by_name: [],
        the_signal_of_a_launchers_death_is_the_policys: [],
        a_session_of_its_own_has_no_terminal: [],
        the_cpus_are_those_that_are_named: [],
        timers_are_as_late_as_the_policy_lets_them: [],
        huge_pages_are_off_in_the_workload: [],
        addresses_are_the_same_each_time: [],
        an_attribute_out_of_range_is_an_invalid_plan_by_its_name: [],
        what_is_not_dumpable_is_dumpable_after_an_exec: [],
        the_working_directory_is_that_of_the_slot: [],
        a_working_directory_grants_no_reading: [],
        a_working_directory_that_is_none_is_refused: [],
        streams_are_the_files_that_are_named: [],
        a_stream_of_the_workload_is_the_slots_file_and_there_is_no_fd_more: [],
        a_slot_may_be_at_any_number: [],
        streams_that_can_not_be_are_refused: [],
        no_new_privs_is_set_with_and_without_others: [],
        a_set_user_id_bit_gains_nothing: [Need::Root],
    ])
}
