//! Commands for one stream that are decided on what others before them are about to write.
//!
//! The store here takes appends up at once and commits what waits together, when the test says so: as a
//! disk would, only that it also fails when the test says so.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use cqrs::engine::{ExecuteError, Stores};
use cqrs::error::{StoreError, StoreErrorKind};
use cqrs::memory::MemoryStore;
use cqrs::prelude::*;
use cqrs::store::{
    Append, AppendError, Appended, BoxFuture, Capabilities, CommandKey, Direction, EventStore, Head, Limits,
    LogRead, LogSlice, StreamRead, StreamSlice,
};
use cqrs::{Partition, Position, StreamId, Version};
use tokio::sync::{Notify, oneshot};

use crate::bank::*;

type Outcome = Result<Appended, AppendError>;

/// A log that commits when it is told to.
#[derive(Debug)]
struct Slow {
    inner: MemoryStore,
    waiting: Mutex<VecDeque<(Append, oneshot::Sender<Outcome>)>>,
    arrived: Notify,
    /// How many appends were taken up, and how many groups committed.
    taken: AtomicUsize,
    groups: AtomicUsize,
}

/// What becomes of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Commits,
    /// The first of it fails for a reason of its own, the others are tried.
    FirstFails,
    /// All of it fails.
    Fails,
    /// Its outcome is not known; it was committed.
    UnknownButThere,
    /// Its outcome is not known; it was not committed.
    UnknownAndLost,
}

impl Slow {
    fn new() -> Arc<Self> {
        let (inner, waiting) = (MemoryStore::new(), Mutex::default());
        let (taken, groups) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { inner, waiting, arrived: Notify::new(), taken, groups })
    }

    fn stores(self: &Arc<Self>) -> Stores {
        Stores { log: self.clone(), documents: Arc::new(self.inner.clone()) }
    }

    /// Waits until so many have been taken up in all.
    async fn until(&self, taken: usize) {
        loop {
            let arrived = self.arrived.notified();
            if self.taken.load(Ordering::SeqCst) >= taken {
                return;
            }
            arrived.await;
        }
    }

    /// Decides on all that waits.
    async fn settle(&self, fate: Fate) -> usize {
        let group: Vec<_> = self.waiting.lock().unwrap().drain(..).collect();
        if !group.is_empty() {
            self.groups.fetch_add(1, Ordering::SeqCst);
        }
        let size = group.len();
        for (at, (append, answer)) in group.into_iter().enumerate() {
            let fault = |kind| Err(StoreError::new(kind, "the test said so").into());
            let outcome = match fate {
                Fate::FirstFails if at == 0 => fault(StoreErrorKind::Failed),
                Fate::Commits | Fate::FirstFails => self.inner.append(append).await,
                Fate::Fails => fault(StoreErrorKind::Failed),
                Fate::UnknownButThere => {
                    let _ = self.inner.append(append).await;
                    fault(StoreErrorKind::Unknown)
                }
                Fate::UnknownAndLost => fault(StoreErrorKind::Unknown),
            };
            let _ = answer.send(outcome);
        }
        size
    }
}

impl EventStore for Slow {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
    fn limits(&self) -> Limits {
        self.inner.limits()
    }
    fn partition_of(&self, stream: &StreamId) -> Partition {
        self.inner.partition_of(stream)
    }
    fn append(&self, append: Append) -> BoxFuture<'_, Outcome> {
        Box::pin(async move {
            let (answer, outcome) = oneshot::channel();
            self.waiting.lock().unwrap().push_back((append, answer));
            self.taken.fetch_add(1, Ordering::SeqCst);
            self.arrived.notify_waiters();
            outcome.await.unwrap()
        })
    }
    fn find_key(&self, key: &CommandKey) -> BoxFuture<'_, Result<Option<Appended>, StoreError>> {
        self.inner.find_key(key)
    }
    fn read_stream(&self, read: StreamRead) -> BoxFuture<'_, Result<StreamSlice, StoreError>> {
        self.inner.read_stream(read)
    }
    fn read_log(&self, read: LogRead) -> BoxFuture<'_, Result<LogSlice, StoreError>> {
        self.inner.read_log(read)
    }
    fn head(&self, partition: Partition) -> BoxFuture<'_, Result<Head, StoreError>> {
        self.inner.head(partition)
    }
    fn wait(&self, partition: Partition, after: Position) -> BoxFuture<'_, Result<(), StoreError>> {
        self.inner.wait(partition, after)
    }
}

/// An account with so much in it, in a log that is slow from now on.
async fn account(cents: u64) -> (Arc<Slow>, Engine) {
    let slow = Slow::new();
    let quick = quiet(slow.inner.clone()).await;
    open(&quick, 1, cents).await;
    let bank = quiet(slow.stores()).await;
    (slow, bank)
}

fn deposit(
    bank: &Engine,
    cents: u64,
) -> tokio::task::JoinHandle<Result<Receipt, ExecuteError<AccountError>>> {
    let bank = bank.clone();
    tokio::spawn(async move { bank.execute(Deposit { account: 1, cents }).await })
}

fn withdraw(
    bank: &Engine,
    cents: u64,
) -> tokio::task::JoinHandle<Result<Receipt, ExecuteError<AccountError>>> {
    let bank = bank.clone();
    tokio::spawn(async move { bank.execute(Withdraw { account: 1, cents }).await })
}

async fn turns() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn commands_for_one_stream_share_a_commit() {
    let (slow, bank) = account(0).await;
    let all: Vec<_> = (1..=10).map(|cents| deposit(&bank, cents)).collect();
    slow.until(10).await;
    assert_eq!(slow.settle(Fate::Commits).await, 10);
    let mut versions = Vec::new();
    for one in all {
        versions.push(one.await.unwrap().unwrap().version().get());
    }
    assert_eq!(versions, (3..=12).collect::<Vec<_>>(), "in the order in which they came");
    assert_eq!((slow.groups.load(Ordering::SeqCst), balance(&bank, 1).await), (1, 55));
}

#[tokio::test]
async fn what_rests_on_a_lost_append_is_decided_again() {
    let (slow, bank) = account(0).await;
    let lost = deposit(&bank, 100);
    slow.until(1).await;
    let rests = withdraw(&bank, 60);
    slow.until(2).await;
    slow.settle(Fate::FirstFails).await;
    assert!(matches!(lost.await.unwrap(), Err(ExecuteError::Failed(_))));
    // There never were 100.
    let refused = rests.await.unwrap().unwrap_err();
    assert!(matches!(refused, ExecuteError::Refused(AccountError::Overdraft { balance: 0 })), "{refused}");
    assert_eq!(balance(&bank, 1).await, 0);
}

#[tokio::test]
async fn a_refusal_waits_for_what_it_rests_on() {
    for (fate, accepted) in [(Fate::Commits, false), (Fate::Fails, true)] {
        let (slow, bank) = account(100).await;
        let first = withdraw(&bank, 80);
        slow.until(1).await;
        let second = withdraw(&bank, 80);
        slow.until(2).await;
        turns().await;
        assert!(!second.is_finished(), "nobody is refused on account of what was not written");
        slow.settle(fate).await;
        assert_eq!(first.await.unwrap().is_ok(), !accepted);
        if accepted {
            slow.until(3).await;
            slow.settle(Fate::Commits).await;
        }
        assert_eq!(second.await.unwrap().is_ok(), accepted, "{fate:?}");
        assert_eq!(balance(&bank, 1).await, 20);
    }
}

/// It is checked in the commit of those around it, who are decided as if it were not there.
#[tokio::test]
async fn a_refusal_shares_a_commit_and_keeps_nobody_waiting() {
    let (slow, bank) = account(100).await;
    let first = withdraw(&bank, 80);
    slow.until(1).await;
    let refused = withdraw(&bank, 80);
    slow.until(2).await;
    let last = withdraw(&bank, 20);
    slow.until(3).await;
    assert_eq!(slow.settle(Fate::Commits).await, 3);
    assert!(first.await.unwrap().is_ok());
    let refused = refused.await.unwrap().unwrap_err();
    assert!(matches!(refused, ExecuteError::Refused(AccountError::Overdraft { balance: 20 })), "{refused}");
    assert!(last.await.unwrap().is_ok());
    assert_eq!((slow.groups.load(Ordering::SeqCst), balance(&bank, 1).await), (1, 0));
}

/// If the store cannot say whether it rests on what is written, the stream is read.
#[tokio::test]
async fn a_refusal_that_cannot_be_checked_is_decided_on_what_is_read() {
    for fate in [Fate::Fails, Fate::UnknownAndLost] {
        let (slow, bank) = account(100).await;
        let first = withdraw(&bank, 80);
        slow.until(1).await;
        slow.settle(Fate::Commits).await;
        first.await.unwrap().unwrap();
        let second = withdraw(&bank, 80);
        slow.until(2).await;
        slow.settle(fate).await;
        let refused = second.await.unwrap().unwrap_err();
        assert!(
            matches!(refused, ExecuteError::Refused(AccountError::Overdraft { balance: 20 })),
            "{fate:?}: {refused}"
        );
    }
}

/// Somebody else has put in what is asked for, of which this process does not know.
#[tokio::test]
async fn a_refusal_on_what_is_old_is_decided_again() {
    let (slow, bank) = account(0).await;
    let first = deposit(&bank, 10);
    slow.until(1).await;
    slow.settle(Fate::Commits).await;
    first.await.unwrap().unwrap();
    let other = quiet(slow.inner.clone()).await;
    other.execute(Deposit { account: 1, cents: 100 }).await.unwrap();
    let second = withdraw(&bank, 80);
    slow.until(2).await;
    slow.settle(Fate::Commits).await;
    slow.until(3).await;
    slow.settle(Fate::Commits).await;
    assert!(second.await.unwrap().is_ok());
    assert_eq!(balance(&bank, 1).await, 30);
}

#[tokio::test]
async fn an_expected_version_waits_as_well() {
    let (slow, bank) = account(100).await;
    let first = deposit(&bank, 1);
    slow.until(1).await;
    let expecting = {
        let bank = bank.clone();
        tokio::spawn(
            async move { bank.execute(Deposit { account: 1, cents: 5 }).expect(Version::new(2)).await },
        )
    };
    slow.until(2).await;
    turns().await;
    assert!(!expecting.is_finished());
    slow.settle(Fate::Fails).await;
    assert!(first.await.unwrap().is_err());
    slow.until(3).await;
    slow.settle(Fate::Commits).await;
    assert_eq!(expecting.await.unwrap().unwrap().version(), Version::new(3));
}

#[tokio::test]
async fn many_that_rest_on_a_lost_one_do_not_run_out_of_tries() {
    let (slow, bank) = account(0).await;
    let mut all: Vec<_> = (0..30).map(|_| deposit(&bank, 1)).collect();
    let mut taken = 30;
    // Each time the first is lost, and all behind it with it: more often than a command is tried.
    for round in 0..25 {
        slow.until(taken).await;
        slow.settle(Fate::FirstFails).await;
        taken += 29 - round;
    }
    slow.until(taken).await;
    slow.settle(Fate::Commits).await;
    let mut accepted = 0;
    for one in all.drain(..) {
        match one.await.unwrap() {
            Ok(_) => accepted += 1,
            Err(ExecuteError::Failed(_)) => {}
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!((accepted, balance(&bank, 1).await), (5, 5));
}

#[tokio::test]
async fn another_writer_in_between_is_noticed() {
    let (slow, bank) = account(100).await;
    let other = quiet(slow.inner.clone()).await;
    let first = withdraw(&bank, 60);
    slow.until(1).await;
    let second = withdraw(&bank, 40);
    slow.until(2).await;
    other.execute(Withdraw { account: 1, cents: 50 }).await.unwrap();
    slow.settle(Fate::Commits).await;
    // The other's event has taken the very version that the second rests on, and is not what it rests on.
    let on = slow.clone();
    let committing = tokio::spawn(async move {
        loop {
            turns().await;
            on.settle(Fate::Commits).await;
        }
    });
    let refused = first.await.unwrap().unwrap_err();
    assert!(matches!(refused, ExecuteError::Refused(AccountError::Overdraft { .. })), "{refused}");
    second.await.unwrap().unwrap();
    committing.abort();
    assert_eq!(balance(&bank, 1).await, 10);
}

#[tokio::test]
async fn who_is_given_up_does_not_mislead_the_next() {
    let (slow, bank) = account(0).await;
    let given_up = deposit(&bank, 100);
    slow.until(1).await;
    given_up.abort();
    let _ = given_up.await;
    // It was never committed, and its state is not believed.
    slow.waiting.lock().unwrap().clear();
    let refused = withdraw(&bank, 60).await.unwrap().unwrap_err();
    assert!(matches!(refused, ExecuteError::Refused(AccountError::Overdraft { balance: 0 })), "{refused}");
}

#[tokio::test]
async fn an_unknown_outcome_is_looked_up_by_each() {
    for (fate, there) in [(Fate::UnknownButThere, true), (Fate::UnknownAndLost, false)] {
        let (slow, bank) = account(0).await;
        let all: Vec<_> = (0..5).map(|_| deposit(&bank, 1)).collect();
        slow.until(5).await;
        slow.settle(fate).await;
        for one in all {
            assert_eq!(one.await.unwrap().is_ok(), there, "{fate:?}");
        }
        assert_eq!(balance(&bank, 1).await, if there { 5 } else { 0 });
    }
}

/// Many tasks against a store that is in a bad mood; what was acknowledged is there once, at the version
/// of its receipt, and a balance never goes below zero.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_becomes_of_groups_the_log_is_what_was_told() {
    let slow = Slow::new();
    let quick = quiet(slow.inner.clone()).await;
    for account in 0..3 {
        open(&quick, account, 50).await;
    }
    let bank = quiet(slow.stores()).await;
    let mood = {
        let slow = slow.clone();
        tokio::spawn(async move {
            let fates = [
                Fate::Commits,
                Fate::Commits,
                Fate::FirstFails,
                Fate::UnknownButThere,
                Fate::Commits,
                Fate::UnknownAndLost,
                Fate::Fails,
            ];
            for round in 0_usize.. {
                turns().await;
                slow.settle(fates[round * 31 % fates.len()]).await;
            }
        })
    };
    let tasks: Vec<_> = (0..24_u64)
        .map(|task| {
            let bank = bank.clone();
            tokio::spawn(async move {
                let mut receipts = Vec::new();
                for round in 0..40 {
                    let account = (task + round) % 3;
                    let cents = task * 40 + round + 1;
                    let end = match (task + round) % 4 {
                        0 => bank.execute(Withdraw { account, cents: cents % 90 + 1 }).await.map(|_| None),
                        _ => {
                            let end = bank.execute(Deposit { account, cents }).await;
                            end.map(|receipt| Some((account, receipt, cents)))
                        }
                    };
                    receipts.extend(end.ok().flatten());
                }
                receipts
            })
        })
        .collect();
    let mut told = Vec::new();
    for task in tasks {
        told.extend(task.await.unwrap());
    }
    mood.abort();
    assert!(told.len() > 100, "{}", told.len());
    let mut deposits = 0;
    for account in 0..3_u64 {
        let read = StreamRead {
            stream: StreamId::new("Account", &account).unwrap(),
            from: Version::new(1),
            direction: Direction::Forward,
            limit: 10_000,
        };
        let events = slow.inner.read_stream(read).await.unwrap().events;
        let mut balance = 0_i64;
        let mut amounts = std::collections::HashMap::new();
        for event in &events {
            let Ok(json) = serde_json::from_slice::<serde_json::Value>(&event.payload) else { continue };
            let cents = json.get("cents").and_then(serde_json::Value::as_i64).unwrap_or(0);
            match &*event.name {
                "Deposited" => {
                    balance += cents;
                    *amounts.entry(cents).or_insert(0) += 1;
                    deposits += 1;
                }
                "Withdrawn" => balance -= cents,
                _ => {}
            }
            assert!(balance >= 0, "account {account} at version {}", event.meta.version);
        }
        for (_, receipt, cents) in told.iter().filter(|(of, ..)| *of == account) {
            let at = receipt.version().get() as usize - 1;
            let payload = String::from_utf8_lossy(&events[at].payload).into_owned();
            assert_eq!(payload, format!("{{\"cents\":{cents}}}"), "at the version of its receipt");
            assert_eq!(events[at].meta.position, receipt.position());
            assert!(amounts[&(*cents as i64)] <= 2, "once, but for the 50 of the beginning");
        }
    }
    assert!(deposits >= told.len(), "what was told of is there");
}

/// The negative control: where guards are not checked, deciding ahead does harm, and the test above would
/// see it.
#[tokio::test]
async fn without_guards_a_lost_append_is_built_upon() {
    let slow = Slow::new();
    let quick = quiet(slow.inner.clone()).await;
    open(&quick, 1, 0).await;
    let log = Arc::new(crate::flawed::Unguarded(slow.inner.clone()));
    let (slow, bank) = {
        let unguarded = Arc::new(Unchecked { slow: slow.clone(), log });
        let stores = Stores { log: unguarded, documents: Arc::new(slow.inner.clone()) };
        (slow, quiet(stores).await)
    };
    let lost = deposit(&bank, 100);
    slow.until(1).await;
    let rests = withdraw(&bank, 60);
    slow.until(2).await;
    slow.settle(Fate::FirstFails).await;
    assert!(lost.await.unwrap().is_err());
    assert!(rests.await.unwrap().is_ok(), "money that was never there");
}

/// A slow log that drops the guards.
#[derive(Debug)]
struct Unchecked {
    slow: Arc<Slow>,
    log: Arc<crate::flawed::Unguarded>,
}

impl EventStore for Unchecked {
    fn capabilities(&self) -> Capabilities {
        self.log.capabilities()
    }
    fn limits(&self) -> Limits {
        self.log.limits()
    }
    fn partition_of(&self, stream: &StreamId) -> Partition {
        self.log.partition_of(stream)
    }
    fn append(&self, mut append: Append) -> BoxFuture<'_, Outcome> {
        append.guard = cqrs::store::Guard::Any;
        self.slow.append(append)
    }
    fn find_key(&self, key: &CommandKey) -> BoxFuture<'_, Result<Option<Appended>, StoreError>> {
        self.log.find_key(key)
    }
    fn read_stream(&self, read: StreamRead) -> BoxFuture<'_, Result<StreamSlice, StoreError>> {
        self.log.read_stream(read)
    }
    fn read_log(&self, read: LogRead) -> BoxFuture<'_, Result<LogSlice, StoreError>> {
        self.log.read_log(read)
    }
    fn head(&self, partition: Partition) -> BoxFuture<'_, Result<Head, StoreError>> {
        self.log.head(partition)
    }
    fn wait(&self, partition: Partition, after: Position) -> BoxFuture<'_, Result<(), StoreError>> {
        self.log.wait(partition, after)
    }
}
