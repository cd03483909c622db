//! Timing, interleaved: in each round every candidate is launched once, so that what else the machine
//! does meanwhile it does to all of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Launches once, and waits for the workload's end. Threads may share it.
pub type Launch = Arc<dyn Fn() + Send + Sync>;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Samples of each candidate.
    pub rounds: usize,
    /// How long one table may take at the most; what it has by then is what it tells.
    pub limit: Duration,
}

/// Launches each candidate `rounds` times, and returns the median of each in microseconds, and
/// how many rounds there were.
///
/// Each round has an order of its own: who comes behind one whose namespaces the kernel is still taking down does
/// not pay for it every time.
pub fn medians(candidates: &[Launch], effort: Effort) -> (Vec<f64>, usize) {
    // The first launch of each finds caches cold.
    for launch in candidates {
        launch();
    }
    let begin = Instant::now();
    let mut order: Vec<_> = (0..candidates.len()).collect();
    let mut samples = vec![Vec::with_capacity(effort.rounds); candidates.len()];
    let mut rounds = 0;
    while rounds < effort.rounds && (rounds == 0 || begin.elapsed() < effort.limit) {
        fastrand::shuffle(&mut order);
        for &at in &order {
            let start = Instant::now();
            candidates[at]();
            samples[at].push(start.elapsed());
        }
        rounds += 1;
    }
    (samples.into_iter().map(median).collect(), rounds)
}

/// The median, in microseconds.
pub fn median(mut samples: Vec<Duration>) -> f64 {
    samples.sort_unstable();
    samples[samples.len() / 2].as_secs_f64() * 1e6
}

/// Launches per second of each candidate with `in_flight` threads that share it, and launch one after the other.
/// Candidates take turns of `slice` each, `turns` times.
pub fn throughput(
    candidates: &[Launch],
    in_flight: usize,
    slice: Duration,
    turns: usize,
) -> Vec<f64> {
    let mut launches = vec![0; candidates.len()];
    let mut took = vec![Duration::ZERO; candidates.len()];
    for turn in 0..turns * candidates.len() {
        let at = turn % candidates.len();
        let (stop, start) = (AtomicBool::new(false), Instant::now());
        launches[at] += thread::scope(|scope| {
            let threads = (0..in_flight).map(|_| {
                let (launch, stop) = (&candidates[at], &stop);
                scope.spawn(move || {
                    let mut made = 0_u32;
                    loop {
                        launch();
                        made += 1;
                        if stop.load(Ordering::Relaxed) {
                            return made;
                        }
                    }
                })
            });
            let threads: Vec<_> = threads.collect();
            thread::sleep(slice);
            stop.store(true, Ordering::Relaxed);
            threads.into_iter().map(|it| it.join().expect("launches that succeed")).sum::<u32>()
        });
        took[at] += start.elapsed();
    }
    launches.iter().zip(took).map(|(made, took)| f64::from(*made) / took.as_secs_f64()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_candidate_has_a_sample_of_each_round_and_time_ends_the_rounds() {
        use std::sync::atomic::AtomicUsize;
        let counts: Vec<_> = (0..3).map(|_| Arc::new(AtomicUsize::new(0))).collect();
        let launch = |count: &Arc<AtomicUsize>| -> Launch {
            let count = count.clone();
            Arc::new(move || _ = count.fetch_add(1, Ordering::Relaxed))
        };
        let candidates: Vec<_> = counts.iter().map(launch).collect();
        let effort = Effort { rounds: 5, limit: Duration::MAX };
        assert_eq!(medians(&candidates, effort).1, 5);
        assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1 + 5));
        let none = Effort { rounds: 5, limit: Duration::ZERO };
        assert_eq!(medians(&candidates, none).1, 1);
    }

    #[test]
    fn the_median_is_in_microseconds_and_ignores_what_is_far_off() {
        let samples = [1, 900, 2].map(Duration::from_millis);
        assert!((median(samples.to_vec()) - 2000.0).abs() < 1e-6);
    }
}
