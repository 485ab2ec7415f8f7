use cqrs::prelude::*;

#[derive(Clone)]
struct Request;

#[derive(Command)]
struct Open {
    #[id]
    account: u64,
    #[idempotency_key]
    request: Request,
}

#[derive(Default)]
struct Account;

#[aggregate(id = u64)]
impl Account {
    #[handle]
    fn open(&self, _: Open) {}
}

fn main() {}
