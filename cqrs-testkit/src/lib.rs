//! Given-when-then tests for `cqrs` domains, the conformance suite for its stores, and faults.
#![forbid(unsafe_code)]

pub mod conformance;
pub mod faults;
