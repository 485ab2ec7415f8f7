//! Consumers by hand, for the rules about inline projections and handlers.

use std::sync::Arc;

use bytes::Bytes;
use cqrs_core::consumer::{Consumer, Database, Handlers, Routed, RunIn, Unfit, Work};
use cqrs_core::error::{BoxError, FoldError, FoldFault};
use cqrs_core::event::RecordedEvent;
use cqrs_core::store::Query;

use super::kit::Event;

/// Keeps a line for each of its events, in one document for all and in one for each stream.
#[derive(Debug)]
pub(crate) struct Diary {
    name: &'static str,
    query: Query,
    /// Whether it takes whatever comes.
    patient: bool,
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
    Arc::new(Diary { name, query, patient: false })
}

/// One that also takes what others cannot.
pub(crate) fn patient_diary(name: &'static str) -> Arc<dyn Consumer> {
    Arc::new(Diary { name, query: Query::all(), patient: true })
}

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
        let work = Box::new(Lines { keys: keys.clone(), events: events.to_vec() });
        Ok(Routed::Documents { keys, work })
    }
}

struct Lines {
    keys: Vec<String>,
    events: Vec<Event>,
}

impl Work for Lines {
    fn fold(self: Box<Self>, mut documents: Vec<Option<Bytes>>) -> Result<Vec<Option<Bytes>>, Unfit> {
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
        Ok(documents)
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
        Ok(Routed::Handlers(Self::handlers()))
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
