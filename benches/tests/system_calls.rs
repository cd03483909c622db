//! The system calls of a launch, each with its reason: `docs/performance/syscalls.md` is what strace sees of
//! one with Landlock, seccomp and namespaces, a child's and one in place. A call that is added, or made more
//! often, fails here until it has a reason; `UPDATE=1` writes the page anew.

use std::fmt::Write as _;
use std::fs;
use std::process::ExitCode;

use portcullis_core::descriptor::DescriptorRole;
use portcullis_mechanisms as _;
use portcullis_tests::{Host, Need, run, tests};
use serde_json::json;
use tempfile::TempDir;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/performance/syscalls.md");

const HEAD: &str = "\
# System calls of a launch

What strace sees of a launch with the scrub, Landlock (six roots), seccomp, and a user and a network
namespace, from the launcher's exec to the workload's, and for a launcher with a child to its own end.
Calls that are the same but for their root or address are one line. A test holds this page to what is
really called; `UPDATE=1 cargo test -p portcullis-benches --test system_calls` writes it anew.
";

/// The launcher's fds, by the numbers that the host gives them.
const FDS: &[(std::ops::RangeInclusive<u32>, &str)] = &[
    (Host::EXE..=Host::EXE, "executable"),
    (16..=16, "root"),
    (20..=24, "root"),
    (25..=25, "control"),
    (26..=26, "plan"),
    (27..=27, "error"),
    (28..=28, "error read"),
    (0..=9, "new fd"),
];

/// Calls whose first argument is an fd.
const OF_FDS: &[&str] = &[
    "fcntl",
    "fstat",
    "pread64",
    "read",
    "write",
    "close",
    "execveat",
    "landlock_add_rule",
    "landlock_restrict_self",
];

/// A call: how strace's line begins, with fds by name; how it is shown; why it is made.
type Reason = (&'static str, &'static str, &'static str);

const REASONS: &[Reason] = &[
    (
        "getgroups(",
        "getgroups",
        "whether a user namespace leaves the workload groups, for the report",
    ),
    ("execve(", "execve(launcher)", "the supervisor's child becomes the launcher"),
    ("arch_prctl(", "arch_prctl(ARCH_SET_FS)", "musl's start: the thread's pointer"),
    ("set_tid_address(", "set_tid_address", "musl's start: the thread's id"),
    (
        "rt_sigaction(17,",
        "rt_sigaction(SIGCHLD, SIG_DFL)",
        "who inherits it as ignored can wait for no child",
    ),
    ("fcntl(control, 0x3)", "fcntl(control, F_GETFL)", "is the channel open?"),
    ("fcntl(plan, 0x3)", "fcntl(plan, F_GETFL)", "is the plan's fd open?"),
    ("fcntl(error, 0x3)", "fcntl(error, F_GETFL)", "is the error pipe open?"),
    ("fcntl(error read, 0x3)", "fcntl(error read, F_GETFL)", "is its other end?"),
    (
        "fcntl(error read, 0x2",
        "fcntl(error read, F_SETFD, FD_CLOEXEC)",
        "held in place, so that telling of a failure is no signal to die of; the workload has it not",
    ),
    (
        "fcntl(error, 0x2",
        "fcntl(error, F_SETFD, FD_CLOEXEC)",
        "its end is then the sign of the exec",
    ),
    (
        "fcntl(control, 0x2",
        "fcntl(control, F_SETFD, FD_CLOEXEC)",
        "in place, its end without an error is the sign of the exec",
    ),
    (
        "rt_sigprocmask(0x2, ~[]",
        "rt_sigprocmask(SIG_SETMASK, all)",
        "no signal ends a launcher halfway, nor reaches a child that shares its memory",
    ),
    ("rt_sigprocmask(0x2, ~[9 19]", "rt_sigprocmask(SIG_SETMASK, what it was)", "after the clone"),
    (
        "unshare(0x10000)",
        "unshare(CLONE_THREAD)",
        "fails where there is a second thread: at the start, and again before the program runs",
    ),
    ("fcntl(plan, 0x40a)", "fcntl(plan, F_GET_SEALS)", "nobody can change the plan any more"),
    ("pread64(plan", "pread64(plan)", "the plan"),
    ("fstat(executable", "fstat(executable)", "is it of the kind that the plan declares?"),
    (
        "fstat(root",
        "fstat(root)",
        "is it of the kind that the plan declares? and for its rule: a file or a directory?",
    ),
    ("fcntl(executable, 0x3)", "fcntl(executable, F_GETFL)", "is the slot filled, and writable?"),
    ("fcntl(root, 0x3)", "fcntl(root, F_GETFL)", "is the slot filled, and writable?"),
    (
        "fcntl(executable, 0x2",
        "fcntl(executable, F_SETFD, FD_CLOEXEC)",
        "the workload does not inherit its own file",
    ),
    (
        "landlock_create_ruleset(NULL",
        "landlock_create_ruleset(VERSION)",
        "which ABI the kernel has",
    ),
    ("landlock_create_ruleset({", "landlock_create_ruleset", "the ruleset"),
    ("landlock_add_rule(", "landlock_add_rule(root)", "a root's rule"),
    ("pipe2(", "pipe2", "holds the child until its uid is mapped"),
    ("prctl(0x2,", "prctl(PR_GET_PDEATHSIG)", "a change of uid would undo it"),
    ("getpid()", "getpid", "told in the transcript; and the child asks for its parent's"),
    ("geteuid()", "geteuid", "the uid that is mapped"),
    ("getegid()", "getegid", "the gid that is mapped"),
    ("write(control", "write(control)", "the transcript"),
    (
        "clone3(",
        "clone3(CLONE_VM, …)",
        "the child, in its namespaces, with this process's memory until it execs",
    ),
    ("unshare(0x50000000)", "unshare(CLONE_NEWUSER, CLONE_NEWNET)", "what clone3 does for a child"),
    ("open(\"/proc/PID/uid_map\"", "open(/proc/PID/uid_map)", "the uid's map"),
    (
        "open(\"/proc/PID/setgroups\"",
        "open(/proc/PID/setgroups)",
        "user_namespaces(7): denied before an unprivileged gid_map",
    ),
    ("open(\"/proc/PID/gid_map\"", "open(/proc/PID/gid_map)", "the gid's map"),
    ("setpgid(", "setpgid(child)", "did the child exec, which EACCES says, or die first?"),
    ("write(new fd, \"\"..., 1)", "write(pipe)", "releases the child"),
    ("write(new fd", "write(map)", "the maps and the denial"),
    ("child's read(new fd", "read(pipe)", "waits until its uid is mapped"),
    ("close(new fd)", "close(new fd)", "of what was opened, and of the pipe"),
    (
        "prctl(0x4,",
        "prctl(PR_SET_DUMPABLE, 0)",
        "no process of the workload's uid can trace or read the launcher",
    ),
    ("close(error)", "close(error)", "the child's end is the last one"),
    ("close(error read)", "close(error read)", "read to its end"),
    ("read(error read", "read(error read)", "its end: the exec took place"),
    ("rt_sigtimedwait(", "rt_sigtimedwait", "waits for the workload's end, or a signal to pass on"),
    ("wait4(", "wait4", "how the workload ended"),
    ("exit_group(", "exit_group", "the launcher's own end"),
    (
        "prctl(0x1,",
        "prctl(PR_SET_PDEATHSIG, SIGKILL)",
        "a child does not outlive its launcher unconfined",
    ),
    (
        "getppid()",
        "getppid",
        "the parent may have died just before; in place, the supervisor is it",
    ),
    (
        "rt_sigaction(13,",
        "rt_sigaction(SIGPIPE, SIG_DFL)",
        "what is ignored stays so across an exec",
    ),
    (
        "rt_sigprocmask(0x2, []",
        "rt_sigprocmask(SIG_SETMASK, none)",
        "what is blocked stays so across an exec",
    ),
    ("close_range(", "close_range", "the scrub: every fd but those that the plan keeps"),
    (
        "prctl(0x26,",
        "prctl(PR_SET_NO_NEW_PRIVS)",
        "Landlock and seccomp ask for it of who has no privilege",
    ),
    ("landlock_restrict_self(", "landlock_restrict_self", "Landlock applies"),
    ("seccomp(", "seccomp(SECCOMP_SET_MODE_FILTER)", "the filter applies"),
    ("execveat(executable", "execveat(executable)", "the workload"),
];

/// One of strace's lines with fds by name and without pids.
fn named(call: &str) -> String {
    let call = match call.split_once("/proc/") {
        Some((before, after)) => {
            format!("{before}/proc/PID{}", after.trim_start_matches(|it: char| it.is_ascii_digit()))
        }
        None => call.to_owned(),
    };
    let Some((name, rest)) = call.split_once('(') else { return call };
    let end = rest.find([',', ')']).unwrap_or(rest.len());
    let number = rest[..end].parse::<u32>().ok().filter(|_| OF_FDS.contains(&name));
    let found = number.and_then(|it| FDS.iter().find(|(numbers, _)| numbers.contains(&it)));
    found.map_or(call.clone(), |(_, fd)| format!("{name}({fd}{}", &rest[end..]))
}

/// The calls of one process, with how often each is made, in the order in which they first are.
#[derive(Default)]
struct Calls(Vec<(&'static Reason, usize)>);

impl Calls {
    fn add(&mut self, line: &str, whose: &str) {
        let call = named(line);
        let begins = |begin: &str| call.starts_with(begin.strip_prefix(whose).unwrap_or(begin));
        let reason = REASONS.iter().find(|(begin, ..)| begins(begin));
        let reason =
            reason.unwrap_or_else(|| panic!("{call:?} ({line:?}) has no reason in REASONS"));
        match self.0.iter_mut().find(|(known, _)| known.1 == reason.1) {
            Some((_, times)) => *times += 1,
            None => self.0.push((reason, 1)),
        }
    }

    fn table(&self, title: &str) -> String {
        let total: usize = self.0.iter().map(|(_, times)| times).sum();
        let mut text = format!("\n## {title}: {total}\n\n| times | call | why |\n|---|---|---|\n");
        for ((_, shown, why), times) in &self.0 {
            writeln!(text, "| {times} | `{shown}` | {why} |").unwrap();
        }
        text
    }
}

fn confined(arguments: &[&str]) -> Host {
    let mut host = Host::default();
    let roots = ["/usr", "/bin", "/lib", "/lib64", "/etc"].into_iter().zip(20_u32..);
    let mut rules = Vec::new();
    for (root, slot) in roots {
        host.slot(slot, DescriptorRole::ReadRoot, root);
        rules.push(json!({"slot": slot, "access": ["read", "exec"]}));
    }
    let folder = host.folder().to_owned();
    host.slot(16, DescriptorRole::WriteRoot, folder);
    rules.push(json!({"slot": 16, "access": ["read", "write"]}));
    host.schedule("linux.landlock.apply.v1", &json!({"abi": 3, "rules": rules}));
    let deny = json!({"deny_new_tasks": true, "deny_inet_sockets": true});
    host.schedule("linux.seccomp.apply.v1", &deny);
    host.schedule("linux.userns.enter.v1", &());
    host.schedule("linux.netns.enter.v1", &());
    host.arguments = arguments.iter().map(|it| (*it).to_owned()).collect();
    host
}

/// What the launcher calls, and what its child does, where there is one.
fn traced(arguments: &[&str]) -> (Calls, Calls) {
    let folder = TempDir::new().unwrap();
    let log = folder.path().join("strace");
    let mut host = confined(arguments);
    host.strace = Some(log.clone());
    let outcome = host.run();
    assert!(outcome.ran, "{outcome:?}");
    let (mut launcher, mut child) = (Calls::default(), Calls::default());
    let text = fs::read_to_string(log).unwrap();
    // The process that becomes the launcher is the first that execs; another is the child.
    let mut first: Option<&str> = None;
    let mut workloads: Vec<&str> = Vec::new();
    for line in text.lines() {
        let Some((pid, call)) = line.split_once(' ').map(|(pid, rest)| (pid, rest.trim_start()))
        else {
            continue;
        };
        if first.is_none() && call.starts_with("execve(") {
            first = Some(pid);
        }
        // Another process's call came before the end of this one.
        let call = &call.replace(" <unfinished ...>", ")");
        // Signals and ends are no calls; what is resumed was seen when it began.
        if first.is_none() || call.starts_with(['+', '-', '<']) || workloads.contains(&pid) {
            continue;
        }
        if call.starts_with("execveat(") {
            workloads.push(pid);
        }
        if first == Some(pid) {
            launcher.add(call, "launcher's ");
        } else {
            child.add(call, "child's ");
        }
    }
    (launcher, child)
}

fn every_call_of_a_launch_has_its_reason_and_the_page_has_them_all() {
    let (launcher, child) = traced(&[]);
    let (in_place, none) = traced(&["--in-place"]);
    assert!(none.0.is_empty(), "in place there is no child");
    let text = [
        HEAD,
        &launcher.table("With a child: the launcher's"),
        &child.table("With a child: the child's"),
        &in_place.table("In place"),
    ]
    .concat();
    if std::env::var_os("UPDATE").is_some() {
        fs::write(FILE, &text).unwrap();
    }
    let page = fs::read_to_string(FILE).unwrap_or_default();
    for (found, written) in text.lines().zip(page.lines()) {
        assert_eq!(found, written, "{FILE}; UPDATE=1 writes it anew");
    }
    assert_eq!(text, page, "{FILE}; UPDATE=1 writes it anew");
}

fn main() -> ExitCode {
    // Other architectures have other calls: no arch_prctl, no open.
    if cfg!(not(target_arch = "x86_64")) {
        eprintln!("skipped: the page is of x86_64");
        return ExitCode::SUCCESS;
    }
    run(tests![
        every_call_of_a_launch_has_its_reason_and_the_page_has_them_all: [
            Need::Strace,
            // A launcher that is not dumpable shows another user's strace addresses in place of paths.
            Need::Root,
            Need::Mechanism("linux.landlock.apply.v1"),
            Need::Mechanism("linux.netns.enter.v1"),
        ],
    ])
}
