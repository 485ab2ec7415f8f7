//! Snapshots: a cache beside the log, which tells the truth or nothing.

use bytes::Bytes;
use cqrs_core::error::StoreErrorKind;
use cqrs_core::id::{Position, StreamId, Version};
use cqrs_core::store::{LogId, Snapshot};
use uuid::Uuid;

use super::kit::{Abandon, Check, Got, World, ensure, fail, forward, same, stream};
use super::strings::TEXTS;

const PRINT: u64 = 7;

/// Other snapshots than the plain one.
trait Sketch: Sized {
    fn printed(self, fingerprint: u64) -> Self;
    fn holding(self, state: impl Into<Bytes>) -> Self;
}

impl Sketch for Snapshot {
    fn printed(self, fingerprint: u64) -> Self {
        Self { fingerprint, ..self }
    }

    fn holding(self, state: impl Into<Bytes>) -> Self {
        Self { state: state.into(), ..self }
    }
}

impl World {
    /// A snapshot of this log with the fingerprint that the rules mostly use.
    async fn snapshot(&self, stream: &StreamId, version: u64) -> Got<Snapshot> {
        Ok(Snapshot {
            stream: stream.clone(),
            log: self.log.head(self.home).await?.log,
            version: Version::new(version),
            position: Position::new(version + 3),
            event: Uuid::from_u128(u128::from(version) << 64 | 5),
            fingerprint: PRINT,
            state: Bytes::from(format!("{{\"version\":{version}}}")),
        })
    }

    async fn save(&self, snapshot: &Snapshot) -> Check {
        Ok(self.log.save_snapshot(snapshot.clone()).await?)
    }

    /// A save that has to be refused as this kind.
    async fn save_refused(&self, snapshot: Snapshot, kind: StoreErrorKind) -> Got<String> {
        match self.log.save_snapshot(snapshot).await {
            Err(error) if error.kind() == kind => Ok(error.to_string()),
            other => fail(format!("expected a refusal as {kind:?}, got {other:?}")),
        }
    }

    async fn kept(&self, what: &str, stream: &StreamId, print: u64, expected: Option<&Snapshot>) -> Check {
        let found = self.log.snapshot(stream, print).await?;
        // A state may be large, and says little.
        let brief = |snapshot: &Snapshot| {
            let Snapshot { stream, log, version, position, event, fingerprint, state } = snapshot;
            (stream.clone(), *log, *version, *position, *event, *fingerprint, state.len())
        };
        same(what, &found.as_ref().map(brief), &expected.map(brief))?;
        ensure!(found.as_ref() == expected, "{what}: the bytes of the state differ");
        Ok(())
    }
}

pub(super) async fn a_snapshot_is_kept_as_it_was(world: World) -> Check {
    let stream = world.stream("a");
    world.kept("before any save", &stream, PRINT, None).await?;
    let all_bytes: Vec<u8> = (0..=255).collect();
    let states: [&[u8]; 4] = [b"", b"null", b" {\"b\": 1,\n\"a\": 2} \0\xff", &all_bytes];
    let prints = [0, 1, 1 << 63, u64::MAX];
    for (version, (state, print)) in (1..).zip(states.into_iter().zip(prints)) {
        let snapshot = world.snapshot(&stream, version).await?.printed(print).holding(state.to_vec());
        world.save(&snapshot).await?;
        world.kept("the snapshot", &stream, print, Some(&snapshot)).await?;
    }
    Ok(())
}

pub(super) async fn a_snapshot_names_its_last_event(world: World) -> Check {
    let stream = world.stream("a");
    for id in [1, 2, u128::MAX] {
        let snapshot = Snapshot { event: Uuid::from_u128(id), ..world.snapshot(&stream, 5).await? };
        world.save(&snapshot).await?;
        let what = "a snapshot of the same version with another event";
        world.kept(what, &stream, PRINT, Some(&snapshot)).await?;
    }
    Ok(())
}

pub(super) async fn a_snapshot_is_for_its_fingerprint(world: World) -> Check {
    let stream = world.stream("a");
    world.save(&world.snapshot(&stream, 5).await?.printed(2)).await?;
    for print in [0, 1, 3, 2 | 1 << 63, u64::MAX] {
        world.kept("the snapshot of another fingerprint", &stream, print, None).await?;
    }
    Ok(())
}

pub(super) async fn a_stream_has_one_snapshot(world: World) -> Check {
    let stream = world.stream("a");
    let first = world.snapshot(&stream, 9).await?;
    world.save(&first).await?;
    let other_print = world.snapshot(&stream, 4).await?.printed(8);
    world.save(&other_print).await?;
    world.kept("the snapshot of another fingerprint", &stream, 8, Some(&other_print)).await?;
    world.kept("the snapshot that was replaced", &stream, PRINT, None).await?;
    let other_log = Snapshot { log: LogId(Uuid::from_u128(4)), ..world.snapshot(&stream, 2).await? };
    let other_log = other_log.printed(8);
    world.save(&other_log).await?;
    world.kept("the snapshot of another log", &stream, 8, Some(&other_log)).await
}

pub(super) async fn an_older_snapshot_replaces_nothing(world: World) -> Check {
    let stream = world.stream("a");
    let fifth = world.snapshot(&stream, 5).await?;
    world.save(&fifth).await?;
    for older in [1, 4] {
        world.save(&world.snapshot(&stream, older).await?).await?;
        world.kept("the newer snapshot", &stream, PRINT, Some(&fifth)).await?;
    }
    let again = world.snapshot(&stream, 5).await?.holding("again");
    world.save(&again).await?;
    world.kept("another snapshot of the same version", &stream, PRINT, Some(&again)).await?;
    let newer = world.snapshot(&stream, 6).await?;
    world.save(&newer).await?;
    world.kept("the newest snapshot", &stream, PRINT, Some(&newer)).await
}

pub(super) async fn snapshots_of_other_streams_are_others(world: World) -> Check {
    let streams = TEXTS.map(|text| stream(&format!("Probe/{text}")));
    let mut saved = Vec::new();
    for (number, stream) in (1..).zip(&streams) {
        let snapshot = world.snapshot(stream, number).await?;
        world.save(&snapshot).await?;
        saved.push(snapshot);
    }
    for snapshot in &saved {
        let stream = &snapshot.stream;
        world.kept(&format!("the snapshot of {stream:?}"), stream, PRINT, Some(snapshot)).await?;
    }
    Ok(())
}

pub(super) async fn a_snapshot_is_forgotten(world: World) -> Check {
    let (stream, other) = (world.stream("a"), world.stream("b"));
    let beside = world.snapshot(&other, 9).await?;
    world.save(&beside).await?;
    world.save(&world.snapshot(&stream, 9).await?).await?;
    for what in ["the forgotten snapshot", "the snapshot that was forgotten twice"] {
        world.log.forget_snapshot(&stream).await?;
        world.kept(what, &stream, PRINT, None).await?;
    }
    world.kept("the snapshot of another stream", &other, PRINT, Some(&beside)).await?;
    // What was forgotten stands in nobody's way.
    let older = world.snapshot(&stream, 2).await?;
    world.save(&older).await?;
    world.kept("a snapshot after forgetting", &stream, PRINT, Some(&older)).await
}

pub(super) async fn a_snapshot_is_no_append(world: World) -> Check {
    let (there, missing) = (world.stream("a"), world.stream("b"));
    world.fill(&there, 2).await?;
    let before = world.log.head(world.home).await?;
    for stream in [&there, &missing] {
        let version = world.slice(forward(stream, Version::new(1))).await?.version;
        world.save(&world.snapshot(stream, 2).await?).await?;
        let after = world.slice(forward(stream, Version::new(1))).await?;
        same(format!("the version of {stream} after a save"), &after.version, &version)?;
        same(format!("the events of {stream} after a save"), &(after.events.len() as u64), &version.get())?;
    }
    same("the head after a save", &world.log.head(world.home).await?, &before)
}

pub(super) async fn a_snapshot_may_be_so_long(world: World) -> Check {
    let (stream, limit) = (world.stream("a"), world.log.limits().snapshot_bytes);
    let small = world.snapshot(&stream, 1).await?;
    world.save(&small).await?;
    let large = |size: usize| vec![b'7'; size];
    let over = world.snapshot(&stream, 2).await?.holding(large(limit.saturating_add(1)));
    let message = world.save_refused(over, StoreErrorKind::Invalid).await?;
    let named = message.contains("snapshot") && message.contains(&limit.to_string());
    ensure!(named, "the message does not name the snapshot and its limit of {limit}: {message}");
    world.kept("the snapshot before one that is too large", &stream, PRINT, Some(&small)).await?;
    let most = world.snapshot(&stream, 2).await?.holding(large(limit));
    world.save(&most).await?;
    world.kept("the largest snapshot", &stream, PRINT, Some(&most)).await
}

pub(super) async fn a_snapshot_of_nothing_is_refused(world: World) -> Check {
    let stream = world.stream("a");
    let nothing = world.snapshot(&stream, 0).await?;
    world.save_refused(nothing, StoreErrorKind::Invalid).await?;
    world.kept("the snapshot of nothing", &stream, PRINT, None).await
}

pub(super) async fn nothing_hangs_after_a_dropped_save(world: World) -> Check {
    for (version, point) in (1..).zip(Abandon::points()) {
        let stream = world.stream(&format!("dropped-{version}"));
        let dropped = world.snapshot(&stream, version).await?;
        let _ = point.drop(world.log.save_snapshot(dropped)).await;
        let _ = point.drop(world.log.forget_snapshot(&world.stream("b"))).await;
        let next = world.snapshot(&stream, version + 1).await?;
        world.soon("a save after a dropped one", world.save(&next)).await??;
        let look = world.kept("the snapshot after a dropped save", &stream, PRINT, Some(&next));
        world.soon("a look after a dropped save", look).await??;
        world.soon("an append after a dropped save", world.fill(&stream, 1)).await??;
    }
    Ok(())
}

pub(super) async fn snapshots_are_refused_where_there_are_none(world: World) -> Check {
    let stream = world.stream("a");
    let snapshot = world.snapshot(&stream, 3).await?;
    world.save_refused(snapshot, StoreErrorKind::Unsupported).await?;
    world.kept("the snapshot", &stream, PRINT, None).await?;
    Ok(world.log.forget_snapshot(&stream).await?)
}
