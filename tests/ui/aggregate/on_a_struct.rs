use cqrs::prelude::*;

#[aggregate(id = u64)]
struct Account {
    balance: u64,
}

fn main() {}
