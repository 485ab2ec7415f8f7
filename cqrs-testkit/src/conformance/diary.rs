//! Consumers by hand, for the rules about inline projections and handlers.

use std::sync::Arc;

use bytes::Bytes;
use cqrs_core::consumer::{Consumer, Database, Effect, Handlers, Routed, RunIn, Unfit, Work};
use cqrs_core::error::{BoxError, FoldError, FoldFault};
use cqrs_core::event::RecordedEvent;
use cqrs_core::read_store::{Collection, EntryKey, EntryWrite};
use cqrs_core::store::Query;

use super::kit::Event;

/// Keeps a line for each of its events, in one document for all and in one for each stream.
#[derive(Debug)]
pub(crate) struct Diary {
    name: &'static str,
    query: Query,
    /// Whether it takes whatever comes.
    patient: bool,
    /// True if it also keeps an index of event ids, and a count, in collections of their own.
    indexed: bool,
}

/// The key of the document for all events.
pub(crate) const ALL: &str = "all";

/// An event of this name cannot be routed.
pub(crate) const UNREADABLE: &str = "Unreadable";

/// An event of this name cannot be folded.
pub(crate) const MISPLACED: &str = "Misplaced";

/// An event of this name removes the document of its stream.
pub(crate) const ERASED: &str = "Erased";

/// One that wants every event.
pub(crate) fn diary(name: &'static str) -> Arc<dyn Consumer> {
    diary_of(name, Query::all())
}

pub(crate) fn diary_of(name: &'static str, query: Query) -> Arc<dyn Consumer> {
    Arc::new(Diary { name, query, patient: false, indexed: false })
}

/// One that also takes what others cannot.
pub(crate) fn patient_diary(name: &'static str) -> Arc<dyn Consumer> {
    Arc::new(Diary { name, query: Query::all(), patient: true, indexed: false })
}

/// One that also keeps two collections: `ids` has an entry for each event, and `count` their number.
pub(crate) fn indexed_diary(name: &'static str) -> Arc<dyn Consumer> {
    Arc::new(Diary { name, query: Query::all(), patient: false, indexed: true })
}

const IDS: Collection = Collection::new("ids");
const COUNT: Collection = Collection::new("count");

/// An event with all that it is, on one line.
pub(crate) fn line(event: &RecordedEvent) -> String {
    format!("{event:?}")
}

fn unfit(good: usize, event: &RecordedEvent) -> Unfit {
    let fault = FoldFault::Handler("no diary takes this".into());
    Unfit { good, error: FoldError::new(&event.name, &event.meta, fault) }
}

impl Consumer for Diary {
    fn name(&self) -> &'static str {
        self.name
    }

    fn query(&self) -> Query {
        self.query.clone()
    }

    fn route(&self, events: &[Event]) -> Result<Routed, Unfit> {
        let unreadable = |event: &Event| !self.patient && event.name == UNREADABLE;
        if let Some(good) = events.iter().position(unreadable) {
            return Err(unfit(good, &events[good]));
        }
        let mut keys = Vec::new();
        for key in events.iter().flat_map(|event| [ALL, event.meta.stream.as_str()]) {
            if !keys.iter().any(|known| known == key) {
                keys.push(key.to_owned());
            }
        }
        let mut reads: Vec<EntryKey> = keys.iter().cloned().map(EntryKey::document).collect();
        if self.indexed {
            reads.push(EntryKey::new(COUNT, ALL));
        }
        Ok(Routed::new(reads, Box::new(Lines { keys, events: events.to_vec(), indexed: self.indexed })))
    }
}

struct Lines {
    keys: Vec<String>,
    events: Vec<Event>,
    indexed: bool,
}

impl Lines {
    /// The changes of the collections other than documents.
    fn others(&self, count: Option<&Bytes>) -> Vec<EntryWrite> {
        if !self.indexed {
            return Vec::new();
        }
        let id = |event: &Event| Bytes::copy_from_slice(event.meta.id.as_bytes());
        let before = count.and_then(|count| std::str::from_utf8(count).ok()?.parse().ok()).unwrap_or(0);
        let count = (before + self.events.len()).to_string();
        let ids = self.events.iter().map(|event| EntryWrite::put(IDS, id(event), line(event)));
        ids.chain([EntryWrite::put(COUNT, ALL, count)]).collect()
    }
}

impl Work for Lines {
    fn fold(self: Box<Self>, mut documents: Vec<Option<Bytes>>) -> Result<Effect, Unfit> {
        for (good, event) in self.events.iter().enumerate() {
            if event.name == MISPLACED {
                return Err(unfit(good, event));
            }
            for (key, document) in self.keys.iter().zip(&mut documents) {
                let of_its_stream = key == event.meta.stream.as_str();
                if of_its_stream && event.name == ERASED {
                    *document = None;
                } else if of_its_stream || key == ALL {
                    let before = document.as_deref().unwrap_or_default();
                    *document = Some([before, line(event).as_bytes(), b"\n"].concat().into());
                }
            }
        }
        let others = self.others(documents.get(self.keys.len()).and_then(Option::as_ref));
        let writes = self.keys.into_iter().map(EntryKey::document).zip(documents);
        let writes = writes.map(|(entry, content)| EntryWrite::new(entry, content));
        Ok(Effect::of_writes(writes.chain(others).collect()))
    }
}

/// A database that no store is.
pub(crate) enum Nowhere {}

impl Database for Nowhere {
    const NAME: &'static str = "a database that is not there";
    type Transaction<'t> = ();
    type Running<'a> = Result<(), BoxError>;

    fn ready<'a>(outcome: Result<(), BoxError>) -> Self::Running<'a> {
        outcome
    }
}

/// Writes to that database.
#[derive(Debug)]
pub(crate) struct Elsewhere;

impl Elsewhere {
    pub(crate) fn handlers() -> Handlers {
        Handlers::new::<Nowhere>(Arc::new(Self))
    }
}

impl Consumer for Elsewhere {
    fn name(&self) -> &'static str {
        "elsewhere"
    }

    fn query(&self) -> Query {
        Query::all()
    }

    fn database(&self) -> Option<&'static str> {
        Some(Nowhere::NAME)
    }

    fn route(&self, _: &[Event]) -> Result<Routed, Unfit> {
        Ok(Routed::new(Vec::new(), Box::new(Statements(Self::handlers()))))
    }
}

/// Work that is nothing but statements.
struct Statements(Handlers);

impl Work for Statements {
    fn fold(self: Box<Self>, _: Vec<Option<Bytes>>) -> Result<Effect, Unfit> {
        Ok(Effect::of_handlers(self.0))
    }
}

impl RunIn<Nowhere> for Elsewhere {
    fn set_up<'a, 't>(&'a self, (): &'a ()) -> Result<(), BoxError>
    where
        't: 'a,
    {
        Ok(())
    }

    fn steps(&self) -> usize {
        1
    }

    fn run<'a, 't>(&'a self, _: usize, (): &'a ()) -> Result<(), BoxError>
    where
        't: 'a,
    {
        Ok(())
    }

    fn unfit(&self, _: usize, _: BoxError) -> Option<Unfit> {
        None
    }
}
