//! Given-when-then as a user writes it: what passes, and what is said when it does not.
#![allow(
    missing_debug_implementations,
    unreachable_pub,
    clippy::needless_pass_by_value,
    clippy::panic,
    clippy::unwrap_used,
    reason = "the domains are written as a user writes them, and a test may stop where it likes"
)]

#[path = "../../docs/bank.rs"]
mod bank;
mod shop;
mod support;

mod aggregates;
mod messages;
mod projection_messages;
mod projections;
mod snapshots;
