//! Counts of what commands, loads and catch-ups cost, against figures that are kept in `expected.toml`.
//!
//! A count does not depend on how fast the machine is, nor on what else runs on it, so it can be a gate
//! where a time cannot.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "only tests use this, and they stop at a fault")]

pub mod bank;
pub mod expected;
pub mod wasteful;

use cqrs::engine::Stores;
use cqrs::{Engine, Registry};

/// An engine that does nothing by itself: what it does is counted for whoever asked for it.
pub async fn engine(stores: impl Into<Stores>) -> Engine {
    let registry = Registry::new().with::<bank::Account>().with::<bank::Balance>();
    Engine::builder().registry(registry).without_background().build(stores).await.unwrap()
}
