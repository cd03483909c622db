//! Launches under criterion: distributions, and how they change from one run on a machine to the next.
//! Ratios are `ratios.rs`'s.

use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion};
use portcullis_benches::floor;
use portcullis_benches::measure::Launch;
use portcullis_benches::stage::STAGES;
use portcullis_benches::way::WAYS;
use portcullis_benches::workload::{python, smallest, true_};

fn measure(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, launch: &Launch) {
    group.bench_function(name, |bencher| bencher.iter(|| launch()));
}

fn launches(criterion: &mut Criterion) {
    for workload in [Some(smallest()), Some(true_()), python()].into_iter().flatten() {
        // What is criterion's folder has no slash.
        let name = workload.name.trim_start_matches('/').replace('/', " ");
        let mut group = criterion.benchmark_group(name);
        group.sample_size(50).warm_up_time(Duration::from_secs(1));
        group.measurement_time(Duration::from_secs(2));
        measure(&mut group, floor::POSIX_SPAWN, &floor::posix_spawn(&workload));
        let library = floor::standard_library(&workload);
        measure(&mut group, floor::STANDARD_LIBRARY, &library);
        measure(&mut group, floor::VFORK, &floor::vfork(&workload));
        for stage in STAGES {
            for way in WAYS {
                let launch = (way.ready)(stage.command(&workload)).expect(stage.name);
                measure(&mut group, &format!("{}, {}", way.name, stage.name), &launch);
            }
        }
        group.finish();
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    launches(&mut criterion);
    criterion.final_summary();
}
