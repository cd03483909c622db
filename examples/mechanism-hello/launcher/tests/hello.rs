//! A mechanism from elsewhere works like a built-in one: in a launcher that has it.

use std::io::Read;
use std::path::Path;

use mechanism_hello::Umask;
use portcullis::{Command, Error, Params, RefusalReason, Stdio};

const LAUNCHER: &str = env!("CARGO_BIN_EXE_hello-launcher");
const ID: &str = "example.umask.set.v1";

fn shell(script: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]).launcher(LAUNCHER);
    command
}

/// The umask of a shell that waits, as another process reads it.
fn umask(mut command: Command) -> String {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    // When it has written, it is itself and no longer the launcher's child on the way to it.
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:")).unwrap();
    line.trim().to_owned()
}

#[test]
fn the_kernel_has_the_mask_that_the_policy_file_names() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policy.toml");
    let policy: toml::Table = toml::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let mut command = shell("echo; read line");
    command.policy(ID, Params::of(&policy).unwrap());
    assert_eq!(umask(command), "0077");
    // The control.
    assert_ne!(umask(shell("echo; read line")), "0077");
}

#[test]
fn it_refuses_by_name_what_it_cannot_mean() {
    let error = shell(":").mechanism(&Umask { mask: 0o1000 }).unwrap().spawn().unwrap_err();
    let Error::Refused { reason: RefusalReason::PlanInvalid, detail, .. } = error else {
        panic!("{error}");
    };
    assert!(detail.contains(ID), "{detail}");
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
    let launcher = folder.join(target).join("release/hello-launcher");
    let listed = portcullis::mechanisms(Some(&launcher)).unwrap();
    assert!(listed.iter().any(|it| it.id == ID && it.is_supported()), "{listed:?}");
}
