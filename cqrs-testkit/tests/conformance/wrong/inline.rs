//! Inline projections, spoilt.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use cqrs_core::consumer::{Consumer, Effect, Routed, Unfit, Work};
use cqrs_core::error::{StoreError, StoreErrorKind};
use cqrs_core::event::{Metadata, RecordedEvent};
use cqrs_core::read_store::{
    Batch, Checkpoint, Collection, Entry, EntryKey, EntryWrite, RangeRead, ReadStore as _,
};
use cqrs_core::store::{
    Append, AppendError, Appended, CommandKey, EventStore as _, Guard, InlineConsumer, InlineGap, Query,
    unsupported,
};
use cqrs_core::{Partition, Position};
use uuid::Uuid;

use super::documents::{start, start_from};
use super::{Flaw, Wrong, linger, lock};

type Outcome = Result<Appended, AppendError>;

/// What these flaws remember.
#[derive(Debug, Default)]
pub(super) struct State {
    /// The names of all inline projections.
    names: Mutex<HashSet<String>>,
    /// Checkpoints that are shown instead, by the append that moves them.
    shown: Mutex<Vec<(Uuid, String, Option<Checkpoint>)>>,
    /// Documents that were dropped half-way.
    torn: Mutex<HashSet<String>>,
    /// The entries before another handle wrote them, by consumer.
    cache: Mutex<HashMap<String, HashMap<EntryKey, Option<Bytes>>>>,
    keys: Mutex<HashMap<CommandKey, Appended>>,
    ids: Mutex<HashSet<Uuid>>,
    refusals: AtomicUsize,
}

impl Wrong {
    fn knows(&self, name: &str) -> bool {
        lock(&self.state.inline.names).contains(name)
    }

    pub(super) fn hides_inline(&self, collection: &str) -> bool {
        self.has(Flaw::InlineForOneHandle) && self.second && self.knows(collection)
            || lock(&self.state.inline.torn).contains(collection)
    }

    pub(super) fn inline_checkpoint(&self, name: &str, stored: Option<Checkpoint>) -> Option<Checkpoint> {
        let shown = lock(&self.state.inline.shown);
        shown.iter().find(|(_, shown, _)| shown == name).map_or(stored, |(_, _, before)| *before)
    }

    pub(super) async fn spoil_inline_batch(
        &self,
        batch: &mut Batch,
        stored: Option<Checkpoint>,
    ) -> Result<(), StoreError> {
        if !self.knows(&batch.consumer) {
            return Ok(());
        }
        match self.flaw {
            Flaw::InlineHasACache => {
                for write in &batch.writes {
                    let entry = write.entry.clone();
                    let old = self.documents.get(&batch.consumer, vec![entry.clone()]).await?.pop().flatten();
                    let mut cache = lock(&self.state.inline.cache);
                    cache.entry(batch.consumer.clone()).or_default().insert(entry, old);
                }
            }
            Flaw::InlineLetsFollowersPass => {
                let position = |at: Option<Checkpoint>| at.map_or(Position::START, |at| at.position);
                if position(stored) > position(start(batch)) {
                    start_from(batch, stored);
                }
            }
            Flaw::InlineFencesOnePartition => self.forget_others(batch).await?,
            Flaw::InlineClaims if !lock(&self.state.epochs).contains_key(&batch.consumer) => {
                batch.epoch = self.documents.claim(&batch.consumer).await?.epoch;
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) async fn append_inline_wrongly(&self, mut append: Append) -> Outcome {
        if self.has(Flaw::InlinesMoreThanItSays) {
            return self.documents.append(append).await;
        }
        if !self.flaw.is_inline() {
            self.limits().check(&append)?;
            return Err(unsupported("carry inline projections out").into());
        }
        // Only one flaw gets gaps wrong.
        if append.inline_gap != InlineGap::default() && !self.has(Flaw::InlineSkipsWhatWasMissed) {
            return self.documents.append(append).await;
        }
        let names: Vec<String> = append.inline.iter().map(|one| one.name().to_owned()).collect();
        self.leave_out(&mut append).await?;
        if !append.inline.is_empty() {
            let instead = self.instead(&append).await?;
            let head = self.documents.head(self.partition(&append)).await?.position;
            let mut spoilt = Vec::new();
            for one in &append.inline {
                let revision = match self.flaw {
                    Flaw::InlineIgnoresTheRecord => self.documents.record(one.name()).await?.revision,
                    _ => one.revision(),
                };
                let (inner, flaw, instead) = (one.consumer().clone(), self.flaw, instead.clone());
                spoilt.push(InlineConsumer::new(Arc::new(Spoilt { inner, flaw, instead, head }), revision));
            }
            append.inline = spoilt.into_iter().collect();
        }
        let outcome = self.carry_out_inline(append).await;
        if outcome.is_ok() {
            lock(&self.state.inline.names).extend(names);
        }
        outcome
    }

    fn partition(&self, append: &Append) -> Partition {
        let first = append.events.first();
        first.map_or(Partition::ONLY, |event| self.documents.partition_of(&event.stream))
    }

    /// Leaves projections out that should be asked.
    async fn leave_out(&self, append: &mut Append) -> Result<(), StoreError> {
        let partition = self.partition(append);
        // The head first: the checkpoint can only be further.
        let head = self.documents.head(partition).await?;
        let mut kept = Vec::new();
        for one in &append.inline {
            let stored = self.documents.checkpoint(one.name(), partition).await?;
            let query = one.query();
            let leaves_out = match (self.flaw, stored) {
                (Flaw::InlineMovesOnlyIfAsked, _) => {
                    !append.events.iter().any(|event| query.matches(&event.name, &event.tags))
                }
                (Flaw::InlineStartsAnywhere, None) => head.position > Position::START,
                (Flaw::InlineOfAnyLog, Some(stored)) => {
                    stored.log != head.log && stored.position == head.position
                }
                (Flaw::InlineAtAnyEvent, Some(stored)) => {
                    (stored.log, stored.position) == (head.log, head.position) && stored.event != head.event
                }
                (Flaw::InlineWithoutStatements, _) => one.database().is_some(),
                _ => false,
            };
            if !leaves_out {
                kept.push(one.clone());
            }
        }
        append.inline = kept.into_iter().collect();
        Ok(())
    }

    /// The documents that the projections of the append are given instead of those that are stored.
    async fn instead(&self, append: &Append) -> Result<Instead, StoreError> {
        let elsewhere = self.partition(append) != Partition::ONLY;
        match self.flaw {
            _ if append.inline.iter().len() > 1 => return Ok(Instead::Nothing),
            Flaw::InlineReadsBeforehandElsewhere if !elsewhere => return Ok(Instead::Nothing),
            Flaw::InlineReadsBeforehand | Flaw::InlineReadsBeforehandElsewhere => {}
            Flaw::InlineHasACache => {
                let cache = lock(&self.state.inline.cache);
                let name = append.inline.iter().next().map_or("", |one| one.name());
                return Ok(cache.get(name).cloned().map_or(Instead::Nothing, Instead::Some));
            }
            _ => return Ok(Instead::Nothing),
        }
        let name = append.inline.iter().next().map_or("", |one| one.name());
        let read = self.documents.range(RangeRead::documents(name, 1_000)).await?;
        linger().await;
        let entry = |entry: Entry| (EntryKey::document(entry.key), entry.content);
        Ok(Instead::All(read.into_iter().map(entry).collect()))
    }

    /// Who of the append is not at the head of this partition.
    async fn who_is_behind(
        &self,
        append: &Append,
        partition: Partition,
    ) -> Result<Option<AppendError>, StoreError> {
        let head = self.documents.head(partition).await?.position;
        for one in &append.inline {
            let stored = self.documents.checkpoint(one.name(), partition).await?;
            let position = stored.map_or(Position::START, |stored| stored.position);
            if position != head {
                return Ok(Some(AppendError::Behind { consumer: one.name(), position, head }));
            }
        }
        Ok(None)
    }

    async fn carry_out_inline(&self, append: Append) -> Outcome {
        let (batch, partition) = (append.events.len(), self.partition(&append));
        let (key, ids) = (append.key.clone(), append.events.iter().map(|event| event.id).collect::<Vec<_>>());
        let State { keys, ids: used, refusals, .. } = &self.state.inline;
        match self.flaw {
            Flaw::InlineShowsLate => {
                let _shown = Shown::new(self, &append, partition).await?;
                let outcome = self.documents.append(append).await;
                linger().await;
                outcome
            }
            Flaw::InlineHoldsWhatIsEmpty if batch == 0 => match self.who_is_behind(&append, partition).await?
            {
                Some(behind) => Err(behind),
                None => self.documents.append(append).await,
            },
            Flaw::InlineBeforeGuard if append.guard != Guard::Any => {
                match self.who_is_behind(&append, partition).await? {
                    Some(behind) => Err(behind),
                    None => self.documents.append(append).await,
                }
            }
            Flaw::InlineLooksAtTheFirst => {
                let _turn = self.state.line.lock().await;
                match self.who_is_behind(&append, Partition::ONLY).await? {
                    Some(behind) if partition != Partition::ONLY => Err(behind),
                    _ => self.documents.append(append).await,
                }
            }
            Flaw::InlineKeepsKeysOfHeld => {
                if let Some(first) = key.as_ref().and_then(|key| lock(keys).get(key).cloned()) {
                    return Err(AppendError::Duplicate(first));
                }
                let outcome = self.documents.append(append).await;
                if let (Err(AppendError::Behind { .. }), Some(key)) = (&outcome, key) {
                    let nothing = self.documents.append(Append::new(Vec::new(), Guard::Any)).await?;
                    lock(keys).insert(key, nothing);
                }
                outcome
            }
            Flaw::InlineKeepsIdsOfUnfit => {
                if ids.iter().any(|id| lock(used).contains(id)) {
                    return Err(StoreError::new(StoreErrorKind::Invalid, "an event id is used twice").into());
                }
                let outcome = self.documents.append(append).await;
                if let Err(AppendError::Unfit { .. }) = &outcome {
                    lock(used).extend(ids);
                }
                outcome
            }
            Flaw::InlineFailsTogether if append.events.iter().any(|event| event.name != "Probed") => {
                refusals.fetch_add(1, Ordering::SeqCst);
                self.documents.append(append).await
            }
            Flaw::InlineFailsTogether => {
                let before = refusals.load(Ordering::SeqCst);
                linger().await;
                if refusals.load(Ordering::SeqCst) != before {
                    let failed = "another append of the group cannot be written";
                    return Err(StoreError::new(StoreErrorKind::Unavailable, failed).into());
                }
                self.documents.append(append).await
            }
            Flaw::DroppedInlineTears if batch >= 4 => {
                let mut torn = Torn(self, append.inline.iter().map(|one| one.name().to_owned()).collect());
                let outcome = self.documents.append(append).await;
                tokio::task::yield_now().await;
                torn.1.clear();
                outcome
            }
            Flaw::DroppedInlineBlocks => {
                self.unblocked().await;
                let blocks = batch == 2;
                self.state.busy.store(blocks, Ordering::SeqCst);
                if blocks {
                    tokio::task::yield_now().await;
                }
                let outcome = self.documents.append(append).await;
                self.state.busy.store(false, Ordering::SeqCst);
                outcome
            }
            _ => self.carry_out_and_move(append, partition).await,
        }
    }

    /// Flaws that move something they should not.
    async fn carry_out_and_move(&self, append: Append, partition: Partition) -> Outcome {
        let first = append.inline.iter().next().map_or("", |one| one.name());
        let (several, empty) = (append.inline.iter().len() > 1, append.events.is_empty());
        let fits = self.who_is_behind(&append, partition).await?.is_none()
            && append.events.iter().all(|event| event.name == "Probed");
        let outcome = self.documents.append(append).await;
        let writes = match (self.flaw, &outcome) {
            (Flaw::InlineOneByOne, Err(AppendError::Unfit { .. } | AppendError::Behind { .. })) => several,
            (Flaw::InlineMovesForDuplicates, Err(AppendError::Duplicate(_))) => fits,
            _ => false,
        };
        if writes {
            self.write_anyhow(first, vec![EntryWrite::put(Collection::DOCUMENTS, "all", "once more\n")]);
        }
        let claimed = lock(&self.state.epochs).contains_key(first);
        if self.has(Flaw::InlineRaisesTheEpoch) && outcome.is_ok() && claimed && !empty {
            self.documents.claim(first).await?;
        }
        outcome
    }
}

/// Checkpoints that are shown as they were, until the append that moves them is done.
struct Shown<'a>(&'a Wrong, Uuid);

impl<'a> Shown<'a> {
    async fn new(wrong: &'a Wrong, append: &Append, partition: Partition) -> Result<Self, StoreError> {
        let shown = Self(wrong, Uuid::new_v4());
        for one in &append.inline {
            let before = wrong.documents.checkpoint(one.name(), partition).await?;
            lock(&wrong.state.inline.shown).push((shown.1, one.name().to_owned(), before));
        }
        Ok(shown)
    }
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        lock(&self.0.state.inline.shown).retain(|(append, ..)| *append != self.1);
    }
}

/// Tears documents off when it is dropped too early.
struct Torn<'a>(&'a Wrong, Vec<String>);

impl Drop for Torn<'_> {
    fn drop(&mut self) {
        lock(&self.0.state.inline.torn).extend(self.1.drain(..));
    }
}

/// The documents that a projection is given instead of those that are stored.
#[derive(Clone, Debug)]
enum Instead {
    Nothing,
    /// These, and those that are stored for the rest.
    Some(HashMap<EntryKey, Option<Bytes>>),
    /// These, and none for the rest.
    All(HashMap<EntryKey, Bytes>),
}

impl Instead {
    fn of(&self, entry: &EntryKey, stored: Option<Bytes>) -> Option<Bytes> {
        match self {
            _ if !entry.collection.is_documents() => stored,
            Self::Nothing => stored,
            Self::Some(documents) => documents.get(entry).cloned().unwrap_or(stored),
            Self::All(documents) => documents.get(entry).cloned(),
        }
    }
}

/// A projection as it is asked wrongly.
#[derive(Debug)]
struct Spoilt {
    inner: Arc<dyn Consumer>,
    flaw: Flaw,
    instead: Instead,
    /// The end of the partition before the append.
    head: Position,
}

impl Consumer for Spoilt {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn query(&self) -> Query {
        if self.flaw == Flaw::InlineUnfiltered { Query::all() } else { self.inner.query() }
    }

    fn database(&self) -> Option<&'static str> {
        self.inner.database()
    }

    fn route(&self, events: &[Arc<RecordedEvent>]) -> Result<Routed, Unfit> {
        let mut events = events.to_vec();
        if self.flaw == Flaw::InlineWithoutMetadata {
            for event in &mut events {
                Arc::make_mut(event).meta.metadata = Arc::new(Metadata::new());
            }
        }
        if self.flaw == Flaw::InlineSkipsWhatWasMissed {
            events.retain(|event| event.meta.position > self.head);
        }
        let Routed { reads, work, .. } = self.inner.route(&events)?;
        let (flaw, instead) = (self.flaw, self.instead.clone());
        let work = SpoiltWork { inner: work, reads: reads.clone(), flaw, instead };
        Ok(Routed::new(reads, Box::new(work)))
    }
}

struct SpoiltWork {
    inner: Box<dyn Work>,
    reads: Vec<EntryKey>,
    flaw: Flaw,
    instead: Instead,
}

impl Work for SpoiltWork {
    fn fold(self: Box<Self>, stored: Vec<Option<Bytes>>) -> Result<Effect, Unfit> {
        let read = self.reads.iter().zip(stored);
        let given: Vec<_> = read.map(|(entry, stored)| self.instead.of(entry, stored)).collect();
        let mut effect = match self.inner.fold(given) {
            Err(_) if self.flaw == Flaw::InlineSkipsWhatDoesNotFold => return Ok(Effect::default()),
            folded => folded?,
        };
        match self.flaw {
            Flaw::InlineNeverRemoves => effect.writes.retain(|write| write.content.is_some()),
            Flaw::InlineKeepsDocumentsOnly => {
                effect.writes.retain(|write| write.entry.collection.is_documents());
            }
            _ => {}
        }
        Ok(effect)
    }
}
