//! Inline projections: read models that are part of an append's commit.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cqrs_core::consumer::{Consumer, Effect, Routed};
use cqrs_core::error::{FoldError, StoreErrorKind};
use cqrs_core::event::{Metadata, NewEvent};
use cqrs_core::id::{Partition, Position, StreamId, Version};
use cqrs_core::read_store::{Batch, Checkpoint, Claim, CommitError, RecordContent};
use cqrs_core::store::{
    Append, AppendError, Appended, Expected, Guard, InlineConsumer, InlineGap, LogId, Query,
};
use uuid::Uuid;

use super::diary::{ALL, ERASED, Elsewhere, MISPLACED, UNREADABLE, diary, diary_of, line, patient_diary};
use super::entries::{self, get, list, remove};
use super::kit::{
    Abandon, Check, Event, Failure, Got, Sketch as _, World, at_version, by_names, ensure, expect, fail,
    join, key, same, together,
};

type Projection = Arc<dyn Consumer>;

/// An append without a guard that brings these projections.
fn with(events: Vec<NewEvent>, projections: &[&Projection]) -> Append {
    let inline = projections.iter().map(|projection| Arc::clone(projection)).collect();
    Append::new(events, Guard::Any).with_inline(inline)
}

fn guarded(mut append: Append, guard: Guard) -> Append {
    append.guard = guard;
    append
}

/// Appends one event with the projection, which has to work.
async fn put(world: &World, stream: &StreamId, projection: &Projection) -> Got<Appended> {
    Ok(world.log.append(with(world.events(stream, 1), &[projection])).await?)
}

async fn checkpoint(world: &World, projection: &Projection) -> Got<Option<Checkpoint>> {
    Ok(world.documents()?.checkpoint(projection.name(), world.home).await?)
}

/// The lines of a document; `None` if it is not there.
async fn page(world: &World, projection: &Projection, key: &str) -> Got<Option<Vec<String>>> {
    let found = get(&world.documents()?, projection.name(), key).await?;
    let lines = |page: Bytes| String::from_utf8_lossy(&page).lines().map(str::to_owned).collect();
    Ok(found.map(lines))
}

async fn number_of_lines(world: &World, projection: &Projection, key: &str) -> Got<usize> {
    Ok(page(world, projection, key).await?.map_or(0, |lines| lines.len()))
}

/// A document has to hold these events, in this order, as they were read.
pub(super) async fn holds(world: &World, projection: &Projection, key: &str, events: &[Event]) -> Check {
    let name = projection.name();
    let Some(given) = page(world, projection, key).await? else {
        return fail(format!("the document {key:?} of {name:?} is not there"));
    };
    for (at, (given, event)) in given.iter().zip(events).enumerate() {
        let read = line(event);
        ensure!(*given == read, "event {at} that {name:?} was given is {given}, but it is read as {read}");
    }
    same(format!("the events that {name:?} was given for {key:?}"), &given.len(), &events.len())
}

/// Whatever an append may move.
type Moved = (Position, Vec<(Option<Checkpoint>, Vec<(String, Bytes)>)>);

async fn all(world: &World, projections: &[&Projection]) -> Got<Moved> {
    let mut each = Vec::new();
    for projection in projections {
        let documents = list(&world.documents()?, projection.name(), None, 1_000).await?;
        each.push((checkpoint(world, projection).await?, documents));
    }
    Ok((world.head().await?, each))
}

/// Has an append refused, which may move nothing.
async fn refusal(world: &World, append: Append, projections: &[&Projection]) -> Got<AppendError> {
    let before = all(world, projections).await?;
    let refused = match world.log.append(append).await {
        Err(refused) => refused,
        Ok(appended) => return fail(format!("an append that should be refused gave {appended:?}")),
    };
    same(format!("what is there after [{refused}]"), &all(world, projections).await?, &before)?;
    Ok(refused)
}

type Behind = (&'static str, Position, Position);

fn behind(refused: AppendError) -> Got<Behind> {
    match refused {
        AppendError::Behind { consumer, position, head } => Ok((consumer, position, head)),
        other => fail(format!("expected Behind, got {other:?}")),
    }
}

fn unfit(refused: AppendError) -> Got<(&'static str, FoldError)> {
    match refused {
        AppendError::Unfit { consumer, error } => Ok((consumer, error)),
        other => fail(format!("expected Unfit, got {other:?}")),
    }
}

/// Brings a projection to the head, as whoever follows the log does.
pub(super) async fn catch_up(world: &World, projection: &Projection) -> Check {
    let documents = world.documents()?;
    let claim = documents.claim(projection.name()).await?;
    let from = claim.checkpoints.get(&world.home).copied();
    let after = from.map_or(Position::START, |from| from.position);
    let slice = world.read_log(after, projection.query()).await?;
    let Ok(Routed { reads, work, .. }) = projection.route(&slice.events) else {
        return fail("the suite's own projection does not take what it has read");
    };
    let Ok(Effect { writes, .. }) = work.fold(documents.get(projection.name(), reads).await?) else {
        return fail("the suite's own projection does not fold what it has read");
    };
    let event = slice.events.last().map(|event| event.meta.id);
    let to = Checkpoint { log: slice.head.log, position: slice.head.position, event };
    Ok(documents.commit(batch(world, projection, claim.epoch, from, to).with_writes(writes)).await?)
}

/// A batch of the projection on the home partition alone, without writes.
fn batch(
    world: &World,
    projection: &Projection,
    epoch: u64,
    from: Option<Checkpoint>,
    to: Checkpoint,
) -> Batch {
    let checkpoints = from.map(|from| (world.home, from)).into_iter().collect();
    let claim = Claim { epoch, checkpoints, revision: 0 };
    Batch::new(projection.name(), &claim, to).with_partition(world.home)
}

async fn fenced(world: &World, batch: Batch) -> Check {
    match world.documents()?.commit(batch).await {
        Err(CommitError::Fenced) => Ok(()),
        other => fail(format!("expected the batch to be fenced, got {other:?}")),
    }
}

/// One event after a checkpoint.
fn further(from: Checkpoint) -> Checkpoint {
    Checkpoint { position: from.position.next(), ..from }
}

pub(super) async fn an_inline_effect_is_there_with_its_append(world: World) -> Check {
    let diary = diary("diary");
    let (a, b) = (world.stream("a"), world.stream("b"));
    for stream in [&a, &b, &a] {
        let events = world.events(stream, 2);
        let last = events[1].id;
        let appended = world.log.append(with(events, &[&diary])).await?;
        let expected = Checkpoint { log: appended.log, position: appended.position, event: Some(last) };
        same("the checkpoint", &checkpoint(&world, &diary).await?, &Some(expected))?;
        let written = world.log_events(&Query::all()).await?;
        holds(&world, &diary, ALL, &written).await?;
        holds(&world, &diary, stream.as_str(), &world.stream_events(stream).await?).await?;
    }
    let claimed = world.documents()?.claim("diary").await?.checkpoints;
    same("the claimed checkpoint", &claimed.get(&world.home).copied(), &checkpoint(&world, &diary).await?)?;
    world.log.append(with(vec![world.event(&a).named(ERASED)], &[&diary])).await?;
    same("the document that was removed", &page(&world, &diary, a.as_str()).await?, &None)?;
    same("the lines of the other", &number_of_lines(&world, &diary, b.as_str()).await?, &2)
}

/// Read in this order, neither the checkpoint may be ahead of the log nor the log of the checkpoint.
pub(super) async fn events_and_inline_effect_appear_together(world: World) -> Check {
    let diary = diary("diary");
    let writer = {
        let (world, diary) = (world.clone(), Arc::clone(&diary));
        let stream = world.stream("a");
        tokio::spawn(async move {
            for _ in 0..40 {
                put(&world, &stream, &diary).await?;
                tokio::task::yield_now().await;
            }
            Ok(())
        })
    };
    let position = async || {
        Ok::<_, Failure>(checkpoint(&world, &diary).await?.map_or(Position::START, |at| at.position))
    };
    while !writer.is_finished() {
        let effect = position().await?;
        let head = world.head().await?;
        ensure!(effect <= head, "the checkpoint was at {effect}, and the head behind it at {head}");
        let effect = position().await?;
        ensure!(head <= effect, "the head was at {head}, and the checkpoint behind it at {effect}");
        let written = world.log_events(&Query::all()).await?.len();
        let told = number_of_lines(&world, &diary, ALL).await?;
        ensure!(written <= told, "{written} events were there, and behind that {told} in the document");
        tokio::task::yield_now().await;
    }
    join(vec![writer]).await?.into_iter().collect()
}

pub(super) async fn inline_projections_get_events_as_they_are_read(world: World) -> Check {
    let diary = diary("diary");
    let mut streams = vec![world.stream("a")];
    if world.capabilities.multi_stream_append {
        streams.push(world.stream("b"));
    }
    let metadata = Metadata::new().correlation("c").causation("d").actor("e").entry("f", "g\n");
    for round in 0_u32..3 {
        let mut events = Vec::new();
        for stream in streams.iter().chain(&streams) {
            let named = world.event(stream).named(format!("Told {round}")).tagged(&["seat:1", "show:ü"]);
            let told = named.saying(&b"\0\xff\n"[..]).about(metadata.clone());
            events.push(NewEvent { schema_version: round + 1, ..told });
            events.push(world.event(stream));
        }
        world.log.append(with(events, &[&diary])).await?;
    }
    let read = world.log_events(&Query::all()).await?;
    holds(&world, &diary, ALL, &read).await?;
    if world.capabilities.partitions > 1 {
        let there = world.elsewhere("there");
        world.log.append(with(world.events(&there, 2), &[&diary])).await?;
        let read = world.stream_events(&there).await?;
        holds(&world, &diary, there.as_str(), &read).await?;
    }
    Ok(())
}

pub(super) async fn inline_projections_get_what_matches(world: World) -> Check {
    let wanted = by_names(&["Wanted", "Also wanted"]);
    let (some, every) = (diary_of("some", wanted.clone()), diary("every"));
    let mut streams = vec![world.stream("a")];
    if world.capabilities.multi_stream_append {
        streams.push(world.stream("b"));
    }
    for _ in 0..2 {
        let names = ["Unwanted", "Wanted", "wanted", "Also wanted", "Wanted "];
        let event = |stream| names.map(|name| world.event(stream).named(name));
        let events = streams.iter().flat_map(event).collect();
        world.log.append(with(events, &[&some, &every])).await?;
    }
    for (projection, query) in [(&some, &wanted), (&every, &Query::all())] {
        let read = world.log_events(query).await?;
        holds(&world, projection, ALL, &read).await?;
    }
    Ok(())
}

pub(super) async fn an_inline_checkpoint_moves_if_no_event_matches(world: World) -> Check {
    let diary = diary_of("diary", by_names(&["Wanted"]));
    let stream = world.stream("a");
    for _ in 0..2 {
        let appended = put(&world, &stream, &diary).await?;
        let position = checkpoint(&world, &diary).await?.map(|at| at.position);
        same("the checkpoint", &position, &Some(appended.position))?;
    }
    // So it does not stand in the way of one that matches.
    world.log.append(with(vec![world.event(&stream).named("Wanted")], &[&diary])).await?;
    Ok(())
}

pub(super) async fn an_append_without_events_asks_no_inline_projection(world: World) -> Check {
    let diary = diary("diary");
    let stream = world.stream("a");
    let empty = |number| {
        let command = key(&stream, &format!("command-{number}"));
        [with(Vec::new(), &[&diary]), with(Vec::new(), &[&diary]).with_key(Some(command))]
    };
    for append in empty(1) {
        world.log.append(append).await?;
        same("the checkpoint", &checkpoint(&world, &diary).await?, &None)?;
    }
    put(&world, &stream, &diary).await?;
    world.fill(&stream, 1).await?;
    let before = all(&world, &[&diary]).await?;
    for append in empty(2) {
        world.log.append(append).await?;
        same("what is there", &all(&world, &[&diary]).await?, &before)?;
    }
    Ok(())
}

pub(super) async fn an_inline_projection_that_is_behind_holds_the_append(world: World) -> Check {
    let (diary, stream) = (diary("diary"), world.stream("a"));
    world.fill(&stream, 2).await?;
    for _ in 0..2 {
        let (head, position) = (world.head().await?, checkpoint(&world, &diary).await?);
        let position = position.map_or(Position::START, |at| at.position);
        let held = with(world.events(&stream, 1), &[&diary]);
        let told = behind(refusal(&world, held.clone(), &[&diary]).await?)?;
        same("the projection, its position and the head", &told, &("diary", position, head))?;
        catch_up(&world, &diary).await?;
        world.log.append(held).await?;
        // Somebody who does not know of it.
        world.fill(&stream, 1).await?;
    }
    Ok(())
}

/// The same, which may apply so many missed events to projections that keep documents.
fn over(append: Append, documents: u32) -> Append {
    append.with_inline_gap(InlineGap { documents, handlers: 0 })
}

pub(super) async fn an_append_applies_what_an_inline_projection_has_missed(world: World) -> Check {
    let wanted = by_names(&["Wanted"]);
    let (every, some) = (diary("every"), diary_of("some", wanted.clone()));
    let both = [&every, &some];
    let (a, b) = (world.stream("a"), world.stream("b"));
    // The first round starts without checkpoints.
    for missed in [2_u32, 3, 5] {
        for number in 0..missed {
            let (stream, name) = if number % 2 == 0 { (&a, "Wanted") } else { (&b, "Probed") };
            world.put(vec![world.event(stream).named(name)]).await?;
        }
        let head = world.head().await?;
        let position = checkpoint(&world, &every).await?.map_or(Position::START, |at| at.position);
        let events = vec![world.event(&a), world.event(&b).named("Wanted")];
        let events = if world.capabilities.multi_stream_append { events } else { world.events(&a, 2) };
        let append = with(events, &both);
        same("the events that it has missed", &(head.get() - position.get()), &u64::from(missed))?;
        let refused = refusal(&world, over(append.clone(), missed - 1), &both).await?;
        same("the one that has missed too much", &behind(refused)?, &("every", position, head))?;
        let appended = world.log.append(over(append, missed)).await?;
        for (projection, query) in [(&every, &Query::all()), (&some, &wanted)] {
            holds(&world, projection, ALL, &world.log_events(query).await?).await?;
            let stored = checkpoint(&world, projection).await?.map(|at| at.position);
            same("the checkpoint", &stored, &Some(appended.position))?;
        }
    }
    // An event that it cannot take is not skipped, in whichever of the two steps it fails.
    for name in [UNREADABLE, MISPLACED] {
        let diary = diary(name);
        put_first(&world, &diary).await?;
        let position = world.head().await?;
        world.put(vec![world.event(&b).named(name)]).await?;
        let refused = refusal(&world, over(with(world.events(&a, 1), &[&diary]), 100), &[&diary]).await?;
        let told = (name, position, world.head().await?);
        same("the one that cannot take what it has missed", &behind(refused)?, &told)?;
    }
    // A checkpoint that was made at another event is of another history.
    let diary = diary("rewound");
    put_first(&world, &diary).await?;
    let documents = world.documents()?;
    let claim = documents.claim("rewound").await?;
    let Some(from) = claim.checkpoints.get(&world.home).copied() else {
        return fail("the checkpoint of an inline projection is not there");
    };
    let to = Checkpoint { event: Some(Uuid::from_u128(7)), ..from };
    documents.commit(batch(&world, &diary, claim.epoch, Some(from), to)).await?;
    world.fill(&a, 1).await?;
    let refused = refusal(&world, over(with(world.events(&a, 1), &[&diary]), 100), &[&diary]).await?;
    let told = ("rewound", from.position, world.head().await?);
    same("the one with a checkpoint at another event", &behind(refused)?, &told)
}

/// Brings a projection to the head of the log with an append of one event that it can take, past what comes before.
async fn put_first(world: &World, projection: &Projection) -> Check {
    let head = world.log.head(world.home).await?;
    let claim = world.documents()?.claim(projection.name()).await?;
    let to = Checkpoint { log: head.log, position: head.position, event: head.event };
    world.documents()?.commit(batch(world, projection, claim.epoch, None, to)).await?;
    put(world, &world.stream("a"), projection).await.map(drop)
}

pub(super) async fn a_checkpoint_of_another_log_is_behind(world: World) -> Check {
    let (diary, stream) = (diary("diary"), world.stream("a"));
    let documents = world.documents()?;
    world.fill(&stream, 3).await?;
    let head = world.head().await?;
    let epoch = documents.claim("diary").await?.epoch;
    let mut from = None;
    for position in [head, head.next(), Position::START] {
        let to = Checkpoint { log: LogId(Uuid::from_u128(7)), position, event: None };
        documents.commit(batch(&world, &diary, epoch, from, to)).await?;
        let append = with(world.events(&stream, 1), &[&diary]);
        let told = behind(refusal(&world, append, &[&diary]).await?)?;
        same("the projection, its position and the head", &told, &("diary", position, head))?;
        from = Some(to);
    }
    Ok(())
}

pub(super) async fn a_checkpoint_of_another_event_is_behind(world: World) -> Check {
    let (diary, stream) = (diary("diary"), world.stream("a"));
    let documents = world.documents()?;
    world.fill(&stream, 3).await?;
    let head = world.log.head(world.home).await?;
    let epoch = documents.claim("diary").await?.epoch;
    let to = Checkpoint { log: head.log, position: head.position, event: Some(Uuid::from_u128(7)) };
    documents.commit(batch(&world, &diary, epoch, None, to)).await?;
    for events in [1, 2] {
        let append = with(world.events(&stream, events), &[&diary]);
        let told = behind(refusal(&world, append, &[&diary]).await?)?;
        same("the projection, its position and the head", &told, &("diary", head.position, head.position))?;
    }
    Ok(())
}

pub(super) async fn an_append_that_is_held_leaves_nothing(world: World) -> Check {
    let (diary, stream) = (diary("diary"), world.stream("a"));
    put(&world, &stream, &diary).await?;
    world.fill(&stream, 1).await?;
    let command = key(&stream, "command-1");
    let held = || with(world.events(&stream, 1), &[&diary]).with_key(Some(command.clone()));
    let append = held();
    behind(refusal(&world, append.clone(), &[&diary]).await?)?;
    same("what its key gives", &world.log.find_key(&command).await?, &None)?;
    catch_up(&world, &diary).await?;
    let appended = world.log.append(append).await?;
    match world.log.append(held()).await {
        Err(AppendError::Duplicate(first)) => same("what the key gives", &first, &appended),
        other => fail(format!("expected the key to be there, got {other:?}")),
    }
}

pub(super) async fn an_event_that_does_not_fit_refuses_the_append(world: World) -> Check {
    let (diary, stream) = (diary("diary"), world.stream("a"));
    put(&world, &stream, &diary).await?;
    let position = world.head().await?.next().next();
    for name in [UNREADABLE, MISPLACED] {
        let events = vec![world.event(&stream), world.event(&stream).named(name), world.event(&stream)];
        let refused = refusal(&world, with(events, &[&diary]), &[&diary]).await?;
        let (consumer, error) = unfit(refused)?;
        same("the projection", &consumer, &"diary")?;
        let told = (error.event(), error.stream(), error.version());
        same("the event", &told, &(name, &stream, Version::new(3)))?;
        if world.capabilities.gapless_positions {
            same("its position", &error.position(), &position)?;
        }
    }
    Ok(())
}

pub(super) async fn an_append_that_does_not_fit_leaves_nothing(world: World) -> Check {
    let (diary, stream) = (diary("diary"), world.stream("a"));
    let command = key(&stream, "command-1");
    let events = vec![world.event(&stream).tagged(&["seat:1"]), world.event(&stream).named(UNREADABLE)];
    let refused = with(events.clone(), &[&diary]).with_key(Some(command.clone()));
    unfit(refusal(&world, refused, &[&diary]).await?)?;
    same("what its key gives", &world.log.find_key(&command).await?, &None)?;
    let mended = events.into_iter().map(|event| event.named("Probed")).collect();
    let guard = expect(&stream, Expected::NoStream);
    let append = guarded(with(mended, &[&diary]).with_key(Some(command)), guard);
    world.log.append(append).await?;
    let read = world.stream_events(&stream).await?;
    holds(&world, &diary, ALL, &read).await
}

pub(super) async fn several_inline_projections_move_together(world: World) -> Check {
    let stream = world.stream("a");
    let (patient, picky, late) = (patient_diary("patient"), diary("picky"), diary("late"));
    let everyone = [&patient, &picky, &late];
    world.log.append(with(world.events(&stream, 2), &everyone)).await?;
    for projection in everyone {
        same("the lines of each", &number_of_lines(&world, projection, ALL).await?, &2)?;
    }
    world.log.append(with(world.events(&stream, 1), &[&patient, &picky])).await?;
    let readable = || world.events(&stream, 1);
    let unreadable = || vec![world.event(&stream).named(UNREADABLE)];
    let refused = refusal(&world, with(unreadable(), &[&patient, &picky]), &everyone).await?;
    same("who cannot take it", &unfit(refused)?.0, &"picky")?;
    let refused = refusal(&world, with(readable(), &[&patient, &late]), &everyone).await?;
    same("who is behind", &behind(refused)?.0, &"late")?;
    // Two that refuse, each in its own way: the first one's word counts.
    let refused = refusal(&world, with(unreadable(), &[&picky, &late]), &everyone).await?;
    same("who is asked first", &unfit(refused)?.0, &"picky")?;
    let refused = refusal(&world, with(unreadable(), &[&late, &picky]), &everyone).await?;
    same("who is asked first", &behind(refused)?.0, &"late")
}

/// A repeated command, a lost race, a used id, and what breaks a limit.
struct Refusals {
    duplicate: Append,
    conflict: Append,
    invalid: Vec<Append>,
}

impl Refusals {
    /// Of appends with one such event each, after one event was written with the projection.
    async fn new(world: &World, projection: &Projection, name: &'static str) -> Got<Self> {
        let stream = world.stream("a");
        let command = key(&stream, "command-1");
        let taken = world.event(&stream);
        let first = with(vec![taken.clone()], &[projection]).with_key(Some(command.clone()));
        world.log.append(first).await?;
        let event = || world.event(&stream).named(name);
        let append = |event| with(vec![event], &[projection]);
        let conflict = guarded(append(event()), at_version(&stream, 9));
        let used = append(NewEvent { id: taken.id, ..event() });
        let broken = append(NewEvent { schema_version: 0, ..event() });
        let duplicate = append(event()).with_key(Some(command));
        Ok(Self { duplicate, conflict, invalid: vec![used, broken] })
    }

    async fn check(self, world: &World, projection: &Projection) -> Check {
        let refused = refusal(world, self.duplicate, &[projection]).await?;
        ensure!(matches!(refused, AppendError::Duplicate(_)), "expected Duplicate, got {refused:?}");
        let refused = refusal(world, self.conflict, &[projection]).await?;
        ensure!(matches!(refused, AppendError::Conflict(_)), "expected a conflict, got {refused:?}");
        for append in self.invalid {
            let refused = refusal(world, append, &[projection]).await?;
            let invalid =
                matches!(&refused, AppendError::Store(error) if error.kind() == StoreErrorKind::Invalid);
            ensure!(invalid, "expected Invalid, got {refused:?}");
        }
        Ok(())
    }
}

pub(super) async fn inline_projections_are_asked_last(world: World) -> Check {
    let diary = diary("diary");
    // First one that would not take the event, then one that is behind.
    let refusals = Refusals::new(&world, &diary, UNREADABLE).await?;
    refusals.check(&world, &diary).await?;
    let world = world.fresh().await?;
    let refusals = Refusals::new(&world, &diary, "Probed").await?;
    world.fill(&world.stream("b"), 1).await?;
    refusals.check(&world, &diary).await
}

pub(super) async fn a_refused_append_moves_no_inline_projection(world: World) -> Check {
    let (diary, stream) = (diary("diary"), world.stream("a"));
    let refusals = Refusals::new(&world, &diary, "Probed").await?;
    refusals.check(&world, &diary).await?;
    put(&world, &stream, &diary).await?;
    let read = world.stream_events(&stream).await?;
    holds(&world, &diary, ALL, &read).await
}

pub(super) async fn an_append_folds_into_what_is_stored(world: World) -> Check {
    let (diary, stream) = (diary("diary"), world.stream("a"));
    let documents = world.documents()?;
    for round in 1..=3 {
        put(&world, &stream, &diary).await?;
        same("the lines", &number_of_lines(&world, &diary, ALL).await?, &round)?;
    }
    // Somebody who follows the log writes it anew, in another way.
    let claim = documents.claim("diary").await?;
    let Some(from) = claim.checkpoints.get(&world.home).copied() else { return fail("no checkpoint") };
    let writes = vec![entries::put(ALL, "anew\n"), remove(stream.as_str())];
    let anew = batch(&world, &diary, claim.epoch, Some(from), from).with_writes(writes);
    documents.commit(anew).await?;
    put(&world, &stream, &diary).await?;
    let last = world.stream_events(&stream).await?.pop().map(|event| line(&event)).unwrap_or_default();
    same("the document", &page(&world, &diary, ALL).await?, &Some(vec!["anew".to_owned(), last.clone()]))?;
    same("the one that was removed", &page(&world, &diary, stream.as_str()).await?, &Some(vec![last]))
}

const RACERS: usize = 8;
const ROUNDS: usize = 5;

/// Races appends with the projection, one to each stream, and gives how many were accepted. All others
/// must be such that do not fit.
async fn race(world: &World, projection: &Projection, events: Vec<NewEvent>) -> Got<usize> {
    let racers = events.into_iter().map(|event| {
        let (world, append) = (world.clone(), with(vec![event], &[projection]));
        async move { world.log.append(append).await }
    });
    let mut accepted = 0;
    for outcome in together(racers).await? {
        match outcome {
            Ok(_) => accepted += 1,
            Err(AppendError::Unfit { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(accepted)
}

pub(super) async fn racing_appends_fold_into_one_document(world: World) -> Check {
    let diary = diary("diary");
    let streams: Vec<StreamId> = (0..RACERS).map(|racer| world.stream(&racer.to_string())).collect();
    for _ in 0..ROUNDS {
        let events = streams.iter().map(|stream| world.event(stream)).collect();
        same("the appends accepted", &race(&world, &diary, events).await?, &RACERS)?;
    }
    let read = world.log_events(&Query::all()).await?;
    holds(&world, &diary, ALL, &read).await
}

pub(super) async fn appends_to_several_partitions_fold_into_one_document(world: World) -> Check {
    let diary = diary("diary");
    let stream = |racer: usize| match racer % 2 {
        0 => world.stream(&racer.to_string()),
        _ => world.elsewhere(&racer.to_string()),
    };
    let streams: Vec<StreamId> = (0..RACERS).map(stream).collect();
    for _ in 0..ROUNDS {
        let events = streams.iter().map(|stream| world.event(stream)).collect();
        same("the appends accepted", &race(&world, &diary, events).await?, &RACERS)?;
    }
    same("the lines", &number_of_lines(&world, &diary, ALL).await?, &(RACERS * ROUNDS))
}

pub(super) async fn an_append_that_does_not_fit_touches_no_other(world: World) -> Check {
    let diary = diary("diary");
    let streams: Vec<StreamId> = (0..RACERS).map(|racer| world.stream(&racer.to_string())).collect();
    for _ in 0..ROUNDS {
        let name = |racer: usize| if racer.is_multiple_of(2) { "Probed" } else { UNREADABLE };
        let event = |(racer, stream)| world.event(stream).named(name(racer));
        let events = streams.iter().enumerate().map(event).collect();
        same("the appends accepted", &race(&world, &diary, events).await?, &(RACERS / 2))?;
    }
    for stream in streams.iter().step_by(2) {
        let read = world.stream_events(stream).await?;
        same("the events of one that was accepted", &read.len(), &ROUNDS)?;
        holds(&world, &diary, stream.as_str(), &read).await?;
    }
    let all = world.log_events(&Query::all()).await?.len();
    same("the events", &all, &(RACERS / 2 * ROUNDS))
}

pub(super) async fn an_inline_append_fences_a_follower(world: World) -> Check {
    let (diary, stream) = (diary("diary"), world.stream("a"));
    let claim = world.documents()?.claim("diary").await?;
    for _ in 0..2 {
        let from = checkpoint(&world, &diary).await?;
        let appended = put(&world, &stream, &diary).await?;
        let to = Checkpoint { log: appended.log, position: appended.position, event: None };
        let writes = vec![entries::put(ALL, "late")];
        let late = batch(&world, &diary, claim.epoch, from, to).with_writes(writes);
        let before = all(&world, &[&diary]).await?;
        fenced(&world, late).await?;
        same("what is there", &all(&world, &[&diary]).await?, &before)?;
    }
    Ok(())
}

pub(super) async fn an_inline_append_fences_a_follower_of_another_partition(world: World) -> Check {
    let diary = diary("diary");
    let (here, there) = (world.stream("here"), world.elsewhere("there"));
    let documents = world.documents()?;
    put(&world, &here, &diary).await?;
    let mut claim = documents.claim("diary").await?;
    for round in 1..=3 {
        // The follower has read the document, and then another one is stored.
        put(&world, &there, &diary).await?;
        let Some(at_home) = checkpoint(&world, &diary).await? else { return fail("there is no checkpoint") };
        let mut late = batch(&world, &diary, claim.epoch, None, further(at_home));
        late.from = claim.checkpoints;
        late.writes = vec![entries::put(ALL, "late")];
        let before = all(&world, &[&diary]).await?;
        fenced(&world, late.clone()).await?;
        same("what is there", &all(&world, &[&diary]).await?, &before)?;
        same("the lines", &number_of_lines(&world, &diary, ALL).await?, &(round + 1))?;
        claim = documents.claim("diary").await?;
        let mut next = batch(&world, &diary, claim.epoch, None, at_home);
        next.from.clone_from(&claim.checkpoints);
        documents.commit(next).await?;
    }
    Ok(())
}

pub(super) async fn an_inline_append_leaves_the_epoch(world: World) -> Check {
    let (diary, stream) = (diary("diary"), world.stream("a"));
    let claim = world.documents()?.claim("diary").await?;
    for _ in 0..2 {
        put(&world, &stream, &diary).await?;
        let Some(from) = checkpoint(&world, &diary).await? else { return fail("there is no checkpoint") };
        let moved = batch(&world, &diary, claim.epoch, Some(from), further(from));
        world.documents()?.commit(moved).await?;
        let back = batch(&world, &diary, claim.epoch, Some(further(from)), from);
        world.documents()?.commit(back).await?;
    }
    Ok(())
}

pub(super) async fn an_inline_append_is_no_claim(world: World) -> Check {
    let (diary, stream) = (diary("diary"), world.stream("a"));
    put(&world, &stream, &diary).await?;
    let Some(from) = checkpoint(&world, &diary).await? else { return fail("there is no checkpoint") };
    for epoch in [0, 1] {
        fenced(&world, batch(&world, &diary, epoch, Some(from), further(from))).await?;
    }
    let epoch = world.documents()?.claim("diary").await?.epoch;
    Ok(world.documents()?.commit(batch(&world, &diary, epoch, Some(from), further(from))).await?)
}

pub(super) async fn an_inline_checkpoint_is_of_one_partition(world: World) -> Check {
    let diary = diary("diary");
    let (here, there) = (world.stream("here"), world.elsewhere("there"));
    put(&world, &here, &diary).await?;
    let at_home = checkpoint(&world, &diary).await?;
    // Behind at home, which is nothing to an append elsewhere.
    world.fill(&here, 1).await?;
    let appended = put(&world, &there, &diary).await?;
    same("the checkpoint at home", &checkpoint(&world, &diary).await?, &at_home)?;
    let elsewhere = world.documents()?.checkpoint("diary", appended.partition).await?;
    same("the other one", &elsewhere.map(|at| at.position), &Some(appended.position))?;
    for partition in (0..world.capabilities.partitions).map(Partition::new) {
        let found = world.documents()?.checkpoint("diary", partition).await?;
        let expected = partition == world.home || partition == appended.partition;
        same(format!("whether there is a checkpoint in {partition}"), &found.is_some(), &expected)?;
    }
    let refused = refusal(&world, with(world.events(&here, 1), &[&diary]), &[&diary]).await?;
    same("who is behind at home", &behind(refused)?.0, &"diary")
}

pub(super) async fn other_handles_see_inline_effects(world: World) -> Check {
    let (diary, other) = (diary("diary"), world.again().await?);
    for round in 1..=5 {
        let (writer, reader) = if round % 2 == 0 { (&other, &world) } else { (&world, &other) };
        let appended = put(writer, &writer.stream("a"), &diary).await?;
        let position = checkpoint(reader, &diary).await?.map(|at| at.position);
        same("the checkpoint", &position, &Some(appended.position))?;
        same("the lines", &number_of_lines(reader, &diary, ALL).await?, &round)?;
    }
    Ok(())
}

const BATCH: usize = 4;

pub(super) async fn a_dropped_inline_append_is_whole_or_nothing(world: World) -> Check {
    let diary = diary("diary");
    for (round, point) in Abandon::points().enumerate() {
        let stream = world.stream(&format!("dropped-{round}"));
        let dropped = world.log.append(with(world.events(&stream, BATCH), &[&diary]));
        let done = point.drop(dropped).await.transpose()?;
        for _ in 0..3 {
            let before = world.stream_events(&stream).await?.len();
            let told = number_of_lines(&world, &diary, stream.as_str()).await?;
            let after = world.stream_events(&stream).await?.len();
            // The append may still come in between, but only as a whole.
            let whole = [0, BATCH].contains(&told) && before <= told && told <= after;
            ensure!(
                whole,
                "an append dropped at {point:?} left {before}, then {after} events, and {told} in a document"
            );
            ensure!(done.is_none() || told > 0, "an append that was ready before the drop is not there");
            tokio::time::sleep(Duration::from_micros(300)).await;
        }
    }
    Ok(())
}

pub(super) async fn nothing_hangs_after_a_dropped_inline_append(world: World) -> Check {
    let (diary, stream) = (diary("diary"), world.stream("a"));
    for point in Abandon::points() {
        let _ = point.drop(world.log.append(with(world.events(&stream, 2), &[&diary]))).await;
        world.soon("an append after a dropped one", put(&world, &stream, &diary)).await??;
        world.soon("a read after a dropped append", page(&world, &diary, ALL)).await??;
        world.soon("a claim after a dropped append", world.documents()?.claim("diary")).await??;
    }
    Ok(())
}

pub(super) async fn an_inline_projection_on_another_database_is_refused(world: World) -> Check {
    let (diary, elsewhere): (_, Projection) = (diary("diary"), Arc::new(Elsewhere));
    let stream = world.stream("a");
    let events = world.events(&stream, 2);
    let everyone = [&diary, &elsewhere];
    let refused = refusal(&world, with(events.clone(), &everyone), &everyone).await?;
    let AppendError::Store(error) = refused else {
        return fail(format!("expected Unsupported, got {refused:?}"));
    };
    same("the kind of the refusal", &error.kind(), &StoreErrorKind::Unsupported)?;
    super::documents::names_nowhere(&error)?;
    world.log.append(with(events, &[&diary])).await?;
    same("the lines", &number_of_lines(&world, &diary, ALL).await?, &2)
}

pub(super) async fn inline_projections_are_refused_where_they_cannot_be_had(world: World) -> Check {
    let (diary, stream) = (diary("diary"), world.stream("a"));
    let command = key(&stream, "command-1");
    let first = Append::new(world.events(&stream, 1), Guard::Any).with_key(Some(command.clone()));
    world.log.append(first).await?;
    let append = with(world.events(&stream, 1), &[&diary]);
    // What it cannot do is told before the key and the guard are looked at.
    let conflict = guarded(append.clone(), at_version(&stream, 9));
    for append in [append.clone(), append.with_key(Some(command)), conflict, with(Vec::new(), &[&diary])] {
        let message = world.refused(append, StoreErrorKind::Unsupported).await?;
        ensure!(message.contains("inline"), "the refusal does not say why: {message}");
    }
    Ok(())
}

pub(super) async fn an_inline_append_that_expects_another_record_is_refused(world: World) -> Check {
    let (documents, diary) = (world.documents()?, diary("of a record"));
    let expecting = |stream, revision| {
        let inline = [InlineConsumer::new(Arc::clone(&diary), revision)].into_iter().collect();
        Append::new(world.events(stream, 1), Guard::Any).with_inline(inline)
    };
    let (one, other) = (world.stream("one"), world.stream("other"));
    world.log.append(expecting(&one, 0)).await?;
    for revision in 1..=3 {
        let content = RecordContent { fold: Some(revision), ..RecordContent::default() };
        let done = documents.set_record(diary.name(), revision - 1, content).await?;
        ensure!(done, "the record was not set, although its revision is {}", revision - 1);
        for stale in [0, revision - 1, revision + 1] {
            match refusal(&world, expecting(&other, stale), &[&diary]).await? {
                AppendError::StaleRecord { consumer } => {
                    same("the projection named", &consumer, &diary.name())?;
                }
                refused => return fail(format!("expected StaleRecord, got {refused:?}")),
            }
        }
        // One that brings no projection asks for no record, and leaves this one behind.
        world.log.append(expecting(&one, revision)).await?;
    }
    let racers = (0..6_u64).map(|racer| {
        let (world, documents, diary) = (world.clone(), Arc::clone(&documents), Arc::clone(&diary));
        let inline = [InlineConsumer::new(Arc::clone(&diary), 3)].into_iter().collect();
        let append = Append::new(world.events(&world.stream(&format!("racer {racer}")), 1), Guard::Any);
        async move {
            if racer == 3 {
                let content = RecordContent { fold: Some(4), ..RecordContent::default() };
                documents.set_record(diary.name(), 3, content).await?;
                return Ok(());
            }
            match world.log.append(append.with_inline(inline)).await {
                Ok(_) | Err(AppendError::StaleRecord { .. }) => Ok(()),
                Err(error) => fail(format!("expected StaleRecord, got {error:?}")),
            }
        }
    });
    together(racers).await?.into_iter().collect::<Got<Vec<()>>>()?;
    let late = refusal(&world, expecting(&other, 3), &[&diary]).await?;
    ensure!(matches!(late, AppendError::StaleRecord { .. }), "expected StaleRecord, got {late:?}");
    world.log.append(expecting(&other, 4)).await?;
    Ok(())
}
