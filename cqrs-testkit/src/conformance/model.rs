//! Random histories, told to the store and to a model that is too simple to be wrong.
//!
//! The model keeps a plain list of events and answers every question by looking at all of them. It
//! shares no code with any store, and does not use what `cqrs-core` brings for stores either, such
//! as [`Query::matches`] or `Expected::holds`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cqrs_core::consumer::Consumer;
use cqrs_core::error::StoreErrorKind;
use cqrs_core::event::NewEvent;
use cqrs_core::id::{Position, StreamId, Version};
use cqrs_core::store::{
    Append, AppendError, Appended, Conflict, Direction, Expected, Found, Guard, LogPoint, LogRead, Query,
    StreamRead,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestError, TestRunner};
use uuid::Uuid;

use super::diary::{ALL, UNREADABLE, diary};
use super::inline;
use super::kit::{Check, Failure, Need, Sketch as _, World, ensure, fail, forward, item, key, same};

/// How many histories are tried, unless this variable says otherwise.
const CASES: (&str, u32) = ("CQRS_CONFORMANCE_CASES", 48);

/// The seed of the histories, as a failure prints it.
const SEED: &str = "CQRS_CONFORMANCE_SEED";

const STREAMS: [&str; 3] = ["one", "two", "three"];
const NAMES: [&str; 3] = ["Opened", "Moved", "Closed"];
const TAGS: [&str; 3] = ["seat:1", "seat:2", "show:1"];

/// One step of a history. Small numbers stand for streams, names, tags, keys and places in the log,
/// so that steps meet each other often and shrink well.
#[derive(Clone, Debug)]
enum Step {
    Append {
        events: Vec<Draft>,
        guard: Clause,
        key: Option<(usize, u8)>,
        inline: Inline,
    },
    ReadStream {
        stream: usize,
        from: u64,
        direction: Direction,
        limit: usize,
    },
    ReadLog {
        after: usize,
        up_to: Option<usize>,
        items: Items,
        limit: usize,
    },
    FindKey {
        stream: usize,
        key: u8,
    },
    /// Whoever follows the log for the inline projection brings it to the head.
    CatchUp,
}

/// Whether an append brings the inline projection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Inline {
    Without,
    With,
    /// And its last event is one that the projection cannot take.
    Unfit,
}

#[derive(Clone, Debug)]
struct Draft {
    stream: usize,
    name: usize,
    tags: BTreeSet<usize>,
    /// Takes the id of this event of the log, if there is one, which is a mistake.
    stolen: Option<usize>,
}

#[derive(Clone, Debug)]
enum Clause {
    Any,
    Stream(usize, Want),
    /// Nothing new behind the so-many-eth event.
    Unchanged(Items, usize),
    Absent(Items),
    All(Vec<Clause>),
}

#[derive(Clone, Copy, Debug)]
enum Want {
    NoStream,
    Version(u64),
    Exists,
    Any,
}

/// `None` is every event; else each item is some names and some tags.
type Items = Option<Vec<(BTreeSet<usize>, BTreeSet<usize>)>>;

/// What the log can do, as far as it changes which histories are tried.
#[derive(Clone, Copy)]
struct Abilities {
    tags: bool,
    several: bool,
    inline: bool,
}

fn sets(most: usize, of: usize, any: bool) -> BoxedStrategy<BTreeSet<usize>> {
    let none = Just(BTreeSet::new()).boxed();
    if any { proptest::collection::btree_set(0..of, 0..=most).boxed() } else { none }
}

fn items(can: Abilities) -> impl Strategy<Value = Items> {
    let item = (sets(2, NAMES.len(), true), sets(2, TAGS.len(), can.tags));
    let several = proptest::collection::vec(item, 0..=2);
    prop_oneof![1 => Just(None), 6 => several.prop_map(Some)]
}

fn clause(can: Abilities) -> impl Strategy<Value = Clause> {
    let want = prop_oneof![
        Just(Want::NoStream),
        Just(Want::Exists),
        Just(Want::Any),
        (0..6_u64).prop_map(Want::Version),
    ];
    let leaf = prop_oneof![
        3 => Just(Clause::Any),
        3 => (0..STREAMS.len(), want).prop_map(|(stream, want)| Clause::Stream(stream, want)),
        2 => (items(can), 0..12_usize).prop_map(|(items, after)| Clause::Unchanged(items, after)),
        1 => items(can).prop_map(Clause::Absent),
    ];
    leaf.prop_recursive(2, 6, 3, |inner| proptest::collection::vec(inner, 0..=3).prop_map(Clause::All))
}

fn drafts() -> impl Strategy<Value = Vec<Draft>> {
    let stolen = prop_oneof![20 => Just(None), 1 => (0..6_usize).prop_map(Some)];
    let draft = (0..STREAMS.len(), 0..NAMES.len(), sets(2, TAGS.len(), true), stolen)
        .prop_map(|(stream, name, tags, stolen)| Draft { stream, name, tags, stolen });
    proptest::collection::vec(draft, 0..=3)
}

fn step(can: Abilities) -> BoxedStrategy<Step> {
    let key = prop_oneof![3 => Just(None), 1 => (0..STREAMS.len(), 0..3_u8).prop_map(Some)];
    let inline = prop_oneof![2 => Just(Inline::Without), 4 => Just(Inline::With), 1 => Just(Inline::Unfit)];
    let inline = if can.inline { inline.boxed() } else { Just(Inline::Without).boxed() };
    let append = (drafts(), clause(can), key, inline)
        .prop_map(move |(events, guard, key, inline)| can.append(events, guard, key, inline));
    let direction = prop_oneof![Just(Direction::Forward), Just(Direction::Backward)];
    let read_stream = (0..STREAMS.len(), 0..9_u64, direction, 1..6_usize)
        .prop_map(|(stream, from, direction, limit)| Step::ReadStream { stream, from, direction, limit });
    let up_to = proptest::option::of(0..12_usize);
    let read_log = (0..12_usize, up_to, items(can), 1..6_usize)
        .prop_map(|(after, up_to, items, limit)| Step::ReadLog { after, up_to, items, limit });
    let find_key = (0..STREAMS.len(), 0..3_u8).prop_map(|(stream, key)| Step::FindKey { stream, key });
    let others = prop_oneof![1 => read_stream, 2 => read_log, 1 => find_key];
    if !can.inline {
        return prop_oneof![5 => append, 4 => others].boxed();
    }
    prop_oneof![5 => append, 4 => others, 1 => Just(Step::CatchUp)].boxed()
}

impl Abilities {
    /// Keeps an append to one stream if the store cannot have several.
    fn append(
        self,
        mut events: Vec<Draft>,
        mut guard: Clause,
        mut key: Option<(usize, u8)>,
        inline: Inline,
    ) -> Step {
        if !self.several {
            let only = events.first().map(|draft| draft.stream).or(key.map(|(stream, _)| stream));
            let only = only.unwrap_or_default();
            events.iter_mut().for_each(|draft| draft.stream = only);
            key = key.map(|(_, key)| (only, key));
            guard.keep_to(only);
        }
        Step::Append { events, guard, key, inline }
    }
}

impl Clause {
    fn keep_to(&mut self, only: usize) {
        match self {
            Self::Stream(stream, _) => *stream = only,
            Self::All(all) => all.iter_mut().for_each(|clause| clause.keep_to(only)),
            Self::Any | Self::Unchanged(..) | Self::Absent(_) => {}
        }
    }
}

/// An event as the model remembers it.
#[derive(Clone, Debug)]
struct Known {
    id: Uuid,
    stream: usize,
    version: u64,
    position: Position,
    name: usize,
    tags: BTreeSet<usize>,
}

impl Known {
    fn is_of(&self, items: &Items) -> bool {
        let Some(items) = items else { return true };
        items.iter().any(|(names, tags)| {
            (names.is_empty() || names.contains(&self.name)) && tags.is_subset(&self.tags)
        })
    }
}

/// A store beside the model of it.
struct Story {
    world: World,
    streams: Vec<StreamId>,
    log: Vec<Known>,
    keys: BTreeMap<(usize, u8), Appended>,
    diary: Arc<dyn Consumer>,
    /// How far the inline projection is.
    told: Position,
}

impl Story {
    fn new(world: World) -> Self {
        let streams = STREAMS.map(|name| world.stream(name)).into();
        let (diary, told) = (diary("diary"), Position::START);
        Self { world, streams, log: Vec::new(), keys: BTreeMap::new(), diary, told }
    }

    async fn tell(&mut self, steps: &[Step]) -> Check {
        for (at, step) in steps.iter().enumerate() {
            let told = match step {
                Step::Append { events, guard, key, inline } => {
                    self.append(events, guard, *key, *inline).await
                }
                Step::CatchUp => self.catch_up().await,
                Step::ReadStream { stream, from, direction, limit } => {
                    self.read_stream(*stream, *from, *direction, *limit).await
                }
                Step::ReadLog { after, up_to, items, limit } => {
                    self.read_log(*after, *up_to, items, *limit).await
                }
                Step::FindKey { stream, key } => self.find_key(*stream, *key).await,
            };
            if let Err(Failure::Fail(how)) = told {
                return fail(format!("at step {at}, {step:?}: {how}"));
            }
        }
        self.end().await
    }

    /// The position of the so-many-eth event; before all for 0, behind all for what is not there.
    fn place(&self, number: usize) -> Position {
        let known = number.checked_sub(1).map(|at| self.log.get(at).map(|known| known.position));
        match known {
            None => Position::START,
            Some(Some(position)) => position,
            Some(None) => Position::new(self.head().get() + number as u64),
        }
    }

    /// The event at a position, if there is one.
    fn id_at(&self, position: Position) -> Option<Uuid> {
        self.log.iter().find(|known| known.position == position).map(|known| known.id)
    }

    fn head(&self) -> Position {
        self.log.last().map_or(Position::START, |known| known.position)
    }

    fn version(&self, stream: usize) -> u64 {
        self.log.iter().filter(|known| known.stream == stream).count() as u64
    }

    fn query(items: &Items) -> Query {
        let text = |numbers: &BTreeSet<usize>, texts: [&'static str; 3]| {
            numbers.iter().filter_map(|number| texts.get(*number).copied()).collect::<Vec<_>>()
        };
        let Some(items) = items else { return Query::all() };
        Query::any_of(items.iter().map(|(names, tags)| item(&text(names, NAMES), &text(tags, TAGS))))
    }

    fn guard(&self, clause: &Clause) -> Guard {
        match clause {
            Clause::Any => Guard::Any,
            Clause::Stream(stream, want) => Guard::Stream {
                stream: self.streams[*stream].clone(),
                expected: match want {
                    Want::NoStream => Expected::NoStream,
                    Want::Version(version) => Expected::Version(Version::new(*version)),
                    Want::Exists => Expected::Exists,
                    Want::Any => Expected::Any,
                },
            },
            Clause::Unchanged(items, after) => {
                let position = self.place(*after);
                let after = LogPoint { position, event: self.id_at(position) };
                Guard::Unchanged { query: Self::query(items), after }
            }
            Clause::Absent(items) => Guard::Absent(Self::query(items)),
            Clause::All(all) => Guard::All(all.iter().map(|clause| self.guard(clause)).collect()),
        }
    }

    /// All clauses that do not hold, any of which the store may name.
    fn conflicts(&self, clause: &Clause, into: &mut Vec<Conflict>) {
        let last = |items: &Items, after| {
            let mut behind = self.log.iter().filter(|known| known.position > after && known.is_of(items));
            behind.next_back().map(|known| Found::Position(known.position))
        };
        let found = match clause {
            Clause::Any => None,
            Clause::All(all) => return all.iter().for_each(|clause| self.conflicts(clause, into)),
            Clause::Stream(stream, want) => {
                let version = self.version(*stream);
                let good = match want {
                    Want::NoStream => version == 0,
                    Want::Version(wanted) => version == *wanted,
                    Want::Exists => version > 0,
                    Want::Any => true,
                };
                (!good).then_some(Found::Version(Version::new(version)))
            }
            Clause::Unchanged(items, after) => last(items, self.place(*after)),
            Clause::Absent(items) => last(items, Position::START),
        };
        into.extend(found.map(|found| Conflict { clause: self.guard(clause), found }));
    }

    fn event(&self, draft: &Draft) -> NewEvent {
        let tags: Vec<&str> = draft.tags.iter().map(|tag| TAGS[*tag]).collect();
        let event = self.world.event(&self.streams[draft.stream]).named(NAMES[draft.name]).tagged(&tags);
        let stolen = draft.stolen.and_then(|at| self.log.get(at));
        NewEvent { id: stolen.map_or(event.id, |known| known.id), ..event }
    }

    async fn append(
        &mut self,
        drafts: &[Draft],
        clause: &Clause,
        by: Option<(usize, u8)>,
        inline: Inline,
    ) -> Check {
        let mut events: Vec<NewEvent> = drafts.iter().map(|draft| self.event(draft)).collect();
        if let (Inline::Unfit, Some(last)) = (inline, events.last_mut()) {
            last.name = UNREADABLE.into();
        }
        let ids: Vec<Uuid> = events.iter().map(|event| event.id).collect();
        let command = by.map(|(stream, number)| key(&self.streams[stream], &number.to_string()));
        let mut append = Append::new(events, self.guard(clause)).with_key(command);
        if inline != Inline::Without {
            append = append.with_inline([Arc::clone(&self.diary)].into_iter().collect());
        }
        let outcome = self.world.log.append(append).await;
        if let Some(first) = by.and_then(|by| self.keys.get(&by)) {
            let Err(AppendError::Duplicate(given)) = outcome else {
                return fail(format!("the key is there already, but the store gave {outcome:?}"));
            };
            return same("what the first append gave", &given, first);
        }
        let mut conflicts = Vec::new();
        self.conflicts(clause, &mut conflicts);
        if !conflicts.is_empty() {
            let Err(AppendError::Conflict(conflict)) = outcome else {
                return fail(format!("the guard does not hold, but the store gave {outcome:?}"));
            };
            ensure!(conflicts.contains(&conflict), "{conflict:?} is none of {conflicts:?}");
            return Ok(());
        }
        let distinct: BTreeSet<&Uuid> = ids.iter().collect();
        let used = self.log.iter().any(|known| ids.contains(&known.id));
        if used || distinct.len() < ids.len() {
            let invalid =
                matches!(&outcome, Err(AppendError::Store(error)) if error.kind() == StoreErrorKind::Invalid);
            ensure!(invalid, "an event id is used twice, but the store gave {outcome:?}");
            return Ok(());
        }
        let asked = inline != Inline::Without && !drafts.is_empty();
        if asked && self.told != self.head() {
            let Err(AppendError::Behind { position, head, .. }) = outcome else {
                return fail(format!("the inline projection is behind, but the store gave {outcome:?}"));
            };
            return same("its position, and the head", &(position, head), &(self.told, self.head()));
        }
        if asked && inline == Inline::Unfit {
            let unfit = matches!(outcome, Err(AppendError::Unfit { .. }));
            ensure!(unfit, "the inline projection cannot take this, but the store gave {outcome:?}");
            return Ok(());
        }
        self.accepted(drafts, &ids, by, outcome?).await?;
        if asked {
            self.told = self.head();
        }
        Ok(())
    }

    async fn catch_up(&mut self) -> Check {
        inline::catch_up(&self.world, &self.diary).await?;
        self.told = self.head();
        Ok(())
    }

    async fn accepted(
        &mut self,
        drafts: &[Draft],
        ids: &[Uuid],
        by: Option<(usize, u8)>,
        appended: Appended,
    ) -> Check {
        // The store chooses the positions; all the rest is known beforehand.
        let behind = self.world.read_log(self.head(), Query::all()).await?.events;
        let there: Vec<Uuid> = behind.iter().map(|event| event.meta.id).collect();
        same("the ids of the events that were written", &there.as_slice(), &ids)?;
        let mut streams = Vec::new();
        for (draft, event) in drafts.iter().zip(&behind) {
            let Draft { stream, name, ref tags, .. } = *draft;
            let (version, position) = (self.version(stream) + 1, event.meta.position);
            ensure!(position > self.head(), "position {position} follows on {}", self.head());
            if !streams.contains(&stream) {
                streams.push(stream);
            }
            self.log.push(Known { id: event.meta.id, stream, version, position, name, tags: tags.clone() });
        }
        if drafts.is_empty() {
            streams.extend(by.map(|(stream, _)| stream));
        }
        let version = |stream: &usize| (self.streams[*stream].clone(), Version::new(self.version(*stream)));
        same("the versions", &appended.versions, &streams.iter().map(version).collect())?;
        same("the position", &appended.position, &self.head())?;
        same("the event there", &appended.event, &self.id_at(self.head()))?;
        if let Some(by) = by {
            self.keys.insert(by, appended);
        }
        Ok(())
    }

    async fn read_stream(&self, stream: usize, from: u64, direction: Direction, limit: usize) -> Check {
        let read = forward(&self.streams[stream], Version::new(from));
        let slice = self.world.slice(StreamRead { direction, limit, ..read }).await?;
        same("the stream's version", &slice.version, &Version::new(self.version(stream)))?;
        let mut expected: Vec<&Known> = self.log.iter().filter(|known| known.stream == stream).collect();
        match direction {
            Direction::Forward => expected.retain(|known| known.version >= from),
            Direction::Backward => {
                expected.retain(|known| known.version <= from);
                expected.reverse();
            }
        }
        let given = slice.events.len();
        ensure!(given <= limit, "{given} events for a limit of {limit}");
        ensure!(given > 0 || expected.is_empty(), "no event, though there are some");
        expected.truncate(given);
        self.compare(&slice.events, &expected)
    }

    async fn read_log(&self, after: usize, up_to: Option<usize>, items: &Items, limit: usize) -> Check {
        let (after, up_to) = (self.place(after), up_to.map(|up_to| self.place(up_to)));
        let read = LogRead { up_to, limit, ..self.world.log_read(after, Self::query(items)) };
        let slice = self.world.log.read_log(read).await?;
        same("the head", &slice.head.position, &self.head())?;
        same("the event at the head", &slice.head.event, &self.id_at(self.head()))?;
        same("the event that it read from", &slice.after_event, &self.id_at(after))?;
        let end = up_to.map_or(self.head(), |up_to| up_to.min(self.head())).max(after);
        let read_to = slice.read_to;
        ensure!(after <= read_to && read_to <= end, "read from {after} to {read_to}, which ends at {end}");
        same("the event that it read to", &slice.read_to_event, &self.id_at(read_to))?;
        ensure!(read_to > after || end == after, "read no further than {after}, though it ends at {end}");
        let inside =
            |known: &&Known| known.position > after && known.position <= read_to && known.is_of(items);
        let expected: Vec<&Known> = self.log.iter().filter(inside).collect();
        ensure!(slice.events.len() <= limit, "{} events for a limit of {limit}", slice.events.len());
        self.compare(&slice.events, &expected)
    }

    async fn find_key(&self, stream: usize, number: u8) -> Check {
        let found = self.world.log.find_key(&key(&self.streams[stream], &number.to_string())).await?;
        same("what the key gives", &found.as_ref(), &self.keys.get(&(stream, number)))
    }

    fn compare(&self, events: &[super::kit::Event], expected: &[&Known]) -> Check {
        let given: Vec<_> = events
            .iter()
            .map(|event| (event.meta.id, event.meta.version.get(), event.meta.position))
            .collect();
        let expected = expected.iter().map(|known| (known.id, known.version, known.position)).collect();
        same("the events", &given, &expected)?;
        for event in events {
            ensure!(self.streams.contains(&event.meta.stream), "an event of {}", event.meta.stream);
        }
        Ok(())
    }

    /// At the end, everything is read once more.
    async fn end(&self) -> Check {
        for stream in 0..STREAMS.len() {
            let events = self.world.stream_events(&self.streams[stream]).await?;
            let expected: Vec<&Known> = self.log.iter().filter(|known| known.stream == stream).collect();
            self.compare(&events, &expected)?;
        }
        let all: Vec<&Known> = self.log.iter().collect();
        let mut events = self.world.log_events(&Query::all()).await?;
        self.compare(&events, &all)?;
        same("the head", &self.world.head().await?, &self.head())?;
        if self.told == Position::START {
            return Ok(());
        }
        events.retain(|event| event.meta.position <= self.told);
        inline::holds(&self.world, &self.diary, ALL, &events).await
    }
}

pub(super) async fn any_history_agrees_with_the_model(world: World) -> Check {
    let inline = world.grants(&[Need::Inline]).is_ok();
    let can =
        Abilities { tags: world.capabilities.tags, several: world.capabilities.multi_stream_append, inline };
    let (cases, seed) = (setting(CASES.0).unwrap_or(CASES.1), setting(SEED).unwrap_or_else(any_seed));
    let runtime = tokio::runtime::Handle::current();
    let checked = tokio::task::spawn_blocking(move || {
        let config =
            Config { cases, rng_seed: RngSeed::Fixed(seed), failure_persistence: None, ..Config::default() };
        let histories = proptest::collection::vec(step(can), 1..40);
        TestRunner::new(config).run(&histories, |steps| match runtime.block_on(history(&world, &steps)) {
            Ok(()) => Ok(()),
            Err(Failure::Fail(how) | Failure::Skip(how)) => Err(TestCaseError::fail(how)),
        })
    });
    match checked.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(TestError::Fail(how, steps))) => {
            fail(format!("{how}\n         the shortest such history: {steps:#?}\n         {SEED}={seed}"))
        }
        Ok(Err(TestError::Abort(how))) => fail(format!("the histories were given up: {how}")),
        Err(panicked) => fail(format!("the store panicked: {panicked} ({SEED}={seed})")),
    }
}

/// A number from the environment.
fn setting<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

fn any_seed() -> u64 {
    Uuid::new_v4().as_u64_pair().0
}

async fn history(world: &World, steps: &[Step]) -> Check {
    Story::new(world.fresh().await?).tell(steps).await
}
