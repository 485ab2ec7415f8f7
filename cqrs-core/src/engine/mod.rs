//! The engine.
pub(crate) mod consumer;
