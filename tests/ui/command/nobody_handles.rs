use cqrs::prelude::*;

#[derive(Command)]
struct Open {
    #[id]
    account: u64,
}

fn main() {}
