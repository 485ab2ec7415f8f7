//! The effect of events on a read model, without its type: route a batch, then fold it by key.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use foldhash::{HashMap, HashMapExt as _};

use crate::codec::{self, CodecError, Json};
use crate::consumer::{Consumer, Effect, Routed, Unfit, Work};
use crate::error::{FoldError, FoldFault, Panicked};
use crate::event::{EventSet, RecordedEvent, Shape, decode};
use crate::hash::Fnv;
use crate::id::Id as _;
use crate::projection::{Keys, Projection};
use crate::read_store::{EntryKey, EntryWrite, check_document, check_key};
use crate::store::Query;

/// A `#[projection]` as a consumer.
pub(crate) struct DocumentConsumer<P>(PhantomData<fn() -> P>);

impl<P: Projection> DocumentConsumer<P> {
    pub(crate) fn shared() -> Arc<dyn Consumer> {
        Arc::new(Self(PhantomData))
    }

    /// Folds events into documents in memory: all that they change, or only that of one key.
    pub(crate) fn fold(
        documents: &mut Documents,
        events: &[Arc<RecordedEvent>],
        only: Option<&str>,
    ) -> Result<(), Unfit> {
        fold_into(documents, Self::routed(events, only)?)
    }

    /// Decodes events and finds the documents that they change, or the one that is asked for.
    fn routed(events: &[Arc<RecordedEvent>], only: Option<&str>) -> Result<Routed, Unfit> {
        let mut router = Router::<P>::new(events.len(), only);
        for (good, recorded) in events.iter().enumerate() {
            caught(|| router.add(good, recorded))
                .map_err(|fault| Unfit { good, error: failed(recorded, fault) })?;
        }
        Ok(router.done())
    }
}

/// Documents in memory, by the bytes of their key, which are UTF-8 text.
pub(crate) type Documents = BTreeMap<Bytes, Bytes>;

/// Folds routed events into documents in memory.
pub(crate) fn fold_into(documents: &mut Documents, routed: Routed) -> Result<(), Unfit> {
    let before = routed.reads.iter().map(|entry| documents.get(&entry.key).cloned()).collect();
    let writes = routed.work.fold(before)?.writes;
    for write in writes.into_iter().filter(|write| write.entry.collection.is_documents()) {
        match write.content {
            Some(document) => documents.insert(write.entry.key, document),
            None => documents.remove(&write.entry.key),
        };
    }
    Ok(())
}

impl<P: Projection> fmt::Debug for DocumentConsumer<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(P::NAME)
    }
}

impl<P: Projection> Consumer for DocumentConsumer<P> {
    fn name(&self) -> &'static str {
        P::NAME
    }

    fn query(&self) -> Query {
        query::<P::Event>()
    }

    fn folds_in_memory(&self) -> bool {
        P::FOLD_IN_MEMORY
    }

    fn reads(&self) -> BTreeMap<&'static str, u32> {
        reads::<P::Event>()
    }

    fn fold(&self) -> Option<u64> {
        let fold = P::FOLD?;
        let mut hash = Fnv::new();
        hash.number(fold);
        // A document of another shape is another document.
        hash.number(P::shape());
        Some(hash.finish())
    }

    fn route(&self, events: &[Arc<RecordedEvent>]) -> Result<Routed, Unfit> {
        Self::routed(events, None)
    }
}

/// Exactly the events of a set, and those that they were before.
pub(super) fn query<S: EventSet>() -> Query {
    let mut names: Vec<&'static str> = Vec::new();
    for kind in S::TYPES {
        let mut shapes = Vec::new();
        (kind.former)(&mut shapes);
        names.push(kind.name);
        names.extend(shapes.iter().map(|shape| shape.name));
    }
    names.sort_unstable();
    names.dedup();
    Query::names(names)
}

/// The stored names of a set with the highest version of each, those of what it replaces too.
pub(super) fn reads<S: EventSet>() -> BTreeMap<&'static str, u32> {
    let mut shapes = Vec::new();
    for kind in S::TYPES {
        shapes.push(Shape { name: kind.name, version: kind.version });
        (kind.former)(&mut shapes);
    }
    let mut reads = BTreeMap::new();
    for Shape { name, version } in shapes {
        let highest: &mut u32 = reads.entry(name).or_default();
        *highest = version.max(*highest);
    }
    reads
}

/// Events of one batch, each with the places of the documents it changes.
struct DecodedBatch<P: Projection> {
    /// The documents, by their places.
    documents: Vec<EntryKey>,
    steps: Vec<Step<P>>,
    /// The places of all steps, one behind the other.
    places: Vec<usize>,
}

struct Step<P: Projection> {
    good: usize,
    recorded: Arc<RecordedEvent>,
    event: P::Event,
    /// Which of the batch's places are its own.
    places: Range<usize>,
}

/// Decodes a batch. What one event needs only on its way is kept for the next, since a batch of small
/// events is otherwise mostly allocations.
struct Router<'a, P: Projection> {
    only: Option<&'a str>,
    batch: DecodedBatch<P>,
    /// The place of each key's document among those of the batch, in the order in which they are first
    /// reached.
    places: HashMap<String, usize>,
    decoded: Vec<P::Event>,
    keys: Keys<P::Key>,
    text: String,
}

impl<'a, P: Projection> Router<'a, P> {
    fn new(events: usize, only: Option<&'a str>) -> Self {
        let batch = DecodedBatch {
            documents: Vec::new(),
            steps: Vec::with_capacity(events),
            places: Vec::with_capacity(events),
        };
        Self {
            only,
            batch,
            places: HashMap::with_capacity(events),
            decoded: Vec::with_capacity(1),
            keys: Keys::default(),
            text: String::new(),
        }
    }

    /// Decodes an event, the batch's number `good`, and finds the documents it changes.
    fn add(&mut self, good: usize, recorded: &Arc<RecordedEvent>) -> Result<(), FoldFault> {
        let Self { only, batch, places, decoded, keys, text } = self;
        decode::<P::Event>(&recorded.stored(), &mut |event| decoded.push(event))?;
        for event in decoded.drain(..) {
            keys.clear();
            P::route(&event, &recorded.meta, keys)?;
            let first = batch.places.len();
            for key in keys.iter() {
                text.clear();
                // Writing to a `String` fails only if the key's own `Display` does, and `to_string` panics then.
                write!(text, "{}", key.as_text())
                    .map_err(|_| FoldFault::Panicked(Panicked::new(&"its key cannot be printed")))?;
                check_key(text).map_err(FoldFault::Limit)?;
                // Else a page with this document could never be read.
                if !places.contains_key(text.as_str())
                    && let Err(error) = P::Key::from_text(text)
                {
                    let words = format!("its key {text:?} does not parse back: {error}");
                    return Err(FoldFault::Document(CodecError::new(words)));
                }
                if only.is_none_or(|only| only == text.as_str()) {
                    batch.places.push(place(places, text));
                }
            }
            let places = first..batch.places.len();
            batch.steps.push(Step { good, recorded: Arc::clone(recorded), event, places });
        }
        Ok(())
    }

    fn done(mut self) -> Routed {
        let mut keys = vec![EntryKey::document(Bytes::new()); self.places.len()];
        for (key, place) in self.places {
            keys[place] = EntryKey::document(key);
        }
        self.batch.documents.clone_from(&keys);
        Routed::new(keys, Box::new(self.batch))
    }
}

/// The place of a key's document; each key has one.
fn place(places: &mut HashMap<String, usize>, key: &str) -> usize {
    if let Some(place) = places.get(key) {
        return *place;
    }
    let place = places.len();
    places.insert(key.to_owned(), place);
    place
}

impl<P: Projection> Work for DecodedBatch<P> {
    fn fold(self: Box<Self>, documents: Vec<Option<Bytes>>) -> Result<Effect, Unfit> {
        let mut folded: Vec<Document<P>> = Vec::with_capacity(documents.len());
        // The last event that reaches each document: what it leaves is what is to be stored.
        let mut last: Vec<usize> = vec![0; documents.len()];
        for (at, step) in self.steps.iter().enumerate() {
            self.places[step.places.clone()].iter().for_each(|place| last[*place] = at);
        }
        let mut stored = documents.into_iter();
        for (at, step) in self.steps.iter().enumerate() {
            for (at_key, place) in self.places[step.places.clone()].iter().enumerate() {
                // Places are given in the order in which they are first reached.
                while folded.len() <= *place {
                    let document = caught(|| Document::open(stored.next().flatten()));
                    folded.push(document.map_err(|fault| step.fault(fault))?);
                }
                let document = &mut folded[*place];
                let applied = caught(|| {
                    document.apply(step)?;
                    match last[*place] == at {
                        true => document.store(),
                        false if P::FOLD_IN_MEMORY => Ok(()),
                        false => document.pass_through(),
                    }
                });
                applied.map_err(|fault| step.fault_of(fault, at_key))?;
            }
        }
        let folded = folded.into_iter().map(|document| document.stored);
        let writes = self.documents.into_iter().zip(folded);
        Ok(Effect::of_writes(writes.map(|(entry, content)| EntryWrite::new(entry, content)).collect()))
    }
}

/// A document in the course of a batch.
struct Document<P> {
    value: Option<P>,
    /// What is to be stored of it.
    stored: Option<Bytes>,
}

impl<P: Projection> Document<P> {
    fn open(stored: Option<Bytes>) -> Result<Self, FoldFault> {
        let value = match &stored {
            Some(bytes) => Some(P::from_bytes::<Json>(bytes).map_err(FoldFault::Document)?),
            None => None,
        };
        Ok(Self { value, stored })
    }

    fn apply(&mut self, step: &Step<P>) -> Result<(), FoldFault> {
        // A document that an event removed starts over with the next event, as it does in a later batch.
        if self.value.is_none() {
            self.value = P::initial();
        }
        Ok(P::apply(&mut self.value, &step.event, &step.recorded.meta)?)
    }

    /// Continues with what reads back from the document's stored form. So a document is a function of its events,
    /// however they are batched.
    fn pass_through(&mut self) -> Result<(), FoldFault> {
        if let Some(value) = &self.value {
            let (length, value) = value.through_json().map_err(FoldFault::Document)?;
            check_document(length).map_err(FoldFault::Limit)?;
            self.value = Some(value);
        }
        Ok(())
    }

    /// Puts the document into its stored form, if it reads back from it.
    fn store(&mut self) -> Result<(), FoldFault> {
        self.stored = match self.value.take() {
            Some(value) => {
                let (bytes, _) = codec::pass_through::<Json, P>(&value).map_err(FoldFault::Document)?;
                check_document(bytes.len()).map_err(FoldFault::Limit)?;
                Some(bytes)
            }
            None => None,
        };
        Ok(())
    }
}

impl<P: Projection> Step<P> {
    /// A fault on one of the documents that the event changes, by its place among them.
    fn fault_of(&self, fault: FoldFault, at_key: usize) -> Unfit {
        // Routed again, since a batch of good events has no use for the keys of each.
        let key = caught(|| {
            let mut keys = Keys::default();
            P::route(&self.event, &self.recorded.meta, &mut keys)?;
            Ok(keys.iter().nth(at_key).map(|key| key.as_text().to_string()))
        });
        let Unfit { good, error } = self.fault(fault);
        Unfit { good, error: error.into_document(key.ok().flatten()) }
    }

    fn fault(&self, fault: FoldFault) -> Unfit {
        Unfit { good: self.good, error: failed(&self.recorded, fault) }
    }
}

/// Runs the user's code on one event. A panic must not end the follower without a word: it is a
/// fault of that event, and what the code had half changed is thrown away with the batch.
pub(super) fn caught<T>(work: impl FnOnce() -> Result<T, FoldFault>) -> Result<T, FoldFault> {
    let end = catch_unwind(AssertUnwindSafe(work));
    end.unwrap_or_else(|panic| Err(FoldFault::Panicked(Panicked::new(&*panic))))
}

pub(super) fn failed(recorded: &RecordedEvent, fault: FoldFault) -> FoldError {
    FoldError::new(&recorded.name, &recorded.meta, fault)
}
