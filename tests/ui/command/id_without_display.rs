use cqrs::prelude::*;

#[derive(Clone, PartialEq, Eq, Hash)]
struct AccountId(u64);

#[derive(Command)]
struct Open {
    #[id]
    account: AccountId,
}

#[derive(Default)]
struct Account;

#[aggregate(id = AccountId)]
impl Account {
    #[handle]
    fn open(&self, _: Open) {}
}

fn main() {}
