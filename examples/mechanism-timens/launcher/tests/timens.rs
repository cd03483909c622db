//! The workload's clocks are shifted, and nobody else's.

use std::fs;
use std::io::Read;
use std::path::Path;

use mechanism_timens::TimeNamespace;
use portcullis::mechanism::userns::UserNamespace;
use portcullis::{Child, Command, Error, Params, RefusalReason, Stdio};

const LAUNCHER: &str = env!("CARGO_BIN_EXE_timens-launcher");
const ID: &str = "example.timens.enter.v1";
const YEAR: i64 = 365 * 24 * 60 * 60;

fn shell(script: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]).env("PATH", "/usr/bin:/bin").launcher(LAUNCHER);
    command
}

/// What a shell reads from `/proc/uptime`, in seconds.
fn uptime_inside(command: &mut Command) -> i64 {
    let output = command.output().unwrap_or_else(|error| panic!("{error}"));
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

fn uptime() -> i64 {
    let text = fs::read_to_string("/proc/uptime").unwrap();
    text.split('.').next().unwrap().parse().unwrap()
}

const READ_UPTIME: &str = "read -r up idle </proc/uptime; echo ${up%.*}";

#[test]
fn the_time_since_boot_is_the_policy_files_inside_and_the_machines_outside() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policy.toml");
    let policy: toml::Table = toml::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    let mut command = shell(READ_UPTIME);
    command.policy(ID, Params::of(&policy).unwrap()).mechanism(&UserNamespace::default()).unwrap();
    let (before, inside, after) = (uptime(), uptime_inside(&mut command), uptime());
    assert!((before + YEAR..=after + YEAR).contains(&inside), "{before} {inside} {after}");
    // The control.
    let (before, inside, after) = (uptime(), uptime_inside(&mut shell(READ_UPTIME)), uptime());
    assert!((before..=after).contains(&inside), "{before} {inside} {after}");
}

/// A shell that waits, and has said that it runs: it is itself, and no longer the launcher's child.
fn waiting(confine: impl FnOnce(&mut Command)) -> Child {
    let mut command = shell("echo; read line");
    confine(&mut command);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    child
}

#[test]
fn the_kernel_has_the_workload_in_a_time_namespace_of_its_own() {
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/time")).unwrap();
    let bare = waiting(|_| {});
    assert_eq!(namespace(&bare.id().to_string()), namespace("self"));
    let confined = waiting(|command| {
        let clocks = TimeNamespace { monotonic: -5, boottime: 7 };
        command.mechanism(&UserNamespace::default()).unwrap().mechanism(&clocks).unwrap();
    });
    assert_ne!(namespace(&confined.id().to_string()), namespace("self"));
    let offsets = fs::read_to_string(format!("/proc/{}/timens_offsets", confined.id())).unwrap();
    let words: Vec<_> = offsets.split_whitespace().collect();
    assert_eq!(words, ["monotonic", "-5", "0", "boottime", "7", "0"]);
}

#[test]
fn it_refuses_by_name_what_it_cannot_mean() {
    let nothing = TimeNamespace::default();
    let error = shell(":").mechanism(&nothing).unwrap().spawn().unwrap_err();
    let Error::Refused { reason: RefusalReason::PlanInvalid, detail, .. } = error else {
        panic!("{error}");
    };
    assert!(detail.contains(ID), "{detail}");
}

/// A clock that would have started before there was one.
#[test]
fn an_offset_that_the_kernel_rejects_is_a_fault_and_nothing_runs() {
    let clocks = TimeNamespace { monotonic: -1_000_000_000, boottime: 0 };
    let mut command = shell("echo it ran");
    command.mechanism(&UserNamespace::default()).unwrap().mechanism(&clocks).unwrap();
    let error = command.output().unwrap_err();
    assert!(
        matches!(&error, Error::Faulted { what, .. } if what.contains("timens_offsets")),
        "{error}"
    );
}

/// What links a launcher drops what nothing refers to; a registration must survive that.
#[test]
fn a_static_launcher_with_link_time_optimisation_lists_it() {
    let target = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    let libraries = std::process::Command::new("rustc")
        .args(["--print", "target-libdir", "--target", &target])
        .output()
        .unwrap();
    if !Path::new(String::from_utf8(libraries.stdout).unwrap().trim()).exists() {
        eprintln!("skipped: `rustup target add {target}` brings what is missing");
        return;
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("..");
    let built = std::process::Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--release", "--target", &target, "--target-dir"])
        .arg(&folder)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .unwrap();
    assert!(built.success());
    let launcher = folder.join(target).join("release/timens-launcher");
    let listed = portcullis::mechanisms(Some(&launcher)).unwrap();
    assert!(listed.iter().any(|it| it.id == ID && it.is_supported()), "{listed:?}");
}
