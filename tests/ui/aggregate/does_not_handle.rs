use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
struct Opened;
#[derive(Event, Serialize, Deserialize)]
struct Closed;

#[derive(Command)]
struct Open {
    #[id]
    account: u64,
}
#[derive(Command)]
struct Close {
    #[id]
    account: u64,
}

#[derive(Default)]
struct Account;

#[aggregate(id = u64)]
impl Account {
    #[handle]
    fn open(&self, _: Open) {}
    #[handle]
    fn close(&self, _: Close) {}
}

#[derive(Default)]
struct Ledger;

#[aggregate(id = u64)]
impl Ledger {}

fn asks<A: cqrs::Handle<Open>>() {}

fn main() {
    asks::<Ledger>();
}
