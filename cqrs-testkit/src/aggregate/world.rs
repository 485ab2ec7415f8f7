//! The simulated engine of a scenario: it loads, decides, and folds as the engine does.

use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use cqrs_core::Id as _;
use cqrs_core::aggregate::{Current, Misfit, Refusal};
use cqrs_core::codec::CodecError;
use cqrs_core::context::{IdSource, Services, Surroundings};
use cqrs_core::event::RecordedEvent;
use cqrs_core::{
    Aggregate, Command, Context, EventMeta, Handle, Metadata, Partition, Position, StreamId, Timestamp,
    Version,
};

use super::explain;
use crate::fixed::{CountingIds, nth_id};
use crate::id;
use crate::report::{Chapter, Checked, Failure};
use crate::stored::{Image, images, read, round_trip};

/// An aggregate, and everything that its handlers can use.
pub(crate) struct World<A: Aggregate> {
    pub(crate) state: Option<A>,
    pub(crate) version: Version,
    pub(crate) stream: Option<StreamId>,
    pub(crate) services: Services,
    pub(crate) ids: Arc<dyn IdSource>,
    pub(crate) round_trip: bool,
    pub(crate) patience: Duration,
    given: usize,
    log: Vec<Entry>,
}

/// The time and the metadata of a step.
#[derive(Clone, Debug)]
pub(crate) struct Moment {
    pub(crate) now: Timestamp,
    pub(crate) metadata: Arc<Metadata>,
}

/// An entry of the story.
enum Entry {
    Given(String),
    When { command: &'static str, stream: String, results: Vec<String> },
}

/// The outcome of a command.
pub(crate) enum Outcome<A: Aggregate> {
    Accepted(Accepted<A>),
    Refused(Refusal<A::Error>),
    /// The command expects another version of the stream.
    Conflict {
        expected: Version,
        actual: Version,
    },
}

/// The events that a handler returned: as the aggregate's type, in their stored form, and as recorded in the log.
pub(crate) struct Accepted<A: Aggregate> {
    pub(crate) events: Vec<A::Event>,
    pub(crate) images: Vec<Image>,
    pub(crate) recorded: Vec<RecordedEvent>,
}

/// Default time limit of an `async` handler.
const DEFAULT_PATIENCE: Duration = Duration::from_secs(30);

impl<A: Aggregate> World<A> {
    pub(crate) fn new() -> Self {
        Self {
            state: A::initial(),
            version: Version::NONE,
            stream: None,
            services: Services::new(),
            ids: Arc::new(CountingIds::default()),
            round_trip: true,
            patience: DEFAULT_PATIENCE,
            given: 0,
            log: Vec::new(),
        }
    }

    /// Folds events as if they were read from the log.
    pub(crate) fn given(&mut self, events: Vec<A::Event>) -> Checked {
        let from = self.given;
        let what = |at: usize| format!("given event {}", from + at + 1);
        let images = images(&events, &what)?;
        self.given += events.len();
        self.log.extend(images.iter().map(|image| Entry::Given(image.inline())));
        self.fold(events, &images, &what)?;
        Ok(())
    }

    /// Folds an event in its stored form.
    pub(crate) fn given_stored(&mut self, image: &Image) -> Checked {
        self.given += 1;
        let what = format!("given event {}", self.given);
        self.log.push(Entry::Given(format!("{} (stored)", image.inline())));
        let events = read::<A::Event>(image, &what)?;
        for event in &events {
            self.fold_one(event, &image.name, &what)?;
        }
        Ok(())
    }

    /// Runs a command of the setup, which must be accepted.
    pub(crate) fn given_command<C: Command>(&mut self, command: C, moment: &Moment) -> Checked
    where
        A: Handle<C>,
    {
        let outcome = self.decide(command, moment)?;
        let refused = match &outcome {
            Outcome::Accepted(accepted) => {
                self.given += accepted.images.len();
                let of = |image: &Image| Entry::Given(format!("{} (from `{}`)", image.inline(), C::NAME));
                self.log.extend(accepted.images.iter().map(of));
                return Ok(());
            }
            _ => explain::outcome_reason(self, &outcome, C::NAME),
        };
        Err(Failure::new(format!("the given command `{}` was not accepted", C::NAME))
            .story(self.story(true))
            .cause(refused))
    }

    /// Runs a command, and folds its events.
    pub(crate) fn when<C: Command>(&mut self, command: C, moment: &Moment) -> Result<Outcome<A>, Failure>
    where
        A: Handle<C>,
    {
        let stream = command.id().as_text().to_string();
        self.log.push(Entry::When {
            command: C::NAME,
            stream: format!("{}/{stream}", A::NAME),
            results: Vec::new(),
        });
        let outcome = self.decide(command, moment).map_err(|failure| failure.story(self.story(true)))?;
        if let Some(Entry::When { results, .. }) = self.log.last_mut() {
            *results = explain::results(&outcome);
        }
        Ok(outcome)
    }

    fn decide<C: Command>(&mut self, command: C, moment: &Moment) -> Result<Outcome<A>, Failure>
    where
        A: Handle<C>,
    {
        let stream = self.route(&command)?;
        let actual = self.version;
        // Events have no ids here, so only the version is compared.
        let expected = command.expected_version().map(|expected| expected.version());
        if let Some(expected) = expected.filter(|expected| *expected != actual) {
            return Ok(Outcome::Conflict { expected, actual });
        }
        self.restore_from_snapshot()?;
        let (ids, metadata) = (Arc::clone(&self.ids), Arc::clone(&moment.metadata));
        let context = Context::new(stream.clone(), actual, moment.now, metadata, ids);
        let surroundings = Surroundings { context: &context, services: &self.services };
        let current = Current::new(self.state.as_ref(), actual);
        match super::run::finish(A::handle(current, command, &surroundings), C::NAME, self.patience)? {
            Ok(events) => self.accept(events, C::NAME, &stream, moment).map(Outcome::Accepted),
            Err(Refusal::NoService(missing)) => Err(explain::no_service(C::NAME, missing, &self.services)),
            Err(refusal) => Ok(Outcome::Refused(refusal)),
        }
    }

    /// Saves the state as a snapshot and restores it, if the aggregate uses snapshots. A field that is not serialized
    /// then affects the decision, and the test shows it.
    fn restore_from_snapshot(&mut self) -> Checked {
        if let (true, Some(snapshots), Some(state)) = (self.round_trip, A::SNAPSHOTS, &self.state) {
            let kept = snapshots.freeze(state).and_then(|bytes| snapshots.thaw(&bytes));
            let broken = |error: CodecError| {
                Failure::new("the state cannot be restored from a snapshot").cause(error.to_string())
            };
            self.state = Some(kept.map_err(broken)?);
        }
        Ok(())
    }

    /// Returns the stream of the command. All commands of a test must have the same one.
    fn route<C: Command>(&mut self, command: &C) -> Result<StreamId, Failure> {
        let stream = id::stream(A::NAME, command.id())?;
        match &self.stream {
            Some(other) if *other != stream => {
                Err(Failure::new(format!("this test is about {other}, but `{}` is for {stream}", C::NAME))
                    .cause("all given events and commands of a test must belong to one aggregate"))
            }
            _ => Ok(self.stream.insert(stream).clone()),
        }
    }

    fn accept(
        &mut self,
        events: Vec<A::Event>,
        command: &str,
        stream: &StreamId,
        moment: &Moment,
    ) -> Result<Accepted<A>, Failure> {
        let what = |at: usize| format!("event {} that `{command}` returned", at + 1);
        let images = images(&events, &what)?;
        let first = self.version;
        let recorded = images.iter().zip(first.get() + 1..);
        let recorded = recorded.map(|(image, version)| record(image, stream, version, moment)).collect();
        let events = self.fold(events, &images, &what)?;
        Ok(Accepted { events, images, recorded })
    }

    /// Folds events after reading them back from their stored form.
    fn fold(
        &mut self,
        events: Vec<A::Event>,
        images: &[Image],
        what: &dyn Fn(usize) -> String,
    ) -> Result<Vec<A::Event>, Failure> {
        let mut folded = Vec::with_capacity(events.len());
        for (at, (event, image)) in events.into_iter().zip(images).enumerate() {
            let event = if self.round_trip { round_trip::<A::Event>(image, &what(at))? } else { event };
            self.fold_one(&event, &image.name, &what(at))?;
            folded.push(event);
        }
        Ok(folded)
    }

    fn fold_one(&mut self, event: &A::Event, name: &str, what: &str) -> Checked {
        A::apply(&mut self.state, event).map_err(|misfit| does_not_fold(what, name, misfit))?;
        self.version = self.version.next();
        Ok(())
    }

    /// Returns the name of the last command.
    pub(crate) fn command(&self) -> &'static str {
        let command = |entry: &Entry| match entry {
            Entry::When { command, .. } => Some(*command),
            Entry::Given(_) => None,
        };
        self.log.iter().rev().find_map(command).unwrap_or_default()
    }

    /// Returns the stream, or a description of it if no command has named it.
    pub(crate) fn subject(&self) -> String {
        self.stream.as_ref().map_or_else(|| format!("the {}", A::NAME), StreamId::to_string)
    }

    /// Returns the steps of the test so far. It can omit the outcome of the last command, which a table then shows.
    pub(crate) fn story(&self, with_last_result: bool) -> Vec<Chapter> {
        let mut story: Vec<Chapter> = Vec::new();
        if !matches!(self.log.first(), Some(Entry::Given(_))) {
            story.push(Chapter { label: "given", lines: vec!["nothing".to_owned()] });
        }
        for entry in &self.log {
            match (entry, story.last_mut()) {
                (Entry::Given(line), Some(chapter)) if chapter.label == "given" => {
                    chapter.lines.push(line.clone());
                }
                (Entry::Given(line), _) => {
                    story.push(Chapter { label: "given", lines: vec![line.clone()] });
                }
                (Entry::When { command, stream, results }, _) => {
                    let mut lines = vec![format!("{command} for {stream}")];
                    lines.extend(results.iter().map(|result| format!("→ {result}")));
                    story.push(Chapter { label: "when", lines });
                }
            }
        }
        if let (false, Some(last)) = (with_last_result, story.last_mut()) {
            last.lines.truncate(1);
        }
        story
    }
}

fn does_not_fold(what: &str, name: &str, misfit: Misfit) -> Failure {
    let cause = match misfit {
        Misfit::Missing => {
            "its `#[apply]` takes `&mut self`, but nothing exists yet; an event whose `#[apply]` creates it must come first"
        }
        Misfit::Exists => "its `#[apply]` has no `self` and so creates, but something already exists",
    };
    Failure::new(format!("{what}, `{name}`, does not fold")).cause(cause)
}

/// Returns the event as recorded in a log that contains only this stream.
fn record(image: &Image, stream: &StreamId, version: u64, moment: &Moment) -> RecordedEvent {
    let meta = EventMeta {
        id: nth_id(version),
        stream: stream.clone(),
        version: Version::new(version),
        partition: Partition::ONLY,
        position: Position::new(version),
        time: moment.now,
        metadata: Arc::clone(&moment.metadata),
    };
    image.recorded(meta)
}

/// A step of the setup. It runs when the test sends a command or checks a result, because all services are known by
/// then.
pub(crate) struct Step<A: Aggregate> {
    pub(crate) location: &'static Location<'static>,
    pub(crate) now: Option<Timestamp>,
    pub(crate) metadata: Option<Arc<Metadata>>,
    pub(crate) act: Act<A>,
}

pub(crate) type Act<A> = Box<dyn FnOnce(&mut World<A>, &Moment) -> Checked>;
