//! What a launch by a resident launcher costs, beside `posix_spawn` and one shot in the same run, and how
//! many are made in a second by one and by two threads.

use std::process::{Command as Unconfined, Stdio as UnconfinedStdio};
use std::thread;
use std::time::{Duration, Instant};

use portcullis::{Command, Resident, Stdio, Template};

const WORKLOAD: &str = "/bin/true";

fn template(confine: fn(&mut Command)) -> Template {
    let mut command = Command::new(WORKLOAD);
    confine(&mut command);
    command.template().unwrap()
}

/// Five roots to read and execute from, one to write to, and a filter.
fn confined(command: &mut Command) {
    for root in ["/usr", "/bin", "/lib", "/lib64", "/etc"] {
        command.read(root).exec(root);
    }
    command.write("/tmp").no_new_tasks();
}

fn null() -> [Stdio; 3] {
    [Stdio::null(), Stdio::null(), Stdio::null()]
}

fn floor() {
    let mut command = Unconfined::new(WORKLOAD);
    command.env_clear().stdin(UnconfinedStdio::null());
    command.stdout(UnconfinedStdio::null()).stderr(UnconfinedStdio::null());
    assert!(command.status().unwrap().success());
}

fn time(launch: impl Fn()) -> Duration {
    let start = Instant::now();
    launch();
    start.elapsed()
}

fn main() {
    // Without --bench cargo is only testing that it runs.
    let turns = if std::env::args().any(|it| it == "--bench") { 2000 } else { 2 };
    let resident = Resident::start().unwrap();
    let (bare, confined) = (template(|_| {}), template(confined));
    let by_resident = |template: &Template| {
        assert!(resident.spawn_with(template, null()).unwrap().wait().unwrap().success());
    };
    let by_one_shot = |template: &Template| {
        assert!(template.spawn_with(null()).unwrap().wait().unwrap().success());
    };
    let ways: [(&str, &dyn Fn()); 5] = [
        ("posix_spawn", &floor),
        ("resident, scrub+exec", &|| by_resident(&bare)),
        ("resident, +landlock+seccomp", &|| by_resident(&confined)),
        ("a template in place, scrub+exec", &|| by_one_shot(&bare)),
        ("a template in place, +landlock+seccomp", &|| by_one_shot(&confined)),
    ];
    // Each in turn, so that a noisy moment is everybody's.
    let mut times = ways.map(|_| Vec::with_capacity(turns));
    for _ in 0..turns {
        for (times, (_, launch)) in times.iter_mut().zip(&ways) {
            times.push(time(launch));
        }
    }
    let medians = times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2]
    });
    for ((name, _), median) in ways.iter().zip(medians) {
        let ratio = median.as_secs_f64() / medians[0].as_secs_f64();
        println!("{name:<42} {:>6} µs {ratio:>6.2}", median.as_micros());
    }
    let residents = [resident, Resident::start().unwrap()];
    let by = |at: usize| {
        let mut child = residents[at].spawn_with(&confined, null()).unwrap();
        assert!(child.wait().unwrap().success());
    };
    for threads in [1, 2] {
        for (name, launch) in [
            ("posix_spawn", &(|_| floor()) as &(dyn Fn(usize) + Sync)),
            ("one resident, +landlock+seccomp", &|_| by(0)),
            ("a resident each, +landlock+seccomp", &by),
        ] {
            let taken = time(|| {
                thread::scope(|scope| {
                    for thread in 0..threads {
                        scope.spawn(move || (0..turns / threads).for_each(|_| launch(thread)));
                    }
                });
            });
            let each = f64::from(u32::try_from(turns).unwrap()) / taken.as_secs_f64();
            println!("{name:<42} {each:>6.0} a second, {threads} in flight");
        }
    }
}
