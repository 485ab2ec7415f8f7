//! Tests for `cqrs`.
#![forbid(unsafe_code)]

pub mod faults;
