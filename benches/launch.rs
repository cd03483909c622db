//! What a launch costs, beside `posix_spawn` of the same program in the same run.
//!
//! `std::process::Command` without a closure is `posix_spawn`: the floor. At the end the medians are
//! printed as ratios to it, with the microseconds that each stage adds.

use std::fs;
use std::path::Path;
use std::process::{Command as Unconfined, Stdio as UnconfinedStdio};
use std::time::Duration;

use criterion::Criterion;
use portcullis::{Command, Stdio};

const WORKLOAD: &str = "/bin/true";
const FLOOR: &str = "posix_spawn";

/// A confinement by its name, and how a command gets it.
type Confinement = (&'static str, fn(&mut Command));

const CONFINEMENTS: &[Confinement] = &[
    ("scrub+exec", |_| {}),
    ("+landlock (6 roots)", roots),
    ("+landlock+seccomp", |command| {
        roots(command);
        command.no_new_tasks();
    }),
    ("everything (+user and network namespace)", |command| {
        roots(command);
        command.no_new_tasks().no_network();
    }),
];

/// Five roots to read and execute from, and one to write to.
fn roots(command: &mut Command) {
    for root in ["/usr", "/bin", "/lib", "/lib64", "/etc"] {
        command.read(root).exec(root);
    }
    command.write("/tmp");
}

fn launches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("launch");
    group.sample_size(50).measurement_time(Duration::from_secs(6));
    group.bench_function(FLOOR, |bencher| {
        bencher.iter(|| {
            let mut command = Unconfined::new(WORKLOAD);
            command.env_clear().stdin(UnconfinedStdio::null());
            assert!(command.status().unwrap().success());
        });
    });
    for (name, confine) in CONFINEMENTS {
        group.bench_function(*name, |bencher| {
            bencher.iter(|| {
                let mut command = Command::new(WORKLOAD);
                confine(&mut command);
                assert!(command.stdin(Stdio::null()).status().unwrap().success());
            });
        });
    }
    group.finish();
}

/// The median, in microseconds, that criterion has just written for a benchmark.
fn median(name: &str) -> Option<f64> {
    let folder = name.replace('/', "_");
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/../target").into());
    let file = Path::new(&target).join("criterion/launch").join(folder).join("new/estimates.json");
    let estimates: serde_json::Value = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
    estimates["median"]["point_estimate"].as_f64().map(|nanoseconds| nanoseconds / 1000.0)
}

fn ratios() {
    let Some(floor) = median(FLOOR) else { return };
    println!("\n{:<42} {:>9} {:>7} {:>9}", "of /bin/true", "median", "ratio", "added");
    let names = [FLOOR].into_iter().chain(CONFINEMENTS.iter().map(|(name, _)| *name));
    for (name, median) in names.filter_map(|name| Some((name, median(name)?))) {
        let (ratio, added) = (median / floor, median - floor);
        println!("{name:<42} {median:>6.0} µs {ratio:>7.2} {added:>6.0} µs");
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    launches(&mut criterion);
    // Without --bench cargo is only testing that each benchmark runs.
    if std::env::args().any(|argument| argument == "--bench") {
        ratios();
    }
    criterion.final_summary();
}
