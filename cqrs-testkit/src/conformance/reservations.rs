//! Reservations: a turn for whoever would lose to others for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cqrs_core::id::{StreamId, Version};
use cqrs_core::store::{Append, AppendError, Appended, Expected, Guard, Reservation};
use tokio::task::JoinHandle;

use super::kit::{
    Abandon, Check, Got, World, at_version, ensure, expect, fail, forward, join, key, same, together,
};

const WRITERS: usize = 4;
const ROUNDS: usize = 10;

/// So long others are given to write what they must not.
const MEANWHILE: Duration = Duration::from_millis(20);

type Outcomes = Vec<JoinHandle<Result<Appended, AppendError>>>;

impl World {
    async fn reserve(&self, stream: &StreamId) -> Got<Reservation> {
        match self.soon("a reservation", self.log.reserve(stream)).await?? {
            Some(reservation) => Ok(reservation),
            None => fail("the store says that it has reservations, and gives none"),
        }
    }

    /// Sends appends on their way, each to a stream of its own.
    fn send(&self, guard: impl Fn(&StreamId) -> Guard) -> Outcomes {
        let streams = (0..WRITERS).map(|writer| self.stream(&format!("other-{writer}")));
        let send = |stream: StreamId| {
            let (world, guard) = (self.clone(), guard(&stream));
            tokio::spawn(async move { world.append(world.events(&stream, 1), guard).await })
        };
        streams.map(send).collect()
    }

    async fn written(&self, outcomes: Outcomes) -> Check {
        let outcomes = self.soon("appends behind a reservation", join(outcomes)).await??;
        Ok(outcomes.into_iter().try_for_each(|outcome| outcome.map(drop))?)
    }
}

fn new(stream: &StreamId) -> Guard {
    expect(stream, Expected::NoStream)
}

pub(super) async fn others_wait_for_a_reservation(world: World) -> Check {
    let stream = world.stream("a");
    world.fill(&stream, 1).await?;
    let before = world.head().await?;
    let reservation = world.reserve(&stream).await?;
    let others = world.send(|_| Guard::Any);
    tokio::time::sleep(MEANWHILE).await;
    same("the head while it is reserved", &world.head().await?, &before)?;
    reservation.append(Append::new(world.events(&stream, 1), Guard::Any)).await?;
    world.written(others).await?;
    let read = world.slice(forward(&stream, Version::new(1))).await?;
    same("the stream's version", &read.version, &Version::new(2))
}

pub(super) async fn other_handles_wait_for_a_reservation(world: World) -> Check {
    let stream = world.stream("a");
    let again = world.again().await?;
    world.fill(&stream, 1).await?;
    for (holder, other) in [(&world, &again), (&again, &world)] {
        let before = holder.head().await?;
        let reservation = holder.reserve(&stream).await?;
        let round = before.get();
        let others = other.send(|stream| if round == 1 { new(stream) } else { at_version(stream, 1) });
        tokio::time::sleep(MEANWHILE).await;
        same("the head while it is reserved", &other.head().await?, &before)?;
        reservation.append(Append::new(world.events(&stream, 1), Guard::Any)).await?;
        other.written(others).await?;
    }
    Ok(())
}

pub(super) async fn what_is_read_in_a_reservation_stays(world: World) -> Check {
    for round in 0..ROUNDS {
        let stream = world.stream(&format!("raced-{round}"));
        let writers = (0..WRITERS).map(|_| {
            let (world, stream) = (world.clone(), stream.clone());
            async move {
                let reservation = world.reserve(&stream).await?;
                let version = world.slice(forward(&stream, Version::new(1))).await?.version;
                let append = Append::new(world.events(&stream, 1), at_version(&stream, version.get()));
                match reservation.append(append).await {
                    Ok(_) => Ok(()),
                    Err(error) => fail(format!("it was at {version} while it was reserved: {error}")),
                }
            }
        });
        together(writers).await?.into_iter().collect::<Check>()?;
        let version = world.slice(forward(&stream, Version::new(1))).await?.version;
        same("the stream's version", &version, &Version::new(WRITERS as u64))?;
    }
    Ok(())
}

pub(super) async fn a_reserved_append_is_like_any_other(world: World) -> Check {
    let stream = world.stream("a");
    let key = key(&stream, "once");
    let keyed = Append::new(world.events(&stream, 1), Guard::Any).with_key(Some(key.clone()));
    let first = world.reserve(&stream).await?.append(keyed).await?;
    same("where it was written", &first.position, &world.head().await?)?;
    let wrong = Append::new(world.events(&stream, 1), at_version(&stream, 2));
    match world.reserve(&stream).await?.append(wrong).await {
        Err(AppendError::Conflict(_)) => {}
        other => return fail(format!("expected a conflict, got {other:?}")),
    }
    let repeated = Append::new(world.events(&stream, 1), Guard::Any).with_key(Some(key));
    match world.reserve(&stream).await?.append(repeated).await {
        Err(AppendError::Duplicate(appended)) => same("what the first gave", &appended, &first)?,
        other => return fail(format!("expected a duplicate, got {other:?}")),
    }
    same("the head after what was refused", &world.head().await?, &first.position)
}

pub(super) async fn a_dropped_reservation_lets_others_append(world: World) -> Check {
    let stream = world.stream("a");
    world.fill(&stream, 1).await?;
    drop(world.reserve(&stream).await?);
    world.soon("an append after a dropped reservation", world.fill(&stream, 1)).await??;
    for point in Abandon::points() {
        drop(point.drop(world.log.reserve(&stream)).await);
        let reservation = world.reserve(&stream).await?;
        drop(point.drop(reservation.append(Append::new(world.events(&stream, 1), Guard::Any))).await);
        let next = world.fill(&stream, 1);
        world.soon("an append after a reservation that was given up", next).await??;
    }
    Ok(())
}

pub(super) async fn a_reservation_comes_beside_writers(world: World) -> Check {
    let (stream, over) = (world.stream("a"), Arc::new(AtomicBool::new(false)));
    let writers: Vec<JoinHandle<Check>> = (0..WRITERS)
        .map(|writer| {
            let (world, over) = (world.clone(), Arc::clone(&over));
            tokio::spawn(async move {
                let stream = world.stream(&format!("other-{writer}"));
                while !over.load(Ordering::SeqCst) {
                    world.fill(&stream, 1).await?;
                    tokio::task::yield_now().await;
                }
                Ok(())
            })
        })
        .collect();
    let reserving = async {
        for _ in 0..ROUNDS {
            let reservation = world.reserve(&stream).await?;
            reservation.append(Append::new(world.events(&stream, 1), Guard::Any)).await?;
        }
        Ok(())
    };
    let reserved: Check = reserving.await;
    over.store(true, Ordering::SeqCst);
    reserved?;
    world.soon("writers beside reservations", join(writers)).await??.into_iter().collect()
}

pub(super) async fn nothing_is_reserved_where_it_cannot_be(world: World) -> Check {
    let reserved = world.log.reserve(&world.stream("a")).await?;
    ensure!(reserved.is_none(), "the store says that it has no reservations, and gives one");
    Ok(())
}
