use cqrs::prelude::*;

#[derive(Command)]
#[command(id = account)]
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

fn main() {}
