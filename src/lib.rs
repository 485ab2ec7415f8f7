#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub use cqrs_core::*;
pub use cqrs_derive::{Command, Event, aggregate, projection};
#[cfg(feature = "postgres")]
pub use cqrs_postgres as postgres;
#[cfg(feature = "sqlite")]
pub use cqrs_sqlite as sqlite;

#[doc(hidden)]
pub use cqrs_core::__private;

/// What a domain file and the program around it need: `use cqrs::prelude::*;`.
///
/// `Serialize` and `Deserialize` are serde's, whose derives name the crate `serde`: it has to stand
/// in the manifest beside `cqrs`.
pub mod prelude {
    pub use cqrs_core::{Context, Engine, EventMeta, ExecuteError, Metadata, ReadError, Receipt, Service};
    pub use cqrs_derive::{Command, Event, aggregate, projection};
    pub use serde::{Deserialize, Serialize};
}

/// The pages of the guide, so that their examples are compiled and run.
#[cfg(doctest)]
mod guide {
    #[doc = include_str!("../docs/guide/README.md")]
    mod index {}
    #[doc = include_str!("../docs/guide/events.md")]
    mod events {}
    #[doc = include_str!("../docs/guide/aggregates.md")]
    mod aggregates {}
    #[doc = include_str!("../docs/guide/projections.md")]
    mod projections {}
    #[doc = include_str!("../docs/guide/engine.md")]
    mod engine {}
    #[doc = include_str!("../docs/guide/testing.md")]
    mod testing {}
    #[doc = include_str!("../docs/guide/stores.md")]
    mod stores {}
}
