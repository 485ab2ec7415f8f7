//! Interleaved timing: every contender in turn, round after round, then medians and ratios to the
//! limit of the same rounds. So a machine that drifts moves all of them.

use std::time::{Duration, Instant};

/// One thing to be timed: its name, and a function that runs it once and says how long the timed
/// part took and over how many operations.
pub struct Contender<'a> {
    pub name: &'a str,
    pub run: Box<dyn FnMut() -> (Duration, usize) + 'a>,
}

pub fn contender<'a>(name: &'a str, run: impl FnMut() -> (Duration, usize) + 'a) -> Contender<'a> {
    Contender { name, run: Box::new(run) }
}

/// Times a closure over this many operations.
pub fn timed(operations: usize, work: impl FnOnce()) -> (Duration, usize) {
    let start = Instant::now();
    work();
    (start.elapsed(), operations)
}

/// Runs all contenders in turn and prints ns per operation: median, least and most over the
/// rounds, and the ratio of the medians to the first contender, which is the limit.
pub fn compare(title: &str, rounds: usize, mut contenders: Vec<Contender<'_>>) {
    let mut samples = vec![Vec::with_capacity(rounds); contenders.len()];
    for round in 0..=rounds {
        for (contender, samples) in contenders.iter_mut().zip(&mut samples) {
            let (time, operations) = (contender.run)();
            // The first round warms caches and the allocator up, and is not counted.
            if round > 0 {
                samples.push(time.as_nanos() as f64 / operations as f64);
            }
        }
    }
    println!("\n{title}");
    println!("{:<44} {:>10} {:>10} {:>10} {:>8}", "ns per operation", "median", "min", "max", "ratio");
    let limit = median(&mut samples[0]);
    for (contender, samples) in contenders.iter().zip(&mut samples) {
        let median = median(samples);
        let (min, max) = (samples[0], samples[samples.len() - 1]);
        let ratio = median / limit;
        println!("{:<44} {median:>10.0} {min:>10.0} {max:>10.0} {ratio:>8.2}", contender.name);
    }
}

/// Sorts the samples and gives the middle one.
fn median(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}
