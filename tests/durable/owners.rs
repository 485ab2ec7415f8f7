//! A process that is stopped in the midst of a batch and wakes up when another one has taken over.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use cqrs::engine::Stores;
use cqrs::error::StoreError;
use cqrs::read_store::{Batch, Checkpoint, Claim, CommitError, Entry, EntryKey, RangeRead, ReadStore};
use cqrs::sqlite::SqliteStore;
use cqrs::store::BoxFuture;
use cqrs::{Engine, Partition, Registry};

use crate::check::{Told, check};
use crate::domain::{Request, Summary, quiet};
use crate::process::{Process, block_on, open, part, tell};
use crate::wrong::{Flaw, Flawed};

/// A read store whose first commit waits for a word from the parent, and says what came of it.
#[derive(Debug)]
struct Held<S>(S, AtomicBool);

impl<S: ReadStore> ReadStore for Held<S> {
    fn claim(&self, consumer: &str) -> BoxFuture<'_, Result<Claim, StoreError>> {
        self.0.claim(consumer)
    }
    fn checkpoint(
        &self,
        consumer: &str,
        partition: Partition,
    ) -> BoxFuture<'_, Result<Option<Checkpoint>, StoreError>> {
        self.0.checkpoint(consumer, partition)
    }
    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<(), CommitError>> {
        Box::pin(async move {
            if self.1.swap(true, Ordering::SeqCst) {
                return self.0.commit(batch).await;
            }
            tell("about to commit");
            let word = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
            word.await.unwrap().unwrap();
            let end = self.0.commit(batch).await;
            tell(match &end {
                Ok(()) => "written",
                Err(CommitError::Fenced) => "fenced",
                Err(_) => "failed",
            });
            end
        })
    }
    fn get(
        &self,
        consumer: &str,
        entries: Vec<EntryKey>,
    ) -> BoxFuture<'_, Result<Vec<Option<Bytes>>, StoreError>> {
        self.0.get(consumer, entries)
    }
    fn range(&self, range: RangeRead) -> BoxFuture<'_, Result<Vec<Entry>, StoreError>> {
        self.0.range(range)
    }
}

/// The zombie: follows one projection, until it is killed. While it is held it writes nothing else, or
/// it might be stopped with the file locked.
async fn follow(file: &Path, flaw: &str) {
    let store = SqliteStore::open(file).await.unwrap();
    let documents: Arc<dyn ReadStore> = match flaw {
        "none" => Arc::new(Held(store.clone(), AtomicBool::new(false))),
        _ => Arc::new(Held(Flawed(store.clone(), Flaw::NoFence), AtomicBool::new(false))),
    };
    let stores = Stores { log: Arc::new(store), documents };
    let _bank = Engine::builder().registry(Registry::new().with::<Summary>()).build(stores).await.unwrap();
    std::future::pending::<()>().await;
}

fn signal(process: &Process, signal: &str) {
    let done = Command::new("kill").args([signal, &process.child.id().to_string()]).status();
    assert!(done.unwrap().success());
}

/// What the zombie could do when it woke up, and what a check finds then.
fn wake_a_zombie(test: &str, flaw: &str) -> (String, Result<usize, String>) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bank.db");
    let mut told = Told::default();
    let stores = block_on(open(&file));
    let mut send = |account, numbers: std::ops::Range<u64>| {
        block_on(async {
            let bank = quiet(stores.clone()).await;
            for number in numbers {
                let request = Request::new("parent", account, number);
                let answer = request.send(&bank).await.unwrap();
                told.answered(request, answer);
            }
            bank
        })
    };
    send(1, 0..5);
    let mut zombie = Process::start(test, flaw, &file);
    assert_eq!(zombie.hear().as_deref(), Some("about to commit"));
    signal(&zombie, "-STOP");
    // Of two documents the zombie knows one.
    send(1, 5..9);
    let bank = send(2, 0..5);
    block_on(bank.catch_up()).unwrap();
    signal(&zombie, "-CONT");
    zombie.child.stdin.as_mut().unwrap().write_all(b"go on\n").unwrap();
    let end = zombie.hear().unwrap();
    zombie.child.kill().unwrap();
    zombie.child.wait().unwrap();
    (end, block_on(check(&stores, &told)))
}

#[cfg(unix)]
#[test]
fn a_zombie_writes_nothing() {
    if let Some((flaw, file)) = part() {
        return block_on(follow(&file, &flaw));
    }
    let (end, found) = wake_a_zombie("owners::a_zombie_writes_nothing", "none");
    assert_eq!(end, "fenced");
    found.unwrap();
}

/// The control: without the fence it writes, and that is found.
#[cfg(unix)]
#[test]
fn a_zombie_without_a_fence_is_caught() {
    if let Some((flaw, file)) = part() {
        return block_on(follow(&file, &flaw));
    }
    let (end, found) = wake_a_zombie("owners::a_zombie_without_a_fence_is_caught", "no fence");
    assert_eq!(end, "written");
    let found = found.unwrap_err();
    assert!(found.starts_with("read models, as they were found: "), "{found}");
}
