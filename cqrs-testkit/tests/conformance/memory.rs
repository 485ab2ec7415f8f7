//! The store in memory keeps the contract, as a whole and with parts of it taken away.

use std::collections::BTreeSet;
use std::sync::Arc;

use cqrs_core::error::StoreError;
use cqrs_core::memory::MemoryStore;
use cqrs_core::store::{
    Append, AppendError, Appended, BoxFuture, Capabilities, CommandKey, EventStore, Guard, Head, Limits,
    LogRead, LogSlice, StreamRead, StreamSlice, unsupported,
};
use cqrs_core::{Partition, Position, StreamId};
use cqrs_testkit::conformance::{Backup, Fault, Outcome, Setup, Stores, Suite};

struct Memory {
    partitions: u16,
}

pub(crate) fn stores(store: &MemoryStore) -> Stores {
    let (one, again, there) = (Arc::new(store.clone()), store.clone(), store.clone());
    let stores = Stores::new(one.clone()).documents(one).again(move || {
        let stores = stores(&again.reopen());
        Box::pin(async { Ok(stores) })
    });
    stores.backup(move || back_up(&there))
}

pub(crate) fn back_up(store: &MemoryStore) -> BoxFuture<'static, Result<Backup, Fault>> {
    let (store, backup) = (store.clone(), store.backup());
    Box::pin(async {
        Ok(Backup::new(move || Box::pin(async move { store.restore(&backup).map_err(Fault::from) })))
    })
}

impl Setup for Memory {
    fn fresh(&self) -> BoxFuture<'_, Result<Stores, Fault>> {
        Box::pin(async { Ok(stores(&MemoryStore::builder().partitions(self.partitions).build())) })
    }
}

mod one_partition {
    cqrs_testkit::conformance_tests!(super::Memory { partitions: 1 });
}

#[test]
fn four_partitions() {
    cqrs_testkit::conformance::run(Memory { partitions: 4 });
}

/// The store in memory without tags, snapshots, reservations and inline projections, and with one stream for
/// each append, as some stores are.
#[derive(Clone, Debug)]
pub(crate) struct Plain(pub(crate) MemoryStore);

impl Plain {
    fn check(append: &Append) -> Result<(), StoreError> {
        if append.guard.asks_for_tags() {
            return Err(unsupported("guard tags"));
        }
        if !append.inline.is_empty() {
            return Err(unsupported("carry inline projections out"));
        }
        let streams = append.events.iter().map(|event| &event.stream).chain(guarded(&append.guard));
        let streams: BTreeSet<&StreamId> = streams.collect();
        if streams.len() > 1 {
            return Err(unsupported("append to or guard several streams at once"));
        }
        Ok(())
    }
}

fn guarded(guard: &Guard) -> Vec<&StreamId> {
    match guard {
        Guard::Stream { stream, .. } => vec![stream],
        Guard::All(all) => all.iter().flat_map(guarded).collect(),
        Guard::Any | Guard::Unchanged { .. } | Guard::Absent(_) => Vec::new(),
    }
}

impl EventStore for Plain {
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = self.0.capabilities();
        (capabilities.tags, capabilities.multi_stream_append) = (false, false);
        (capabilities.inline, capabilities.snapshots) = (false, false);
        capabilities.reservations = false;
        capabilities
    }

    fn limits(&self) -> Limits {
        self.0.limits()
    }

    fn partition_of(&self, stream: &StreamId) -> Partition {
        self.0.partition_of(stream)
    }

    fn append(&self, append: Append) -> BoxFuture<'_, Result<Appended, AppendError>> {
        Box::pin(async move {
            self.limits().check(&append)?;
            Self::check(&append)?;
            self.0.append(append).await
        })
    }

    fn find_key(&self, key: &CommandKey) -> BoxFuture<'_, Result<Option<Appended>, StoreError>> {
        self.0.find_key(key)
    }

    fn read_stream(&self, read: StreamRead) -> BoxFuture<'_, Result<StreamSlice, StoreError>> {
        self.0.read_stream(read)
    }

    fn read_log(&self, read: LogRead) -> BoxFuture<'_, Result<LogSlice, StoreError>> {
        if read.query.asks_for_tags() {
            return Box::pin(async { Err(unsupported("read by tags")) });
        }
        self.0.read_log(read)
    }

    fn head(&self, partition: Partition) -> BoxFuture<'_, Result<Head, StoreError>> {
        self.0.head(partition)
    }

    fn wait(&self, partition: Partition, after: Position) -> BoxFuture<'_, Result<(), StoreError>> {
        self.0.wait(partition, after)
    }
}

impl Setup for Plain {
    fn fresh(&self) -> BoxFuture<'_, Result<Stores, Fault>> {
        Box::pin(async { Ok(Stores::new(Arc::new(Self(MemoryStore::new())))) })
    }
}

/// A store that can do less passes too, and is told what it was not held to.
#[test]
fn what_a_store_lacks_is_left_out_and_named() {
    let suite = Suite::new(Plain(MemoryStore::new()));
    suite.run();
    let report = suite.report();
    let lacking = |lack: &str| {
        let because = |outcome: &Outcome| matches!(outcome, Outcome::Skipped(why) if why.contains(lack));
        report.outcomes().filter(|(_, outcome)| because(outcome)).count()
    };
    let reasons = [
        "no tags",
        "one stream at a time",
        "one partition",
        "no read store",
        "open the store again",
        "back the store up",
        "no snapshots",
        "no reservations",
        "no inline",
    ];
    let counts = reasons.map(lacking);
    assert!(!counts.contains(&0), "{counts:?}");
    assert_eq!(counts.iter().sum::<usize>(), report.skipped().len());
}
