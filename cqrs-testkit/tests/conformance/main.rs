//! The conformance suite on the store in memory, and on stores that are wrong on purpose.

mod controls;
mod memory;
mod wrong;
