use cqrs::prelude::*;

#[derive(Command)]
union Open {
    account: u64,
}

fn main() {}
