//! The runtime of `cqrs`.
#![forbid(unsafe_code)]

pub mod aggregate;
mod begun;
pub mod codec;
pub mod command;
pub mod consumer;
pub mod context;
pub mod engine;
pub mod error;
pub mod event;
mod hash;
pub mod id;
mod json;
pub mod memory;
mod numbers;
mod pace;
pub mod projection;
pub mod read_store;
pub mod receipt;
pub mod registry;
mod shape;
pub mod store;
pub mod text;
mod timer;

#[doc(hidden)]
#[path = "private.rs"]
pub mod __private;

pub use aggregate::{Aggregate, Handle};
pub use codec::Codec;
pub use command::Command;
pub use context::{Clock, Context, Service};
pub use engine::{Engine, ExecuteError, ReadError};
pub use event::{Event, EventMeta, Metadata, Tag, Timestamp};
pub use id::{Id, Partition, Position, StreamId, Version};
pub use projection::Projection;
pub use receipt::{ExpectedVersion, Receipt};
pub use registry::Registry;
