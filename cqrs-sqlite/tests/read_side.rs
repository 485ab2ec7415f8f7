//! Read models over processes: one keeps them, another reads its writes.

#![allow(missing_docs, missing_debug_implementations, reason = "a test")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test stops at a fault")]

mod support;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::time::Duration;

use cqrs::Partition;
use cqrs::engine::{ConsumerFault, EngineBuilder, ReadError};
use cqrs::prelude::*;
use cqrs::read_store::{RangeRead, ReadStore as _};
use cqrs_sqlite::SqliteStore;
use support::{child, dir, role};

#[derive(Event, Serialize, Deserialize)]
struct Counted {
    by: u64,
}

#[derive(Command)]
struct Count {
    #[id]
    counter: u64,
    by: u64,
}

#[derive(Default)]
struct Counter;

#[aggregate(id = u64)]
impl Counter {
    #[handle]
    fn count(&self, cmd: Count) -> Counted {
        Counted { by: cmd.by }
    }
    #[apply]
    fn counted(&mut self, _: &Counted) {}
}

#[derive(Default, Serialize, Deserialize, Debug, PartialEq)]
struct Total {
    total: u64,
}

#[projection(name = "total", key = u64)]
impl Total {
    #[on]
    fn counted(&mut self, event: &Counted) {
        self.total += event.by;
    }
}

async fn engine(file: &Path, build: impl FnOnce(EngineBuilder) -> EngineBuilder) -> Engine {
    build(Engine::builder()).build(SqliteStore::open(file).await.unwrap()).await.unwrap()
}

/// Writes when told to, keeps the read model, and says the receipts.
async fn keep(file: &Path) {
    let engine = engine(file, |builder| builder).await;
    for line in std::io::stdin().lines() {
        let by = line.unwrap().parse().unwrap();
        let receipt = engine.execute(Count { counter: 1, by }).await.unwrap();
        let mut out = std::io::stdout().lock();
        writeln!(out, "> {receipt}").unwrap();
        out.flush().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receipt_of_one_process_is_waited_for_in_another() {
    if let Some((_, file)) = role() {
        keep(&file).await;
        return;
    }
    let dir = dir();
    let file = dir.path().join("shared.db");
    let test = "a_receipt_of_one_process_is_waited_for_in_another";
    let mut command = child(test, &file, "keeper");
    let mut keeper = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
    let mut input = keeper.stdin.take().unwrap();
    let mut output = BufReader::new(keeper.stdout.take().unwrap()).lines();
    let mut tell = |by: u64| -> Receipt {
        writeln!(input, "{by}").unwrap();
        let token = output.find_map(|line| Some(line.unwrap().split_once("> ")?.1.to_owned()));
        token.unwrap().parse().unwrap()
    };
    // One that never keeps the read model, and one that would if nobody else did.
    let reader = engine(&file, EngineBuilder::projections_elsewhere).await;
    let heir = engine(&file, |builder| builder).await;
    let mut total = 0;
    for by in 1..=20 {
        let receipt = tell(by);
        total += by;
        for engine in [&reader, &heir] {
            let read = engine.get::<Total>(&1).after(&receipt).dated().await.unwrap();
            assert_eq!(read.value, Some(Total { total }));
        }
    }
    // What this process writes is folded by the other one too.
    let receipt = reader.execute(Count { counter: 1, by: 100 }).await.unwrap();
    assert_eq!(reader.get::<Total>(&1).after(&receipt).await.unwrap().unwrap().total, total + 100);

    keeper.kill().unwrap();
    keeper.wait().unwrap();
    let receipt = reader.execute(Count { counter: 1, by: 1_000 }).await.unwrap();
    let read = heir.get::<Total>(&1).after(&receipt).await.unwrap();
    assert_eq!(read.unwrap().total, total + 1_100, "the heir has not taken over");
    heir.shutdown().await;
    assert!(reader.verify().await.unwrap().is_sound());
    let receipt = reader.execute(Count { counter: 1, by: 1 }).await.unwrap();
    let read = reader.get::<Total>(&1).after(&receipt).timeout(Duration::from_millis(300)).await;
    assert!(matches!(read.unwrap_err(), ReadError::Behind { .. }), "nobody is left");
    let store = SqliteStore::open(&file).await.unwrap();
    let stored = store.checkpoint("total", Partition::ONLY).await.unwrap().unwrap().position;
    let status = reader.status().await.unwrap().remove(0);
    assert_eq!((status.position, status.lag.positions), (stored, 1));
}

async fn apart(log: &Path, reads: &Path) -> Engine {
    let url = |file: &Path| format!("sqlite:{}", file.display());
    Engine::builder().read_models(url(reads)).open(&url(log)).await.unwrap()
}

async fn documents(file: &Path) -> usize {
    SqliteStore::open(file).await.unwrap().range(RangeRead::documents("total", 10)).await.unwrap().len()
}

/// Ends an engine and all that holds its files.
async fn end(engine: Engine, files: [&Path; 2]) {
    engine.shutdown().await;
    drop(engine);
    files.into_iter().for_each(support::at_rest);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn read_models_live_in_a_file_of_their_own() {
    let dir = dir();
    let [log, reads, other] = ["log.db", "reads.db", "other.db"].map(|name| dir.path().join(name));
    let engine = apart(&log, &reads).await;
    let mut receipt = None;
    for counter in 1..=3 {
        receipt = Some(engine.execute(Count { counter, by: counter }).await.unwrap());
    }
    let receipt = receipt.unwrap();
    assert_eq!(engine.get::<Total>(&3).after(&receipt).await.unwrap(), Some(Total { total: 3 }));
    assert_eq!((documents(&log).await, documents(&reads).await), (0, 3));
    end(engine, [&log, &reads]).await;

    // It goes on where it was, in a new engine.
    let engine = apart(&log, &reads).await;
    assert_eq!(engine.get::<Total>(&3).await.unwrap(), Some(Total { total: 3 }));
    let receipt = engine.execute(Count { counter: 3, by: 1 }).await.unwrap();
    assert_eq!(engine.get::<Total>(&3).after(&receipt).await.unwrap(), Some(Total { total: 4 }));
    end(engine, [&log, &reads]).await;

    // Lost read models are made anew from the log.
    std::fs::remove_file(&reads).unwrap();
    let engine = apart(&log, &reads).await;
    assert_eq!(engine.get::<Total>(&3).after(&receipt).await.unwrap(), Some(Total { total: 4 }));
    assert!(engine.verify().await.unwrap().is_sound());
    assert_eq!((documents(&log).await, documents(&reads).await), (0, 3));
    end(engine, [&log, &reads]).await;

    // Of another log they are not taken for its own.
    let engine = apart(&other, &reads).await;
    let receipt = engine.execute(Count { counter: 3, by: 1 }).await.unwrap();
    let stopped = engine.get::<Total>(&3).after(&receipt).await.unwrap_err();
    let ReadError::Stopped { fault: ConsumerFault::OtherLog, .. } = stopped else { panic!("{stopped:?}") };
    assert_eq!(engine.status().await.unwrap()[0].lag.positions, 1);
    assert!(!engine.verify().await.unwrap().is_sound());
    end(engine, [&other, &reads]).await;
}
