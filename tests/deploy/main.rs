//! Two releases of one program on one store: a rolling deploy, a rollback, and a fold that was changed.
//!
//! Each test runs on memory, SQLite, and PostgreSQL (if its server programs are installed), and for
//! projections that are async and inline.

#![allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests stop at what they did not expect"
)]

#[macro_use]
#[path = "../support/forward.rs"]
mod forward;
mod fold;
mod releases;
mod rolling;
mod shop;
mod statements;
mod unrecorded;
mod versions;
