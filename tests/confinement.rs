//! Each confinement holds, and the same act succeeds without it. The oracle is the file on disk, or
//! what `/proc` says of the workload to another process.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitCode;

use portcullis::mechanism::cgroup::Cgroup;
use portcullis::mechanism::seccomp::Seccomp;
use portcullis::mechanism::userns::UserNamespace;
use portcullis::{Child, Command, Error, Output, Stdio};
use portcullis_tests::{Need, bystander, cgroup2, read_proc, run, tests, write_program};
use tempfile::TempDir;

const LANDLOCK: Need = Need::Mechanism("linux.landlock.apply.v1");
const SECCOMP: Need = Need::Mechanism("linux.seccomp.apply.v1");
const NETNS: Need = Need::Mechanism("linux.netns.enter.v1");
const USERNS: Need = Need::Mechanism("linux.userns.enter.v1");
const CGROUP: Need = Need::Mechanism("linux.cgroup.enter.v1");

/// Grants the system's programs and libraries.
fn system(command: &mut Command) -> &mut Command {
    for root in ["/usr", "/bin", "/lib", "/lib64"].iter().filter(|root| Path::new(root).exists()) {
        command.read(root).exec(root);
    }
    command
}

/// A shell that runs `script`, without confinement.
fn shell(script: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]).env("PATH", "/usr/bin:/bin");
    command
}

fn succeeds(command: &mut Command) -> bool {
    output(command).status.success()
}

fn output(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{error}"))
}

/// A shell that waits until it is dropped, for others to look at.
fn waiting(confine: impl FnOnce(&mut Command)) -> Child {
    let mut command = shell("echo; read line");
    confine(&mut command);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    // When it has written, it is itself and no longer the launcher's child on the way to it.
    let mut byte = [0];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut byte).unwrap();
    child
}

fn landlock_denies_reading_what_no_root_covers() {
    let folder = TempDir::new().unwrap();
    let secret = folder.path().join("secret");
    fs::write(&secret, "42").unwrap();
    let script = format!("cat {}", secret.display());
    assert_eq!(output(&mut shell(&script)).stdout, b"42");
    let denied = output(system(&mut shell(&script)));
    assert!(!denied.status.success() && denied.stdout.is_empty());
    assert_eq!(output(system(&mut shell(&script)).read(&secret)).stdout, b"42", "a file is a root");
}

fn landlock_denies_writing_where_only_reading_is_granted() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("file");
    let script = format!(": > {}", file.display());
    assert!(!succeeds(system(&mut shell(&script)).read(folder.path())) && !file.exists());
    assert!(succeeds(system(&mut shell(&script)).write(folder.path())) && file.exists());
}

fn reading_does_not_imply_executing() {
    let folder = TempDir::new().unwrap();
    let program = folder.path().join("program");
    write_program(&program, &fs::read("/bin/true").unwrap());
    let script = program.display().to_string();
    assert!(!succeeds(system(&mut shell(&script)).read(folder.path())));
    assert!(succeeds(system(&mut shell(&script)).read(folder.path()).exec(folder.path())));
    let mut command = Command::new(&program);
    let error = system(&mut command).read(folder.path()).spawn().unwrap_err();
    assert!(
        matches!(&error, Error::Exec { source, .. } if source.raw_os_error() == Some(13)),
        "{error}"
    );
}

fn signals_are_scoped_to_the_workload() {
    let mut bystander = bystander();
    let script = format!("kill {}", bystander.id());
    let mut command = shell(&script);
    assert!(system(&mut command).scope_where_supported());
    assert!(!succeeds(&mut command));
    assert!(bystander.try_wait().unwrap().is_none(), "the signal arrived");
    assert!(succeeds(system(&mut shell(&script))));
    assert!(!bystander.wait().unwrap().success());
}

fn new_tasks_are_denied() {
    // Two commands: a shell forks for the first at the least.
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("file");
    let script = format!("/bin/touch {}; exit 0", file.display());
    output(shell(&script).no_new_tasks());
    assert!(!file.exists());
    output(&mut shell(&script));
    assert!(file.exists());
}

fn a_system_call_is_denied_by_name() {
    let folder = TempDir::new().unwrap();
    let made = folder.path().join("made");
    let script = format!("mkdir {}", made.display());
    let deny = Seccomp { deny: vec!["mkdir".into(), "mkdirat".into()], ..Seccomp::default() };
    assert!(!succeeds(shell(&script).mechanism(&deny).unwrap()) && !made.exists());
    assert!(succeeds(&mut shell(&script)) && made.exists());
}

fn a_call_by_a_foreign_abi_ends_the_process() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/python/foreign_call.py");
    let python = |abi: &str| {
        let mut command = Command::new("/usr/bin/python3");
        command.args([script, abi]);
        command
    };
    for abi in ["int80", "x32"] {
        let control = output(&mut python(abi));
        if !control.status.success() {
            // A kernel without the 32-bit entry ends the process by itself: there is nothing to deny.
            assert!(abi == "int80" && control.stdout.is_empty());
            continue;
        }
        let deny = Seccomp { deny: vec!["ptrace".into()], ..Seccomp::default() };
        let confined = output(python(abi).mechanism(&deny).unwrap());
        // SIGSYS, before there was anything to print.
        assert_eq!((confined.status.signal(), confined.stdout.len()), (Some(31), 0), "{abi}");
    }
}

fn a_terminal_is_not_typed_into_and_no_ring_is_made() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/python/terminal.py");
    let python = || {
        let mut command = Command::new("/usr/bin/python3");
        command.arg(script);
        command
    };
    let said = |command: &mut Command| {
        let output = output(command);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let eperm = |text: &str, what: &str| text.contains(&format!("{what} 1\n"));
    let control = said(&mut python());
    assert!(!eperm(&control, "type") && !eperm(&control, "ring"), "{control}");
    let quiet = said(python().no_terminal_injection());
    assert!(eperm(&quiet, "type") && !eperm(&quiet, "ring"), "{quiet}");
    let offline = said(python().no_network());
    assert!(!eperm(&offline, "type") && eperm(&offline, "ring"), "{offline}");
}

fn the_kernel_says_which_filters_and_bits_are_in_force() {
    let status = |child: &Child, field: &str| -> String {
        let status = read_proc(child.id(), "status");
        let line = status.lines().find(|line| line.starts_with(&format!("{field}:"))).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    let child = waiting(|_| {});
    for (field, value) in [("NoNewPrivs", "0"), ("Seccomp", "0")] {
        assert_eq!(status(&child, field), value);
    }
    let child = waiting(|command| {
        let deny = Seccomp { deny: vec!["ptrace".into()], ..Seccomp::default() };
        system(command).mechanism(&deny).unwrap().mechanism(&deny).unwrap();
    });
    for (field, value) in [("NoNewPrivs", "1"), ("Seccomp", "2"), ("Seccomp_filters", "2")] {
        assert_eq!(status(&child, field), value);
    }
    assert_eq!(status(&child, "SigBlk"), "0000000000000000");
    // Rust's runtime ignores SIGPIPE, in this process and in the launcher; the workload must not.
    let ignored = u64::from_str_radix(&status(&child, "SigIgn"), 16).unwrap();
    assert_eq!(ignored & 1 << (13 - 1), 0);
}

fn the_network_namespace_has_a_loopback_alone_that_is_down() {
    let own = fs::read_to_string("/proc/self/net/dev").unwrap();
    let child = waiting(|_| {});
    assert_eq!(read_proc(child.id(), "net/dev").lines().count(), own.lines().count());
    let child = waiting(|command| {
        command.no_network();
    });
    let devices = read_proc(child.id(), "net/dev");
    let names: Vec<_> =
        devices.lines().skip(2).map(|line| line.split(':').next().unwrap().trim()).collect();
    assert_eq!(names, ["lo"]);
    // A loopback that is up has a local route to 127.0.0.1.
    assert!(!read_proc(child.id(), "net/fib_trie").contains("127.0.0.1"));
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    assert_ne!(namespace(&child.id().to_string()), namespace("self"));
}

fn the_user_namespace_has_uid_0_inside_and_the_launchers_outside() {
    let own = rustix::process::geteuid().as_raw();
    let mut command = shell("id -u");
    let inside = output(command.mechanism(&UserNamespace::default()).unwrap());
    assert_eq!(inside.stdout, b"0\n");
    let child = waiting(|command| {
        command.mechanism(&UserNamespace::default()).unwrap();
    });
    let map = read_proc(child.id(), "uid_map");
    assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", &own.to_string(), "1"]);
    assert_eq!(read_proc(child.id(), "setgroups").trim(), "deny");
    let status = read_proc(child.id(), "status");
    assert!(status.contains(&format!("Uid:\t{own}\t{own}\t{own}\t{own}")), "{status}");
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/user")).unwrap();
    assert_ne!(namespace(&child.id().to_string()), namespace("self"));
    assert_eq!(namespace(&waiting(|_| {}).id().to_string()), namespace("self"));
}

fn the_workload_is_born_in_its_cgroup() {
    let leaf = cgroup2().unwrap().join(format!("portcullis-test-{}", std::process::id()));
    fs::create_dir(&leaf).unwrap();
    let name = leaf.file_name().unwrap().to_str().unwrap();
    let ends_so = |child: &Child| {
        let cgroups = read_proc(child.id(), "cgroup");
        cgroups.lines().any(|line| line.starts_with("0::") && line.ends_with(name))
    };
    assert!(!ends_so(&waiting(|_| {})));
    let child = waiting(|command| {
        let path = leaf.as_path().into();
        command.mechanism(&Cgroup { path }).unwrap();
    });
    let inside = ends_so(&child);
    let noted = child.transcript().value("cgroup_placement").map(str::to_owned);
    drop(child);
    fs::remove_dir(&leaf).unwrap();
    assert!(inside);
    assert_eq!(noted.as_deref(), Some("clone_into_cgroup"));
}

fn no_fd_reaches_the_workload_but_0_1_and_2() {
    // Sentinels below, among and above the slots, all without close-on-exec.
    let sentinels: Vec<File> = (0..300).map(|_| File::open("/etc/passwd").unwrap()).collect();
    for file in &sentinels {
        rustix::io::fcntl_setfd(file, rustix::io::FdFlags::empty()).unwrap();
    }
    let fds = |pid: u32| -> Vec<String> {
        let mut fds: Vec<_> = fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        fds.sort();
        fds
    };
    // The control: what std starts inherits them.
    let mut control = bystander();
    let inherited = sentinels.iter().map(|file| file.as_raw_fd().to_string());
    let theirs = fds(control.id());
    assert!(inherited.into_iter().all(|fd| theirs.contains(&fd)));
    control.kill().unwrap();
    control.wait().unwrap();
    let bare = waiting(|_| {});
    assert_eq!(fds(bare.id()), ["0", "1", "2"]);
    let full = waiting(|command| {
        system(command).no_network().no_new_tasks();
    });
    assert_eq!(fds(full.id()), ["0", "1", "2"]);
}

fn a_script_runs_by_its_interpreter_and_keeps_the_one_fd_that_it_is_read_from() {
    let folder = TempDir::new().unwrap();
    let script = folder.path().join("script");
    write_program(&script, b"#!/bin/sh\necho script \"$1\"\n");
    assert_eq!(output(Command::new(&script).arg("runs")).stdout, b"script runs\n");
}

fn the_environment_is_what_was_set() {
    let output =
        output(Command::new("/usr/bin/env").env("ONE", "1").env("TWO", "b").env("TWO", "2"));
    assert_eq!(output.stdout, b"ONE=1\nTWO=2\n");
}

fn a_report_says_applied_of_what_the_child_counted_off() {
    let output = output(system(&mut shell(":")).no_network().no_new_tasks());
    let applied: Vec<_> = output.report.applied().collect();
    assert_eq!(
        applied,
        [
            "linux.userns.enter.v1",
            "linux.netns.enter.v1",
            "linux.ambient.scrub.v1",
            "linux.landlock.apply.v1",
            "linux.seccomp.apply.v1",
            "linux.exec.v1",
        ]
    );
    let phases: Vec<_> =
        output.report.phases.iter().map(|(group, result)| format!("{group}={result}")).collect();
    assert_eq!(
        phases,
        [
            "Identity=Applied",
            "Visibility=NotRequired",
            "AmbientAuthority=Applied",
            "Confinement=Applied"
        ]
    );
}

fn main() -> ExitCode {
    run(tests![
        landlock_denies_reading_what_no_root_covers: [LANDLOCK],
        landlock_denies_writing_where_only_reading_is_granted: [LANDLOCK],
        reading_does_not_imply_executing: [LANDLOCK],
        signals_are_scoped_to_the_workload: [LANDLOCK, Need::LandlockScopes],
        new_tasks_are_denied: [SECCOMP],
        a_system_call_is_denied_by_name: [SECCOMP],
        a_call_by_a_foreign_abi_ends_the_process: [SECCOMP, Need::Python],
        a_terminal_is_not_typed_into_and_no_ring_is_made: [SECCOMP, NETNS, Need::Python],
        the_kernel_says_which_filters_and_bits_are_in_force: [LANDLOCK, SECCOMP],
        the_network_namespace_has_a_loopback_alone_that_is_down: [NETNS, SECCOMP],
        the_user_namespace_has_uid_0_inside_and_the_launchers_outside: [USERNS],
        the_workload_is_born_in_its_cgroup: [CGROUP, Need::DelegatedCgroup],
        no_fd_reaches_the_workload_but_0_1_and_2: [LANDLOCK, SECCOMP, NETNS],
        a_script_runs_by_its_interpreter_and_keeps_the_one_fd_that_it_is_read_from: [],
        the_environment_is_what_was_set: [],
        a_report_says_applied_of_what_the_child_counted_off: [LANDLOCK, SECCOMP, NETNS],
    ])
}
