//! What the macros make of a domain, asked through the traits that they implement.
#![allow(unreachable_pub, missing_debug_implementations, reason = "a domain as a user writes it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "domain/bank.rs"]
mod bank;
#[path = "domain/commands.rs"]
mod commands;
#[path = "domain/events.rs"]
mod events;
#[path = "domain/projections.rs"]
mod projections;
#[path = "domain/support.rs"]
mod support;
