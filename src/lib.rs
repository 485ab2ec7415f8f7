//! CQRS and event sourcing from annotated domain types.
#[doc(hidden)]
pub use cqrs_core::__private;
pub use cqrs_core::*;
pub use cqrs_derive::{Command, Event, aggregate, projection};

/// Everything that a domain file needs.
pub mod prelude {
    pub use cqrs_core::{Context, EventMeta, Id, Metadata, Service};
    pub use cqrs_derive::{Command, Event, aggregate, projection};
    pub use serde::{Deserialize, Serialize};
}
