use cqrs::prelude::*;

#[derive(Command)]
enum Open {
    Plainly(#[id] u64),
    Secretly(#[id] u32),
}

#[derive(Default)]
struct Account;

#[aggregate(id = u64)]
impl Account {
    #[handle]
    fn open(&self, _: Open) {}
}

fn main() {}
