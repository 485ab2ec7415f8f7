//! What the store costs under the engine, against SQLite by hand in the same run and with the same
//! durability (WAL, `synchronous=FULL`): commands, rehydration, reading the log, a read model that
//! catches up over a million events.
//!
//! By hand there is one table with what a program needs at least: position, stream, version, name and
//! payload, and an index over stream and version. The store keeps more: ids, times, tags, metadata,
//! schema versions, checksums, and indexes for ids and names.
//!
//! All contenders take turns, a short round each, so that a machine that drifts moves all of them.
//!
//! `cargo bench -p cqrs-sqlite --bench append`, with `-- commands`, `-- rehydrating`, `-- paging`
//! or `-- catching-up` for a part. With `TMPDIR` on a file system in memory, what is left is the processor's part.

#![allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints, and stops at a fault"
)]

#[path = "../../../benches/support/bank.rs"]
mod bank;
mod catching_up;
mod commands;
mod hand;
mod reading;

use std::time::{Duration, Instant};

fn main() {
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with("--")).unwrap_or_default();
    let parts: [(&str, fn()); 4] = [
        ("commands", commands::run),
        ("rehydrating", reading::rehydrating),
        ("paging", reading::paging),
        ("catching-up", catching_up::run),
    ];
    for (_, run) in parts.iter().filter(|(name, _)| name.contains(&wanted)) {
        run();
    }
}

/// A number that looks like chance, the same in each run.
fn scattered(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20
}

/// How long something took, and what it used of the processors.
#[derive(Clone, Copy)]
struct Spent {
    time: Duration,
    cpu: Duration,
}

fn timed(work: impl FnOnce()) -> Spent {
    let (start, cpu) = (Instant::now(), processor_time());
    work();
    Spent { time: start.elapsed(), cpu: processor_time().saturating_sub(cpu) }
}

/// What all threads of the process have used of the processors.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn median(all: &[Spent]) -> Spent {
    let middle = |of: fn(&Spent) -> Duration| {
        let mut all: Vec<_> = all.iter().map(of).collect();
        all.sort_unstable();
        all[all.len() / 2]
    };
    Spent { time: middle(|spent| spent.time), cpu: middle(|spent| spent.cpu) }
}

/// Both in turn for some rounds, after one that warms up, and their medians.
fn compare(name: &str, rounds: usize, mut hand: impl FnMut() -> Spent, mut ours: impl FnMut() -> Spent) {
    let (mut by_hand, mut by_us) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let spent = (hand(), ours());
        if round > 0 {
            by_hand.push(spent.0);
            by_us.push(spent.1);
        }
    }
    let (hand, ours) = (median(&by_hand), median(&by_us));
    let ratio = |of: fn(&Spent) -> Duration| of(&ours).as_secs_f64() / of(&hand).as_secs_f64();
    println!(
        "{name:<38} by hand {:>8.1?}, ours {:>8.1?}, ratio {:.2} ({:.2} of processor time)",
        hand.time,
        ours.time,
        ratio(|spent| spent.time),
        ratio(|spent| spent.cpu),
    );
}

fn multi_thread() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap()
}
