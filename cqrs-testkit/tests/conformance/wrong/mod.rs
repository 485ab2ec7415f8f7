//! A store that is wrong in one way, on purpose.
//!
//! It stands before the store in memory and spoils what goes in or what comes out. Most flaws are
//! ones that real stores have; all are as small as they can be, so that one rule notices and no
//! other.

mod append;
mod documents;
mod flaw;
mod inline;
mod read;
mod records;
mod reservations;
mod rewound;
mod snapshots;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use cqrs_core::error::StoreError;
use cqrs_core::event::Tag;
use cqrs_core::memory::MemoryStore;
use cqrs_core::read_store::{EntryKey, Record};
use cqrs_core::store::{
    Append, AppendError, Appended, BoxFuture, Capabilities, CommandKey, EventStore, Head, Limits, LogId,
    LogRead, LogSlice, Reservation, Snapshot, StreamRead, StreamSlice, TakeEvent,
};
use cqrs_core::{Partition, Position, StreamId, Version};
use cqrs_testkit::conformance::{Fault, Setup, Stores};
use uuid::Uuid;

pub(crate) use self::flaw::{FLAWS, Flaw};
use crate::memory::Plain;

/// A handle of a wrong store.
#[derive(Clone, Debug)]
pub(crate) struct Wrong {
    inner: Arc<dyn EventStore>,
    documents: MemoryStore,
    ground: Ground,
    flaw: Flaw,
    /// Whether it was opened beside the first.
    second: bool,
    state: Arc<State>,
}

/// What flaws remember.
#[derive(Debug, Default)]
struct State {
    line: tokio::sync::Mutex<()>,
    turn: Arc<tokio::sync::RwLock<()>>,
    used: Mutex<HashMap<Uuid, Partition>>,
    hidden: Mutex<HashSet<Uuid>>,
    keys: Mutex<HashMap<String, (StreamId, Appended)>>,
    hidden_keys: Mutex<HashSet<CommandKey>>,
    ghosts: Mutex<HashSet<Tag>>,
    partner: Mutex<Option<append::Partner>>,
    epochs: Mutex<HashMap<String, u64>>,
    records: Mutex<HashMap<String, Record>>,
    /// Entries of consumers that are shown instead of what is stored.
    shown: Mutex<HashMap<String, BTreeMap<EntryKey, Option<Bytes>>>>,
    /// Consumers whose record has changed without fencing anybody.
    unfenced: Mutex<HashSet<String>>,
    snapshots: Mutex<Vec<Snapshot>>,
    inline: inline::State,
    rewound: rewound::State,
    busy: AtomicBool,
    waiting: AtomicUsize,
    appends: AtomicUsize,
    /// How many reads have a connection.
    connections: AtomicUsize,
}

/// A connection of a store that has a few, until it is dropped.
struct Connection<'w>(&'w AtomicUsize);

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets others go first.
async fn linger() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

/// What a wrong store stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ground {
    Full,
    Partitions,
    Plain,
}

pub(crate) struct WrongSetup {
    pub(crate) ground: Ground,
    pub(crate) flaw: Flaw,
}

impl Setup for WrongSetup {
    fn fresh(&self) -> BoxFuture<'_, Result<Stores, Fault>> {
        Box::pin(async { Ok(Wrong::new(self.ground, self.flaw).stores()) })
    }
}

impl Wrong {
    fn new(ground: Ground, flaw: Flaw) -> Self {
        let partitions = if ground == Ground::Partitions { 4 } else { 1 };
        let limits = generous(flaw);
        let documents = MemoryStore::builder().partitions(partitions).limits(limits).build();
        Self {
            inner: inner(&documents, ground),
            documents,
            ground,
            flaw,
            second: false,
            state: Arc::default(),
        }
    }

    fn stores(&self) -> Stores {
        let (first, documents) = (self.clone(), self.documents.clone());
        let one = Arc::new(self.clone());
        let stores = Stores::new(one.clone()).documents(one).again(move || {
            let documents = first.documents.reopen();
            let inner = inner(&documents, first.ground);
            let stores = Self { inner, documents, second: true, ..first.clone() }.stores();
            Box::pin(async { Ok(stores) })
        });
        match self.flaw.is_rewound() {
            true => stores.backup(move || crate::memory::back_up(&documents)),
            false => stores,
        }
    }

    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == flaw
    }

    /// What the log is called by this handle.
    fn log(&self, log: LogId) -> LogId {
        match self.flaw {
            Flaw::AllLogsAreOne => LogId(Uuid::from_u128(1)),
            Flaw::EachHandleIsALog if self.second => LogId(Uuid::from_u128(2)),
            _ => log,
        }
    }

    /// The stream that this one is taken for.
    fn stream(&self, stream: &StreamId) -> StreamId {
        let text = stream.as_str();
        let taken = match self.flaw {
            Flaw::TrimsStreams => text.trim_end(),
            Flaw::CutsStreams if text.len() > 255 => &text[..255],
            Flaw::CategoriesWithoutCase if stream.category() == "probe" => &format!("Probe/{}", stream.id()),
            _ => return stream.clone(),
        };
        taken.parse().unwrap_or_else(|_| stream.clone())
    }

    fn key(&self, key: &CommandKey) -> CommandKey {
        let text = if self.has(Flaw::TrimsKeys) { key.key.trim() } else { &key.key };
        CommandKey { stream: self.stream(&key.stream), key: text.to_owned() }
    }

    fn position(&self, position: Position) -> Position {
        let skips = self.has(Flaw::SkipsAPosition) && position.get() > 5;
        if skips { position.next() } else { position }
    }

    fn position_inside(&self, position: Position) -> Position {
        let skips = self.has(Flaw::SkipsAPosition) && position.get() > 5;
        if skips { Position::new(position.get() - 1) } else { position }
    }

    /// A connection for a read that takes a while, if the store keeps one for it.
    async fn connection(&self) -> Option<Connection<'_>> {
        const FEW: usize = 4;
        if !self.has(Flaw::UnpolledReadsKeepConnections) {
            return None;
        }
        let free = |count| (count < FEW).then_some(count + 1);
        while self.state.connections.fetch_update(Ordering::SeqCst, Ordering::SeqCst, free).is_err() {
            tokio::task::yield_now().await;
        }
        let connection = Connection(&self.state.connections);
        linger().await;
        Some(connection)
    }

    /// Waits for as long as something blocks the store.
    async fn unblocked(&self) {
        while self.state.busy.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
    }
}

fn inner(documents: &MemoryStore, ground: Ground) -> Arc<dyn EventStore> {
    match ground {
        Ground::Plain => Arc::new(Plain(documents.clone())),
        Ground::Full | Ground::Partitions => Arc::new(documents.clone()),
    }
}

/// The limits below: what the flaw does not check is allowed there.
fn generous(flaw: Flaw) -> Limits {
    let mut limits = Limits::standard();
    let limit = match flaw {
        Flaw::NoBatchLimit => &mut limits.batch_events,
        Flaw::NoAppendBytesLimit => &mut limits.append_bytes,
        Flaw::NoPayloadLimit => &mut limits.payload_bytes,
        Flaw::NoMetadataLimit => &mut limits.metadata_bytes,
        Flaw::NoNameLimit => &mut limits.name_bytes,
        Flaw::NoStreamLimit => &mut limits.stream_bytes,
        Flaw::NoTagsLimit => &mut limits.tags,
        Flaw::NoTagLimit => &mut limits.tag_bytes,
        Flaw::NoKeyLimit => &mut limits.key_bytes,
        Flaw::NoSnapshotLimit => &mut limits.snapshot_bytes,
        _ => return limits,
    };
    *limit *= 2;
    limits
}

impl EventStore for Wrong {
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = self.inner.capabilities();
        capabilities.inline &= self.flaw.is_inline();
        capabilities
    }

    fn limits(&self) -> Limits {
        Limits::standard()
    }

    fn partition_of(&self, stream: &StreamId) -> Partition {
        if self.has(Flaw::EachHandlePartitions) && self.second {
            return Partition::new(1);
        }
        self.inner.partition_of(stream)
    }

    fn append(&self, append: Append) -> BoxFuture<'_, Result<Appended, AppendError>> {
        Box::pin(async move {
            let _turn = self.among_others(&append).await;
            self.append_wrongly(append).await
        })
    }

    fn reserve(&self, _: &StreamId) -> BoxFuture<'_, Result<Option<Reservation>, StoreError>> {
        Box::pin(self.reserve_wrongly())
    }

    fn find_key(&self, key: &CommandKey) -> BoxFuture<'_, Result<Option<Appended>, StoreError>> {
        let key = self.key(key);
        Box::pin(self.find_key_wrongly(key))
    }

    fn read_stream(&self, read: StreamRead) -> BoxFuture<'_, Result<StreamSlice, StoreError>> {
        Box::pin(self.read_stream_wrongly(read))
    }

    fn fold_stream<'a>(
        &'a self,
        stream: &'a StreamId,
        from: Version,
        take: &'a mut TakeEvent<'a>,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.fold_stream_wrongly(stream, from, take))
    }

    fn read_log(&self, read: LogRead) -> BoxFuture<'_, Result<LogSlice, StoreError>> {
        Box::pin(self.read_log_wrongly(read))
    }

    fn head(&self, partition: Partition) -> BoxFuture<'_, Result<Head, StoreError>> {
        Box::pin(self.head_wrongly(partition))
    }

    fn wait(&self, partition: Partition, after: Position) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.wait_wrongly(partition, after))
    }

    fn snapshot(
        &self,
        stream: &StreamId,
        fingerprint: u64,
    ) -> BoxFuture<'_, Result<Option<Snapshot>, StoreError>> {
        Box::pin(self.snapshot_wrongly(stream.clone(), fingerprint))
    }

    fn save_snapshot(&self, snapshot: Snapshot) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.save_snapshot_wrongly(snapshot))
    }

    fn forget_snapshot(&self, stream: &StreamId) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.forget_snapshot_wrongly(stream.clone()))
    }

    fn close(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        if self.has(Flaw::StaysClosed) {
            self.state.busy.store(true, Ordering::SeqCst);
        }
        self.inner.close()
    }
}
