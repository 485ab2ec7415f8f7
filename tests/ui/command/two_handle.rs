use cqrs::prelude::*;

#[derive(Command)]
struct Open {
    #[id]
    account: u64,
}

#[derive(Default)]
struct Account;

#[aggregate(id = u64)]
impl Account {
    #[handle]
    fn open(&self, _: Open) {}
}

#[derive(Default)]
struct Ledger;

#[aggregate(id = u64)]
impl Ledger {
    #[handle]
    fn open(&self, _: Open) {}
}

fn main() {}
