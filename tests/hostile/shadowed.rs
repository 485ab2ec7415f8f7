//! Every name of the prelude means something else here, and so do ours.

use self::facts::{Gone, Newer, View};
use cqrs::{Command, aggregate, projection};
#[allow(unused_imports, clippy::wildcard_imports, reason = "to shadow, not to be used")]
use names::*;

#[allow(
    dead_code,
    missing_debug_implementations,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    reason = "names that generated code might use"
)]
mod names {
    pub(super) struct Result;
    pub(super) struct Option;
    pub(super) struct Vec;
    pub(super) struct String;
    pub(super) struct Box;
    pub(super) struct bool;
    pub(super) struct u32;
    pub(super) struct str;
    pub(super) trait Into {}
    pub(super) trait From {}
    pub(super) trait Fn {}
    pub(super) trait FnMut {}
    pub(super) trait Default {}
    pub(super) trait Clone {}
    pub(super) trait Send {}
    pub(super) const event: () = ();
    pub(super) static state: () = ();
    pub(super) const fn Some() {}
    pub(super) const fn None() {}
    pub(super) const fn Ok() {}
}

mod cqrs_core {}
mod core {}
mod std {}

// serde's own derives do not work where primitives are shadowed.
mod facts {
    use cqrs::prelude::*;

    #[derive(Event, Serialize, Deserialize)]
    #[event(name = "shadowed-older")]
    pub(crate) struct Older {
        #[tag]
        pub(crate) cents: u32,
    }

    #[derive(Event, Serialize, Deserialize)]
    #[event(name = "shadowed-older", version = 2, from = Older)]
    pub(crate) struct Newer {
        #[tag]
        pub(crate) cents: u32,
    }

    impl From<Older> for Newer {
        fn from(old: Older) -> Self {
            Self { cents: old.cents }
        }
    }

    #[derive(Event, Serialize, Deserialize)]
    #[event(name = "shadowed-gone", version = 2, upcast(keep))]
    pub(crate) struct Gone;

    fn keep(json: serde_json::Value) -> serde_json::Value {
        json
    }

    #[derive(Serialize, Deserialize)]
    pub(crate) struct View {
        pub(crate) cents: u32,
    }
}

#[derive(Command)]
struct Change {
    #[id]
    id: ::core::primitive::u32,
    #[idempotency_key]
    key: ::core::option::Option<::std::string::String>,
    #[expected_version]
    seen: cqrs::Version,
}

struct Rates;
impl cqrs::Service for Rates {}

struct Thing;

#[aggregate(id = ::core::primitive::u32, error = ::core::fmt::Error)]
impl Thing {
    #[handle]
    async fn change(
        thing: ::core::option::Option<&Self>,
        change: Change,
        context: &cqrs::Context,
        _: &Rates,
    ) -> ::core::result::Result<Newer, ::core::fmt::Error> {
        ::core::future::ready(()).await;
        match thing {
            ::core::option::Option::None if context.version == change.seen => {
                ::core::result::Result::Ok(Newer { cents: change.id })
            }
            _ => ::core::result::Result::Err(::core::fmt::Error),
        }
    }
    #[apply]
    fn newer(_: &Newer) -> Self {
        Self
    }
    #[apply]
    fn gone(&mut self, _: &Gone) {}
}

#[projection(name = "shadowed-views", key = ::core::primitive::u32)]
impl View {
    #[on(key = newer.cents)]
    fn newer(newer: &Newer) -> Self {
        Self { cents: newer.cents }
    }
    #[on]
    fn gone(self, _: &Gone, _: &cqrs::EventMeta) -> ::core::option::Option<Self> {
        assert_ne!(self.cents, 1);
        ::core::option::Option::None
    }
}
