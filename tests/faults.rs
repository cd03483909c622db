//! Every system call of a launch fails once, in every way: the launch ends by name, or succeeds because
//! the call was retried or was advisory. It never hangs, and nothing runs unconfined.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use portcullis_core::state::LauncherState;
use portcullis_core::transcript::Transcript;
use portcullis_mechanisms as _;
use portcullis_tests::{Host, Need, Outcome, run, tests};
use tempfile::TempDir;

const ERRORS: &[&str] = &["EINTR", "EIO", "ENOMEM", "EMFILE", "ENOSPC", "EPERM"];
/// What musl does before there is a launcher: a process that can't have these ends as the kernel ends it.
const BEFORE_MAIN: &[&str] = &["arch_prctl", "set_tid_address", "execve"];
/// strace injects an error by keeping the call from being made, and that close(2) can't do: Linux releases
/// the fd whatever it returns.
const NEVER_UNDONE: &str = "close";

/// Launches with Landlock and a user namespace under strace. The workload leaves its mark, and where it
/// is not confined another one.
fn launch(inject: Option<String>) -> (Outcome, bool, String) {
    let mut host = Host::default();
    let outside = TempDir::new().unwrap();
    let escape = outside.path().join("escaped");
    host.script(&format!(": > {}", escape.display()));
    host.files_and_calls();
    host.schedule("linux.userns.enter.v1", &());
    let log = outside.path().join("strace");
    host.strace = Some(log.clone());
    host.inject = inject;
    let outcome = host.run();
    let text = fs::read_to_string(&log).unwrap();
    (outcome, escape.exists(), text)
}

/// How often the launcher and its child make each call, before the exec of the workload.
fn calls() -> BTreeMap<String, usize> {
    let (outcome, escaped, text) = launch(None);
    outcome.succeeded();
    assert!(!escaped);
    let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
    let child = outcome.transcript().value("child_pid").unwrap().to_owned();
    let mut execed = false;
    for line in text.lines() {
        let Some((pid, rest)) = line.split_once(' ') else { continue };
        let Some((name, _)) = rest.trim().split_once('(') else { continue };
        let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !is_name
            || BEFORE_MAIN.contains(&name)
            || name == NEVER_UNDONE
            || (execed && pid == child)
        {
            continue;
        }
        execed |= name == "execveat";
        *counts.entry((pid.into(), name.into())).or_default() += 1;
    }
    let mut most = BTreeMap::new();
    for ((_, name), count) in counts {
        let entry = most.entry(name).or_insert(0);
        *entry = count.max(*entry);
    }
    most
}

fn every_call_fails_once_in_every_way() {
    let calls = calls();
    assert!(calls.len() > 20, "{calls:?}");
    let (mut refused, mut faulted, mut succeeded) = (0, 0, 0);
    for (name, count) in &calls {
        for when in 1..=*count {
            for error in ERRORS {
                let fault = format!("{name}:error={error}:when={when}");
                let (outcome, escaped, _) = launch(Some(fault.clone()));
                assert!(!escaped, "{fault}: unconfined: {outcome:?}");
                let transcript = Transcript::parse(outcome.text.as_bytes())
                    .unwrap_or_else(|why| panic!("{fault}: {why}: {outcome:?}"));
                let child = transcript.value("child_pid").map(|pid| format!("/proc/{pid}"));
                // What is there another time is no reason to say that the kernel can't.
                let lacks = match name.as_str() {
                    "landlock_create_ruleset" => *error == "EMFILE" && when == *count,
                    "landlock_add_rule" => *error == "ENOMEM",
                    _ => false,
                };
                assert!(!lacks || outcome.status == Some(4), "{fault}: {outcome:?}");
                let orphan = child.is_some_and(|child| Path::new(&child).exists());
                assert!(!orphan, "{fault}: a child is left: {outcome:?}");
                match (outcome.status, transcript.terminal()) {
                    (Some(0), Some(LauncherState::ExecSucceeded)) => succeeded += 1,
                    (Some(3), Some(LauncherState::SetupRefused)) if !outcome.ran => refused += 1,
                    (Some(4), Some(LauncherState::SetupFaulted)) if !outcome.ran => faulted += 1,
                    // Before there is a control channel, one line on standard error.
                    (Some(4), None) if !outcome.ran && !outcome.stderr.is_empty() => faulted += 1,
                    _ => panic!("{fault}: {outcome:?}"),
                }
            }
        }
    }
    // That faults arrived at all, and that some are survived.
    assert!(faulted > 50 && succeeded > 20 && refused > 0, "{refused} {faulted} {succeeded}");
}

fn main() -> ExitCode {
    run(tests![
        every_call_fails_once_in_every_way: [
            Need::Strace,
            Need::Mechanism("linux.landlock.apply.v1"),
            Need::Mechanism("linux.seccomp.apply.v1"),
            Need::Mechanism("linux.userns.enter.v1"),
        ],
    ])
}
