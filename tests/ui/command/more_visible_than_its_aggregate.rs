use cqrs::prelude::*;

#[derive(Command)]
pub struct Open {
    #[id]
    pub account: u64,
}

#[derive(Default)]
struct Account;

#[aggregate(id = u64)]
impl Account {
    #[handle]
    fn open(&self, _: Open) {}
}

fn main() {}
