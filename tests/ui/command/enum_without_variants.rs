use cqrs::prelude::*;

#[derive(Command)]
enum Open {}

#[derive(Default)]
struct Account;

#[aggregate(id = u64)]
impl Account {
    #[handle]
    fn open(&self, _: Open) {}
}

fn main() {}
