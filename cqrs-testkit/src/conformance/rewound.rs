//! A log that was rewound under open handles, as by a restore, and has grown again with other events.

use bytes::Bytes;
use cqrs_core::error::{StoreError, StoreErrorKind};
use cqrs_core::id::{Position, StreamId, Version};
use cqrs_core::read_store::{Batch, Checkpoint, Claim, CommitError};
use cqrs_core::store::{
    Append, AppendError, Appended, Expected, Guard, Head, LogPoint, LogRead, Query, StreamEvent,
};
use uuid::Uuid;

use super::Backup;
use super::entries::{get, put};
use super::kit::{
    Check, Got, Sketch as _, World, backward, by_names, by_tags, ensure, expect, fail, forward, key, same,
    together,
};

/// Events before the backup.
const KEPT: usize = 3;
/// Events after it, which the restore removes.
const LOST: usize = 2;
/// Numbers of events that the log grows by again: not at all, less than was lost, as far, and further.
const REGROWN: [usize; 4] = [0, 1, LOST, LOST + 1];

/// A log before it is rewound.
struct Before {
    /// The handle that has appended everything.
    old: World,
    stream: StreamId,
    ids: Vec<Uuid>,
    lost: Vec<Appended>,
    backup: Backup,
}

/// A log that has lost events, and has others in their place.
struct Rewound {
    /// The handle that has appended the lost events.
    old: World,
    /// A handle that was opened after the restore.
    new: World,
    stream: StreamId,
    /// The ids of all events that are there.
    ids: Vec<Uuid>,
    lost: Vec<Appended>,
}

impl World {
    async fn before(&self) -> Got<Before> {
        let old = self.fresh().await?;
        let stream = old.stream("a");
        let first = Append::new(old.events(&stream, 1), Guard::Any);
        let mut kept = vec![old.append_with(&key(&stream, "kept"), first).await?];
        kept.extend(old.fill(&stream, KEPT - 1).await?);
        let backup = old.back_up().await?;
        let mut lost = Vec::new();
        for number in 0..LOST {
            let event = old.event(&stream).named("Lost").tagged(&["lost:1"]);
            let append = Append::new(vec![event], Guard::Any);
            lost.push(old.append_with(&key(&stream, &format!("lost-{number}")), append).await?);
        }
        let ids = kept.iter().filter_map(|appended| appended.event).collect();
        Ok(Before { old, stream, ids, lost, backup })
    }

    async fn rewound(&self, regrown: usize) -> Got<Rewound> {
        self.before().await?.rewind(regrown).await
    }
}

impl Before {
    async fn rewind(self, regrown: usize) -> Got<Rewound> {
        let Self { old, stream, mut ids, lost, backup } = self;
        backup.restore().await?;
        let new = old.again().await?;
        let grown = new.fill(&stream, regrown).await?;
        ids.extend(grown.iter().filter_map(|appended| appended.event));
        same("the number of events after the restore", &ids.len(), &(KEPT + regrown))?;
        Ok(Rewound { old, new, stream, ids, lost })
    }
}

impl Rewound {
    /// Both handles, and whether it is the one that has seen the lost events.
    fn handles(&self) -> [(&World, bool); 2] {
        [(&self.old, true), (&self.new, false)]
    }

    async fn unchanged(&self, what: &str) -> Check {
        let there = self.new.again().await?.stream_events(&self.stream).await?;
        let there: Vec<Uuid> = there.iter().map(|event| event.meta.id).collect();
        same(format!("the events after {what}"), &there, &self.ids)
    }
}

/// A handle that has seen the lost events may always say that this is another log.
fn is_told(error: &StoreError, old: bool) -> bool {
    old && error.kind() == StoreErrorKind::Corrupt
}

fn conflicts(what: &str, outcome: Result<Appended, AppendError>, old: bool) -> Check {
    match outcome {
        Err(AppendError::Conflict(_)) => Ok(()),
        Err(AppendError::Store(error)) if is_told(&error, old) => Ok(()),
        other => fail(format!("{what}: expected a conflict, got {other:?}")),
    }
}

/// Appends under a guard that names something lost, alone and among others, with and without events.
async fn refuses(rewound: &Rewound, what: &str, guard: &Guard) -> Check {
    for (handle, old) in rewound.handles() {
        for events in [1, 0] {
            let events = handle.events(&rewound.stream, events);
            conflicts(what, handle.append(events, guard.clone()).await, old)?;
        }
        let several = (0..4).map(|_| {
            let (world, guard, stream) = (handle.clone(), guard.clone(), rewound.stream.clone());
            async move { world.append(world.events(&stream, 1), guard).await }
        });
        for outcome in together(several).await? {
            conflicts(what, outcome, old)?;
        }
    }
    rewound.unchanged(what).await
}

pub(super) async fn a_lost_event_is_not_expected(world: World) -> Check {
    for regrown in REGROWN {
        let rewound = world.rewound(regrown).await?;
        for lost in &rewound.lost {
            let Some((version, id)) = lost.version_of(&rewound.stream).zip(lost.event) else {
                return fail("an append says no version or no event");
            };
            let what = format!("an append that expects the lost event {version}, after {regrown} others");
            let guard = expect(&rewound.stream, Expected::Event(version, id));
            refuses(&rewound, &what, &guard).await?;
        }
    }
    Ok(())
}

pub(super) async fn nothing_is_unchanged_after_a_lost_event(world: World) -> Check {
    for regrown in REGROWN {
        let rewound = world.rewound(regrown).await?;
        let mut queries = vec![Query::all(), Query::none(), by_names(&["Other"])];
        if world.capabilities.tags {
            queries.push(by_tags(&["other:1"]));
        }
        for lost in &rewound.lost {
            for query in &queries {
                let guard = Guard::Unchanged { query: query.clone(), after: lost.point() };
                let what = format!("an append under [{guard}], after {regrown} others");
                refuses(&rewound, &what, &guard).await?;
            }
        }
    }
    Ok(())
}

pub(super) async fn a_lost_key_is_free(world: World) -> Check {
    for regrown in REGROWN {
        let Rewound { old, new, stream, lost, ids } = world.rewound(regrown).await?;
        for number in 0..LOST {
            let key = key(&stream, &format!("lost-{number}"));
            same("a lost key", &new.log.find_key(&key).await?, &None)?;
            match old.log.find_key(&key).await {
                Ok(found) => same("a lost key on a handle that was open", &found, &None)?,
                Err(error) => ensure!(is_told(&error, true), "looking a lost key up: {error}"),
            }
            let append = || Append::new(new.events(&stream, 1), Guard::Any);
            let appended = new.append_with(&key, append()).await?;
            ensure!(!lost.contains(&appended), "a lost key gave the lost {appended:?}");
            match old.log.find_key(&key).await {
                Ok(found) => same("a key that is used again", &found.as_ref(), &Some(&appended))?,
                Err(error) => ensure!(is_told(&error, true), "looking a key up: {error}"),
            }
            match old.append_with(&key, append()).await {
                Err(AppendError::Duplicate(first)) => same("the first append of a key", &first, &appended)?,
                Err(AppendError::Store(error)) if is_told(&error, true) => {}
                other => return fail(format!("expected a duplicate, got {other:?}")),
            }
        }
        match new.append_with(&key(&stream, "kept"), Append::new(Vec::new(), Guard::Any)).await {
            Err(AppendError::Duplicate(first)) => {
                same("the event of the key that was kept", &first.event, &ids.first().copied())?;
            }
            other => return fail(format!("expected the key that was kept, got {other:?}")),
        }
    }
    Ok(())
}

pub(super) async fn no_call_falls_short_of_a_reported_head(world: World) -> Check {
    for regrown in REGROWN.into_iter().filter(|regrown| *regrown < LOST) {
        let before = world.before().await?;
        let (by_head, by_read) = (before.old.again().await?, before.old.again().await?);
        by_head.head().await?;
        by_read.read_log(Position::START, Query::all()).await?;
        let rewound = before.rewind(regrown).await?;
        let by_append = rewound.old.clone();
        for (told, handle) in [("a head", by_head), ("a read", by_read), ("an append", by_append)] {
            for (call, outcome) in every_call(&handle, &rewound.stream).await {
                let corrupt = outcome.as_ref().is_err_and(|error| error.kind() == StoreErrorKind::Corrupt);
                ensure!(
                    corrupt,
                    "{call} on a handle whose log ends before the head that {told} reported: expected Corrupt, got {outcome:?}"
                );
            }
        }
        // A handle that has reported no head compares nothing.
        for (call, outcome) in every_call(&rewound.new, &rewound.stream).await {
            ensure!(outcome.is_ok(), "{call} on a new handle: {outcome:?}");
        }
    }
    Ok(())
}

type Call = (&'static str, Result<(), StoreError>);

async fn every_call(world: &World, stream: &StreamId) -> Vec<Call> {
    let done = |outcome: Result<Appended, AppendError>| match outcome {
        Ok(_) => Ok(()),
        Err(AppendError::Store(error)) => Err(error),
        Err(other) => Err(StoreError::new(StoreErrorKind::Failed, other.to_string())),
    };
    let nothing = || Append::new(Vec::new(), Guard::Any);
    let log = &world.log;
    let mut calls = vec![
        ("an append of nothing", done(log.append(nothing()).await)),
        ("a look for a key", log.find_key(&key(stream, "kept")).await.map(drop)),
        ("a read of a stream", log.read_stream(forward(stream, Version::new(1))).await.map(drop)),
        ("a read of a stream's end", log.read_stream(backward(stream, Version::new(9))).await.map(drop)),
        ("a fold", folded(world, stream).await.map(drop)),
        ("a read of the log", log.read_log(world.log_read(Position::START, Query::all())).await.map(drop)),
        (
            "a read at the log's end",
            log.read_log(world.log_read(Position::new(9), Query::none())).await.map(drop),
        ),
        ("a head", log.head(world.home).await.map(drop)),
    ];
    if world.capabilities.reservations {
        let reserved = match log.reserve(stream).await {
            Ok(Some(reservation)) => done(reservation.append(nothing()).await),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        calls.push(("a reservation and its append", reserved));
    }
    // The log may grow only by the last call.
    calls.push(("an append", done(world.append(world.events(stream, 1), Guard::Any).await)));
    calls
}

async fn folded(world: &World, stream: &StreamId) -> Result<Vec<Uuid>, StoreError> {
    let mut ids = Vec::new();
    let take = &mut |event: StreamEvent<'_>| {
        ids.push(event.id);
        std::ops::ControlFlow::Continue(())
    };
    world.log.fold_stream(stream, Version::new(1), take).await?;
    Ok(ids)
}

/// The positions as a handle reports them: the head, and the event at each position as reads from it and to it say.
struct Points {
    head: (Position, Option<Uuid>),
    after: Vec<Option<Uuid>>,
    up_to: Vec<(Position, Option<Uuid>)>,
}

impl Points {
    /// Compares it with the events that are there.
    fn check(&self, ids: &[Uuid]) -> Check {
        let there =
            |at: Position| at.get().checked_sub(1).and_then(|at| ids.get(usize::try_from(at).ok()?).copied());
        let (position, event) = self.head;
        same("the position of the head", &position.get(), &(ids.len() as u64))?;
        same("the event at the head", &event, &there(position))?;
        let all: Vec<_> = ids.iter().copied().map(Some).collect();
        same("the events that reads begin after", &self.after, &all)?;
        for (at, event) in &self.up_to {
            same(format!("the event at {at}, to which a read went"), event, &there(*at))?;
        }
        Ok(())
    }
}

async fn points(world: &World) -> Result<Points, StoreError> {
    let Head { position, event, .. } = world.log.head(world.home).await?;
    let mut points = Points { head: (position, event), after: Vec::new(), up_to: Vec::new() };
    for at in (1..=position.get()).map(Position::new) {
        let after = world.log.read_log(world.log_read(at, Query::none())).await?;
        points.after.push(after.after_event);
        let read = LogRead { up_to: Some(at), ..world.log_read(Position::START, Query::none()) };
        let up_to = world.log.read_log(read).await?;
        points.up_to.push((up_to.read_to, up_to.read_to_event));
    }
    Ok(points)
}

/// The part of it that needs no restore.
pub(super) async fn check_points(world: &World, stream: &StreamId) -> Check {
    let filled = world.fill(stream, 3).await?;
    let written: Vec<_> = world.stream_events(stream).await?.iter().map(|event| event.meta.id).collect();
    let told: Vec<_> = filled.iter().filter_map(|appended| appended.event).collect();
    same("the events that appends say they ended with", &told, &written)?;
    points(world).await?.check(&written)
}

pub(super) async fn a_position_comes_with_the_event_that_is_there(world: World) -> Check {
    for regrown in REGROWN {
        let before = world.before().await?;
        points(&before.old).await?;
        let Rewound { old, new, stream, mut ids, .. } = before.rewind(regrown).await?;
        for (handle, old) in [(&old, true), (&new, false)] {
            match points(handle).await {
                Ok(points) => points.check(&ids)?,
                Err(error) => ensure!(is_told(&error, old), "reading positions: {error}"),
            }
            let event = handle.event(&stream);
            let id = event.id;
            match handle.append(vec![event], Guard::Any).await {
                Ok(appended) => {
                    let there = LogPoint { position: Position::new(ids.len() as u64 + 1), event: Some(id) };
                    same("where an append after a restore wrote", &appended.point(), &there)?;
                    ids.push(id);
                }
                Err(AppendError::Store(error)) if is_told(&error, old) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// The ids that each kind of read returns.
async fn read(world: &World, stream: &StreamId) -> Result<Vec<(&'static str, Vec<Uuid>)>, StoreError> {
    let ids = |events: &[super::kit::Event]| events.iter().map(|event| event.meta.id).collect::<Vec<_>>();
    let log = &world.log;
    let mut backward = log.read_stream(backward(stream, Version::new(99))).await?.events;
    backward.reverse();
    let all = log.read_log(world.log_read(Position::START, Query::all())).await?;
    let probed = log.read_log(world.log_read(Position::START, by_names(&["Probed"]))).await?;
    let mut reads = vec![
        ("a read of the stream", ids(&log.read_stream(forward(stream, Version::new(1))).await?.events)),
        ("a read of the stream backward", ids(&backward)),
        ("a fold", folded(world, stream).await?),
        ("a read of the log", ids(&all.events)),
        ("a read of the log by name", ids(&probed.events)),
    ];
    let lost = log.read_log(world.log_read(Position::START, by_names(&["Lost"]))).await?;
    reads.push(("a read of the log by the name of a lost event", ids(&lost.events)));
    if world.capabilities.tags {
        let lost = log.read_log(world.log_read(Position::START, by_tags(&["lost:1"]))).await?;
        reads.push(("a read of the log by the tag of a lost event", ids(&lost.events)));
    }
    Ok(reads)
}

pub(super) async fn a_restored_log_is_read_as_it_is(world: World) -> Check {
    for regrown in REGROWN {
        let before = world.before().await?;
        read(&before.old, &before.stream).await?;
        let Rewound { old, new, stream, ids, .. } = before.rewind(regrown).await?;
        let third = new.again().await?;
        for (handle, old) in [(&old, true), (&new, false), (&third, false)] {
            match read(handle, &stream).await {
                Ok(reads) => {
                    for (what, read) in reads {
                        let expected = if what.ends_with("a lost event") { &[][..] } else { &ids };
                        same(format!("{what} after a restore"), &read.as_slice(), &expected)?;
                    }
                }
                Err(error) => ensure!(is_told(&error, old), "reading after a restore: {error}"),
            }
        }
        // The indexes lost what they had of the lost events, which a handle may remember.
        let event = old.event(&stream).named("Lost").tagged(&["lost:1"]);
        let id = event.id;
        match old.append(vec![event], Guard::Any).await {
            Ok(_) => {
                for (what, read) in read(&third, &stream).await? {
                    ensure!(
                        read.last() == Some(&id) || what.ends_with("by name"),
                        "{what} does not have the event that was appended after the restore"
                    );
                }
            }
            Err(AppendError::Store(error)) if is_told(&error, true) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The claim is lost as well, so the new owner gets the epoch that the old one has.
pub(super) async fn a_batch_of_a_lost_checkpoint_is_fenced(world: World) -> Check {
    for regrown in REGROWN {
        let before = world.before().await?;
        let old = before.old.documents()?;
        let batch = |epoch, from: Option<Checkpoint>, to, text: &str| {
            let checkpoints = from.map(|from| (world.home, from)).into_iter().collect();
            let claim = Claim { epoch, checkpoints, revision: 0 };
            Batch::new("p", &claim, to).with_partition(world.home).with_writes(vec![put("k", text)])
        };
        let epoch = old.claim("p").await?.epoch;
        let point = |appended: &Appended| Checkpoint {
            log: appended.log,
            position: appended.position,
            event: appended.event,
        };
        let Some(lost) = before.lost.last().map(point) else { return fail("nothing was lost") };
        old.commit(batch(epoch, None, lost, "lost")).await?;
        let rewound = before.rewind(regrown).await?;
        let new = rewound.new.documents()?;
        let claim = new.claim("p").await?;
        same("the checkpoints after a restore", &claim.checkpoints.len(), &0)?;
        let fenced = |outcome: Result<(), CommitError>| match outcome {
            Err(CommitError::Fenced) => Ok(()),
            Err(CommitError::Store(error)) if is_told(&error, true) => Ok(()),
            other => fail(format!("a batch from a lost checkpoint should be fenced, got {other:?}")),
        };
        let next = Checkpoint { position: lost.position.next(), event: Some(Uuid::from_u128(9)), ..lost };
        let late = || batch(claim.epoch, Some(lost), next, "late");
        fenced(old.commit(late()).await)?;
        let there = Checkpoint { event: rewound.ids.last().copied(), ..lost };
        new.commit(batch(claim.epoch, None, there, "there")).await?;
        fenced(old.commit(late()).await)?;
        fenced(new.commit(late()).await)?;
        let found = get(&new, "p", "k").await?;
        same("the document", &found, &Some(Bytes::from_static(b"there")))?;
    }
    Ok(())
}
