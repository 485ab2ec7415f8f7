//! Without a prelude.
#![no_implicit_prelude]

use ::cqrs::{Command, Event, aggregate, projection};
use ::serde::{Deserialize, Serialize};
use ::std::option::Option;

#[derive(Event, Serialize, Deserialize)]
#[event(name = "bare-older")]
struct Older;

#[derive(Event, Serialize, Deserialize)]
#[event(name = "bare-newer", replaces(Older))]
struct Newer {
    #[tag(name = "by")]
    owner: Option<::std::string::String>,
}

impl ::std::convert::From<Older> for ::std::vec::Vec<Newer> {
    fn from(_: Older) -> Self {
        ::std::vec::Vec::new()
    }
}

#[derive(Command)]
enum Change {
    Plainly(#[id] u64),
    Loudly {
        #[id]
        id: u64,
        owner: ::std::string::String,
    },
}

#[derive(::std::default::Default)]
struct Thing;

#[aggregate(id = u64)]
impl Thing {
    #[handle]
    fn change(&self, change: Change) -> Option<Newer> {
        match change {
            Change::Plainly(_) => Option::None,
            Change::Loudly { owner, .. } => Option::Some(Newer { owner: Option::Some(owner) }),
        }
    }
    #[apply]
    fn newer(&mut self, _: &Newer) {}
}

#[derive(Serialize, Deserialize, ::std::default::Default)]
struct View;

#[projection(name = "bare-views", key = u64)]
impl View {
    #[on]
    fn newer(&mut self, _: &Newer) {}
}
