use cqrs::prelude::*;

struct Secret;

#[derive(Command)]
struct Open {
    #[id]
    account: u64,
    secret: Secret,
}

#[derive(Default)]
struct Account;

#[aggregate(id = u64)]
impl Account {
    #[handle]
    fn open(&self, _: Open) {}
}

fn main() {}
