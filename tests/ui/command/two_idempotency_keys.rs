use cqrs::prelude::*;

#[derive(Command)]
struct Open {
    #[id]
    account: u64,
    #[idempotency_key]
    request: String,
    #[idempotency_key]
    delivery: String,
}

#[derive(Default)]
struct Account;

#[aggregate(id = u64)]
impl Account {
    #[handle]
    fn open(&self, _: Open) {}
}

fn main() {}
