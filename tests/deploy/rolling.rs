//! A rolling deploy and a rollback.

use std::time::Duration;

use cqrs::engine::{CatchUpError, ConsumerState, OpenError, RecordError, RecordFault};
use cqrs::prelude::*;

use crate::releases::{Release, inline, lagging};
use crate::shop::{Place, id, moves, note, register, status, writers};

/// What an old release says of an event that only a new one reads.
fn names_the_event<T: std::fmt::Debug>(read: Result<T, ReadError>, at: &str) {
    match read {
        Err(error @ ReadError::Standby { .. }) => {
            let words = error.to_string();
            assert!(words.contains("`customers`") && words.contains("`customer.moved`"), "{at}: {words}");
        }
        other => panic!("{at}: {other:?}"),
    }
}

async fn is_on_standby(engine: &Engine, at: &str) {
    let status = status(engine).await;
    match &status.state {
        ConsumerState::StandbyBefore(event) => {
            assert_eq!((event.name.as_str(), event.version), ("customer.moved", 1), "{at}");
        }
        other => panic!("{at}: {other:?}"),
    }
}

async fn is_sound(engine: &Engine, at: &str) {
    engine.catch_up().await.unwrap();
    let verification = engine.verify().await.unwrap();
    assert!(verification.is_sound(), "{at}: {verification}");
}

/// The old release owns the projection, and the new one writes an event that only it reads.
async fn old_owns<Old: Release, New: Release>(place: &Place) {
    let at = place.name;
    let old = place.program(Old::registry()).await;
    register(&old, "a").await;
    let noted = note(&old, "a").await;
    assert_eq!(Old::of(&old, "a", Some(&noted)).await.unwrap(), (1, 1, 0), "{at}");

    let new = place.guest(New::registry()).await;
    let moved = moves(&new, "a").await;
    let after = note(&old, "b").await;
    names_the_event(Old::of(&old, "b", Some(&after)).await, at);
    is_on_standby(&old, at).await;
    // What was read before is there, and commands go on.
    assert_eq!(Old::of(&old, "b", None).await.unwrap().0, 0, "{at}");
    note(&old, "b").await;
    match old.catch_up().await {
        Err(CatchUpError::Standby { projection: "customers", event }) => {
            assert_eq!(event.name, "customer.moved", "{at}");
        }
        other => panic!("{at}: {other:?}"),
    }
    assert!(!old.verify().await.unwrap().is_sound(), "{at}: nothing can be said of it here");
    new.shutdown().await;

    // The new release takes it over, while the old one is still there.
    let new = place.program(New::registry()).await;
    assert_eq!(New::of(&new, "a", Some(&moved)).await.unwrap(), (1, 1, 1), "{at}");
    assert_eq!(New::of(&new, "b", Some(&after)).await.unwrap().0, 0, "{at}");
    is_sound(&new, at).await;
    assert_eq!(New::of(&new, "b", None).await.unwrap(), (0, 2, 0), "{at}");
    // What the new release has moved, the old one serves; what it would have to move itself, it does not.
    assert_eq!(Old::of(&old, "a", Some(&moved)).await.unwrap(), (1, 1, 1), "{at}");
    is_on_standby(&old, at).await;
    let again = note(&old, "c").await;
    assert_eq!(New::of(&new, "c", Some(&again)).await.unwrap(), (0, 1, 0), "{at}");
    old.shutdown().await;
    is_sound(&new, at).await;
    new.shutdown().await;
}

#[tokio::test]
async fn an_old_release_does_not_pass_what_only_a_new_one_reads() {
    for place in Place::all() {
        old_owns::<lagging::Second, lagging::Third>(&place).await;
    }
}

#[tokio::test]
async fn an_old_release_leaves_an_inline_projection_out_that_it_cannot_move() {
    for place in Place::all() {
        old_owns::<inline::Second, inline::Third>(&place).await;
    }
}

/// The old release writes the event itself, which its projection does not read.
async fn old_writes<Old: Release, New: Release>(place: &Place) {
    let at = place.name;
    let old = place.quiet(Old::registry()).await;
    let new = place.quiet(New::registry()).await;
    register(&old, "a").await;
    let moved = moves(&old, "a").await;
    let noted = note(&old, "a").await;
    names_the_event(Old::of(&old, "a", Some(&moved)).await, at);
    names_the_event(Old::of(&old, "a", Some(&noted)).await, at);
    assert_eq!(New::of(&new, "a", Some(&noted)).await.unwrap(), (1, 1, 1), "{at}");
    note(&new, "a").await;
    is_sound(&new, at).await;
}

#[tokio::test]
async fn who_writes_an_event_and_does_not_read_it_stands_by_as_well() {
    for place in Place::all() {
        old_writes::<lagging::Second, lagging::Third>(&place).await;
    }
    for place in Place::all() {
        old_writes::<inline::Second, inline::Third>(&place).await;
    }
}

/// The new release is taken back before it has written what only it reads.
async fn rolled_back_before<Old: Release, New: Release>(place: &Place) {
    let at = place.name;
    let old = place.program(Old::registry()).await;
    register(&old, "a").await;
    let new = place.program(New::registry()).await;
    let noted = note(&new, "a").await;
    assert_eq!(New::of(&new, "a", Some(&noted)).await.unwrap(), (1, 1, 0), "{at}");
    new.shutdown().await;
    // Also a process that is started again.
    for old in [old, place.program(Old::registry()).await] {
        for _ in 0..3 {
            let noted = note(&old, "b").await;
            Old::of(&old, "b", Some(&noted)).await.unwrap();
        }
        assert!(!matches!(status(&old).await.state, ConsumerState::StandbyBefore(_)), "{at}");
        is_sound(&old, at).await;
        old.shutdown().await;
    }
    let quiet = place.quiet(Old::registry()).await;
    let noted = note(&quiet, "b").await;
    assert_eq!(Old::of(&quiet, "b", Some(&noted)).await.unwrap(), (0, 7, 0), "{at}");
    quiet.shutdown().await;
}

#[tokio::test]
async fn after_a_rollback_before_any_such_event_the_old_release_continues() {
    for place in Place::all() {
        rolled_back_before::<lagging::Second, lagging::Third>(&place).await;
    }
    for place in Place::all() {
        rolled_back_before::<inline::Second, inline::Third>(&place).await;
    }
}

/// In an old release after a rollback, an inline projection is still part of each commit.
#[tokio::test]
async fn after_a_rollback_an_inline_projection_is_still_inline() {
    for place in Place::all() {
        place.guest(inline::Third::registry()).await.shutdown().await;
        let old = place.guest(inline::Second::registry()).await;
        for count in 1..=5 {
            note(&old, "a").await;
            assert_eq!(inline::Second::of(&old, "a", None).await.unwrap(), (0, count, 0), "{}", place.name);
        }
        old.shutdown().await;
    }
}

/// The new release is taken back after it has written and folded what only it reads.
async fn rolled_back_after<Old: Release, New: Release>(place: &Place) {
    let at = place.name;
    let new = place.program(New::registry()).await;
    let moved = moves(&new, "a").await;
    New::of(&new, "a", Some(&moved)).await.unwrap();
    new.shutdown().await;

    let old = place.program(Old::registry()).await;
    assert_eq!(Old::of(&old, "a", Some(&moved)).await.unwrap(), (0, 0, 1), "{at}");
    is_on_standby(&old, at).await;
    let noted = note(&old, "a").await;
    names_the_event(Old::of(&old, "a", Some(&noted)).await, at);
    old.shutdown().await;

    let new = place.program(New::registry()).await;
    assert_eq!(New::of(&new, "a", Some(&noted)).await.unwrap(), (0, 1, 1), "{at}");
    is_sound(&new, at).await;
    new.shutdown().await;
}

#[tokio::test]
async fn after_a_rollback_after_such_an_event_the_old_release_stands_by() {
    for place in Place::all() {
        rolled_back_after::<lagging::Second, lagging::Third>(&place).await;
    }
    for place in Place::all() {
        rolled_back_after::<inline::Second, inline::Third>(&place).await;
    }
}

/// A release reads for the first time what its documents have missed.
async fn reads_what_was_missed<Old: Release, New: Release>(place: &Place) {
    let at = place.name;
    let old = place.quiet(Old::registry()).await;
    register(&old, "a").await;
    note(&old, "a").await;
    let registered = register(&old, "a").await;
    Old::of(&old, "a", Some(&registered)).await.unwrap();
    for round in 0..2 {
        let refused = place.open(Engine::builder().registry(New::registry())).await.unwrap_err();
        let words = refused.to_string();
        let OpenError::Record(faults) = refused else { panic!("{at}: {words}") };
        let [RecordFault::Missed { projection: "customers", event, position, .. }] = &faults[..] else {
            panic!("{at}: {words}")
        };
        assert_eq!((event.as_str(), position.get()), ("customer.noted", 2), "{at}");
        assert!(words.contains("`customers`") && words.contains("`name`"), "{at}: {words}");
        // Nothing was recorded, so that the old release is not kept from anything.
        let noted = note(&old, "b").await;
        Old::of(&old, "b", Some(&noted)).await.unwrap();
        is_sound(&old, &format!("{at} {round}")).await;
    }
    old.shutdown().await;
}

#[tokio::test]
async fn a_release_that_reads_what_was_missed_is_refused_and_records_nothing() {
    for place in Place::all() {
        reads_what_was_missed::<lagging::First, lagging::Second>(&place).await;
    }
    for place in Place::all() {
        reads_what_was_missed::<inline::First, inline::Second>(&place).await;
    }
}

/// Such an event lies behind the checkpoint, so nothing was missed.
#[tokio::test]
async fn a_release_may_read_more_from_the_checkpoint_on() {
    for place in Place::all() {
        let old = place.quiet(lagging::First::registry()).await;
        let registered = register(&old, "a").await;
        lagging::First::of(&old, "a", Some(&registered)).await.unwrap();
        let noted = note(&old, "a").await;
        let new = place.quiet(lagging::Second::registry()).await;
        assert!(old.catch_up().await.is_err(), "{}: it would pass the event", place.name);
        assert_eq!(lagging::Second::of(&new, "a", Some(&noted)).await.unwrap(), (1, 1, 0), "{}", place.name);
        is_sound(&new, place.name).await;
    }
}

/// Who does not have the projection writes an event that nobody reads yet.
#[tokio::test]
async fn an_event_of_a_program_without_the_projection_is_missed_by_who_reads_it_later() {
    for place in Place::all() {
        let old = place.quiet(lagging::Second::registry()).await;
        register(&old, "a").await;
        let writer = place.program(writers()).await;
        let moved = moves(&writer, "a").await;
        let noted = note(&old, "a").await;
        assert_eq!(lagging::Second::of(&old, "a", Some(&noted)).await.unwrap(), (1, 1, 0), "{}", place.name);
        let refused = place.open(Engine::builder().registry(lagging::Third::registry())).await.unwrap_err();
        let OpenError::Record(faults) = &refused else { panic!("{}: {refused}", place.name) };
        assert!(
            matches!(&faults[..], [RecordFault::Missed { position, .. }] if *position == moved.position()),
            "{}: {refused}",
            place.name
        );
    }
}

/// A release that reads less stands by where a release that reads more would be refused.
#[tokio::test]
async fn a_name_is_removed_by_a_new_name_or_by_hand_while_there_is_no_such_event() {
    for place in Place::all() {
        let at = place.name;
        let more = place.quiet(lagging::Third::registry()).await;
        register(&more, "a").await;
        note(&more, "a").await;
        more.catch_up().await.unwrap();
        more.shutdown().await;

        let less = place.quiet(lagging::First::registry()).await;
        let state = status(&less).await.state;
        let ConsumerState::StandbyBefore(event) = state else { panic!("{at}: {state:?}") };
        assert_eq!(event.name, "customer.noted", "{at}");
        match less.forget_event("customers", "customer.noted").await {
            Err(RecordError::Exists { event, position, .. }) => {
                assert_eq!((event.as_str(), position.get()), ("customer.noted", 2), "{at}");
            }
            other => panic!("{at}: {other:?}"),
        }
        less.forget_event("customers", "customer.moved").await.unwrap();
        let again = less.forget_event("customers", "customer.moved").await;
        assert!(matches!(again, Err(RecordError::NotRecorded { .. })), "{at}: {again:?}");
        let unknown = less.forget_event("nobody", "customer.moved").await;
        assert!(matches!(unknown, Err(RecordError::NotRegistered(_))), "{at}: {unknown:?}");
        less.shutdown().await;

        let second = place.quiet(lagging::Second::registry()).await;
        let moved = moves(&second, "a").await;
        assert_eq!(lagging::Second::of(&second, "a", Some(&moved)).await.unwrap(), (1, 1, 0), "{at}");
        is_sound(&second, at).await;
    }
}

/// Both releases take commands and run their projections.
async fn with_traffic<Old: Release, New: Release>(place: &Place, seed: u64) {
    let at = place.name;
    let old = place.program(Old::registry()).await;
    register(&old, "old").await;
    let traffic_old = async {
        for round in 0..40_u64 {
            note(&old, &format!("old{}", round % 3)).await;
            tokio::time::sleep(Duration::from_millis(1 + (round * 7 + seed * 3) % 11)).await;
        }
    };
    let traffic_new = async {
        tokio::time::sleep(Duration::from_millis(seed * 37 % 150)).await;
        let new = place.program(New::registry()).await;
        for round in 0..40_u64 {
            let customer = format!("new{}", round % 3);
            if (round + seed).is_multiple_of(3) {
                moves(&new, &customer).await;
            } else {
                note(&new, &customer).await;
            }
            tokio::time::sleep(Duration::from_millis(1 + (round * 5 + seed) % 13)).await;
        }
        new
    };
    let ((), new) = tokio::join!(traffic_old, traffic_new);
    old.shutdown().await;
    is_sound(&new, at).await;
    let mut counted = (0, 0, 0);
    for customer in ["old", "old0", "old1", "old2", "new0", "new1", "new2"] {
        let (registered, noted, moved) = New::of(&new, customer, None).await.unwrap();
        counted = (counted.0 + registered, counted.1 + noted, counted.2 + moved);
    }
    let moved = (0..40_u64).filter(|round| (round + seed).is_multiple_of(3)).count() as u32;
    assert_eq!(counted, (1, 80 - moved, moved), "{at} {seed}");
    new.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_deploy_with_traffic_loses_no_event() {
    for seed in 0..3 {
        for place in Place::all() {
            with_traffic::<lagging::Second, lagging::Third>(&place, seed).await;
        }
        for place in Place::all() {
            with_traffic::<inline::Second, inline::Third>(&place, seed).await;
        }
    }
}

/// Two releases that each read an event which the other does not: the second adds nothing to the record.
#[tokio::test]
async fn a_release_that_lacks_a_name_records_no_other() {
    for place in Place::all() {
        let at = place.name;
        let one = place.quiet(side::One::registry()).await;
        let other = place.quiet(side::Other::registry()).await;
        let registered = register(&other, "a").await;
        assert_eq!(side::Other::of(&other, "a", Some(&registered)).await.unwrap(), (1, 0, 0), "{at}");
        let moved = moves(&other, "a").await;
        // It reads the event, and must not count it: the one that is recorded does not read it.
        assert!(matches!(other.catch_up().await, Err(CatchUpError::Standby { .. })), "{at}");
        assert_eq!(side::One::of(&one, "a", Some(&moved)).await.unwrap(), (1, 0, 0), "{at}");
        is_sound(&one, at).await;
        let noted = note(&one, "a").await;
        assert!(matches!(other.catch_up().await, Err(CatchUpError::Standby { .. })), "{at}");
        assert_eq!(side::One::of(&one, "a", Some(&noted)).await.unwrap(), (1, 1, 0), "{at}");
        assert_eq!(
            one.get::<side::One>(&id("a")).await.unwrap().map(side::One::counts),
            Some((1, 1, 0)),
            "{at}"
        );
        // Started again, it is refused by what it has missed.
        let again = place.open(Engine::builder().registry(side::Other::registry())).await;
        assert!(matches!(again, Err(OpenError::Record(_))), "{at}: {again:?}");
    }
}

mod side {
    use cqrs::Registry;
    use cqrs::prelude::*;

    use crate::releases::Release;
    use crate::shop::{Counts, Customer, Moved, Noted, Registered};

    #[derive(Debug, Default, Serialize, Deserialize)]
    pub struct One(Counts);
    #[projection(name = "customers", key = String)]
    impl One {
        #[on]
        fn registered(&mut self, _: &Registered) {
            self.0.0 += 1;
        }
        #[on]
        fn noted(&mut self, _: &Noted) {
            self.0.1 += 1;
        }
    }

    #[derive(Debug, Default, Serialize, Deserialize)]
    pub struct Other(Counts);
    #[projection(name = "customers", key = String)]
    impl Other {
        #[on]
        fn registered(&mut self, _: &Registered) {
            self.0.0 += 1;
        }
        #[on]
        fn moved(&mut self, _: &Moved) {
            self.0.2 += 1;
        }
    }

    macro_rules! release {
        ($release:ident) => {
            impl Release for $release {
                type View = Self;
                fn registry() -> Registry {
                    Registry::new().with::<Customer>().with::<Self>()
                }
                fn counts(view: Self) -> Counts {
                    view.0
                }
            }
        };
    }
    release!(One);
    release!(Other);
}
