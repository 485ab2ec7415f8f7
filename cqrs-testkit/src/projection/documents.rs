//! The documents of a projection's test, in their stored form.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use bytes::Bytes;
use cqrs_core::Projection;
use cqrs_core::aggregate::Misfit;
use cqrs_core::codec::Json;
use cqrs_core::error::DecodeError;
use cqrs_core::event::{self, RecordedEvent};
use cqrs_core::projection::{Keys, NotAKey};

use crate::id;
use crate::report::compare::{differences, fields, leaf_rows};
use crate::report::leaves::{Ignored, Leaves};
use crate::report::table::Table;
use crate::report::{Checked, Failure, chain};

/// The documents by the text of their key.
pub(crate) struct Documents<P> {
    pub(crate) all: BTreeMap<String, Document>,
    /// For each removed document, the event that removed it last.
    pub(crate) removed: BTreeMap<String, String>,
    kind: PhantomData<fn() -> P>,
}

impl<P> Clone for Documents<P> {
    fn clone(&self) -> Self {
        Self { all: self.all.clone(), removed: self.removed.clone(), kind: PhantomData }
    }
}

/// A stored document.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    pub(crate) json: Bytes,
    /// The event that changed it last.
    pub(crate) by: String,
}

impl Document {
    pub(crate) fn leaves(&self) -> Leaves {
        Leaves::of_bytes(&self.json)
    }
}

/// An event that could not be folded.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) kind: FaultKind,
    pub(crate) failure: Failure,
}

#[derive(Clone, Debug)]
pub(crate) enum FaultKind {
    Misfit(Misfit),
    NotAKey,
    /// A failure that no test can expect.
    Broken,
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Self {
        Self { kind: FaultKind::Broken, failure }
    }
}

/// The result of feeding an event.
pub(crate) enum FeedResult {
    /// The projection has no `#[on]` for it.
    NotRead,
    /// It was folded into the documents with these keys.
    Folded(Vec<String>),
}

impl<P: Projection> Documents<P> {
    pub(crate) fn new() -> Self {
        Self { all: BTreeMap::new(), removed: BTreeMap::new(), kind: PhantomData }
    }

    /// Folds one event of the log, as the engine does. `what` names it in failures.
    pub(crate) fn feed(
        &mut self,
        event: &RecordedEvent,
        what: &str,
        check: bool,
    ) -> Result<FeedResult, Fault> {
        let mut events = Vec::new();
        match event::decode::<P::Event>(&event.stored(), &mut |event| events.push(event)) {
            Ok(()) => {}
            Err(DecodeError::UnknownEvent { .. }) => return Ok(FeedResult::NotRead),
            Err(error) => {
                return Err(Failure::new(format!("{what} does not decode")).cause(chain(&error)).into());
            }
        }
        let mut texts = Vec::new();
        for one in &events {
            let mut keys = Keys::default();
            P::route(one, &event.meta, &mut keys).map_err(|error| not_a_key(what, &error))?;
            for key in &keys {
                let text = id::text(key)?;
                self.fold(&text, one, event, what, check)?;
                texts.push(text);
            }
        }
        Ok(FeedResult::Folded(texts))
    }

    /// Checks that folding all events so far in memory, as one batch, produces the same documents.
    pub(crate) fn check_folded_in_memory(
        &self,
        events: &[&RecordedEvent],
        keys: &[String],
        what: &str,
    ) -> Result<(), Fault> {
        let mut in_memory: BTreeMap<&str, Option<P>> = keys.iter().map(|key| (key.as_str(), None)).collect();
        for recorded in events {
            let mut decoded = Vec::new();
            match event::decode::<P::Event>(&recorded.stored(), &mut |event| decoded.push(event)) {
                Ok(()) | Err(DecodeError::UnknownEvent { .. }) => {}
                Err(error) => {
                    return Err(Failure::new(format!("{what} does not decode")).cause(chain(&error)).into());
                }
            }
            for one in &decoded {
                let mut all = Keys::default();
                P::route(one, &recorded.meta, &mut all).map_err(|error| not_a_key(what, &error))?;
                for key in &all {
                    let text = id::text(key)?;
                    let Some(document) = in_memory.get_mut(text.as_str()) else { continue };
                    if document.is_none() {
                        *document = P::initial();
                    }
                    P::apply(document, one, &recorded.meta)
                        .map_err(|misfit| misfit_fault(&format!("{what}, in memory,"), &text, misfit))?;
                }
            }
        }
        for (key, document) in in_memory {
            let json = document.as_ref().map(|document| write(key, document, what)).transpose()?;
            let leaves =
                |json: Option<&Bytes>| json.map_or_else(|| Leaves(Vec::new()), |json| Leaves::of_bytes(json));
            let (left, right) = (leaves(self.all.get(key).map(|stored| &stored.json)), leaves(json.as_ref()));
            let differing = differences(&left, &right, &Ignored::default());
            if differing.is_empty() {
                continue;
            }
            let mut table = Table::new("stored between events", "folded in memory");
            leaf_rows(&mut table, &left, &right, &Ignored::default());
            let title =
                format!("the document `{key}` of `{}` depends on how its events are batched", P::NAME);
            return Err(Failure::new(title)
                .table(table)
                .cause(format!(
                    "after {what}, it differs in {}",
                    fields(&differing, ["stored between events", "folded in memory"])
                ))
                .note("store everything that its `#[on]` methods use, or remove `fold_in_memory`")
                .into());
        }
        Ok(())
    }

    fn fold(
        &mut self,
        key: &str,
        event: &P::Event,
        recorded: &RecordedEvent,
        what: &str,
        check: bool,
    ) -> Result<(), Fault> {
        let mut document = match self.all.get(key) {
            Some(stored) => Some(read::<P>(key, &stored.json, &stored.by)?),
            None => P::initial(),
        };
        P::apply(&mut document, event, &recorded.meta).map_err(|misfit| misfit_fault(what, key, misfit))?;
        let Some(document) = document else {
            self.all.remove(key);
            self.removed.insert(key.to_owned(), what.to_owned());
            return Ok(());
        };
        let json = write(key, &document, what)?;
        if check {
            round_trip::<P>(key, &json, what)?;
        }
        self.all.insert(key.to_owned(), Document { json, by: what.to_owned() });
        Ok(())
    }
}

/// Serializes a document.
pub(crate) fn write<P: Projection>(key: &str, document: &P, what: &str) -> Result<Bytes, Failure> {
    document.to_bytes::<Json>().map_err(|error| {
        Failure::new(format!("the document `{key}` of `{}` cannot be stored ({what})", P::NAME))
            .cause(format!("its `Serialize` fails: {error}"))
    })
}

pub(crate) fn read<P: Projection>(key: &str, json: &[u8], what: &str) -> Result<P, Failure> {
    P::from_bytes::<Json>(json).map_err(|error| {
        let lines: Vec<String> =
            Leaves::of_bytes(json).0.iter().map(|leaf| leaf.path.before(&leaf.text)).collect();
        Failure::new(format!(
            "the document `{key}` of `{}` does not read back as stored after {what}",
            P::NAME
        ))
        .table(Table::new("stored", "read back").opposed(&lines, &["(does not read)".to_owned()]))
        .cause(error.to_string())
    })
}

fn round_trip<P: Projection>(key: &str, json: &Bytes, what: &str) -> Checked {
    let again = write(key, &read::<P>(key, json, what)?, what)?;
    let (left, right) = (Leaves::of_bytes(json), Leaves::of_bytes(&again));
    let differing = differences(&left, &right, &Ignored::default());
    if differing.is_empty() {
        return Ok(());
    }
    let mut table = Table::new("stored", "read back");
    leaf_rows(&mut table, &left, &right, &Ignored::default());
    let title =
        format!("the document `{key}` of `{}` is not the same after storing and reading back", P::NAME);
    Err(Failure::new(title)
        .table(table)
        .cause(format!("after {what}, it changes in {}", fields(&differing, ["stored", "read back"])))
        .note("check its `#[serde(…)]` attributes; if the change is intended, add `.without_round_trip()`"))
}

fn not_a_key(what: &str, error: &NotAKey) -> Fault {
    let failure = Failure::new(format!("{what} names no document")).cause(error.to_string());
    Fault { kind: FaultKind::NotAKey, failure }
}

fn misfit_fault(what: &str, key: &str, misfit: Misfit) -> Fault {
    let cause = match misfit {
        Misfit::Missing => format!(
            "its `#[on]` needs a document, but there is none with the key `{key}`; an event whose `#[on]` creates it must come first"
        ),
        Misfit::Exists => {
            format!("its `#[on]` has no `self` and so creates, but there is a document with the key `{key}`")
        }
    };
    let failure = Failure::new(format!("{what} does not fold into the document `{key}`")).cause(cause);
    Fault { kind: FaultKind::Misfit(misfit), failure }
}
