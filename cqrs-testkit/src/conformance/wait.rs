//! Waiting for news.

use std::future::{Future as _, poll_fn};
use std::task::Poll;
use std::time::Duration;

use cqrs_core::id::{Partition, Position};
use tokio::task::JoinHandle;

use super::kit::{Abandon, Check, Got, World, fail, join, skip};

/// A store may say that it cannot wait; its callers poll.
async fn wait(world: &World, after: Position) -> Check {
    match world.soon("waiting for news", world.log.wait(world.home, after)).await? {
        Ok(()) => Ok(()),
        Err(error) => skip(format!("the store cannot wait: {error}")),
    }
}

pub(super) async fn waiting_for_what_is_there_ends_at_once(world: World) -> Check {
    world.fill(&world.stream("a"), 3).await?;
    wait(&world, Position::START).await?;
    let head = world.head().await?;
    wait(&world, Position::new(head.get() - 1)).await
}

/// Waits in a task of its own; when this returns, the wait has begun.
async fn begin(world: &World, after: Position) -> Got<JoinHandle<Check>> {
    let (begun, beginning) = tokio::sync::oneshot::channel();
    let world = world.clone();
    let task = tokio::spawn(async move {
        let mut waiting = Box::pin(wait(&world, after));
        let first = poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx))).await;
        // Nobody listens if the rule was given up.
        let _ = begun.send(());
        match first {
            Poll::Ready(done) => done,
            Poll::Pending => waiting.await,
        }
    });
    match beginning.await {
        Ok(()) => Ok(task),
        Err(_) => fail("waiting for news panicked"),
    }
}

/// So that those who wait sleep, and have to be woken.
async fn pause() {
    tokio::time::sleep(Duration::from_millis(2)).await;
}

pub(super) async fn waiting_ends_with_an_append(world: World) -> Check {
    world.fill(&world.stream("a"), 1).await?;
    for _ in 0..5 {
        let waiting = begin(&world, world.head().await?).await?;
        pause().await;
        world.fill(&world.stream("a"), 1).await?;
        join(vec![waiting]).await?.into_iter().collect::<Check>()?;
    }
    Ok(())
}

pub(super) async fn all_who_wait_are_woken(world: World) -> Check {
    world.fill(&world.stream("a"), 1).await?;
    let head = world.head().await?;
    let mut waiting = Vec::new();
    for _ in 0..5 {
        waiting.push(begin(&world, head).await?);
    }
    pause().await;
    world.fill(&world.stream("a"), 1).await?;
    join(waiting).await?.into_iter().collect()
}

pub(super) async fn a_dropped_wait_has_no_effect(world: World) -> Check {
    for point in Abandon::points() {
        let head = world.head().await?;
        let _ = point.drop(world.log.wait(world.home, head)).await;
        world.soon("an append after a dropped wait", world.fill(&world.stream("a"), 1)).await??;
    }
    Ok(())
}

pub(super) async fn waiting_is_for_one_partition(world: World) -> Check {
    let other: Partition = world.log.partition_of(&world.elsewhere("a"));
    world.fill(&world.elsewhere("a"), 1).await?;
    match world.soon("waiting for another partition", world.log.wait(other, Position::START)).await? {
        Ok(()) => Ok(()),
        Err(error) => skip(format!("the store cannot wait: {error}")),
    }
}

pub(super) async fn a_closed_log_opens_again(world: World) -> Check {
    let stream = world.stream("a");
    for round in 1..=3 {
        world.soon("an append after closing", world.fill(&stream, 1)).await??;
        // The second time there is nothing to do.
        for _ in 0..2 {
            if let Err(error) = world.soon("closing", world.log.close()).await? {
                return fail(format!("closing failed: {error}"));
            }
        }
        let head = world.soon("a read after closing", world.head()).await??;
        if head != Position::new(round) {
            return fail(format!("after closing, the head is {head} instead of {round}"));
        }
    }
    Ok(())
}
