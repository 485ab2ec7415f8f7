//! Other frameworks of event sourcing in Rust, each in its newest version and in the way that its own
//! documentation shows: its own tables, its own command handler, its own read models. What it does less
//! than others stands in its [`About`](crate::contender::About), and each sentence there was seen in its
//! documentation or its source.
//!
//! | Module | Main package | Stores in |
//! |---|---|---|
//! | [`cqrs_es`] | cqrs-es, with postgres-es | PostgreSQL |
//! | [`disintegrate`] | disintegrate, with disintegrate-postgres | PostgreSQL |
//! | [`esrs`] | esrs | PostgreSQL |
//! | [`eventually`] | eventually, with eventually-postgres | PostgreSQL |
//! | [`evento`] | evento | PostgreSQL |
//! | [`fmodel`] | fmodel-rust | memory |
//!
//! `tests` holds each of them to its word: what was accepted is there once, what was refused is not, and
//! the read model tells what the events tell.

pub mod cqrs_es;
pub mod disintegrate;
pub mod esrs;
pub mod evento;
pub mod eventually;
pub mod fmodel;

#[cfg(test)]
mod tests;
