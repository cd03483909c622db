//! The window between clone and exec: what it is made of, and that it does what was lowered and no
//! more.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use portcullis_core::descriptor::DescriptorRole;
use portcullis_mechanisms as _;
use portcullis_tests::{Host, Need, VERSION_1_FRAMES, run, tests};
use serde_json::json;

/// Symbols of other objects that the child may refer to: none.
const ALLOWED: &[&str] = &[];

fn the_child_refers_to_no_symbol_of_another_object() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("child");
    let built = Command::new(env!("CARGO"))
        .args(["build", "--release", "-p", "portcullis-child", "--target-dir"])
        .arg(&folder)
        // With LTO an rlib is bitcode, in which nm sees nothing.
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("CARGO_BUILD_TARGET")
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let symbols = |undefined: bool| -> Vec<String> {
        let mut nm = Command::new("nm");
        if undefined {
            nm.arg("-u");
        }
        let output = nm.arg(folder.join("release/libportcullis_child.rlib")).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let words = text.lines().filter(|line| !line.ends_with(':'));
        words.filter_map(|line| line.split_whitespace().last().map(str::to_owned)).collect()
    };
    let found = symbols(true);
    assert!(found.iter().all(|symbol| ALLOWED.contains(&symbol.as_str())), "{found:?}");
    // That nm saw the code at all.
    assert!(symbols(false).iter().any(|symbol| symbol.contains("16portcullis_child3run")));
}

/// A call: its name, and the arguments that are numbers (others are addresses and what they hold).
#[derive(Debug, PartialEq)]
struct Call {
    name: String,
    numbers: Vec<Option<u64>>,
}

/// Reads `name(argument, …` as `--explain` and strace write it, up to the closing parenthesis.
fn call(text: &str) -> Option<Call> {
    let (name, rest) = text.split_once('(')?;
    let mut arguments = vec![String::new()];
    let (mut depth, mut quoted) = (0, false);
    for letter in rest.chars() {
        match letter {
            '"' => quoted = !quoted,
            '[' | '{' | '(' if !quoted => depth += 1,
            ')' if !quoted && depth == 0 => break,
            ']' | '}' | ')' if !quoted => depth -= 1,
            ',' if !quoted && depth == 0 => {
                arguments.push(String::new());
                continue;
            }
            _ => {}
        }
        arguments.last_mut()?.push(letter);
    }
    let number = |text: &String| {
        let text = text.trim().trim_start_matches("fd ");
        match text {
            "NULL" => Some(0),
            "~0" => Some(u64::from(u32::MAX)),
            _ => match text.strip_prefix("0x") {
                Some(digits) => u64::from_str_radix(digits, 16).ok(),
                None => text.parse().ok(),
            },
        }
    };
    Some(Call { name: name.trim().to_owned(), numbers: arguments.iter().map(number).collect() })
}

fn everything(host: &mut Host) {
    for (slot, root) in [(20, "/usr"), (21, "/bin"), (22, "/lib"), (23, "/lib64")] {
        host.slot(slot, DescriptorRole::ReadRoot, root);
    }
    let folder = host.folder().to_owned();
    host.slot(16, DescriptorRole::WriteRoot, folder);
    let read = |slot: u32| json!({"slot": slot, "access": ["read", "exec"]});
    let rules =
        json!([read(20), read(21), read(22), read(23), {"slot": 16, "access": ["read", "write"]}]);
    host.schedule("linux.landlock.apply.v1", &json!({"abi": 3, "rules": rules}));
    let deny = json!({"deny_new_tasks": true, "deny_inet_sockets": true, "deny": ["ptrace"]});
    host.schedule("linux.seccomp.apply.v1", &deny);
}

/// The program that `--explain` prints.
fn explained(mut host: Host) -> String {
    host.arguments.insert(0, "--explain".into());
    let explained = host.run();
    assert_eq!(explained.status, Some(0), "{explained:?}");
    assert!(!explained.ran, "nothing is launched by an explanation");
    let (_, program) = explained.stdout.split_once("program:\n").unwrap();
    program.to_owned()
}

fn strace_of_a_launch_equals_the_program(make: impl Fn() -> Host) {
    let program = explained(make());
    // Place and owner come before the call.
    let lowered: Vec<_> = program
        .lines()
        .filter_map(|line| {
            let (_, after_place) = line.trim().split_once(' ')?;
            let (_, op) = after_place.trim().split_once(' ')?;
            call(op)
        })
        .collect();
    assert!(lowered.len() > 5, "{program}");

    let mut host = make();
    // Not in the host's own folder, which goes with it.
    let folder = tempfile::TempDir::new().unwrap();
    let log = folder.path().join("strace");
    host.strace = Some(log.clone());
    let outcome = host.run();
    let text = fs::read_to_string(&log).unwrap();
    assert_eq!(outcome.status, Some(0), "{outcome:?}");
    let pid = outcome.transcript().value("child_pid").unwrap().to_owned();
    let in_place = outcome.text.contains("mechanism=in_place");
    let mut made = Vec::new();
    for line in text.lines() {
        let Some((who, rest)) = line.split_once(' ') else { continue };
        if who != pid || rest.trim_start().starts_with(['<', '+', '-']) {
            continue;
        }
        made.extend(call(rest));
        // What the launcher does before it runs the program is not of the program.
        if in_place && made.last().is_some_and(|it| it.name == "rt_sigaction") {
            let last = made.len() - 1;
            made.drain(..last);
        }
        if made.last().is_some_and(|it| it.name == "execveat") {
            break;
        }
    }
    let names = |calls: &[Call]| calls.iter().map(|it| it.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&made), names(&lowered));
    for (made, lowered) in made.iter().zip(&lowered) {
        // What a launch in place tells has its pid in it, and pids differ in length.
        let told = made.name == "write";
        for (seen, asked) in
            made.numbers.iter().zip(&lowered.numbers).take(if told { 1 } else { 6 })
        {
            if let (Some(seen), Some(asked)) = (seen, asked) {
                assert_eq!(seen, asked, "{made:?} is not {lowered:?}");
            }
        }
    }
}

/// A launch of version 2 that `confine` confines.
fn confined(confine: fn(&mut Host)) -> impl Fn() -> Host {
    move || {
        let mut host = Host::default();
        confine(&mut host);
        host
    }
}

fn the_smallest_launch_makes_the_calls_of_its_program() {
    strace_of_a_launch_equals_the_program(confined(|_| {}));
}

fn a_confined_launch_makes_the_calls_of_its_program() {
    strace_of_a_launch_equals_the_program(confined(everything));
}

fn a_launch_with_a_rendezvous_makes_the_calls_of_its_program() {
    strace_of_a_launch_equals_the_program(confined(|host| {
        everything(host);
        host.schedule("linux.userns.enter.v1", &());
        host.schedule("linux.netns.enter.v1", &());
    }));
}

fn in_place(confine: fn(&mut Host)) -> impl Fn() -> Host {
    move || {
        let mut host = confined(confine)();
        host.arguments = vec!["--in-place".into()];
        host
    }
}

fn a_launch_in_place_makes_the_calls_of_its_program() {
    strace_of_a_launch_equals_the_program(in_place(|_| {}));
    strace_of_a_launch_equals_the_program(in_place(|host| {
        everything(host);
        host.schedule("linux.userns.enter.v1", &());
        host.schedule("linux.netns.enter.v1", &());
    }));
}

/// The programs of the version 1 frames are kept in `tests/golden`; `UPDATE=1` writes them anew.
fn the_programs_of_version_1_are_the_golden_ones_and_are_what_strace_sees() {
    for (which, frame) in VERSION_1_FRAMES.into_iter().enumerate() {
        let make = || Host::version_1(frame, "/bin/true");
        let program = explained(make());
        let file = format!(concat!(env!("CARGO_MANIFEST_DIR"), "/golden/plan{}.txt"), which);
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&file, &program).unwrap();
        }
        let golden = fs::read_to_string(&file).unwrap_or_default();
        // Filters differ by architecture, and these are of one.
        if cfg!(target_arch = "x86_64") {
            assert_eq!(program, golden, "{file}; UPDATE=1 writes it anew");
        }
        strace_of_a_launch_equals_the_program(make);
    }
}

fn main() -> ExitCode {
    run(tests![
        the_child_refers_to_no_symbol_of_another_object: [Need::Nm, Need::Cargo],
        the_smallest_launch_makes_the_calls_of_its_program: [Need::Strace],
        a_confined_launch_makes_the_calls_of_its_program: [
            Need::Strace,
            Need::Mechanism("linux.landlock.apply.v1"),
            Need::Mechanism("linux.seccomp.apply.v1"),
        ],
        a_launch_in_place_makes_the_calls_of_its_program: [
            Need::Strace,
            Need::Mechanism("linux.landlock.apply.v1"),
            Need::Mechanism("linux.netns.enter.v1"),
        ],
        the_programs_of_version_1_are_the_golden_ones_and_are_what_strace_sees: [
            Need::Strace,
            Need::Mechanism("linux.landlock.apply.v1"),
            Need::Mechanism("linux.netns.enter.v1"),
        ],
        a_launch_with_a_rendezvous_makes_the_calls_of_its_program: [
            Need::Strace,
            Need::Mechanism("linux.landlock.apply.v1"),
            Need::Mechanism("linux.netns.enter.v1"),
        ],
    ])
}
