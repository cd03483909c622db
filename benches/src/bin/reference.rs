//! Our launcher beside the one in C, started by the supervisor in C: writes the list of what that launches, and
//! makes a table of what it found. `reference.sh` builds all of them.
//!
//! Arguments: the folder with the supervisor and the reference, and for what is between; our launcher, which the
//! command line is beside; the folder that `reference.md` is written to; how many rounds.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use portcullis_benches::floor;
use portcullis_benches::launcher::in_version_2;
use portcullis_benches::measure::{Effort, median, medians};
use portcullis_benches::table::{Table, beside, machine, microseconds};
use portcullis_benches::workload::{Workload, smallest, true_};
use portcullis_tests::VERSION_1_FRAMES;

/// What is launched: its name, the number of its frame, what our launcher is called with, the reference.
const ROWS: [(&str, usize, &[&str], &str); 4] = [
    ("scrub and exec, one shot", 0, &[], "reference-scrub"),
    ("scrub and exec, in place", 0, &["--in-place"], "reference-scrub-in-place"),
    ("+ Landlock and seccomp, one shot", 2, &[], "reference-confined"),
    ("+ Landlock and seccomp, in place", 2, &["--in-place"], "reference-in-place"),
];

/// What the supervisor launches: the workload alone, and then ours and the reference of each row.
fn list(workload: &Workload, folder: &Path, launcher: &str) -> String {
    let program = workload.program.display();
    let mut list = format!("{program}\n");
    for (_, number, arguments, reference) in ROWS {
        let frame = folder.join(format!("frame-{number}"));
        write(&frame, &in_version_2(VERSION_1_FRAMES[number]));
        let frame = frame.display();
        let ours = [&[launcher], arguments].concat().join("\t");
        let reference = folder.join(reference);
        let _ = writeln!(list, "{program}\t{frame}\t{ours}");
        let _ = writeln!(list, "{program}\t{frame}\t{}", reference.display());
    }
    list
}

/// The medians of one line of the list, in microseconds.
struct Found {
    /// From the supervisor's first call on.
    all: f64,
    /// From the start of the launcher on.
    started: f64,
}

fn measured(list: &Path, folder: &Path, rounds: &str) -> Vec<Found> {
    let told = Command::new(folder.join("supervisor")).arg(rounds).arg(list).output();
    let told = told.expect("the supervisor");
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    let mut samples = vec![(vec![], vec![]); 1 + 2 * ROWS.len()];
    for line in String::from_utf8(told.stdout).expect("text").lines() {
        let mut numbers = line.split('\t').map(|it| it.parse::<u64>().expect("a number")).skip(1);
        let mut number = || numbers.next().expect("four numbers");
        let (at, prepared, took) = (number(), number(), number());
        let (all, started) = &mut samples[usize::try_from(at).expect("a line's number")];
        all.push(Duration::from_nanos(prepared + took));
        started.push(Duration::from_nanos(took));
    }
    let found = |(all, started)| Found { all: median(all), started: median(started) };
    samples.into_iter().map(found).collect()
}

fn compared(workload: &Workload, folder: &Path, launcher: &str, rounds: &str) -> Table {
    let file = folder.join("list.tsv");
    write(&file, list(workload, folder, launcher).as_bytes());
    let found = measured(&file, folder, rounds);
    let (floor, launches) = found.split_first().expect("the floor");
    let columns =
        ["", floor::POSIX_SPAWN, "ours", "reference", "ours / reference", "… once prepared"];
    let mut table = Table::new(format!("Launches of {}", workload.name), columns);
    for ((name, ..), pair) in ROWS.iter().zip(launches.chunks_exact(2)) {
        let [ours, reference] = pair else { unreachable!("chunks of two") };
        table.row([
            (*name).to_owned(),
            microseconds(floor.all),
            beside(ours.all, floor.all),
            beside(reference.all, floor.all),
            format!("{:.3}", ours.all / reference.all),
            format!("{:.3}", ours.started / reference.started),
        ]);
    }
    table
}

/// What a resident launcher in C takes, beside a `posix_spawn`, in a run of its own.
fn resident(workload: &Workload, folder: &Path, rounds: &str) -> [String; 4] {
    let told = Command::new(folder.join("resident")).arg(rounds).arg(&workload.program).output();
    let told = told.expect("the resident launcher in C");
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    let medians = String::from_utf8(told.stdout).expect("text");
    let medians: Vec<f64> =
        medians.lines().map(|it| it.parse::<f64>().expect("a number") / 1000.0).collect();
    let [floor, scrub, confined, kept] = medians[..] else { panic!("four medians: {medians:?}") };
    [microseconds(floor), beside(scrub, floor), beside(confined, floor), beside(kept, floor)]
}

/// What the command line takes, which becomes the workload, in a run of its own beside `posix_spawn`.
fn command_line(workload: &Workload, portcullis: &Path, rounds: usize) -> [String; 2] {
    let program = workload.program.to_str().expect("a path of letters").to_owned();
    let arguments: &[&str] = vec!["run", "--", String::leak(program)].leak();
    let run = Workload { name: "portcullis run", program: portcullis.to_owned(), arguments };
    let effort = Effort { rounds, limit: Duration::MAX };
    let (medians, _) = medians(&[floor::posix_spawn(workload), floor::posix_spawn(&run)], effort);
    [microseconds(medians[0]), beside(medians[1], medians[0])]
}

fn write(file: &Path, contents: &[u8]) {
    fs::write(file, contents).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
}

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [folder, launcher, docs, rounds] = &arguments[..] else {
        panic!("FOLDER LAUNCHER DOCS ROUNDS")
    };
    let folder = Path::new(folder);
    let mut text = format!(
        "# Beside a launcher that verifies nothing\n\n{}; medians of {rounds}, interleaved.\n\n\
         The same supervisor in C starts both, of a file each: it opens the roots, makes the pipes and the sealed \
         plan, starts the launcher, reads the transcript to its end, and waits. The last column leaves out what \
         comes before the start, which is the same for both.\n",
        machine()
    );
    for workload in [true_(), smallest()] {
        let table = compared(&workload, folder, launcher, rounds);
        let _ = write!(text, "\n{table}");
    }
    let columns =
        ["", floor::POSIX_SPAWN, "scrub and exec", "+ Landlock and seccomp", "… the ruleset kept"];
    let mut table =
        Table::new("A resident launcher in C that verifies nothing".to_owned(), columns);
    for workload in [true_(), smallest()] {
        let medians = resident(&workload, folder, rounds);
        table.row([workload.name.to_owned()].into_iter().chain(medians));
    }
    let _ = write!(text, "\n{table}");
    let columns = ["", floor::POSIX_SPAWN, "portcullis run"];
    let mut table = Table::new("The command line, as it comes, alone".to_owned(), columns);
    let portcullis = Path::new(launcher).with_file_name("portcullis");
    // The smallest program lies where nothing is granted.
    let cells = command_line(&true_(), &portcullis, rounds.parse().expect("a number of rounds"));
    table.row([true_().name.to_owned()].into_iter().chain(cells));
    let _ = write!(text, "\n{table}");
    println!("{text}");
    write(&Path::new(docs).join("reference.md"), text.as_bytes());
}
