//! A crate that documents everything and has no prelude.
#![no_implicit_prelude]
#![deny(warnings, missing_docs, missing_debug_implementations, unreachable_pub)]
#![forbid(unsafe_code)]

use ::cqrs::{Command, Event, aggregate, projection};
use ::serde::{Deserialize, Serialize};
use ::std::prelude::rust_2024::{Debug, Default, derive};

/// A fact.
#[derive(Event, Serialize, Deserialize, Debug)]
pub struct Opened;

/// A request.
#[derive(Command, Debug)]
pub struct Open {
    /// Whose.
    #[id]
    pub account: u64,
}

/// A state.
#[derive(Default, Debug)]
pub struct Account;

#[aggregate(id = u64)]
impl Account {
    #[handle]
    fn open(&self, _: Open) -> Opened {
        Opened
    }
    #[apply]
    fn opened(&mut self, _: &Opened) {}
}

/// A document.
#[derive(Default, Serialize, Deserialize, Debug)]
pub struct Summary;

#[projection(name = "summaries", key = u64)]
impl Summary {
    #[on]
    fn opened(&mut self, _: &Opened) {}
}

fn main() {}
