//! How often the launcher allocates, and how much, held against the numbers in `allocations.txt`: an arena makes
//! each cheap, but its pages have to be touched.
//!
//! It is what a launch in place takes from the start to all that its program needs, and the words of its
//! explanation. `UPDATE=1` writes the numbers anew.

use std::fmt::Write as _;
use std::fs;
use std::process::ExitCode;

use portcullis::Way;
use portcullis_benches::stage::{STAGES, Stage};
use portcullis_benches::workload::smallest;
use portcullis_tests::{Need, run, tests};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/allocations.txt");
/// In percent. Paths and numbers are not as long everywhere.
const TOLERANCE: u64 = 3;

const HEAD: &str = "\
# Allocations, and bytes that they take all told, of a launch in place up to its program, and of its explanation.
# UPDATE=1 cargo test -p portcullis-benches --test allocations
";

fn counted(stage: &Stage) -> [u64; 2] {
    let mut command = stage.command(&smallest());
    let words = command
        .way(Way::InPlace)
        .launcher(env!("CARGO_BIN_EXE_count-allocations"))
        .explain()
        .unwrap();
    let line = words.lines().last().unwrap();
    let numbers: Vec<_> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
    numbers.try_into().unwrap_or_else(|_| panic!("{line:?} has no counts"))
}

fn allocations_are_as_many_as_they_were() {
    let known = fs::read_to_string(FILE).unwrap_or_default();
    let (mut text, mut differing) = (HEAD.to_owned(), Vec::new());
    for stage in STAGES {
        let found = counted(stage);
        writeln!(text, "{:>6} {:>8} {}", found[0], found[1], stage.name).unwrap();
        let line = known.lines().find_map(|line| line.strip_suffix(stage.name)).unwrap_or_default();
        let expected: Vec<u64> = line.split_whitespace().map(|it| it.parse().unwrap()).collect();
        let near = |(found, expected): (&u64, &u64)| {
            found.abs_diff(*expected) * 100 <= expected * TOLERANCE
        };
        if expected.len() != 2 || !found.iter().zip(&expected).all(near) {
            differing.push(format!("{}: {found:?}, and it was {expected:?}", stage.name));
        }
    }
    if std::env::var_os("UPDATE").is_some() {
        fs::write(FILE, text).unwrap();
        return;
    }
    assert!(
        differing.is_empty(),
        "more than {TOLERANCE} % off. Fewer are good news, more need a reason; UPDATE=1 writes them anew.\n{}",
        differing.join("\n")
    );
}

fn main() -> ExitCode {
    run(tests![
        allocations_are_as_many_as_they_were: [
            Need::Mechanism("linux.landlock.apply.v1"),
            Need::Mechanism("linux.netns.enter.v1"),
        ],
    ])
}
