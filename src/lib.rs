#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub use cqrs_core::*;
pub use cqrs_derive::{Command, Event, aggregate, projection};
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
