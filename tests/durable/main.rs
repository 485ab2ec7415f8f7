//! What an acknowledgement is worth: the engine on a file, and what becomes of both when a process is
//! killed, stopped or raced, wherever that is, or when the disk is full.

#![allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests stop at what they did not expect, and say what they have seen"
)]

#[macro_use]
#[path = "../support/forward.rs"]
mod forward;
mod check;
mod disk;
mod domain;
mod kills;
mod owners;
mod process;
mod races;
mod steps;
mod wrong;
