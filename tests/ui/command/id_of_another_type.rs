use cqrs::prelude::*;

#[derive(Command)]
struct Open {
    #[id]
    account: String,
}

#[derive(Default)]
struct Account;

#[aggregate(id = u64)]
impl Account {
    #[handle]
    fn open(&self, _: Open) {}
}

fn main() {}
