//! A process becomes its program by itself, from the library: `Command::exec_here`. What the command line does
//! with it is in `command_line.rs`.

use std::process::{Command, ExitCode, Output, Stdio};

use portcullis_tests::{Need, run, tests};
use tempfile::TempDir;

/// Has a process of one thread become a shell that runs `script`; says what its pid was, and what it did.
fn becomes(script: &str, with: &str) -> (u32, Output) {
    let child = Command::new(env!("CARGO_BIN_EXE_becomes"))
        .args([script, with])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    (child.id(), child.wait_with_output().unwrap())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn the_program_has_the_pid_the_directory_and_the_streams_and_is_confined() {
    let folder = TempDir::new().unwrap();
    let mark = folder.path().join("mark");
    let write = format!("(: > {}) 2>/dev/null || echo denied", mark.display());
    let script = format!("echo $$; pwd; read line; echo $line; {write}; exec ls -x /proc/self/fd");
    let (pid, output) = becomes(&script, "");
    assert!(output.status.success(), "{output:?}");
    let told = text(&output.stdout);
    let mut told = told.lines();
    assert_eq!(told.next(), Some(pid.to_string().as_str()));
    assert_eq!(told.next(), Some("/usr"));
    assert!(told.next().unwrap().starts_with("root:"), "{output:?}");
    assert_eq!((told.next(), mark.exists()), (Some("denied"), false));
    // The last is the folder's own.
    let fds: Vec<_> = told.next().unwrap().split_whitespace().collect();
    assert_eq!(fds, ["0", "1", "2", "3"]);
    // The control: nothing but the gate keeps that script from writing.
    let free = Command::new("/bin/sh").args(["-c", &write]).output().unwrap();
    assert_eq!((free.stdout.len(), mark.exists()), (0, true));
}

fn what_a_process_can_not_do_by_itself_leaves_it_as_it_was() {
    for (with, why) in [
        ("with a thread", "this process has 2 threads"),
        ("with a launcher", "/no/such/launcher is named"),
        ("with a child", "linux.process.attributes.v1: the signal is to tell"),
    ] {
        let (_, output) = becomes("echo ran", with);
        let complaint = text(&output.stderr);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(3), 0), "{complaint}");
        assert!(complaint.starts_with("it takes a launcher: "), "{complaint}");
        assert!(complaint.contains(why), "{complaint}");
    }
}

fn an_entry_that_is_not_what_it_says_is_refused() {
    let (_, output) = becomes("echo ran", "with a digest");
    let complaint = text(&output.stderr);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(3), 0), "{complaint}");
    assert!(complaint.contains("IdentityMismatch"), "{complaint}");
    assert!(complaint.contains("param_digest of linux.userns.enter.v1"), "{complaint}");
}

fn what_is_preferred_is_asked_of_the_process_itself() {
    let (pid, output) = becomes("readlink /proc/self/ns/net; echo $$", "with a preference");
    let told = text(&output.stdout);
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    let (namespace, workload) = told.trim().split_once('\n').unwrap();
    assert_eq!(workload, pid.to_string(), "{output:?}");
    assert_ne!(namespace, own.to_str().unwrap());
}

fn main() -> ExitCode {
    const LANDLOCK: Need = Need::Mechanism("linux.landlock.apply.v1");
    const NETNS: Need = Need::Mechanism("linux.netns.enter.v1");
    run(tests![
        the_program_has_the_pid_the_directory_and_the_streams_and_is_confined: [LANDLOCK],
        what_a_process_can_not_do_by_itself_leaves_it_as_it_was: [],
        an_entry_that_is_not_what_it_says_is_refused: [],
        what_is_preferred_is_asked_of_the_process_itself: [LANDLOCK, NETNS],
    ])
}
