//! Parameters that take their argument apart, and keys over them.
#![deny(warnings)]
use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
pub struct Moved {
    pub from: u64,
    pub to: u64,
}

#[derive(Command)]
pub struct Move(#[id] pub u64, pub u64);

#[derive(Default)]
pub struct Account {
    at: u64,
}

#[aggregate(id = u64)]
impl Account {
    #[handle]
    fn shift(&self, Move(_, to): Move, Context { .. }: &Context) -> Moved {
        Moved { from: self.at, to }
    }
    #[apply]
    fn moved(&mut self, Moved { to, .. }: &Moved) {
        self.at = *to;
    }
}

#[derive(Default, Serialize, Deserialize)]
pub struct Visits(u64);

#[projection(name = "visits", key = u64)]
impl Visits {
    #[on(key = vec![*from, *to, meta.version.get()])]
    fn moved(&mut self, Moved { from, to }: &Moved, meta: &EventMeta) {
        self.0 += 1;
    }
}

fn main() {}
