//! The engine, by trying to break what it promises.

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
mod ahead;
mod bank;
mod flawed;
mod gap;
mod held;
mod inline;
mod keys;
mod lag;
mod limits;
mod live;
mod memory;
mod racing;
mod reads;
mod registry;
mod reset;
mod review;
mod rewound;
mod several;
mod verify;
mod waits;
mod writes;
