//! Appends, spoilt.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cqrs_core::error::StoreError;
use cqrs_core::event::{NewEvent, Tags};
use cqrs_core::store::{
    Append, AppendError, Appended, CommandKey, Conflict, EventStore as _, Expected, Found, Guard, LogPoint,
    Query, QueryItem,
};
use cqrs_core::{Position, StreamId, Version};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{Flaw, Wrong, linger, lock};

type Outcome = Result<Appended, AppendError>;

/// An append that waits for another one to be mixed with.
#[derive(Debug)]
pub(super) struct Partner {
    events: Vec<NewEvent>,
    answer: oneshot::Sender<Option<Appended>>,
}

/// Neither guarded nor with a key.
fn free(append: &Append) -> bool {
    append.guard == Guard::Any && append.key.is_none()
}

fn one_stream(append: &Append) -> bool {
    append.events.windows(2).all(|pair| pair[0].stream == pair[1].stream)
}

fn part(events: Vec<NewEvent>) -> Append {
    Append::new(events, Guard::Any)
}

fn with(append: Append, guard: Guard) -> Append {
    Append::new(append.events, guard).with_key(append.key)
}

/// One question asked of one query: where it stands, and after which position.
fn question(guard: &Guard) -> Option<(&Query, Option<Position>)> {
    match guard {
        Guard::Unchanged { query, after } => Some((query, Some(after.position))),
        Guard::Absent(query) => Some((query, None)),
        Guard::Any | Guard::Stream { .. } | Guard::All(_) => None,
    }
}

fn expects(guard: &Guard) -> Option<(&StreamId, Expected)> {
    let Guard::Stream { stream, expected } = guard else { return None };
    Some((stream, *expected))
}

impl Wrong {
    pub(super) async fn append_wrongly(&self, mut append: Append) -> Outcome {
        if !append.inline.is_empty() {
            return self.append_inline_wrongly(append).await;
        }
        if self.has(Flaw::StaysClosed) && self.state.busy.load(Ordering::SeqCst) {
            let closed = cqrs_core::error::StoreErrorKind::Unavailable;
            return Err(StoreError::new(closed, "the log was closed").into());
        }
        if self.has(Flaw::CutsStreams) {
            self.limits().check(&append)?;
        }
        if self.has(Flaw::LeavesNulOut) {
            leave_nul_out(&mut append);
        }
        let (guard, key) = (append.guard.clone(), append.key.clone());
        append.guard = self.believed(append.guard);
        self.rewrite(&mut append).await;
        let ids: Vec<Uuid> = append.events.iter().map(|event| event.id).collect();
        match self.carry_out(append).await {
            Ok(appended) => {
                self.remember_append(key, &appended);
                lock(&self.state.used).extend(ids.into_iter().map(|id| (id, appended.partition)));
                Ok(self.tell(appended))
            }
            Err(AppendError::Duplicate(first)) => Err(AppendError::Duplicate(self.tell(first))),
            Err(AppendError::Conflict(conflict)) => {
                Err(AppendError::Conflict(self.conflict(conflict, guard)))
            }
            Err(error) => Err(error),
        }
    }

    pub(super) fn tell(&self, mut appended: Appended) -> Appended {
        appended.log = self.log(appended.log);
        appended.position = self.position(appended.position);
        let skips = |version: &mut Version| *version = self.version(*version);
        appended.versions.iter_mut().for_each(|(_, version)| skips(version));
        if self.has(Flaw::ForgetsKeyOwners) {
            appended.owner = None;
        }
        if self.has(Flaw::SortsTheVersions) {
            appended.versions.sort();
        }
        appended
    }

    fn conflict(&self, conflict: Conflict, guard: Guard) -> Conflict {
        let simple = !matches!(guard, Guard::All(_));
        let clause = if simple { guard } else { conflict.clause };
        let found = match conflict.found {
            Found::Version(version) if self.has(Flaw::TellsAnotherVersion) => Found::Version(version.next()),
            Found::Position(_) if self.has(Flaw::TellsNoPosition) => Found::Position(Position::START),
            Found::Position(position) => Found::Position(self.position(position)),
            found => found,
        };
        Conflict { clause, found }
    }

    /// Spoils what goes in.
    async fn rewrite(&self, append: &mut Append) {
        for event in &mut append.events {
            event.stream = self.stream(&event.stream);
        }
        append.key = append.key.as_ref().map(|key| self.key(key));
        append.guard = self.guard(&append.guard);
        let (batch, empty) = (append.events.len(), append.events.is_empty());
        match self.flaw {
            Flaw::ReversesBatches if one_stream(append) && batch >= 3 => append.events.reverse(),
            Flaw::EmptyAppendsNeedNoGuard if empty && append.key.is_none() => append.guard = Guard::Any,
            Flaw::NoGuardWithoutEvents if empty && append.key.is_some() => append.guard = Guard::Any,
            Flaw::NoKeyWithoutEvents if empty => append.key = None,
            Flaw::RenamesUsedIds | Flaw::RenamesRepeatedIds | Flaw::IdsPerPartition => self.rename(append),
            Flaw::NamesTheNameless => {
                let nameless = append.events.iter_mut().filter(|event| event.name.is_empty());
                nameless.for_each(|event| event.name = "Nameless".into());
            }
            _ => {}
        }
        if self.holds_anyway(append).await {
            append.guard = Guard::Any;
        }
    }

    fn rename(&self, append: &mut Append) {
        let used = lock(&self.state.used);
        let mut seen = HashSet::new();
        let batch = append.events.len();
        for event in &mut append.events {
            let elsewhere = used.get(&event.id).map(|there| *there != self.inner.partition_of(&event.stream));
            let repeated = !seen.insert(event.id);
            let renames = match self.flaw {
                Flaw::RenamesUsedIds => batch > 1 && elsewhere.is_some(),
                Flaw::RenamesRepeatedIds => repeated,
                _ => elsewhere == Some(true),
            };
            if renames {
                event.id = Uuid::new_v4();
            }
        }
    }

    fn guard(&self, guard: &Guard) -> Guard {
        match guard {
            Guard::Any => Guard::Any,
            Guard::Stream { stream, expected } => Guard::stream(self.stream(stream), *expected),
            Guard::Unchanged { query, after } => {
                let items = query.items().is_some() && !query.asks_for_tags();
                let event = after.event;
                let position = match after.position.get() {
                    0 => 0,
                    after if items && self.has(Flaw::UnchangedFromThePosition) => after - 1,
                    _ => self.position_inside(after.position).get(),
                };
                let first = self.has(Flaw::UnchangedByFirstName) && !query.asks_for_tags();
                let query = if first { first_name(query) } else { self.query(query) };
                let from_before = items && self.has(Flaw::UnchangedFromThePosition);
                let event = event.filter(|_| !from_before);
                Guard::Unchanged { query, after: LogPoint { position: Position::new(position), event } }
            }
            Guard::Absent(query) => Guard::Absent(self.query(query)),
            Guard::All(all) if self.has(Flaw::OnlyThreeClauses) => {
                Guard::All(all.iter().take(3).cloned().collect())
            }
            Guard::All(all) => Guard::All(all.iter().map(|guard| self.guard(guard)).collect()),
        }
    }

    fn query(&self, query: &Query) -> Query {
        let Some(items) = query.items() else { return query.clone() };
        let nameless = |item: &QueryItem| QueryItem { names: Vec::new(), tags: item.tags.clone() };
        match self.flaw {
            Flaw::NoItemMeansAll if items.is_empty() => Query::all(),
            Flaw::OnlyFirstItem => Query::any_of(items.first().cloned()),
            Flaw::OnlyFirstItemOfTags if query.asks_for_tags() => Query::any_of(items.first().cloned()),
            Flaw::TagsOverruleNames if query.asks_for_tags() => Query::any_of(items.iter().map(nameless)),
            _ => query.clone(),
        }
    }

    /// Whether the flaw lets the append pass its guard.
    async fn holds_anyway(&self, append: &Append) -> bool {
        let guard = &append.guard;
        match self.flaw {
            Flaw::NoStreamMeansOneEvent => match expects(guard) {
                Some((stream, Expected::NoStream)) => self.length(stream).await > 1,
                _ => false,
            },
            Flaw::BelievesHigherVersions => match expects(guard) {
                Some((stream, Expected::Version(version))) => {
                    let actual = self.length(stream).await;
                    actual >= 3 && version.get() > actual
                }
                _ => false,
            },
            Flaw::EventsAreVersions => match expects(guard) {
                Some((stream, Expected::Event(version, _))) => self.length(stream).await == version.get(),
                _ => false,
            },
            Flaw::VersionNoneMeansAny => {
                matches!(expects(guard), Some((_, Expected::Version(Version::NONE))))
            }
            Flaw::AllStreamsExist => matches!(expects(guard), Some((_, Expected::Exists))),
            Flaw::GuardsOnlyWhatIsWritten => expects(guard).is_some_and(|(stream, _)| {
                !append.events.is_empty() && append.events.iter().all(|event| event.stream != *stream)
            }),
            _ => self.query_holds_anyway(guard).await,
        }
    }

    async fn query_holds_anyway(&self, guard: &Guard) -> bool {
        let Some((query, after)) = question(guard) else { return false };
        let tags = query.asks_for_tags();
        let items = query.items().unwrap_or_default();
        match (self.flaw, after) {
            (Flaw::UnchangedSinceTheStart, Some(Position::START)) => query.items().is_some() && !tags,
            (Flaw::UnchangedByLastEvent, Some(_)) => tags && self.last_is_another(query).await,
            (Flaw::AbsentInLastEvent, None) => match items {
                [item] => !tags && item.names.len() == 1 && self.last_is_another(query).await,
                _ => false,
            },
            (Flaw::AbsentAsWholeTagSet, None) => match items {
                [item] => {
                    item.names.is_empty() && item.tags.len() == 1 && self.only_among_others(&item.tags).await
                }
                _ => false,
            },
            (Flaw::AllMeansNothing, None) => query.items().is_none(),
            (Flaw::IgnoresTags, _) => tags,
            _ => false,
        }
    }

    async fn length(&self, stream: &StreamId) -> u64 {
        self.everything().await.iter().filter(|event| event.meta.stream == *stream).count() as u64
    }

    async fn last_is_another(&self, query: &Query) -> bool {
        let last = self.everything().await.pop();
        last.is_some_and(|last| !query.matches(&last.name, &last.tags))
    }

    /// Whether there are events with these tags, all of which have others too.
    async fn only_among_others(&self, tags: &Tags) -> bool {
        let mut events = self.everything().await;
        events.retain(|event| tags.iter().all(|tag| event.tags.contains(tag)));
        !events.is_empty() && events.iter().all(|event| event.tags != *tags)
    }

    /// Spoils what is done.
    async fn carry_out(&self, append: Append) -> Outcome {
        let (batch, events) = (append.events.len(), append.events.clone());
        match self.flaw {
            Flaw::WritesOneByOne if free(&append) && one_stream(&append) && batch > 1 => {
                self.one_by_one(append).await
            }
            Flaw::WritesStreamByStream if free(&append) && !one_stream(&append) => {
                self.one_by_one(append).await
            }
            Flaw::WritesOneByOne | Flaw::WritesStreamByStream => {
                let _turn = self.state.line.lock().await;
                self.inner.append(append).await
            }
            Flaw::MixesBatches if free(&append) && batch == 3 => self.mix(append).await,
            Flaw::TellsTheFirstPosition if one_stream(&append) && batch >= 3 => {
                let mut appended = self.inner.append(append).await?;
                appended.position = Position::new(appended.position.get() - (batch as u64 - 1));
                Ok(appended)
            }
            Flaw::KeepsTheFirstOfRefused if batch >= 3 => {
                let outcome = self.inner.append(append).await;
                if let Err(AppendError::Conflict(_)) = &outcome {
                    self.inner.append(part(events.into_iter().take(1).collect())).await?;
                }
                outcome
            }
            Flaw::KeepsTagsOfRefused => self.keeping_tags(append).await,
            Flaw::AnyMeansExists => match expects(&append.guard) {
                Some((stream, Expected::Any)) => {
                    let guard = Guard::stream(stream.clone(), Expected::Exists);
                    self.inner.append(with(append, guard)).await
                }
                _ => self.inner.append(append).await,
            },
            Flaw::GuardsAgainstItself if batch > 1 => match question(&append.guard) {
                Some((query, None)) if events.iter().any(|event| query.matches(&event.name, &event.tags)) => {
                    let (clause, found) = (append.guard.clone(), Found::Position(Position::START));
                    Err(Conflict { clause, found }.into())
                }
                _ => self.inner.append(append).await,
            },
            Flaw::NoClauseMeansNo if append.guard == Guard::All(Vec::new()) => {
                Err(Conflict { clause: append.guard, found: Found::Position(Position::START) }.into())
            }
            Flaw::GuardsAllPartitions => self.guarding_all(append).await,
            Flaw::SplitsOverPartitions if free(&append) && !self.one_partition(&append) => {
                let mut last = None;
                for event in events {
                    last = Some(self.inner.append(part(vec![event])).await?);
                }
                last.ok_or_else(|| unreachable!("there are two streams"))
            }
            _ => self.carry_out_with_key(append).await,
        }
    }

    fn one_partition(&self, append: &Append) -> bool {
        let partition = |event: &NewEvent| self.inner.partition_of(&event.stream);
        append.events.windows(2).all(|pair| partition(&pair[0]) == partition(&pair[1]))
    }

    async fn one_by_one(&self, append: Append) -> Outcome {
        append.events.iter().try_for_each(|event| match lock(&self.state.used).contains_key(&event.id) {
            true => Err(self.invalid()),
            false => Ok(()),
        })?;
        let distinct: HashSet<Uuid> = append.events.iter().map(|event| event.id).collect();
        if distinct.len() < append.events.len() {
            return Err(self.invalid().into());
        }
        self.inner.limits().check(&append)?;
        let this = self.clone();
        // A task of its own: dropping the append does not tear it.
        let writing = tokio::spawn(async move {
            let _turn = this.state.line.lock().await;
            let mut merged: Option<Appended> = None;
            for event in append.events {
                let appended = this.inner.append(part(vec![event])).await?;
                let mut versions = merged.map(|merged| merged.versions).unwrap_or_default();
                for (stream, version) in &appended.versions {
                    match versions.iter_mut().find(|(known, _)| known == stream) {
                        Some((_, known)) => *known = *version,
                        None => versions.push((stream.clone(), *version)),
                    }
                }
                merged = Some(Appended { versions, ..appended });
                tokio::task::yield_now().await;
            }
            merged.ok_or_else(|| unreachable!("there are several events"))
        });
        writing.await.unwrap_or_else(|error| unreachable!("{error}"))
    }

    fn invalid(&self) -> StoreError {
        StoreError::new(cqrs_core::error::StoreErrorKind::Invalid, "an event id is used twice")
    }

    /// Two batches as one, with their events in turn.
    async fn mix(&self, append: Append) -> Outcome {
        let partner = lock(&self.state.partner).take();
        if let Some(Partner { events, answer }) = partner {
            let all = events.iter().zip(&append.events).flat_map(|(a, b)| [a.clone(), b.clone()]);
            let appended = self.inner.append(part(all.collect())).await?;
            let mut theirs = appended.clone();
            theirs.position = Position::new(appended.position.get() - 1);
            theirs.versions.truncate(1);
            // Whoever has given up does not listen.
            let _ = answer.send(Some(theirs));
            return Ok(Appended { versions: appended.versions.into_iter().skip(1).collect(), ..appended });
        }
        let (answer, answered) = oneshot::channel();
        *lock(&self.state.partner) = Some(Partner { events: append.events.clone(), answer });
        for _ in 0..5 {
            linger().await;
        }
        let mine = |partner: &mut Partner| partner.events[0].id == append.events[0].id;
        if lock(&self.state.partner).take_if(mine).is_some() {
            return self.inner.append(append).await;
        }
        match answered.await {
            Ok(Some(appended)) => Ok(appended),
            _ => self.inner.append(append).await,
        }
    }

    async fn keeping_tags(&self, append: Append) -> Outcome {
        if let Guard::Absent(query) = &append.guard {
            let ghosts = lock(&self.state.ghosts);
            let mut wanted = query.items().unwrap_or_default().iter().flat_map(|item| item.tags.iter());
            if wanted.any(|tag| ghosts.contains(tag)) {
                let found = Found::Position(Position::new(1));
                return Err(Conflict { clause: append.guard.clone(), found }.into());
            }
        }
        let tags: Vec<_> = append.events.iter().flat_map(|event| event.tags.iter().cloned()).collect();
        let by_stream = expects(&append.guard).is_some();
        let outcome = self.inner.append(append).await;
        if by_stream && outcome.is_err() {
            lock(&self.state.ghosts).extend(tags);
        }
        outcome
    }

    async fn guarding_all(&self, append: Append) -> Outcome {
        if let Some((query, _)) = question(&append.guard) {
            let found = self.everything_everywhere().await;
            if let Some(event) = found.iter().find(|event| query.matches(&event.name, &event.tags))
                && append
                    .events
                    .iter()
                    .all(|new| self.inner.partition_of(&new.stream) != event.meta.partition)
            {
                let found = Found::Position(event.meta.position);
                return Err(Conflict { clause: append.guard, found }.into());
            }
        }
        self.inner.append(append).await
    }

    async fn carry_out_with_key(&self, append: Append) -> Outcome {
        let Some(key) = append.key.clone() else { return self.carry_out_in_time(append).await };
        let (guard, batch) = (append.guard.clone(), append.events.len());
        let free = guard == Guard::Any;
        match self.flaw {
            Flaw::DuplicatesTellTheHead => match self.inner.append(append).await {
                Err(AppendError::Duplicate(first)) => {
                    let position = self.inner.head(first.partition).await?.position;
                    Err(AppendError::Duplicate(Appended { position, ..first }))
                }
                other => other,
            },
            Flaw::GuardBeforeKey => {
                self.inner.append(Append::new(Vec::new(), guard)).await?;
                self.inner.append(append).await
            }
            Flaw::KeysOfTheWholeLog => {
                let known = lock(&self.state.keys).get(&key.key).cloned();
                if let Some((_, first)) = known.filter(|(stream, _)| *stream != key.stream) {
                    return Err(AppendError::Duplicate(first));
                }
                let appended = self.inner.append(append).await?;
                self.remember(key, appended.clone());
                Ok(appended)
            }
            Flaw::KeepsKeysOfConflicts | Flaw::KeepsKeysOfInvalid => self.keeping_keys(key, append).await,
            Flaw::RecordsKeysLate => {
                lock(&self.state.hidden_keys).insert(key.clone());
                let outcome = self.inner.append(append).await;
                tokio::time::sleep(Duration::from_micros(100)).await;
                lock(&self.state.hidden_keys).remove(&key);
                outcome
            }
            Flaw::ChecksKeysBeforehand => {
                let found = self.inner.find_key(&key).await?;
                linger().await;
                match self.inner.append(append.clone()).await {
                    Err(AppendError::Duplicate(_)) if found.is_none() => {
                        self.inner.append(append.with_key(None)).await
                    }
                    other => other,
                }
            }
            Flaw::DroppedAppendsLoseTheirKey if free && batch == 2 => {
                if let Some(first) = self.inner.find_key(&key).await? {
                    return Err(AppendError::Duplicate(first));
                }
                self.inner.append(append.with_key(None)).await?;
                tokio::task::yield_now().await;
                self.inner.append(part(Vec::new()).with_key(Some(key))).await
            }
            _ => self.carry_out_in_time(append).await,
        }
    }

    fn remember(&self, key: CommandKey, appended: Appended) {
        lock(&self.state.keys).insert(key.key, (key.stream, appended));
    }

    /// Records the key of an append that is refused.
    async fn keeping_keys(&self, key: CommandKey, append: Append) -> Outcome {
        if let Some((_, first)) = lock(&self.state.keys).get(&key.key).cloned() {
            return Err(AppendError::Duplicate(first));
        }
        let malformed = append.events.iter().any(|event| event.schema_version == 0);
        let outcome = self.inner.append(append).await;
        let keeps = match &outcome {
            Err(AppendError::Conflict(_)) => self.has(Flaw::KeepsKeysOfConflicts),
            Err(AppendError::Store(_)) => self.has(Flaw::KeepsKeysOfInvalid) && malformed,
            _ => false,
        };
        if keeps {
            let appended = self.inner.append(part(Vec::new())).await?;
            self.remember(key, appended);
        }
        outcome
    }

    /// Flaws that show when others do something at the same time, or when the future is dropped.
    async fn carry_out_in_time(&self, append: Append) -> Outcome {
        let (batch, guard) = (append.events.len(), append.guard.clone());
        match self.flaw {
            flaw if checks_beforehand(flaw, &guard) && batch > 0 && append.key.is_none() => {
                self.inner.limits().check(&append)?;
                self.inner.append(Append::new(Vec::new(), guard)).await?;
                linger().await;
                self.inner.append(with(append, Guard::Any)).await
            }
            Flaw::GuardBeforeLimits if append.key.is_none() => {
                self.inner.append(Append::new(Vec::new(), guard)).await?;
                self.inner.append(append).await
            }
            Flaw::CommitsLate => {
                let ids = append.events.iter().map(|event| event.id).collect();
                let _shown = Hidden::new(self, ids);
                let outcome = self.inner.append(append).await;
                linger().await;
                outcome
            }
            Flaw::TellsWhatIsThereLater if free(&append) && batch == 1 => {
                let stream = append.events[0].stream.clone();
                let appended = self.inner.append(append).await?;
                linger().await;
                let mut events = self.everything_everywhere().await;
                events.retain(|event| event.meta.stream == stream);
                let last = events.pop().map(|event| (event.meta.version, event.meta.position));
                let (version, position) = last.unwrap_or_default();
                Ok(Appended { position, versions: vec![(stream, version)], ..appended })
            }
            Flaw::DroppedAppendsTear if batch >= 4 && expects(&guard).is_some() => {
                let mut events = append.events;
                let rest = events.split_off(1);
                self.inner.append(Append::new(events, guard)).await?;
                tokio::task::yield_now().await;
                self.inner.append(part(rest)).await
            }
            Flaw::DroppedAppendsBlock => {
                self.unblocked().await;
                let blocks = free(&append) && batch == 2;
                self.state.busy.store(blocks, Ordering::SeqCst);
                if blocks {
                    tokio::task::yield_now().await;
                }
                let outcome = self.inner.append(append).await;
                self.state.busy.store(false, Ordering::SeqCst);
                outcome
            }
            Flaw::DroppedWaitsBlock => {
                self.unblocked().await;
                self.inner.append(append).await
            }
            Flaw::DoesMoreThanItSays if !guard.asks_for_tags() => self.documents.append(append).await,
            _ => self.inner.append(append).await,
        }
    }
}

/// Whether the flaw checks this kind of guard in a step of its own.
fn checks_beforehand(flaw: Flaw, guard: &Guard) -> bool {
    let tags = guard.asks_for_tags();
    match (flaw, guard) {
        (Flaw::ChecksVersionsBeforehand, Guard::Stream { expected: Expected::Version(_), .. })
        | (Flaw::ChecksNoStreamBeforehand, Guard::Stream { expected: Expected::NoStream, .. })
        | (Flaw::ChecksAllBeforehand, Guard::All(_)) => true,
        (Flaw::ChecksAbsentTagsBeforehand, Guard::Absent(_))
        | (Flaw::ChecksUnchangedTagsBeforehand, Guard::Unchanged { .. }) => tags,
        (Flaw::ChecksUnchangedBeforehand, Guard::Unchanged { .. }) => !tags,
        _ => false,
    }
}

fn first_name(query: &Query) -> Query {
    let first = |item: &QueryItem| QueryItem {
        names: item.names.iter().take(1).cloned().collect(),
        tags: item.tags.clone(),
    };
    query.items().map_or_else(Query::all, |items| Query::any_of(items.iter().map(first)))
}

/// Events that are there, but that reads of the log do not give yet.
struct Hidden<'a>(&'a Wrong, Vec<Uuid>);

impl<'a> Hidden<'a> {
    fn new(wrong: &'a Wrong, ids: Vec<Uuid>) -> Self {
        lock(&wrong.state.hidden).extend(&ids);
        Self(wrong, ids)
    }
}

impl Drop for Hidden<'_> {
    fn drop(&mut self) {
        let mut hidden = lock(&self.0.state.hidden);
        self.1.iter().for_each(|id| _ = hidden.remove(id));
    }
}

/// Makes a text of events that no database refuses.
fn leave_nul_out(append: &mut Append) {
    for event in &mut append.events {
        event.name = event.name.replace('\0', "").into();
    }
}
