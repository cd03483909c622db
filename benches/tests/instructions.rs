//! How many instructions the launcher's own work takes, held against the numbers in `instructions.txt`: a
//! guard against what makes launches slower, on machines that are too noisy to time.
//!
//! The count is that of user space, from the launcher's first instruction to the workload's exec, its
//! child's included. It does not see the kernel's work; `docs/performance/syscalls.md` lists that.
//!
//! Beside it stands over how many windows of 64 KiB these instructions, and the constants that they read, are
//! spread: the kernel maps a window at a time, and each costs as much as some 15,000 instructions.
//! `launcher/layout.ld` keeps them few.
//!
//! `UPDATE=1` writes the numbers anew. `LAUNCHER` names another launcher to trace, and `ADDRESSES` a file
//! for the addresses, for `layout.sh`.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;

use portcullis::Way;
use portcullis_benches::launcher::{in_version_2, launch_frame};
use portcullis_benches::stage::STAGES;
use portcullis_benches::workload::smallest;
use portcullis_mechanisms as _;
use portcullis_tests::{Need, VERSION_1_FRAMES, launcher, run, tests, write_program};
use tempfile::TempDir;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/instructions.txt");
/// In percent. What differs from run to run is how many digits a pid has, and the like.
const TOLERANCE: u64 = 3;
/// Where the launcher is another compiler's, in percent: its code is other code, of the same size or so.
const TOLERANCE_OF_OTHERS: u64 = 10;

const HEAD: &str = "\
# Instructions in user space of the launcher and its child, until the workload's exec, and the windows of
# 64 KiB that they and the constants are spread over.
# UPDATE=1 cargo test -p portcullis-benches --test instructions
";

/// A launcher that waits until it is traced.
fn traced(folder: &Path) -> PathBuf {
    let script = format!(
        "#!/bin/sh\necho $$ >{0}/tells\nread go <{0}/waits\nexec {1} \"$@\"\n",
        folder.display(),
        std::env::var_os("LAUNCHER").map_or_else(|| launcher().into(), PathBuf::from).display()
    );
    let path = folder.join("launcher");
    write_program(&path, script.as_bytes());
    for fifo in ["tells", "waits"] {
        let made = Command::new("mkfifo").arg(folder.join(fifo)).status().unwrap();
        assert!(made.success());
    }
    path
}

/// A launch by the launcher that it is given.
type Launch<'l> = Box<dyn FnOnce(&Path) + Send + 'l>;

/// Each launch that is counted, and its name.
fn launches() -> Vec<(String, Launch<'static>)> {
    let mut launches: Vec<(String, Launch<'_>)> = Vec::new();
    let last = &STAGES[STAGES.len() - 1];
    // A step takes microseconds. What a child adds it adds at every stage.
    let in_place = STAGES.iter().map(|stage| (stage, "in place", Way::InPlace));
    for (stage, name, way) in in_place.chain([(last, "one shot", Way::Child)]) {
        let launch = move |launcher: &Path| {
            let mut command = stage.command(&smallest());
            assert!(command.way(way).launcher(launcher).status().unwrap().success());
        };
        launches.push((format!("{name}, {}", stage.name), Box::new(launch)));
    }
    // What is compared with launchers that others wrote.
    for (number, what) in [(0, "the scrub"), (2, "Landlock and both denials")] {
        let frame = in_version_2(VERSION_1_FRAMES[number]);
        let launch =
            move |launcher: &Path| launch_frame(launcher, &["--in-place"], &frame).unwrap();
        launches.push((format!("in place, a host's plan: {what}"), Box::new(launch)));
    }
    launches
}

/// Instructions, and the windows that they and their constants are spread over.
fn count(launch: Launch<'_>) -> (u64, usize) {
    let folder = TempDir::new().unwrap();
    let launcher = traced(folder.path());
    let counter = Command::new(env!("CARGO_BIN_EXE_count-instructions"))
        .args(["tells", "waits"].map(|fifo| folder.path().join(fifo)))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let counted = thread::scope(|scope| {
        scope.spawn(|| launch(&launcher));
        counter.wait_with_output().unwrap()
    });
    assert!(counted.status.success(), "the launcher can't be traced");
    let counted = String::from_utf8(counted.stdout).unwrap();
    let (number, addresses) = counted.split_once('\n').unwrap();
    if let Some(file) = std::env::var_os("ADDRESSES") {
        let mut file = OpenOptions::new().append(true).create(true).open(file).unwrap();
        file.write_all(addresses.as_bytes()).unwrap();
    }
    let addresses = addresses.lines().map(|line| u64::from_str_radix(line, 16).unwrap());
    let windows: HashSet<_> = addresses.map(|address| address >> 16).collect();
    (number.parse().unwrap(), windows.len())
}

/// What the launcher was built by: another compiler's instructions are others, if about as many. The standard
/// library's places in its source name the commit.
fn compiler() -> String {
    let image = portcullis::bundled_launcher().unwrap();
    let mark = b"/rustc/";
    let at =
        image.windows(mark.len()).position(|it| it == mark).expect("a place of std") + mark.len();
    String::from_utf8_lossy(&image[at..at + 40]).into_owned()
}

fn instructions_are_as_many_as_they_were() {
    let compiler = format!("compiler {}", compiler());
    let known = fs::read_to_string(FILE).unwrap_or_default();
    let update = std::env::var_os("UPDATE").is_some();
    let same = known.lines().any(|line| line == compiler);
    let tolerance = if same { TOLERANCE } else { TOLERANCE_OF_OTHERS };
    let (mut text, mut differing) = (format!("{HEAD}{compiler}\n"), Vec::new());
    for (what, launch) in launches() {
        let (found, windows) = count(launch);
        writeln!(text, "{found:>8} {windows:>3} {what}").unwrap();
        let line = known.lines().find_map(|line| line.strip_suffix(&what)).unwrap_or("0 0");
        let mut numbers = line.split_whitespace().map(|number| number.parse::<u64>().unwrap());
        let mut number = || numbers.next().unwrap_or(0);
        let (expected, expected_windows) = (number(), number());
        if found.abs_diff(expected) * 100 > expected * tolerance {
            differing.push(format!("{what}: {found}, and it was {expected}"));
        }
        // Where another compiler's functions lie is its affair.
        if same && windows as u64 > expected_windows {
            differing.push(format!("{what}: {windows} windows, and it was {expected_windows}"));
        }
    }
    if update {
        fs::write(FILE, text).unwrap();
        return;
    }
    assert!(
        differing.is_empty(),
        "more than {tolerance} % off, or in more windows. Fewer are good news, more need a reason; \
         benches/layout.sh brings them together again, and UPDATE=1 writes them anew.\n{}",
        differing.join("\n")
    );
}

fn main() -> ExitCode {
    // Its numbers are of one architecture; and where atomics are made of exclusive loads and stores, as
    // on older aarch64, one that is interrupted at each instruction never succeeds.
    if cfg!(not(all(target_arch = "x86_64", target_os = "linux"))) {
        eprintln!("skipped: instructions are counted on x86_64");
        return ExitCode::SUCCESS;
    }
    run(tests![
        instructions_are_as_many_as_they_were: [
            Need::Mechanism("linux.landlock.apply.v1"),
            Need::Mechanism("linux.netns.enter.v1"),
        ],
    ])
}
