//! Three releases of one projection, for each mode: each reads an event more than the one before.

use cqrs::Registry;
use cqrs::prelude::*;

use crate::shop::{Counts, Customer, Moved, Noted, Registered};

/// A release of the projection `customers`.
pub trait Release {
    type View: cqrs::Projection<Key = String>;

    fn registry() -> Registry;
    fn counts(view: Self::View) -> Counts;

    fn of(
        engine: &Engine,
        customer: &str,
        after: Option<&Receipt>,
    ) -> impl Future<Output = Result<Counts, ReadError>> + Send {
        let get = engine.get::<Self::View>(&customer.to_owned());
        let get = match after {
            Some(receipt) => get.after(receipt),
            None => get,
        };
        async move { Ok(get.await?.map(Self::counts).unwrap_or_default()) }
    }
}

macro_rules! releases {
    ($module:ident, $mode:ident) => {
        pub mod $module {
            use super::*;

            release!(First, $mode, {
                #[on]
                fn registered(&mut self, _: &Registered) {
                    self.registered += 1;
                }
            });
            release!(Second, $mode, {
                #[on]
                fn registered(&mut self, _: &Registered) {
                    self.registered += 1;
                }
                #[on]
                fn noted(&mut self, _: &Noted) {
                    self.noted += 1;
                }
            });
            release!(Third, $mode, {
                #[on]
                fn registered(&mut self, _: &Registered) {
                    self.registered += 1;
                }
                #[on]
                fn noted(&mut self, _: &Noted) {
                    self.noted += 1;
                }
                #[on]
                fn moved(&mut self, _: &Moved) {
                    self.moved += 1;
                }
            });
        }
    };
}

macro_rules! release {
    ($release:ident, $mode:ident, { $($on:tt)* }) => {
        #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
        pub struct $release {
            registered: u32,
            noted: u32,
            moved: u32,
        }

        #[projection(name = "customers", key = String, mode = $mode)]
        impl $release { $($on)* }

        impl Release for $release {
            type View = Self;

            fn registry() -> Registry {
                Registry::new().with::<Customer>().with::<Self>()
            }

            fn counts(view: Self) -> Counts {
                (view.registered, view.noted, view.moved)
            }
        }
    };
}

releases!(lagging, async);
releases!(inline, inline);
