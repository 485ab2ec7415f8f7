//! Tests of a projection: given events of some streams, then documents.

mod documents;
mod then;

use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::mem;
use std::panic::Location;
use std::sync::Arc;

use cqrs_core::event::{EventSet as _, RecordedEvent};
use cqrs_core::{EventMeta, Partition, Position, Projection, StreamId, Version};

use self::documents::{Documents, Fault, FeedResult};
use crate::fixed::{Count, START, nth_id};
use crate::history::{History, IntoHistory};
use crate::report::leaves::Ignored;
use crate::report::{Chapter, Failure, listed};
pub use crate::step::{Given, When};
use crate::stored::Image;

/// Adds `given` to every projection.
///
/// ```
/// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
/// use cqrs_testkit::prelude::*;
///
/// Summary::given(Account::history(7, [Opened { owner: "Ada".into() }])).then_document_count(1);
/// ```
pub trait ProjectionTest: Projection {
    /// Starts with these events: `Account::history(id, events)`, a [`History`], a tuple, array, or vector of them, or
    /// `()` for none.
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// # let ada = || Opened { owner: "Ada".into() };
    /// Summary::given((
    ///     Account::history(7, (ada(), Deposited { cents: 5 })),
    ///     Account::history(8, Opened { owner: "Bob".into() }),
    /// ))
    /// .then_document(7, Summary { owner: "Ada".into(), balance: 5, postings: 1 })
    /// .then_document(8, Summary { owner: "Bob".into(), balance: 0, postings: 0 });
    /// ```
    #[track_caller]
    #[must_use = "check the documents with `.then_document(…)`"]
    fn given(history: impl IntoHistory) -> ProjectionScenario<Self> {
        ProjectionScenario::new().and_given(history)
    }
}

impl<P: Projection> ProjectionTest for P {}

/// A test of a projection: the events it was fed, and the resulting documents.
///
/// Documents are stored and read back between two events, as the engine does. With `fold_in_memory` they are also
/// folded in memory, and the test fails at the first event after which the results differ.
///
/// `S` is the phase of the test: [`Given`], or [`When`] after `.when(…)`, which adds `then_unchanged`.
///
/// ```
/// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
/// # use cqrs_testkit::prelude::*;
/// # let ada = || Opened { owner: "Ada".into() };
/// Summary::given(Account::history(7, ada()))
///     .then_document_matches(7, |summary| summary.balance == 0)
///     .when(Account::history(7, Deposited { cents: 5 }))
///     .then_document_matches(7, |summary| summary.balance == 5);
/// ```
pub struct ProjectionScenario<P: Projection, S = Given> {
    documents: Documents<P>,
    /// The documents before the last `when`.
    before: Documents<P>,
    pending: Vec<Pending>,
    log: Vec<Entry>,
    steps: usize,
    versions: HashMap<StreamId, u64>,
    fault: Option<Fault>,
    ignored: Ignored,
    twice: bool,
    round_trip: bool,
    phase: PhantomData<S>,
}

/// A history that has not been fed yet.
struct Pending {
    history: History,
    label: &'static str,
    location: &'static Location<'static>,
}

/// An event that has been fed.
struct Entry {
    label: &'static str,
    /// The number of `when` calls before it. Each has its own part of the story.
    step: usize,
    event: RecordedEvent,
    line: String,
    read: bool,
}

impl<P: Projection> ProjectionScenario<P> {
    fn new() -> Self {
        Self {
            documents: Documents::new(),
            before: Documents::new(),
            pending: Vec::new(),
            log: Vec::new(),
            steps: 0,
            versions: HashMap::new(),
            fault: None,
            ignored: Ignored::default(),
            twice: false,
            round_trip: true,
            phase: PhantomData,
        }
    }
}

/// The setup of a test.
impl<P: Projection, S> ProjectionScenario<P, S> {
    /// Feeds further events.
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// # let ada = || Opened { owner: "Ada".into() };
    /// Summary::given(Account::history(7, ada()))
    ///     .and_given(Account::history(7, Deposited { cents: 5 }))
    ///     .then_document(7, Summary { owner: "Ada".into(), balance: 5, postings: 1 });
    /// ```
    #[track_caller]
    #[must_use = "check the documents with `.then_document(…)`"]
    pub fn and_given(mut self, history: impl IntoHistory) -> ProjectionScenario<P> {
        self.enqueue(history, "given", Location::caller());
        self.into_phase()
    }

    /// Feeds events whose effect the test can check.
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// # let ada = || Opened { owner: "Ada".into() };
    /// Summary::given(Account::history(7, ada()))
    ///     .when(Account::history(7, FeeCharged { cents: 1 }))
    ///     .then_unchanged();
    /// ```
    #[track_caller]
    #[must_use = "check the documents with `.then_document(…)`"]
    pub fn when(mut self, history: impl IntoHistory) -> ProjectionScenario<P, When> {
        self.run_pending();
        self.before = self.documents.clone();
        self.steps += 1;
        self.enqueue(history, "when", Location::caller());
        self.into_phase()
    }

    /// Feeds each event twice in a row, starting with the events since the last check.
    ///
    /// The engine does not do this: the checkpoint moves in the same commit as the documents. Use it for a projection
    /// that something else feeds at least once. [`then_idempotent`](Self::then_idempotent) checks that a repetition
    /// changes nothing.
    ///
    /// ```
    /// use cqrs::prelude::*;
    /// use cqrs_testkit::prelude::*;
    ///
    /// #[derive(Event, Serialize, Deserialize)]
    /// struct Seen;
    ///
    /// #[derive(Default, Serialize, Deserialize)]
    /// struct Visits {
    ///     count: u32,
    /// }
    ///
    /// #[projection(name = "visits", key = String)]
    /// impl Visits {
    ///     #[on]
    ///     fn seen(&mut self, _: &Seen) {
    ///         self.count += 1;
    ///     }
    /// }
    ///
    /// Visits::given(History::of("Page/home").event(Seen))
    ///     .fed_twice()
    ///     .then_document("home".to_owned(), Visits { count: 2 });
    /// ```
    #[must_use = "check the documents with `.then_document(…)`"]
    pub fn fed_twice(mut self) -> Self {
        self.twice = true;
        self
    }

    /// Excludes fields of documents from the following comparisons, such as the time of a refresh. Patterns are those
    /// of [`AggregateScenario::ignoring`](crate::aggregate::AggregateScenario::ignoring).
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// # let ada = || Opened { owner: "Ada".into() };
    /// Summary::given(Account::history(7, (ada(), Deposited { cents: 5 })))
    ///     .ignoring(["postings"])
    ///     .then_document(7, Summary { owner: "Ada".into(), balance: 5, postings: 0 });
    /// ```
    #[must_use = "check the documents with `.then_document(…)`"]
    pub fn ignoring<T: AsRef<str>>(mut self, fields: impl IntoIterator<Item = T>) -> Self {
        fields.into_iter().for_each(|field| self.ignored.add(field.as_ref()));
        self
    }

    /// Disables the check that events and documents survive serialization.
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// # let ada = || Opened { owner: "Ada".into() };
    /// Summary::given(Account::history(7, (ada(), Deposited { cents: 5 })))
    ///     .without_round_trip()
    ///     .then_document_count(1);
    /// ```
    #[must_use = "check the documents with `.then_document(…)`"]
    pub fn without_round_trip(mut self) -> Self {
        self.round_trip = false;
        self
    }
}

impl<P: Projection, S> ProjectionScenario<P, S> {
    fn enqueue(
        &mut self,
        history: impl IntoHistory,
        label: &'static str,
        location: &'static Location<'static>,
    ) {
        let mut all = Vec::new();
        history.into_history(&mut all);
        self.pending.extend(all.into_iter().map(|history| Pending { history, label, location }));
    }

    /// Moves the test to another phase.
    fn into_phase<T>(self) -> ProjectionScenario<P, T> {
        let Self {
            documents, before, pending, log, steps, versions, fault, ignored, twice, round_trip, ..
        } = self;
        ProjectionScenario {
            documents,
            before,
            pending,
            log,
            steps,
            versions,
            fault,
            ignored,
            twice,
            round_trip,
            phase: PhantomData,
        }
    }

    /// Feeds pending events, up to the first one that cannot be folded.
    fn run_pending(&mut self) {
        for Pending { history, label, location } in mem::take(&mut self.pending) {
            if self.fault.is_some() {
                return;
            }
            if let Err(mut fault) = self.feed(&history, label) {
                fault.failure = fault.failure.story(self.story()).given_at(location);
                self.fault = Some(fault);
            }
        }
    }

    fn feed(&mut self, history: &History, label: &'static str) -> Result<(), Fault> {
        for past in &history.events {
            let event = self.record(history, &past.image);
            let what = what(self.log.len() + 1, &event);
            let line = format!("{}: {}", event.meta.stream, past.image.inline());
            self.log.push(Entry { label, step: self.steps, line, event: event.clone(), read: true });
            if let (true, Some(failure)) = (self.round_trip, &past.fault) {
                return Err(failure.clone().into());
            }
            let fed = self.documents.feed(&event, &what, self.round_trip)?;
            if let (true, FeedResult::Folded(keys)) = (P::FOLD_IN_MEMORY && !self.twice, &fed) {
                let events: Vec<&RecordedEvent> = self.log.iter().map(|entry| &entry.event).collect();
                self.documents.check_folded_in_memory(&events, keys, &what)?;
            }
            if let Some(entry) = self.log.last_mut() {
                entry.note(&fed);
            }
            if self.twice {
                let again = format!("{what}, fed a second time,");
                self.documents.feed(&event, &again, self.round_trip)?;
            }
        }
        Ok(())
    }

    /// Returns the event as recorded in a log of all events of this test.
    fn record(&mut self, history: &History, image: &Image) -> RecordedEvent {
        let position = self.log.len() as u64 + 1;
        let version = self.versions.entry(history.stream.clone()).or_default();
        *version += 1;
        image.recorded(EventMeta {
            id: nth_id(position),
            stream: history.stream.clone(),
            version: Version::new(*version),
            partition: Partition::ONLY,
            position: Position::new(position),
            time: history.time.unwrap_or(START),
            metadata: Arc::clone(&history.metadata),
        })
    }

    fn story(&self) -> Vec<Chapter> {
        let mut story: Vec<Chapter> = Vec::new();
        if self.log.first().is_none_or(|entry| entry.label != "given") {
            story.push(Chapter { label: "given", lines: vec!["nothing".to_owned()] });
        }
        for run in self.log.chunk_by(|one, next| (one.label, one.step) == (next.label, next.step)) {
            let lines = run.iter().map(|entry| entry.line.clone()).collect();
            story.push(Chapter { label: run[0].label, lines });
        }
        story
    }

    /// Returns a note if no event was folded into a document.
    fn unread_note(&self) -> Option<String> {
        let unread = !self.log.is_empty() && self.log.iter().all(|entry| !entry.read);
        let names: Vec<String> = P::Event::TYPES.iter().map(|kind| format!("`{}`", kind.name)).collect();
        unread.then(|| format!("`{}` reads only {}", P::NAME, listed(&names)))
    }
}

impl Entry {
    /// Adds the keys of the documents to the line of the story, unless the key is the stream's id.
    fn note(&mut self, fed: &FeedResult) {
        match fed {
            FeedResult::NotRead => {
                self.read = false;
                self.line.push_str(" (not read)");
            }
            FeedResult::Folded(keys) if *keys != [self.event.meta.stream.id()] => {
                let keys: Vec<String> = keys.iter().map(|key| format!("`{key}`")).collect();
                let keys = if keys.is_empty() { "no document".to_owned() } else { listed(&keys) };
                self.line.push_str(&format!(" → {keys}"));
            }
            FeedResult::Folded(_) => {}
        }
    }
}

/// Describes an event: ``event 2 (`Deposited` of Account/7)``.
fn what(number: usize, event: &RecordedEvent) -> String {
    format!("event {number} (`{}` of {})", event.name, event.meta.stream)
}

impl<P: Projection, S> fmt::Debug for ProjectionScenario<P, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProjectionScenario")
            .field("projection", &P::NAME)
            .field("fed", &Count(self.log.len()))
            .field("documents", &Count(self.documents.all.len()))
            .finish_non_exhaustive()
    }
}

/// Returns a failure of this projection, with the events it was fed.
impl<P: Projection, S> ProjectionScenario<P, S> {
    fn failure(&self, title: String) -> Failure {
        Failure::new(title).story(self.story()).notes(self.unread_note())
    }
}
