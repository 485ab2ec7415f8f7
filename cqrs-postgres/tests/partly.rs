//! Groups in which somebody else has written to some of the streams: those that have lost are told, and all the
//! others are written as if they had been alone.

#![allow(missing_docs, reason = "a test")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at a fault")]

mod support;

use cqrs_core::event::{NewEvent, Tag};
use cqrs_core::id::{Partition, Position, Version};
use cqrs_core::store::{
    Append, AppendError, Appended, CommandKey, EventStore as _, Expected, Found, Guard, LogRead, Query,
};
use cqrs_postgres::PostgresStore;
use futures_util::future::join_all;
use support::{connect, event, read_all, read_stream, schema, stream, with};

const STREAMS: usize = 24;

struct World {
    ours: PostgresStore,
    theirs: PostgresStore,
    /// The versions of the streams.
    versions: Vec<u64>,
}

fn name(at: usize) -> String {
    format!("A/{at}")
}

/// Each has what can be counted wrongly: tags for some events of some, keys for some, one event or more.
fn append(at: usize, version: u64, round: usize) -> Append {
    let events = (0..1 + at % 3).map(|number| {
        let tags = (at + number).is_multiple_of(2).then(|| Tag::new("at", &format!("{at}-{round}-{number}")));
        let name = ["Happened", "Changed", "Ended"][(at + round) % 3];
        NewEvent {
            name: name.into(),
            tags: tags.into_iter().collect(),
            ..event(&self::name(at), format!("{round}"))
        }
    });
    let key = (at % 4 == 1).then(|| CommandKey { stream: stream(&name(at)), key: format!("{round}") });
    let guard = Guard::stream(stream(&name(at)), Expected::Version(Version::new(version)));
    Append::new(events.collect(), guard).with_key(key)
}

impl World {
    async fn new(schema: &str) -> Option<Self> {
        let url = with(pg_cluster::shared()?.url(), &format!("schema={schema}"));
        let ours = PostgresStore::open(&url).await.unwrap();
        let theirs = PostgresStore::open(&url).await.unwrap();
        let mut world = Self { ours, theirs, versions: vec![0; STREAMS] };
        // Ours knows all streams, and that nobody else is writing.
        for round in 0..3 {
            world.round(round, |_| false).await;
        }
        Some(world)
    }

    /// They write to those that are `moved`, then ours to all, in one go. All is as it is told.
    async fn round(&mut self, round: usize, moved: impl Fn(usize) -> bool) {
        for at in (0..STREAMS).filter(|at| moved(*at)) {
            let guard = Guard::stream(stream(&name(at)), Expected::Version(Version::new(self.versions[at])));
            self.theirs.append(Append::new(vec![event(&name(at), "theirs")], guard)).await.unwrap();
        }
        let appends: Vec<Append> = (0..STREAMS).map(|at| append(at, self.versions[at], round)).collect();
        let outcomes = join_all(appends.iter().map(|append| self.ours.append(append.clone()))).await;
        for (at, (append, outcome)) in appends.iter().zip(outcomes).enumerate() {
            let key = append.key.as_ref();
            match (outcome, moved(at)) {
                (Ok(appended), false) => {
                    self.versions[at] += append.events.len() as u64;
                    self.is_there(at, append, &appended).await;
                    if let Some(key) = key {
                        assert_eq!(self.theirs.find_key(key).await.unwrap(), Some(appended));
                    }
                }
                (Err(AppendError::Conflict(conflict)), true) => {
                    self.versions[at] += 1;
                    assert_eq!(conflict.clause, append.guard);
                    assert_eq!(conflict.found, Found::Version(Version::new(self.versions[at])));
                    if let Some(key) = key {
                        assert_eq!(self.theirs.find_key(key).await.unwrap(), None);
                    }
                }
                (outcome, moved) => panic!("stream {at} in round {round}, moved: {moved}: {outcome:?}"),
            }
        }
    }

    /// The events lie where the receipt says, and are found by their names and tags.
    async fn is_there(&self, at: usize, append: &Append, appended: &Appended) {
        let version = Version::new(self.versions[at]);
        assert_eq!(appended.version_of(&stream(&name(at))), Some(version));
        let there = read_stream(&self.theirs, &name(at)).await;
        let last = there.last().unwrap();
        assert_eq!((last.meta.id, last.meta.version), (append.events.last().unwrap().id, version));
        assert_eq!(last.meta.position, appended.position);
        for event in &append.events {
            for tag in &event.tags {
                let query = Query::tags([tag.clone()]);
                let (partition, after) = (Partition::ONLY, Position::START);
                let read = LogRead { partition, after, up_to: None, query, limit: 10 };
                let found = self.theirs.read_log(read).await.unwrap().events;
                assert_eq!(found.iter().map(|found| found.meta.id).collect::<Vec<_>>(), [event.id]);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_lost_is_left_out_and_the_others_are_written() {
    let Some(mut world) = World::new(&schema()).await else { return };
    for round in 3..40 {
        // None, all, the first, the last, and all kinds of some.
        let moved = |at: usize| match round {
            3 => false,
            4 => true,
            5 => at == 0,
            6 => at == STREAMS - 1,
            _ => (at * 7 + round * 5) % 11 < round % 11,
        };
        world.round(round, moved).await;
    }
    world.ours.verify().await.unwrap();
    let events = read_all(&world.theirs).await.len() as u64;
    assert_eq!(events, world.versions.iter().sum::<u64>());
}

/// One append to several streams is written as a whole or not at all, whatever else is in its group.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_out_of_an_append() {
    let Some(mut world) = World::new(&schema()).await else { return };
    for round in 3..8 {
        let at_version = |at: usize, version| Guard::stream(stream(&name(at)), Expected::Version(version));
        let now = |at: usize| Version::new(world.versions[at]);
        let both = |one: usize, other: usize| {
            let guard = Guard::All(vec![at_version(one, now(one)), at_version(other, now(other))]);
            Append::new(vec![event(&name(one), "both"), event(&name(other), "both")], guard)
        };
        let appends =
            [both(0, 1), both(2, 3), append(4, now(4).get(), round), append(5, now(5).get(), round)];
        for at in [1, 4] {
            let theirs = Append::new(vec![event(&name(at), "theirs")], at_version(at, now(at)));
            world.theirs.append(theirs).await.unwrap();
        }
        let outcomes = join_all(appends.iter().map(|append| world.ours.append(append.clone()))).await;
        let [first, second, third, fourth] = &outcomes[..] else { panic!("{outcomes:?}") };
        assert!(
            matches!(first, Err(AppendError::Conflict(conflict)) if conflict.clause == at_version(1, now(1)))
        );
        assert!(matches!(third, Err(AppendError::Conflict(_))), "{third:?}");
        assert!(second.is_ok() && fourth.is_ok(), "{second:?}, {fourth:?}");
        for (at, more) in [(1, 1), (2, 1), (3, 1), (4, 1), (5, 3)] {
            world.versions[at] += more;
            assert_eq!(read_stream(&world.theirs, &name(at)).await.len() as u64, world.versions[at], "{at}");
        }
    }
    world.ours.verify().await.unwrap();
}

/// The negative control: were those behind the ones that are left out not to move up, their tags would lie at the
/// positions of others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn were_the_others_not_to_move_up_it_would_show() {
    let schema = schema();
    let Some(world) = World::new(&schema).await else { return };
    let other = connect(pg_cluster::shared().unwrap().url()).await;
    let function = format!("SELECT pg_get_functiondef('{schema}.append_group_v3'::regproc)");
    let function: String = other.query_one(&function, &[]).await.unwrap().get(0);
    let stays = function.replace("coalesce(array_position(v_kept, t.number), t.number)", "t.number");
    assert_ne!(stays, function);
    other.batch_execute(&stays).await.unwrap();
    let appends: Vec<Append> = (0..STREAMS).map(|at| append(at, world.versions[at], 3)).collect();
    // One of them has others behind it in its group, however all are grouped.
    for at in (0..STREAMS).step_by(6) {
        let guard = Guard::stream(stream(&name(at)), Expected::Version(Version::new(world.versions[at])));
        world.theirs.append(Append::new(vec![event(&name(at), "theirs")], guard)).await.unwrap();
    }
    let outcomes = join_all(appends.into_iter().map(|append| world.ours.append(append))).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_err()).count(), STREAMS / 6);
    assert!(world.ours.verify().await.is_err());
}
