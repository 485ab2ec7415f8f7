//! A release that writes a newer version of an event, and one that renames it.

use cqrs::Registry;
use cqrs::engine::ConsumerState;
use cqrs::prelude::*;

use crate::shop::{Place, status};

pub mod old {
    use std::convert::Infallible;

    use cqrs::prelude::*;

    #[derive(Event, Serialize, Deserialize)]
    #[event(name = "order.placed")]
    pub struct Placed {
        pub cents: u64,
    }
    #[derive(Command)]
    pub struct Place {
        #[id]
        pub order: String,
        pub cents: u64,
    }
    #[derive(Default)]
    pub struct Order {}
    #[aggregate(id = String, name = "order", error = Infallible)]
    impl Order {
        #[handle]
        fn place(&self, cmd: Place) -> Placed {
            Placed { cents: cmd.cents }
        }
        #[apply]
        fn placed(&mut self, _: &Placed) {}
    }
    #[derive(Debug, Default, Serialize, Deserialize)]
    pub struct Turnover {
        pub cents: u64,
    }
    #[projection(name = "turnover", key = String)]
    impl Turnover {
        #[on(key = String::from("all"))]
        fn placed(&mut self, event: &Placed) {
            self.cents += event.cents;
        }
    }
}

macro_rules! newer {
    ($module:ident, $($event:tt)*) => {
        pub mod $module {
            use std::convert::Infallible;

            use cqrs::prelude::*;

            #[derive(Event, Serialize, Deserialize)]
            $($event)*
            #[derive(Command)]
            pub struct Place {
                #[id]
                pub order: String,
                pub cents: u64,
            }
            #[derive(Default)]
            pub struct Order {}
            #[aggregate(id = String, name = "order", error = Infallible)]
            impl Order {
                #[handle]
                fn place(&self, cmd: Place) -> Placed {
                    Placed { cents: cmd.cents, currency: "EUR".into() }
                }
                #[apply]
                fn placed(&mut self, _: &Placed) {}
            }
            #[derive(Debug, Default, Serialize, Deserialize)]
            pub struct Turnover {
                pub cents: u64,
            }
            #[projection(name = "turnover", key = String)]
            impl Turnover {
                #[on(key = String::from("all"))]
                fn placed(&mut self, event: &Placed) {
                    self.cents += event.cents;
                }
            }
        }
    };
}

newer! { version_2,
    #[event(name = "order.placed", version = 2, upcast(super::with_currency))]
    pub struct Placed {
        pub cents: u64,
        pub currency: String,
    }
}
newer! { renamed,
    #[event(name = "order.received", replaces = super::old::Placed)]
    pub struct Placed {
        pub cents: u64,
        pub currency: String,
    }
}

pub fn with_currency(mut payload: serde_json::Value) -> serde_json::Value {
    payload["currency"] = "CZK".into();
    payload
}

impl From<old::Placed> for Vec<renamed::Placed> {
    fn from(old: old::Placed) -> Self {
        vec![renamed::Placed { cents: old.cents, currency: "CZK".into() }]
    }
}

macro_rules! test {
    ($test:ident, $new:ident, $name:literal, $version:literal) => {
        #[tokio::test]
        async fn $test() {
            for place in Place::all() {
                let at = place.name;
                let all = "all".to_owned();
                let old_registry = || Registry::new().with::<old::Order>().with::<old::Turnover>();
                let new_registry = || Registry::new().with::<$new::Order>().with::<$new::Turnover>();
                let old = place.program(old_registry()).await;
                let first = old.execute(old::Place { order: "1".into(), cents: 1 }).await.unwrap();
                assert_eq!(old.get::<old::Turnover>(&all).after(&first).await.unwrap().unwrap().cents, 1);

                let new = place.guest(new_registry()).await;
                let second = new.execute($new::Place { order: "2".into(), cents: 10 }).await.unwrap();
                let third = old.execute(old::Place { order: "3".into(), cents: 100 }).await.unwrap();
                let read = old.get::<old::Turnover>(&all).after(&third).await;
                assert!(matches!(read, Err(ReadError::Standby { .. })), "{at}: {read:?}");
                let state = status(&old).await.state;
                let ConsumerState::StandbyBefore(event) = state else { panic!("{at}: {state:?}") };
                assert_eq!((event.name.as_str(), event.version), ($name, $version), "{at}");
                assert_eq!(event.position, second.position(), "{at}");
                new.shutdown().await;

                let new = place.program(new_registry()).await;
                let seen = new.get::<$new::Turnover>(&all).after(&third).await.unwrap().unwrap();
                assert_eq!(seen.cents, 111, "{at}");
                old.shutdown().await;
                // A process of the old release that is started again does not touch it.
                let old = place.program(old_registry()).await;
                let fourth = old.execute(old::Place { order: "4".into(), cents: 1_000 }).await.unwrap();
                let seen = new.get::<$new::Turnover>(&all).after(&fourth).await.unwrap().unwrap();
                assert_eq!(seen.cents, 1_111, "{at}");
                let verification = new.verify().await.unwrap();
                assert!(verification.is_sound(), "{at}: {verification}");
                old.shutdown().await;
                new.shutdown().await;
            }
        }
    };
}

test!(an_old_release_does_not_pass_a_newer_version, version_2, "order.placed", 2);
test!(an_old_release_does_not_pass_an_event_under_its_new_name, renamed, "order.received", 1);
