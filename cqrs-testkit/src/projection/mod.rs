//! Tests of a projection: given what has happened to some streams, then documents.

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

use self::documents::{Documents, Fault, Fed};
use crate::fixed::{Count, START, nth_id};
use crate::history::{History, IntoHistory};
use crate::report::leaves::Ignored;
use crate::report::{Chapter, Failure, listed};
pub use crate::step::{Given, When};
use crate::stored::Image;

/// Starts the test of a projection. Every projection has it.
///
/// ```
/// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
/// use cqrs_testkit::prelude::*;
///
/// Summary::given(Account::history(7, [Opened { owner: "Ada".into() }])).then_document_count(1);
/// ```
pub trait ProjectionTest: Projection {
    /// A projection that has been fed with this: `Account::history(id, events)`, a
    /// [`History`], a tuple, an array or a vector of them, or `()` for nothing.
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
    #[must_use = "say with `.then_document(…)` what should come of it"]
    fn given(history: impl IntoHistory) -> ProjectionScenario<Self> {
        ProjectionScenario::new().and_given(history)
    }
}

impl<P: Projection> ProjectionTest for P {}

/// The test of a projection: what has happened, and the documents that came of it.
///
/// Documents are stored and read back between two events, as the engine does it. With `fold_in_memory` they are also
/// folded without that, and the test fails at the first event after which a document is not the same both ways.
///
/// `S` says where the test stands: [`Given`], or [`When`] behind `.when(…)`, which brings
/// `then_unchanged`.
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
    stands: PhantomData<S>,
}

/// A history that has not been fed yet.
struct Pending {
    history: History,
    label: &'static str,
    place: &'static Location<'static>,
}

/// An event that has been fed.
struct Entry {
    label: &'static str,
    /// How many `when` came before; each has its own part of the story.
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
            stands: PhantomData,
        }
    }
}

/// What is given and fixed.
impl<P: Projection, S> ProjectionScenario<P, S> {
    /// What has happened further.
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
    #[must_use = "say with `.then_document(…)` what should come of it"]
    pub fn and_given(mut self, history: impl IntoHistory) -> ProjectionScenario<P> {
        self.wait(history, "given", Location::caller());
        self.stand()
    }

    /// What happens now, so that a test can ask what it changes.
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
    #[must_use = "say with `.then_document(…)` what should come of it"]
    pub fn when(mut self, history: impl IntoHistory) -> ProjectionScenario<P, When> {
        self.settle();
        self.before = self.documents.clone();
        self.steps += 1;
        self.wait(history, "when", Location::caller());
        self.stand()
    }

    /// Feeds each event twice in a row, from the start of what has not been looked at yet.
    ///
    /// The engine does not do so: the checkpoint moves in the same commit as the documents. It
    /// shows what would happen if something else fed the projection at least once.
    /// [`then_idempotent`](Self::then_idempotent) asks that it changes nothing.
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
    #[must_use = "say with `.then_document(…)` what should come of it"]
    pub fn fed_twice(mut self) -> Self {
        self.twice = true;
        self
    }

    /// Fields of documents whose values are not compared from here on, such as a time of
    /// refreshing. They are named as in
    /// [`AggregateScenario::ignoring`](crate::aggregate::AggregateScenario::ignoring).
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// # let ada = || Opened { owner: "Ada".into() };
    /// Summary::given(Account::history(7, (ada(), Deposited { cents: 5 })))
    ///     .ignoring(["postings"])
    ///     .then_document(7, Summary { owner: "Ada".into(), balance: 5, postings: 0 });
    /// ```
    #[must_use = "say with `.then_document(…)` what should come of it"]
    pub fn ignoring<T: AsRef<str>>(mut self, fields: impl IntoIterator<Item = T>) -> Self {
        fields.into_iter().for_each(|field| self.ignored.add(field.as_ref()));
        self
    }

    /// Does not check that events and documents are the same after storing and reading back.
    ///
    /// ```
    /// # mod bank { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bank.rs")); } use bank::*;
    /// # use cqrs_testkit::prelude::*;
    /// # let ada = || Opened { owner: "Ada".into() };
    /// Summary::given(Account::history(7, (ada(), Deposited { cents: 5 })))
    ///     .without_round_trip()
    ///     .then_document_count(1);
    /// ```
    #[must_use = "say with `.then_document(…)` what should come of it"]
    pub fn without_round_trip(mut self) -> Self {
        self.round_trip = false;
        self
    }
}

impl<P: Projection, S> ProjectionScenario<P, S> {
    fn wait(&mut self, history: impl IntoHistory, label: &'static str, place: &'static Location<'static>) {
        let mut all = Vec::new();
        history.into_history(&mut all);
        self.pending.extend(all.into_iter().map(|history| Pending { history, label, place }));
    }

    /// The same test, standing elsewhere.
    fn stand<T>(self) -> ProjectionScenario<P, T> {
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
            stands: PhantomData,
        }
    }

    /// Feeds what waits, up to the first event that cannot be folded.
    fn settle(&mut self) {
        for Pending { history, label, place } in mem::take(&mut self.pending) {
            if self.fault.is_some() {
                return;
            }
            if let Err(mut fault) = self.feed(&history, label) {
                fault.failure = fault.failure.story(self.story()).given_at(place);
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
            if let (true, Fed::Into(keys)) = (P::FOLD_IN_MEMORY && !self.twice, &fed) {
                let events: Vec<&RecordedEvent> = self.log.iter().map(|entry| &entry.event).collect();
                self.documents.unbatched(&events, keys, &what)?;
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

    /// The event at its place in a log that holds all that this test gives.
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

    /// What to know when no event at all went into a document.
    fn unread_note(&self) -> Option<String> {
        let unread = !self.log.is_empty() && self.log.iter().all(|entry| !entry.read);
        let names: Vec<String> = P::Event::TYPES.iter().map(|kind| format!("`{}`", kind.name)).collect();
        unread.then(|| format!("`{}` reads only {}", P::NAME, listed(&names)))
    }
}

impl Entry {
    /// Adds to the line of the story where the event went, if that is not plain.
    fn note(&mut self, fed: &Fed) {
        match fed {
            Fed::NotRead => {
                self.read = false;
                self.line.push_str(" (not read)");
            }
            Fed::Into(keys) if *keys != [self.event.meta.stream.id()] => {
                let keys: Vec<String> = keys.iter().map(|key| format!("`{key}`")).collect();
                let keys = if keys.is_empty() { "no document".to_owned() } else { listed(&keys) };
                self.line.push_str(&format!(" → {keys}"));
            }
            Fed::Into(_) => {}
        }
    }
}

/// An event in words: ``event 2 (`Deposited` of Account/7)``.
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

/// A failure of this projection, with what it was fed.
impl<P: Projection, S> ProjectionScenario<P, S> {
    fn failure(&self, title: String) -> Failure {
        Failure::new(title).story(self.story()).notes(self.unread_note())
    }
}
