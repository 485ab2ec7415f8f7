//! What an append costs, against SQLite by hand in the same run: one insert for each transaction, and
//! a hundred of them, both as durable as the store.
//!
//! `cargo bench -p cqrs-sqlite --bench append`, with `-- reading` for the second half alone, or with a
//! part of a name.

#![allow(missing_docs, reason = "a benchmark")]
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints, and stops at a fault")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cqrs_core::context::{IdSource as _, TimeOrderedIds};
use cqrs_core::event::{Metadata, NewEvent, Timestamp};
use cqrs_core::id::{Partition, Position, StreamId, Version};
use cqrs_core::store::{
    Append, Detail, Direction, EventStore as _, Expected, Guard, LogRead, Query, StreamRead,
};
use cqrs_sqlite::SqliteStore;
use rusqlite::Connection;

const ROUNDS: usize = 3;
const ROUND: Duration = Duration::from_secs(2);
const ACCOUNTS: usize = 10_000;
const PAYLOAD: &[u8] = br#"{"cents":12345,"reference":"a deposit with a text that makes an event of some 130 bytes","currency":"EUR","at":"branch 17"}"#;

/// Operations per second, and how long single ones took.
struct Sample {
    rate: f64,
    times: Vec<Duration>,
}

type Run = fn(&Path) -> Sample;

fn main() {
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with("--")).unwrap_or_default();
    if wanted != "reading" {
        appending(&wanted);
    }
    if wanted.is_empty() || wanted == "reading" {
        reading();
    }
}

fn appending(wanted: &str) {
    let contenders: [(&str, Run); 7] = [
        ("by hand, 1 insert per transaction", |path| by_hand(path, 1)),
        ("by hand, 100 inserts per transaction", |path| by_hand(path, 100)),
        ("store, 1 task", |path| store(path, 1, ACCOUNTS, 1)),
        ("store, 16 tasks", |path| store(path, 16, ACCOUNTS, 1)),
        ("store, 64 tasks", |path| store(path, 64, ACCOUNTS, 1)),
        ("store, 64 tasks, one hot stream", |path| store(path, 64, 1, 1)),
        ("store, 64 tasks, 10 events each", |path| store(path, 64, ACCOUNTS, 10)),
    ];
    let mut samples: Vec<Vec<Sample>> = contenders.iter().map(|_| Vec::new()).collect();
    for _ in 0..ROUNDS {
        for ((name, run), samples) in contenders.iter().zip(&mut samples) {
            if !name.contains(wanted) && !name.starts_with("by hand") {
                continue;
            }
            let dir = tempfile::tempdir().unwrap();
            samples.push(run(&dir.path().join("bench.db")));
        }
    }
    println!("{:<40} {:>10} {:>8} {:>8} {:>10} {:>10}", "events", "per s", "to 1", "to 100", "p50", "p99");
    let limits = [rate(&mut samples[0]), rate(&mut samples[1])];
    for ((name, _), samples) in contenders.iter().zip(&mut samples).filter(|(_, samples)| !samples.is_empty())
    {
        let rate = rate(samples);
        let times = &mut samples[ROUNDS / 2].times;
        times.sort_unstable();
        let at = |part: usize| times[(times.len() - 1) * part / 100];
        let [to_one, to_many] = limits.map(|limit| rate / limit);
        println!("{name:<40} {rate:>10.0} {to_one:>8.2} {to_many:>8.2} {:>10.1?} {:>10.1?}", at(50), at(99));
    }
}

/// The median over the rounds, which are sorted by it.
fn rate(samples: &mut [Sample]) -> f64 {
    samples.sort_by(|one, other| one.rate.total_cmp(&other.rate));
    samples[samples.len() / 2].rate
}

fn by_hand(path: &Path, per_transaction: i64) -> Sample {
    let conn = Connection::open(path).unwrap();
    conn.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
         CREATE TABLE events (position INTEGER PRIMARY KEY, stream TEXT NOT NULL, version INTEGER NOT NULL,
             name TEXT NOT NULL, payload BLOB NOT NULL, UNIQUE (stream, version));",
    )
    .unwrap();
    let (begun, mut times, mut position) = (Instant::now(), Vec::new(), 0_i64);
    let mut insert = conn.prepare("INSERT INTO events VALUES (?1, ?2, ?3, 'Deposited', ?4)").unwrap();
    let [mut begin, mut commit] = ["BEGIN IMMEDIATE", "COMMIT"].map(|sql| conn.prepare(sql).unwrap());
    while begun.elapsed() < ROUND {
        let start = Instant::now();
        begin.execute(()).unwrap();
        for _ in 0..per_transaction {
            position += 1;
            let account = scattered(position as usize) % ACCOUNTS;
            insert.execute((position, format!("Account/{account}"), position, PAYLOAD)).unwrap();
        }
        commit.execute(()).unwrap();
        times.push(start.elapsed());
    }
    Sample { rate: position as f64 / begun.elapsed().as_secs_f64(), times }
}

/// A number that looks like chance, the same in each run.
fn scattered(number: usize) -> usize {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20
}

fn event(ids: &TimeOrderedIds, stream: &StreamId) -> NewEvent {
    let time = Timestamp::now();
    NewEvent {
        id: ids.next(time),
        stream: stream.clone(),
        name: "Deposited".into(),
        schema_version: 1,
        payload: Bytes::from_static(PAYLOAD),
        tags: [].into_iter().collect(),
        time,
        metadata: Arc::new(Metadata::new()),
    }
}

fn store(path: &Path, tasks: usize, accounts: usize, events: usize) -> Sample {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let store = SqliteStore::open(path).await.unwrap();
        let ids = Arc::new(TimeOrderedIds::default());
        let begun = Instant::now();
        let tasks: Vec<_> = (0..tasks)
            .map(|task| {
                tokio::spawn(append(store.clone(), ids.clone(), begun, (task, tasks, accounts, events)))
            })
            .collect();
        let mut times = Vec::new();
        for task in tasks {
            times.extend(task.await.unwrap());
        }
        let rate = (times.len() * events) as f64 / begun.elapsed().as_secs_f64();
        let head = store.head(Partition::ONLY).await.unwrap().position.get();
        assert_eq!(head, (times.len() * events) as u64, "what was counted is there");
        Sample { rate, times }
    })
}

/// Each task has accounts of its own, and expects the version that it knows, as the engine does. One
/// hot stream is everybody's, where versions cannot be known.
async fn append(
    store: SqliteStore,
    ids: Arc<TimeOrderedIds>,
    begun: Instant,
    (task, tasks, accounts, events): (usize, usize, usize, usize),
) -> Vec<Duration> {
    let hot = accounts == 1;
    let mine = (accounts / tasks).max(1);
    let mut versions = vec![0_u64; mine];
    let (mut times, mut round) = (Vec::new(), 0);
    while begun.elapsed() < ROUND {
        round += 1;
        let slot = scattered(round) % mine;
        let account = if hot { 0 } else { slot * tasks + task };
        let stream: StreamId = format!("Account/{account}").parse().unwrap();
        let expected = Expected::Version(Version::new(versions[slot]));
        let guard = if hot { Guard::Any } else { Guard::stream(stream.clone(), expected) };
        let new = (0..events).map(|_| event(&ids, &stream)).collect();
        let start = Instant::now();
        let appended = store.append(Append::new(new, guard)).await.unwrap();
        times.push(start.elapsed());
        versions[slot] = appended.versions[0].1.get();
    }
    times
}

/// 10,000 events of one stream, and 100,000 of the log in pages, against the same rows by hand.
fn reading() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("read.db");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let store = runtime.block_on(SqliteStore::open(&path)).unwrap();
    let ids = TimeOrderedIds::default();
    let stream: StreamId = "Account/1".parse().unwrap();
    for page in 0..200 {
        let other: StreamId = format!("Account/{page}-x").parse().unwrap();
        let stream = if page % 20 == 0 { &stream } else { &other };
        let mut events: Vec<_> = (0..1_000).map(|_| event(&ids, stream)).collect();
        events.iter_mut().step_by(2).for_each(|event| event.name = "Withdrawn".into());
        runtime.block_on(store.append(Append::new(events, Guard::Any))).unwrap();
    }
    let conn = Connection::open(&path).unwrap();
    let by_hand = |sql: &str| {
        let mut select = conn.prepare_cached(sql).unwrap();
        let mut rows = select.query(()).unwrap();
        let mut bytes = 0;
        while let Some(row) = rows.next().unwrap() {
            bytes += row.get::<_, Vec<u8>>("payload").unwrap().len();
        }
        assert!(bytes > 0);
    };
    let of_stream =
        "SELECT version, name, payload FROM cqrs_events WHERE stream = 'Account/1' ORDER BY version";
    let of_log = "SELECT position, stream, name, payload FROM cqrs_events ORDER BY position";
    let of_name =
        "SELECT position, stream, name, payload FROM cqrs_events WHERE +name = 'Withdrawn' ORDER BY position";
    let hand = [of_stream, of_log, of_name].map(|sql| best(|| by_hand(sql)));
    let read = StreamRead {
        stream,
        from: Version::new(1),
        direction: Direction::Forward,
        limit: 10_000,
        detail: Detail::Fold,
    };
    let ours = [
        best(|| assert_eq!(runtime.block_on(store.read_stream(read.clone())).unwrap().events.len(), 10_000)),
        best(|| assert_eq!(runtime.block_on(pages(&store, Query::all())), 200_000)),
        best(|| assert_eq!(runtime.block_on(pages(&store, Query::names(["Withdrawn"]))), 100_000)),
    ];
    println!("\n{:<40} {:>10} {:>10} {:>8}", "reading, best of 7", "by hand", "store", "ratio");
    let names = ["a stream of 10,000", "a log of 200,000 in pages of 1,000", "half of it, by name"];
    for ((name, hand), ours) in names.iter().zip(hand).zip(ours) {
        println!("{name:<40} {hand:>10.1?} {ours:>10.1?} {:>8.2}", ours.as_secs_f64() / hand.as_secs_f64());
    }
}

async fn pages(store: &SqliteStore, query: Query) -> usize {
    let (mut after, mut count) = (Position::START, 0);
    loop {
        let read =
            LogRead { partition: Partition::ONLY, after, up_to: None, query: query.clone(), limit: 1_000 };
        let slice = store.read_log(read).await.unwrap();
        count += slice.events.len();
        after = slice.read_to;
        if after >= slice.head.position {
            return count;
        }
    }
}

fn best(mut work: impl FnMut()) -> Duration {
    let time = |()| {
        let start = Instant::now();
        work();
        start.elapsed()
    };
    std::iter::repeat_n((), 7).map(time).min().unwrap_or_default()
}
