//! What the store costs under the engine, against `tokio-postgres` by hand in the same run, on the same
//! durable server (`fsync` and `synchronous_commit` on): commands, rehydration, a read model that catches
//! up.
//!
//! By hand there is one table with what a program needs at least: position, stream, version, name and
//! payload, and an index over stream and version. The hand knows all state, so that it only inserts: one
//! row in one statement, or what waits together in one statement with `UNNEST`.
//!
//! All contenders take turns, a short round each, so that a machine that drifts moves all of them.
//!
//! `cargo bench -p cqrs-postgres --bench append`, with `-- commands`, `-- rehydrating`, `-- catching-up`,
//! `-- growing` or `-- locks` for a part; and behind `commands` with part of a name for some contenders alone, such
//! as `"16 tasks"`.

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
mod commands;
mod growing;
mod hand;
mod locks;
mod reading;

use std::time::Duration;

use pg_cluster::Cluster;

type Part = (&'static str, fn(&Cluster, &str));

fn main() {
    let mut words = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    let (wanted, who) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let settings = [("fsync", "on"), ("shared_buffers", "1GB"), ("max_wal_size", "8GB")];
    let Some(cluster) = pg_cluster::own(&settings) else { return };
    let parts: [Part; 5] = [
        ("commands", commands::run),
        ("rehydrating", |cluster, _| reading::rehydrating(cluster)),
        ("catching-up", |cluster, _| reading::catching_up(cluster)),
        ("growing", |cluster, _| growing::run(cluster)),
        ("locks", |cluster, _| locks::run(cluster)),
    ];
    for (_, run) in parts.iter().filter(|(name, _)| name.contains(&wanted)) {
        run(&cluster, &who);
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// The URL of a store of its own.
fn url(cluster: &Cluster, schema: &str) -> String {
    format!("{}?schema={schema}", cluster.url())
}

/// A number that looks like chance, the same in each run.
fn scattered(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20
}

fn median<T: Copy + PartialOrd>(all: &mut [T]) -> T {
    all.sort_by(|one, other| one.partial_cmp(other).unwrap());
    all[all.len() / 2]
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}
