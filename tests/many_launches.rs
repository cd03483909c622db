//! Launches leave nothing behind: no fd, no process, no thread, no memory.

use std::fs;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use portcullis::{Command, Error};
use portcullis_tests::{Need, run, tests};

/// What a process holds: fds, threads, children, and its resident pages.
#[derive(Debug, Clone, Copy)]
struct Held {
    fds: usize,
    threads: usize,
    children: usize,
    pages: usize,
}

fn held() -> Held {
    let count = |folder: &str| fs::read_dir(folder).unwrap().count();
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let children = tasks.map(|task| {
        let children = task.unwrap().path().join("children");
        fs::read_to_string(children).unwrap_or_default().split_whitespace().count()
    });
    let children = children.sum();
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let pages = statm.split(' ').nth(1).unwrap().parse().unwrap();
    Held { fds: count("/proc/self/fd"), threads: count("/proc/self/task"), children, pages }
}

fn assert_no_growth(before: Held) {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let after = held();
        let grown = after.fds > before.fds
            || after.threads > before.threads
            || after.children > before.children
            // 2 MiB of slack for what an allocator keeps.
            || after.pages > before.pages + 512;
        if !grown {
            return;
        }
        // A thread that was joined is a task for a moment longer.
        assert!(Instant::now() < deadline, "{before:?} became {after:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn confined() -> Command {
    let mut command = Command::new("/bin/true");
    command.read("/usr").exec("/usr").read("/lib").exec("/lib").no_new_tasks();
    for root in ["/lib64", "/bin"].iter().filter(|root| std::path::Path::new(root).exists()) {
        command.read(root).exec(root);
    }
    command
}

/// One of each way that a launch can go.
fn launch(turn: usize) {
    match turn % 5 {
        0 => assert!(confined().status().unwrap().success()),
        1 => assert!(confined().output().unwrap().status.success()),
        2 => {
            let mut command = Command::new("/etc/passwd");
            assert!(matches!(command.spawn(), Err(Error::Policy(_))));
        }
        3 => {
            let mut command = Command::new("/bin/true");
            // Granted nothing to execute: the child itself fails.
            assert!(matches!(command.read("/usr").spawn(), Err(Error::Exec { .. })));
        }
        _ => {
            let mut child = Command::new("/bin/sleep").arg("60").spawn().unwrap();
            if turn % 2 == 0 {
                child.kill().unwrap();
            }
        }
    }
}

fn a_thousand_in_a_row() {
    (0..50).for_each(launch);
    let before = held();
    (0..1000).for_each(launch);
    assert_no_growth(before);
}

fn eight_threads_at_once() {
    let threads = || {
        std::thread::scope(|scope| {
            for thread in 0..8 {
                scope.spawn(move || (0..40).for_each(|turn| launch(thread + turn)));
            }
        });
    };
    threads();
    let before = held();
    threads();
    threads();
    assert_no_growth(before);
}

/// One test after the other: what one holds, the other would count.
fn nothing_is_left_behind() {
    a_thousand_in_a_row();
    eight_threads_at_once();
}

fn main() -> ExitCode {
    run(tests![
        nothing_is_left_behind:
            [Need::Mechanism("linux.landlock.apply.v1"), Need::Mechanism("linux.seccomp.apply.v1")],
    ])
}
