//! A store that is wrong in one way: it stands before the store in memory. The first two are the ways
//! in which stores on SQL lose events.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cqrs_core::error::{StoreError, StoreErrorKind};
use cqrs_core::event::RecordedEvent;
use cqrs_core::memory::MemoryStore;
use cqrs_core::store::{
    Append, AppendError, Appended, BoxFuture, Capabilities, CommandKey, EventStore, Guard, Head, Limits,
    LogRead, LogSlice, StreamRead, StreamSlice,
};
use cqrs_core::{Partition, Position, StreamId};
use tokio::time::sleep;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// A position is taken first, and what stands there becomes visible later.
    NumbersBeforeCommit,
    /// The same, but a reader waits at a gap, and goes past it when that takes too long.
    SkipsGapsAfterAWhile,
    GivesAgain,
    Swaps,
    ShowsWhatIsRolledBack,
    AcknowledgesTooMuch,
    WritesWhatItRefuses,
    TearsAppends,
    IgnoresGuards,
    IgnoresKeys,
    HeadsGoBack,
    /// Not wrong, but a reader gets nothing for a while.
    Stalls,
}

/// How long a reader gets nothing, in milliseconds.
pub(crate) const STALL: u128 = 400;
/// How long a reader waits at a gap.
const GAP: Duration = Duration::from_millis(50);

#[derive(Clone, Debug)]
pub(crate) struct Wrong {
    inner: MemoryStore,
    flaw: Flaw,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    /// From the first position to the last of each append that is numbered and not committed, and since
    /// when.
    hidden: Mutex<BTreeMap<Position, (Position, Instant)>>,
    numbering: tokio::sync::Mutex<()>,
    calls: AtomicU64,
    begun: Instant,
}

impl Wrong {
    /// Two handles of one store.
    pub(crate) fn pair(flaw: Flaw) -> (Arc<Self>, Arc<Self>) {
        let (hidden, numbering) = (Mutex::default(), tokio::sync::Mutex::default());
        let state = State { hidden, numbering, calls: AtomicU64::new(0), begun: Instant::now() };
        let one = Self { inner: MemoryStore::new(), flaw, state: Arc::new(state) };
        (Arc::new(one.clone()), Arc::new(one))
    }

    fn hidden(&self) -> MutexGuard<'_, BTreeMap<Position, (Position, Instant)>> {
        self.state.hidden.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True at every so-manyth call.
    fn every(&self, number: u64) -> bool {
        self.state.calls.fetch_add(1, Ordering::Relaxed).is_multiple_of(number)
    }

    async fn write(&self, mut append: Append) -> Result<Appended, AppendError> {
        match self.flaw {
            Flaw::NumbersBeforeCommit | Flaw::SkipsGapsAfterAWhile => return self.number_first(append).await,
            Flaw::AcknowledgesTooMuch if self.every(50) && append.guard == Guard::Any => {
                let head = self.inner.head(Partition::ONLY).await?;
                let versions = Vec::new();
                return Ok(Appended {
                    log: head.log,
                    partition: Partition::ONLY,
                    position: head.position,
                    event: head.event,
                    versions,
                    owner: None,
                });
            }
            Flaw::WritesWhatItRefuses if self.every(50) => {
                self.inner.append(append).await?;
                return Err(StoreError::new(StoreErrorKind::Unavailable, "no answer").into());
            }
            Flaw::TearsAppends => append.events.truncate(1),
            Flaw::IgnoresGuards => append.guard = Guard::Any,
            Flaw::IgnoresKeys => {
                append.key = None;
                append.events.iter_mut().for_each(|event| event.id = uuid::Uuid::new_v4());
            }
            _ => {}
        }
        self.inner.append(append).await
    }

    async fn number_first(&self, append: Append) -> Result<Appended, AppendError> {
        let events = append.events.len() as u64;
        let appended = {
            let _line = self.state.numbering.lock().await;
            let appended = self.inner.append(append).await?;
            let first = Position::new(appended.position.get() + 1 - events);
            self.hidden().insert(first, (appended.position, Instant::now()));
            appended
        };
        // Tasks of their own, so that what was numbered is committed though nobody waits for it.
        let (this, position) = (self.clone(), appended.position);
        let slow = self.every(20);
        let committed = tokio::spawn(async move {
            sleep(if slow { 2 * GAP } else { Duration::from_millis(position.get() % 4) }).await;
            this.hidden().retain(|_, (last, _)| *last != position);
        });
        let _ = committed.await;
        Ok(appended)
    }

    /// Takes away what is not committed yet, and where readers wait at gaps, what lies behind one.
    fn show_committed(&self, slice: &mut LogSlice, hidden: &BTreeMap<Position, (Position, Instant)>) {
        let is_hidden = |at: Position| {
            let before = hidden.range(..=at).next_back();
            before.is_some_and(|(_, (last, _))| at <= *last)
        };
        let waits = |(_, (_, since)): &(&Position, &(Position, Instant))| since.elapsed() < GAP;
        let gap = hidden.iter().find(waits).map(|(first, _)| *first);
        let stop = gap.filter(|_| self.flaw == Flaw::SkipsGapsAfterAWhile);
        let shown = |event: &Arc<RecordedEvent>| {
            let at = event.meta.position;
            !is_hidden(at) && stop.is_none_or(|stop| at < stop)
        };
        slice.events.retain(shown);
        if let Some(stop) = stop {
            slice.read_to = slice.read_to.min(Position::new(stop.get() - 1));
        }
    }

    async fn read(&self, read: LogRead) -> Result<LogSlice, StoreError> {
        let from = read.after;
        // What is committed meanwhile is not in the slice.
        let hidden = {
            let _line = self.state.numbering.lock().await;
            self.hidden().clone()
        };
        let mut slice = self.inner.read_log(read).await?;
        match self.flaw {
            Flaw::NumbersBeforeCommit | Flaw::SkipsGapsAfterAWhile => {
                self.show_committed(&mut slice, &hidden);
                slice.read_to = slice.read_to.max(from);
            }
            Flaw::GivesAgain if self.every(20) => {
                let again = slice.events.last().cloned();
                slice.events.extend(again);
            }
            Flaw::Swaps if slice.events.len() > 2 && self.every(5) => slice.events.swap(0, 1),
            Flaw::ShowsWhatIsRolledBack if self.every(20) => {
                if let Some(last) = slice.events.last() {
                    let mut event = RecordedEvent::clone(last);
                    event.payload = "999/0/0/1".into();
                    slice.events.insert(0, Arc::new(event));
                }
            }
            Flaw::HeadsGoBack if self.every(20) && slice.head.position > Position::new(3) => {
                slice.head.position = Position::new(slice.head.position.get() - 3);
            }
            Flaw::Stalls => {
                let (now, stall) = (self.state.begun.elapsed().as_millis(), 20..20 + STALL);
                if stall.contains(&now) {
                    slice.events.clear();
                    slice.read_to = from;
                }
            }
            _ => {}
        }
        Ok(slice)
    }
}

impl EventStore for Wrong {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    fn partition_of(&self, stream: &StreamId) -> Partition {
        self.inner.partition_of(stream)
    }

    fn append(&self, append: Append) -> BoxFuture<'_, Result<Appended, AppendError>> {
        Box::pin(self.write(append))
    }

    fn find_key(&self, key: &CommandKey) -> BoxFuture<'_, Result<Option<Appended>, StoreError>> {
        self.inner.find_key(key)
    }

    fn read_stream(&self, read: StreamRead) -> BoxFuture<'_, Result<StreamSlice, StoreError>> {
        self.inner.read_stream(read)
    }

    fn read_log(&self, read: LogRead) -> BoxFuture<'_, Result<LogSlice, StoreError>> {
        Box::pin(self.read(read))
    }

    fn head(&self, partition: Partition) -> BoxFuture<'_, Result<Head, StoreError>> {
        self.inner.head(partition)
    }

    fn wait(&self, partition: Partition, after: Position) -> BoxFuture<'_, Result<(), StoreError>> {
        self.inner.wait(partition, after)
    }
}
