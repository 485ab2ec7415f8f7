//! A fold that was changed under the same events.

use cqrs::Registry;
use cqrs::engine::{OpenError, RecordError, RecordFault};
use cqrs::prelude::*;

use crate::releases::{Release, lagging};
use crate::shop::{Counts, Customer, Noted, Place, Registered, note, register, status};

/// The second release, whose method for notes was changed.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Second {
    registered: u32,
    noted: u32,
    moved: u32,
}

#[projection(name = "customers", key = String)]
impl Second {
    #[on]
    fn registered(&mut self, _: &Registered) {
        self.registered += 1;
    }
    #[on]
    fn noted(&mut self, _: &Noted) {
        self.noted += 10;
    }
}

impl Release for Second {
    type View = Self;

    fn registry() -> Registry {
        Registry::new().with::<Customer>().with::<Self>()
    }

    fn counts(view: Self) -> Counts {
        (view.registered, view.noted, view.moved)
    }
}

/// The second release, laid out in another way.
mod laid_out {
    use super::*;

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    pub struct Second {
        registered: u32,
        noted: u32,
        moved: u32,
    }

    #[rustfmt::skip]
    #[projection(name = "customers", key = String)]
    impl Second {
        /// Counts a note.
        #[on] fn noted(&mut self, _: &Noted,) { self.noted += 1 }
        #[on] fn registered(&mut self, _: &Registered) { /* one more */ self.registered += 1; }
    }
}

#[tokio::test]
async fn a_changed_fold_is_reported_until_it_is_accepted() {
    for place in Place::all() {
        let at = place.name;
        let before = place.quiet(lagging::Second::registry()).await;
        register(&before, "a").await;
        note(&before, "a").await;
        before.catch_up().await.unwrap();
        assert!(!status(&before).await.fold_changed, "{at}");

        let registry = || Registry::new().with::<Customer>().with::<laid_out::Second>();
        let builder = || Engine::builder().reject_changed_folds().without_background();
        place.open(builder().registry(registry())).await.unwrap().shutdown().await;

        let refused = place.open(builder().registry(Second::registry())).await.unwrap_err();
        let OpenError::Record(faults) = &refused else { panic!("{at}: {refused}") };
        assert_eq!(faults[..], [RecordFault::FoldChanged { projection: "customers" }], "{at}");
        assert!(refused.to_string().contains("`customers`"), "{at}: {refused}");

        // By default it is a warning, and nothing that the other program says moves back and forth.
        let changed = place.quiet(Second::registry()).await;
        for _ in 0..2 {
            assert!(status(&changed).await.fold_changed, "{at}");
            assert!(!status(&before).await.fold_changed, "{at}");
        }
        assert!(!changed.verify().await.unwrap().is_sound(), "{at}: the comparison shows the difference");
        changed.accept_fold("customers").await.unwrap();
        assert!(!status(&changed).await.fold_changed, "{at}");
        assert!(status(&before).await.fold_changed, "{at}");
        place.open(builder().registry(Second::registry())).await.unwrap().shutdown().await;
        let unknown = changed.accept_fold("nobody").await;
        assert!(matches!(unknown, Err(RecordError::NotRegistered(_))), "{at}: {unknown:?}");
    }
}

/// With another set of events, it is the set that tells.
#[tokio::test]
async fn a_fold_of_other_events_is_not_said_to_have_changed() {
    for place in Place::all() {
        let at = place.name;
        let old = place.quiet(lagging::First::registry()).await;
        let new = place
            .open(Engine::builder().registry(lagging::Second::registry()).reject_changed_folds())
            .await
            .unwrap();
        assert!(!status(&new).await.fold_changed && !status(&old).await.fold_changed, "{at}");
        let accepted = old.accept_fold("customers").await;
        assert!(matches!(accepted, Err(RecordError::OtherEvents { .. })), "{at}: {accepted:?}");
        new.shutdown().await;
    }
}
