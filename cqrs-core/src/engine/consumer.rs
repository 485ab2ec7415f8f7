//! The effect of events on a read model, without its type: route a batch, then fold it by key.

use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;

use crate::codec::{self, CodecError, Json};
use crate::error::{FoldError, FoldFault, Panicked};
use crate::event::{EventSet as _, RecordedEvent, decode};
use crate::id::Id as _;
use crate::projection::{Keys, Projection};
use crate::store::Query;

/// What follows the log and keeps documents.
pub(crate) trait Consumer: fmt::Debug + Send + Sync {
    /// Its name, which is that of its checkpoint and its documents.
    fn name(&self) -> &'static str;

    /// Exactly the events it wants.
    fn query(&self) -> Query;

    /// Decodes a batch and finds the documents it changes.
    fn route(&self, events: &[Arc<RecordedEvent>]) -> Result<Routed, Fault>;
}

/// An event that stops a batch: those before it are good.
#[derive(Debug)]
pub(crate) struct Fault {
    /// How many events of the batch come before it.
    pub(crate) good: usize,
    pub(crate) error: FoldError,
}

/// A decoded batch: the keys of all documents it changes, and the work on them.
pub(crate) struct Routed {
    pub(crate) keys: Vec<String>,
    pub(crate) work: Box<dyn Work>,
}

/// A decoded batch, ready to be folded into the documents it changes.
pub(crate) trait Work: Send {
    /// Folds the batch into the documents, given in the order of the keys, and gives each one's new
    /// content.
    fn fold(self: Box<Self>, documents: Vec<Option<Bytes>>) -> Result<Vec<Option<Bytes>>, Fault>;
}

/// A `#[projection]` as a consumer.
pub(crate) struct DocumentConsumer<P>(PhantomData<fn() -> P>);

impl<P: Projection> DocumentConsumer<P> {
    pub(crate) fn boxed() -> Box<dyn Consumer> {
        Box::new(Self(PhantomData))
    }
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
        let mut names: Vec<&'static str> = Vec::new();
        for kind in P::Event::TYPES {
            let mut shapes = Vec::new();
            (kind.former)(&mut shapes);
            names.push(kind.name);
            names.extend(shapes.iter().map(|shape| shape.name));
        }
        names.sort_unstable();
        names.dedup();
        Query::names(names)
    }

    fn route(&self, events: &[Arc<RecordedEvent>]) -> Result<Routed, Fault> {
        let mut batch = DecodedBatch::<P> { steps: Vec::with_capacity(events.len()), keys: Vec::new() };
        let mut places = HashMap::new();
        for (good, recorded) in events.iter().enumerate() {
            caught(|| batch.add(&mut places, good, recorded))
                .map_err(|fault| Fault { good, error: failed(recorded, fault) })?;
        }
        Ok(Routed { keys: batch.keys.clone(), work: Box::new(batch) })
    }
}

/// Events of one batch, each with the places of the documents it changes.
struct DecodedBatch<P: Projection> {
    steps: Vec<Step<P>>,
    keys: Vec<String>,
}

struct Step<P: Projection> {
    good: usize,
    recorded: Arc<RecordedEvent>,
    event: P::Event,
    documents: Vec<usize>,
}

impl<P: Projection> DecodedBatch<P> {
    /// Decodes an event, the batch's number `good`, and finds the documents it changes.
    fn add(
        &mut self,
        places: &mut HashMap<String, usize>,
        good: usize,
        recorded: &Arc<RecordedEvent>,
    ) -> Result<(), FoldFault> {
        let mut decoded = Vec::with_capacity(1);
        decode::<P::Event>(&recorded.stored(), &mut |event| decoded.push(event))?;
        for event in decoded {
            let mut keys = Keys::default();
            P::route(&event, &recorded.meta, &mut keys)?;
            let documents = keys.iter().map(|key| self.place(places, key)).collect();
            self.steps.push(Step { good, recorded: recorded.clone(), event, documents });
        }
        Ok(())
    }

    /// The place of a key's document among those of the batch; each key has one.
    fn place(&mut self, places: &mut HashMap<String, usize>, key: &P::Key) -> usize {
        let key = key.as_text().to_string();
        if let Some(place) = places.get(&key) {
            return *place;
        }
        let place = self.keys.len();
        self.keys.push(key.clone());
        places.insert(key, place);
        place
    }
}

impl<P: Projection> Work for DecodedBatch<P> {
    fn fold(self: Box<Self>, documents: Vec<Option<Bytes>>) -> Result<Vec<Option<Bytes>>, Fault> {
        let mut folded: Vec<Option<P>> = Vec::with_capacity(documents.len());
        // The last event that reaches a document answers for it if it does not serialise.
        let mut last: Vec<usize> = vec![0; documents.len()];
        let mut stored = documents.into_iter();
        for (at, step) in self.steps.iter().enumerate() {
            for place in &step.documents {
                // Places are given in the order in which they are first reached.
                while folded.len() <= *place {
                    let document = caught(|| open(stored.next().flatten()).map_err(FoldFault::Document));
                    folded.push(document.map_err(|fault| step.fault(fault))?);
                }
                let document = &mut folded[*place];
                // As between two batches: what an event removed begins anew with the next one.
                if document.is_none() {
                    *document = P::initial();
                }
                let applied = caught(|| Ok(P::apply(document, &step.event, &step.recorded.meta)?));
                applied.map_err(|fault| step.fault(fault))?;
                last[*place] = at;
            }
        }
        let close = |(document, at): (Option<P>, usize)| {
            let encode =
                || document.as_ref().map(codec::encode::<Json, P>).transpose().map_err(FoldFault::Document);
            caught(encode).map_err(|fault| self.steps[at].fault(fault))
        };
        folded.into_iter().zip(last).map(close).collect()
    }
}

fn open<P: Projection>(stored: Option<Bytes>) -> Result<Option<P>, CodecError> {
    match stored {
        Some(bytes) => P::from_bytes::<Json>(&bytes).map(Some),
        None => Ok(P::initial()),
    }
}

impl<P: Projection> Step<P> {
    fn fault(&self, fault: FoldFault) -> Fault {
        Fault { good: self.good, error: failed(&self.recorded, fault) }
    }
}

/// Runs the user's code on one event. A panic must not end the follower without a word: it is a
/// fault of that event, and what the code had half changed is thrown away with the batch.
fn caught<T>(work: impl FnOnce() -> Result<T, FoldFault>) -> Result<T, FoldFault> {
    let end = catch_unwind(AssertUnwindSafe(work));
    end.unwrap_or_else(|panic| Err(FoldFault::Panicked(Panicked::new(&*panic))))
}

fn failed(recorded: &RecordedEvent, fault: FoldFault) -> FoldError {
    FoldError::new(&recorded.name, &recorded.meta, fault)
}
