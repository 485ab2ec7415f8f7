//! Given-when-then tests for `cqrs` domains, and the conformance suite for its stores.
#![forbid(unsafe_code)]

pub mod conformance;
