use cqrs::prelude::*;

use std::rc::Rc;

#[derive(Command)]
struct Open {
    #[id]
    account: u64,
    owner: Rc<str>,
}

#[derive(Default)]
struct Account;

#[aggregate(id = u64)]
impl Account {
    #[handle]
    fn open(&self, _: Open) {}
}

fn main() {}
