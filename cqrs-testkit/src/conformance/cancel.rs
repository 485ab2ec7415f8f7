//! Futures that are dropped before they are ready.

use std::future::Future;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use cqrs_core::id::{Position, StreamId, Version};
use cqrs_core::store::{Append, AppendError, Expected, Query};

use super::kit::{Abandon, Check, Got, Sketch as _, World, ensure, expect, forward, key, same};

const BATCH: usize = 4;

pub(super) async fn a_dropped_append_is_whole_or_nothing(world: World) -> Check {
    for (round, point) in Abandon::points().enumerate() {
        let stream = world.stream(&format!("dropped-{round}"));
        let append = Append::new(world.events(&stream, BATCH), expect(&stream, Expected::NoStream));
        let done = point.drop(world.log.append(append)).await;
        for _ in 0..3 {
            let count = world.slice(forward(&stream, Version::new(1))).await?.version.get();
            let whole = count == 0 || count == BATCH as u64;
            ensure!(whole, "an append of {BATCH} events dropped at {point:?} wrote {count} of them");
            ensure!(done.is_none() || count > 0, "an append that was ready before the drop is not there");
            tokio::time::sleep(Duration::from_micros(300)).await;
        }
    }
    Ok(())
}

pub(super) async fn nothing_hangs_after_a_dropped_append(world: World) -> Check {
    let stream = world.stream("a");
    for point in Abandon::points() {
        let _ = point
            .drop(world.log.append(Append::new(world.events(&stream, 2), cqrs_core::store::Guard::Any)))
            .await;
        world.soon("an append after a dropped one", world.fill(&stream, 1)).await??;
        world.soon("a read after a dropped append", world.stream_events(&stream)).await??;
    }
    Ok(())
}

/// The key tells what became of an append whose future was dropped.
pub(super) async fn a_dropped_append_is_resolved_by_its_key(world: World) -> Check {
    for (round, point) in Abandon::points().enumerate() {
        let stream = world.stream(&format!("dropped-{round}"));
        let key = key(&stream, &format!("command-{round}"));
        let append = || {
            Append::new(world.events(&stream, 2), cqrs_core::store::Guard::Any).with_key(Some(key.clone()))
        };
        let _ = point.drop(world.log.append(append())).await;
        match world.soon("the second try", world.log.append(append())).await? {
            Ok(_) | Err(AppendError::Duplicate(_)) => {}
            Err(error) => return Err(error.into()),
        }
        let length = world.stream_events(&stream).await?.len();
        same(format!("the stream after a second try (dropped at {point:?})"), &length, &2)?;
    }
    Ok(())
}

pub(super) async fn a_dropped_read_has_no_effect(world: World) -> Check {
    let stream = world.stream("a");
    world.fill(&stream, 3).await?;
    let read = || world.log_read(Position::START, Query::all());
    for point in Abandon::points() {
        let _ = point.drop(world.log.read_stream(forward(&stream, Version::new(1)))).await;
        let _ = point.drop(world.log.read_log(read())).await;
        let _ = point.drop(world.log.head(world.home)).await;
        let later = world.soon("a read after a dropped one", world.stream_events(&stream)).await??;
        same("the stream's length", &later.len(), &3)?;
        world.soon("a read of the log", world.log_events(&Query::all())).await??;
    }
    Ok(())
}

/// More events, and more bytes, than a store may have on the way between its database and a reader.
const MANY: usize = 1_600;
const BYTES: usize = 400;

/// More reads than a store has connections or threads.
const LEFT: usize = 20;

type Counting<'w> = Pin<Box<dyn Future<Output = Got<usize>> + Send + 'w>>;

/// A program that begins many reads and works on the result of one of them does not poll the others meanwhile.
pub(super) async fn reads_that_are_left_alone_keep_nobody_waiting(world: World) -> Check {
    let (long, other) = (world.stream("long"), world.stream("other"));
    for _ in 0..4 {
        let events = world.events(&long, MANY / 4);
        world.put(events.into_iter().map(|event| event.saying(vec![b'x'; BYTES])).collect()).await?;
    }
    let mut expected = Vec::new();
    for kind in 0..KINDS {
        expected.push(begin(&world, &long, kind).await?);
    }
    let mut left: Vec<(Counting<'_>, Option<usize>)> =
        (0..LEFT).map(|number| (begin(&world, &long, number), None)).collect();
    // Once to begin, and once more when the first part of an answer may be there.
    for _ in 0..2 {
        for (read, done) in left.iter_mut().filter(|(_, done)| done.is_none()) {
            match std::future::poll_fn(|cx| Poll::Ready(read.as_mut().poll(cx))).await {
                Poll::Ready(count) => *done = Some(count?),
                Poll::Pending => {}
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for _ in 0..2 {
        world.soon("an append beside reads that nobody polls", world.fill(&other, 1)).await??;
        world.soon("a read beside reads that nobody polls", world.stream_events(&other)).await??;
        world.soon("a fold beside reads that nobody polls", world.folded(&other, 1, 10)).await??;
        world.soon("the head beside reads that nobody polls", world.head()).await??;
    }
    for ((read, done), expected) in left.into_iter().zip(expected.iter().cycle()) {
        let count = match done {
            Some(count) => count,
            None => world.soon("a read that was left alone", read).await??,
        };
        same("the events of a read that was left alone", &count, expected)?;
    }
    Ok(())
}

const KINDS: usize = 3;

/// A read of one kind or another; how many events it gives.
fn begin<'w>(world: &'w World, stream: &'w StreamId, number: usize) -> Counting<'w> {
    match number % KINDS {
        0 => Box::pin(async { Ok(world.folded(stream, 1, usize::MAX).await?.len()) }),
        1 => Box::pin(async { Ok(world.stream_events(stream).await?.len()) }),
        _ => Box::pin(async move {
            let all = world.log_events(&Query::all()).await?;
            Ok(all.iter().filter(|event| event.meta.stream == *stream).count())
        }),
    }
}
