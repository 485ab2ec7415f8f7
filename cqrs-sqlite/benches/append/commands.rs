//! Durable commands through the engine, against bare inserts.

use std::time::{Duration, Instant};

use cqrs::prelude::Engine;
use cqrs_sqlite::SqliteStore;
use rusqlite::Connection;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::{bank, hand, multi_thread, processor_time, scattered};

const ROUNDS: usize = 12;
const ROUND: Duration = Duration::from_millis(400);
const ACCOUNTS: u64 = 10_000;

/// One round: operations per second, processor time per operation, and how long single ones took.
struct Sample {
    rate: f64,
    cpu: Duration,
    times: Vec<Duration>,
}

struct Contender {
    name: String,
    round: Box<dyn FnMut() -> Sample>,
    samples: Vec<Sample>,
}

pub fn run() {
    let dir = tempfile::tempdir().unwrap();
    let mut contenders = vec![by_hand(&dir, 1), by_hand(&dir, 100)];
    for tasks in [1, 16, 64] {
        contenders.push(commands(&dir, tasks, ACCOUNTS));
    }
    contenders.push(commands(&dir, 64, 1));
    for _ in 0..ROUNDS {
        for contender in &mut contenders {
            let sample = (contender.round)();
            contender.samples.push(sample);
        }
    }
    print(contenders);
}

fn print(contenders: Vec<Contender>) {
    let (mut limits, row) = (Vec::new(), "commands");
    println!("{row:<38} {:>9} {:>7} {:>7} {:>9} {:>9} {:>9}", "per s", "to 1", "to 100", "cpu", "p50", "p99");
    for mut contender in contenders {
        contender.samples.sort_by(|one, other| one.rate.total_cmp(&other.rate));
        let middle = &contender.samples[ROUNDS / 2];
        let (rate, cpu) = (middle.rate, middle.cpu);
        if limits.len() < 2 {
            limits.push(rate);
        }
        let to = |limit: usize| limits.get(limit).map_or(f64::NAN, |limit| rate / limit);
        let mut times: Vec<_> = contender.samples.iter().flat_map(|sample| &sample.times).copied().collect();
        times.sort_unstable();
        let part = |part: usize| times[(times.len() - 1) * part / 100];
        println!(
            "{:<38} {rate:>9.0} {:>7.2} {:>7.2} {cpu:>9.1?} {:>9.1?} {:>9.1?}",
            contender.name,
            to(0),
            to(1),
            part(50),
            part(99)
        );
    }
}

fn sample(count: usize, begun: Instant, cpu: Duration, times: Vec<Duration>) -> Sample {
    let spent = processor_time().saturating_sub(cpu);
    Sample { rate: count as f64 / begun.elapsed().as_secs_f64(), cpu: spent / count.max(1) as u32, times }
}

fn by_hand(dir: &TempDir, per_transaction: i64) -> Contender {
    let conn = hand::open(&dir.path().join(format!("hand-{per_transaction}.db")));
    let mut versions = vec![0_i64; ACCOUNTS as usize];
    let mut position = 0;
    let round = move || {
        let (begun, cpu, mut times) = (Instant::now(), processor_time(), Vec::new());
        while begun.elapsed() < ROUND {
            let start = Instant::now();
            transaction(&conn, &mut position, per_transaction, &mut versions);
            times.push(start.elapsed());
        }
        sample(times.len() * per_transaction as usize, begun, cpu, times)
    };
    let inserts = if per_transaction == 1 { "insert" } else { "inserts" };
    let name = format!("by hand, {per_transaction} {inserts} per transaction");
    Contender { name, round: Box::new(round), samples: Vec::new() }
}

fn transaction(conn: &Connection, position: &mut i64, inserts: i64, versions: &mut [i64]) {
    let mut streams = Vec::with_capacity(inserts as usize);
    for _ in 0..inserts {
        *position += 1;
        let account = scattered(*position as u64) % ACCOUNTS;
        let version = &mut versions[account as usize];
        *version += 1;
        streams.push((*position, format!("Account/{account}"), *version));
    }
    hand::insert(conn, streams.iter().map(|(position, stream, version)| (*position, &**stream, *version)));
}

fn commands(dir: &TempDir, tasks: u64, accounts: u64) -> Contender {
    let path = dir.path().join(format!("engine-{tasks}-{accounts}.db"));
    let runtime = multi_thread();
    let engine = runtime.block_on(async {
        let engine = bank::engine(SqliteStore::open(&path).await.unwrap()).await;
        bank::open(&engine, accounts).await;
        engine
    });
    let mut number = 0;
    let round = move || {
        number += 1;
        one_round(&runtime, &engine, tasks, accounts, number)
    };
    let hot = if accounts == 1 { ", one hot account" } else { "" };
    let name = format!("engine, {tasks} tasks{hot}");
    Contender { name, round: Box::new(round), samples: Vec::new() }
}

fn one_round(runtime: &Runtime, engine: &Engine, tasks: u64, accounts: u64, number: u64) -> Sample {
    runtime.block_on(async {
        let (begun, cpu) = (Instant::now(), processor_time());
        let work = |task: u64| {
            let engine = engine.clone();
            tokio::spawn(async move {
                let (mut times, mut at) = (Vec::new(), (number << 40) + (task << 24));
                while begun.elapsed() < ROUND {
                    at += 1;
                    let start = Instant::now();
                    bank::post(&engine, scattered(at) % accounts, at).await;
                    times.push(start.elapsed());
                }
                times
            })
        };
        let mut times = Vec::new();
        for task in (0..tasks).map(work).collect::<Vec<_>>() {
            times.extend(task.await.unwrap());
        }
        sample(times.len(), begun, cpu, times)
    })
}
