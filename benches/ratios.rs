//! What a launch costs, as ratios to `posix_spawn` of the same program in the same run, and as the
//! microseconds that are added.
//!
//! criterion measures one benchmark after the other; here all take turns (see `measure`), for on a shared
//! machine two minutes differ by more than two ways to launch do.
//!
//! Arguments: `--test` launches each candidate twice and is done; `--write FILE` writes what is printed;
//! `--rounds N` takes fewer or more samples than 500; any word is the begin of the names of the parts to
//! run, which are those of [`PARTS`].

use std::any::Any;
use std::fs::{self, File};
use std::hint::black_box;
use std::os::fd::AsFd;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use portcullis::mechanism::seccomp::{
    self, Action, Comparison, Condition, Errno, Rule, Seccomp, Width,
};
use portcullis::{Command, Params};
use portcullis_benches::measure::{Effort, medians, throughput};
use portcullis_benches::stage::{FILES_AND_CALLS, STAGES};
use portcullis_benches::table::{Table, beside, machine, microseconds};
use portcullis_benches::way::WAYS;
use portcullis_benches::workload::{Workload, python, smallest, true_};
use portcullis_benches::{floor, launcher};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How much is measured.
struct Run {
    effort: Effort,
    /// Only that each launch works.
    test: bool,
}

/// A part of the run, by its name.
type Part = (&'static str, fn(&Run) -> Vec<Table>);

const PARTS: &[Part] = &[
    ("stages", stages),
    ("alone", |run| vec![alone(&true_(), run)]),
    ("throughput", throughputs),
    ("curves", |run| CURVES.iter().map(|curve| curve.measure(run)).collect()),
    ("launcher", |_| vec![size_and_peak()]),
];

/// Every way at every stage, a table for each workload.
fn stages(run: &Run) -> Vec<Table> {
    let workloads = [Some(smallest()), Some(true_()), python()];
    workloads.into_iter().flatten().map(|workload| stages_of(&workload, run)).collect()
}

/// Each stage beside floors of its own: what the kernel does after a launch with namespaces, to take them
/// down, would be in the way of one without.
fn stages_of(workload: &Workload, run: &Run) -> Table {
    let ways = WAYS.iter().map(|it| it.name);
    let floors = [floor::POSIX_SPAWN, floor::STANDARD_LIBRARY, floor::VFORK];
    let columns = ["stage"].into_iter().chain(floors).chain(ways);
    let mut table = Table::new(format!("Stages, of {}", workload.name), columns);
    let limit = run.effort.limit / u32::try_from(STAGES.len()).expect("a few");
    let mut fewest = run.effort.rounds;
    for stage in STAGES {
        let exec_alone = if stage.namespaces {
            floor::namespaces(workload)
        } else {
            Some(floor::vfork(workload))
        };
        let mut candidates = vec![floor::posix_spawn(workload), floor::standard_library(workload)];
        candidates.extend(exec_alone.clone());
        for way in WAYS {
            candidates.push((way.ready)(stage.command(workload)).expect(stage.name));
        }
        let (medians, rounds) = medians(&candidates, Effort { limit, ..run.effort });
        fewest = fewest.min(rounds);
        let beside = |median: &f64| beside(*median, medians[0]);
        let mut cells = vec![stage.name.to_owned(), microseconds(medians[0])];
        cells.extend(medians[1..].iter().map(beside));
        if exec_alone.is_none() {
            cells.insert(floors.len(), "-".to_owned());
        }
        table.row(cells);
    }
    table.note(format!(
        "Where a stage has namespaces, {} is {}. Medians of {fewest} at the least.",
        floor::VFORK,
        floor::NAMESPACES
    ));
    table
}

/// Each way at each stage with nothing beside it but the floor: what one finds in the caches is its own.
fn alone(workload: &Workload, run: &Run) -> Table {
    let columns = ["stage"].into_iter().chain(WAYS.iter().map(|it| it.name));
    let title = format!("Each way alone beside posix_spawn, of {}", workload.name);
    let mut table = Table::new(title, columns);
    let tables = u32::try_from(STAGES.len() * WAYS.len()).expect("a few");
    let effort = Effort { limit: run.effort.limit / tables, ..run.effort };
    let mut fewest = effort.rounds;
    for stage in STAGES {
        let mut cells = vec![stage.name.to_owned()];
        for way in WAYS {
            let launch = (way.ready)(stage.command(workload)).expect(stage.name);
            let (medians, rounds) = medians(&[floor::posix_spawn(workload), launch], effort);
            fewest = fewest.min(rounds);
            cells.push(beside(medians[1], medians[0]));
        }
        table.row(cells);
    }
    table.note(format!("Each of a run of its own. Medians of {fewest} at the least."));
    table
}

/// Launches per second with one to twice as many in flight as there are CPUs.
fn throughputs(run: &Run) -> Vec<Table> {
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let (slice, turns) =
        if run.test { (Duration::ZERO, 1) } else { (Duration::from_millis(300), 10) };
    let workload = true_();
    let floors = ["in flight", floor::POSIX_SPAWN, floor::STANDARD_LIBRARY];
    let columns = floors.into_iter().chain(WAYS.iter().map(|it| it.name));
    let title = format!("Launches per second, of {}, with Landlock and seccomp", workload.name);
    let mut table = Table::new(title, columns);
    for in_flight in 1..=2 * cpus {
        let mut candidates =
            vec![floor::posix_spawn(&workload), floor::standard_library(&workload)];
        for way in WAYS {
            let command = FILES_AND_CALLS.command(&workload);
            candidates.push((way.ready)(command).expect(way.name));
        }
        let rates = throughput(&candidates, in_flight, slice, turns);
        let cells = rates[1..].iter().map(|rate| format!("{rate:.0} ({:.2})", rate / rates[0]));
        table.row([in_flight.to_string(), format!("{:.0}", rates[0])].into_iter().chain(cells));
    }
    table.note(format!(
        "{cpus} CPUs; turns of {} s in all for each; in brackets, of posix_spawn's.",
        (slice * u32::try_from(turns).unwrap_or(1)).as_secs_f64()
    ));
    vec![table]
}

/// Samples of [`floor::FORK`].
const FORKS: usize = 25;

/// What a cost is measured against: a quantity, and some sizes of it.
struct Curve {
    title: &'static str,
    quantity: &'static str,
    sizes: &'static [usize],
    /// Makes a size be the case, or says why it can't be.
    prepare: fn(usize) -> Result<Point, String>,
    /// Whether `fork` is shown as well.
    fork: bool,
}

/// A size that is the case while this lives.
struct Point {
    label: String,
    command: Box<dyn Fn() -> Command>,
    held: Box<dyn Any>,
}

const CURVES: &[Curve] = &[
    Curve {
        title: "Roots",
        quantity: "roots",
        sizes: &[1, 10, 100, 300, 1000],
        prepare: roots,
        fork: false,
    },
    Curve {
        title: "Entries of the plan: the scrub, the exec, and filters of seccomp",
        quantity: "entries",
        sizes: &[2, 4, 8, 16, 32, 64],
        prepare: entries,
        fork: false,
    },
    Curve {
        title: "Length of the filter",
        quantity: "instructions",
        sizes: &[10, 30, 100, 300, 1000],
        prepare: filter,
        fork: false,
    },
    Curve {
        title: "Inheritable fds of the supervisor",
        quantity: "fds",
        sizes: &[3, 100, 1000, 10_000],
        prepare: fds,
        fork: false,
    },
    Curve {
        title: "Memory of the supervisor, which has 8 idle threads",
        quantity: "MB",
        sizes: &[10, 100, 1000, 8000],
        prepare: memory,
        fork: true,
    },
];

impl Curve {
    fn measure(&self, run: &Run) -> Table {
        let mut columns = vec![self.quantity, floor::POSIX_SPAWN, floor::STANDARD_LIBRARY];
        if self.fork {
            columns.push(floor::FORK);
        }
        columns.extend(WAYS.iter().map(|it| it.name));
        let mut table = Table::new(self.title, columns);
        // The smallest is enough to see that each works.
        let sizes = if run.test { &self.sizes[..1] } else { self.sizes };
        for size in sizes {
            if let Err(why) = self.add(&mut table, *size, run) {
                table.note(format!("{size} {}: left out, for {why}.", self.quantity));
            }
        }
        table
    }

    fn add(&self, table: &mut Table, size: usize, run: &Run) -> Result<(), String> {
        let point = (self.prepare)(size)?;
        let workload = smallest();
        let mut candidates =
            vec![floor::posix_spawn(&workload), floor::standard_library(&workload)];
        // What a kernel or a limit refuses is said, and is no panic.
        (point.command)().status().map_err(|error| error.to_string())?;
        let mut left_out = Vec::new();
        for way in WAYS {
            match (way.ready)((point.command)()) {
                Ok(launch) => candidates.push(launch),
                Err(error) => {
                    let (label, name) = (&point.label, way.name);
                    table
                        .note(format!("{label} {}, {name}: left out, for {error}.", self.quantity));
                    left_out.push(name);
                }
            }
        }
        let effort = Effort { limit: run.effort.limit / 6, ..run.effort };
        let (medians, rounds) = medians(&candidates, effort);
        let library = beside(medians[1], medians[0]);
        let mut cells = vec![point.label.clone(), microseconds(medians[0]), library];
        if self.fork {
            cells.push(forked(&workload, effort));
            table.note(format!("Of {}, {FORKS}.", floor::FORK));
        }
        let mut measured = medians[2..].iter();
        for way in WAYS {
            let median = if left_out.contains(&way.name) { None } else { measured.next() };
            cells.push(median.map_or("-".to_owned(), |median| beside(*median, medians[0])));
        }
        table.row(cells);
        let enough = rounds >= run.effort.rounds;
        let note = format!("Of {}. Medians of {}", workload.name, run.effort.rounds);
        table.note(note + if enough { "." } else { ", or as many as there was time for." });
        drop(black_box(point.held));
        Ok(())
    }
}

/// [`floor::FORK`] beside `posix_spawn`, in a run of its own: a fork of gigabytes takes longer than a hundred
/// launches.
fn forked(workload: &Workload, effort: Effort) -> String {
    let candidates = [floor::posix_spawn(workload), floor::fork(workload)];
    let effort = Effort { rounds: effort.rounds.min(FORKS), ..effort };
    let (medians, _) = medians(&candidates, effort);
    beside(medians[1], medians[0])
}

fn command() -> Command {
    Command::new(smallest().program)
}

fn roots(count: usize) -> Result<Point, String> {
    let folder = tempfile::TempDir::new().map_err(|error| error.to_string())?;
    let own = smallest().program.parent().map(std::path::Path::to_owned).unwrap_or_default();
    let mut paths = vec![own];
    for number in 1..count {
        let path = folder.path().join(number.to_string());
        fs::create_dir(&path).map_err(|error| error.to_string())?;
        paths.push(path);
    }
    allow_fds(count + 100)?;
    let command = move || {
        let mut command = command();
        for path in &paths {
            command.read(path).exec(path);
        }
        command
    };
    Ok(Point { label: count.to_string(), command: Box::new(command), held: Box::new(folder) })
}

fn entries(count: usize) -> Result<Point, String> {
    let filter = Seccomp { deny: vec!["ptrace".into()], ..Seccomp::default() };
    let filter = Params::of(&filter).map_err(|error| error.to_string())?;
    let command = move || {
        let mut command = command();
        for _ in 2..count {
            command.policy(seccomp::ID, filter.clone());
        }
        command
    };
    Ok(Point { label: count.to_string(), command: Box::new(command), held: Box::new(()) })
}

/// A filter of about as many instructions. Calls that are neighbours and fare alike are one range to the compiler, so
/// that denying more of them makes no filter long; rules with conditions do, each of which stays a comparison.
fn filter(length: usize) -> Result<Point, String> {
    let command_of = |rules: usize| -> Result<_, String> {
        let rule = |number: usize| {
            // Not neighbours either.
            let condition = Comparison::Eq(3 * number as u64 + 1_000_000);
            Ok(Rule {
                calls: vec!["sched_getscheduler".into()],
                action: Action::Errno(Errno::EPERM),
                when: vec![Condition::new(0, Width::Low32, condition)?],
            })
        };
        let rules = (0..rules).map(rule).collect::<Result<_, String>>()?;
        let filter = Seccomp { rules, ..Seccomp::default() };
        let command = move || {
            let mut command = command();
            command.mechanism(&filter).expect("a policy");
            command
        };
        let words = command().explain().map_err(|error| error.to_string())?;
        let found = words.split("filter of ").nth(1).and_then(|rest| rest.split(' ').next());
        let found: usize = found.and_then(|it| it.parse().ok()).ok_or("it explains no filter")?;
        Ok((found, command))
    };
    let (short, _) = command_of(1)?;
    let (longer, _) = command_of(11)?;
    let each = (longer - short).div_ceil(10).max(1);
    let (found, command) = command_of(1 + length.saturating_sub(short) / each)?;
    Ok(Point { label: found.to_string(), command: Box::new(command), held: Box::new(()) })
}

fn fds(count: usize) -> Result<Point, String> {
    allow_fds(count + 100)?;
    let open = (3..count).map(|_| {
        let file = File::open("/dev/null")?;
        // The standard library opens with close-on-exec.
        fcntl_setfd(file.as_fd(), FdFlags::empty())?;
        std::io::Result::Ok(file)
    });
    let held = open.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
    Ok(Point { label: count.to_string(), command: Box::new(command), held: Box::new(held) })
}

/// Lets this process open as many fds.
fn allow_fds(count: usize) -> Result<(), String> {
    let count = count as u64;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= count) {
        return Ok(());
    }
    if limit.maximum.is_some_and(|most| most < count) {
        return Err(format!("this process may open no more than {:?} fds", limit.maximum));
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(count), maximum: limit.maximum })
        .map_err(|error| error.to_string())
}

fn memory(megabytes: usize) -> Result<Point, String> {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")).map(str::trim);
    let available = available.and_then(|it| it.trim_end_matches(" kB").parse::<usize>().ok());
    // Half as much again: others need some too.
    if available.is_none_or(|kilobytes| kilobytes / 1000 < megabytes + megabytes / 2) {
        return Err("this machine has not as much to spare".into());
    }
    // Written to, or it would be one page of zeros.
    let held = vec![1_u8; megabytes * 1_000_000];
    let held = (held, idle_threads(8));
    Ok(Point { label: megabytes.to_string(), command: Box::new(command), held: Box::new(held) })
}

/// Threads that wait until what is returned is dropped, as a server's do: their stacks are memory too, and a child
/// has none of them.
fn idle_threads(count: usize) -> Vec<mpsc::Sender<()>> {
    let idle = |_| {
        let (held, wait) = mpsc::channel();
        thread::spawn(move || wait.recv());
        held
    };
    (0..count).map(idle).collect()
}

/// What the launcher takes that is no time.
fn size_and_peak() -> Table {
    let mut table = Table::new("The launcher itself", ["what", "is", "limit"]);
    let size = portcullis::bundled_launcher().map_or(0, <[u8]>::len);
    let kib = |bytes: usize| format!("{} KiB", bytes >> 10);
    table.row(["its file".to_owned(), kib(size), kib(launcher::SIZE_LIMIT)]);
    for stage in STAGES {
        let peak = launcher::peak(stage).expect(stage.name);
        let what = format!("its peak memory, {}", stage.name);
        table.row([what, format!("{peak} KiB"), format!("{} KiB", launcher::PEAK_LIMIT)]);
    }
    let last = &STAGES[STAGES.len() - 1];
    let peak = launcher::resident_peak(last).expect(last.name);
    let what = format!("a resident one's, after 100 launches, {}", last.name);
    table.row([what, format!("{peak} KiB"), format!("{} KiB", launcher::PEAK_LIMIT)]);
    table.note("The peak is VmHWM, of the one-shot launcher while its workload runs.");
    table
}

fn main() {
    let mut run =
        Run { effort: Effort { rounds: 500, limit: Duration::from_secs(240) }, test: false };
    let (mut parts, mut file) = (Vec::new(), None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--test" => {
                run = Run { effort: Effort { rounds: 1, ..run.effort }, test: true };
            }
            "--rounds" => {
                let rounds = arguments.next().and_then(|it| it.parse().ok());
                run.effort.rounds = rounds.expect("--rounds N");
            }
            "--write" => file = Some(arguments.next().expect("--write FILE")),
            // What cargo and criterion have to say.
            option if option.starts_with('-') => {}
            part => parts.push(part.to_owned()),
        }
    }
    let chosen = |name: &str| parts.is_empty() || parts.iter().any(|it| name.starts_with(it));
    let mut text = format!("{}\n", machine());
    println!("{text}");
    for (name, part) in PARTS.iter().filter(|(name, _)| chosen(name)) {
        let tables = part(&run);
        if run.test {
            // One sample is no number to show.
            println!("{name}: {} tables", tables.len());
            continue;
        }
        for table in tables {
            println!("{table}");
            text.extend(["\n", &table.to_string()]);
        }
    }
    if let Some(file) = file {
        fs::write(&file, text).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
}
