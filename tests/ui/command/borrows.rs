use cqrs::prelude::*;

#[derive(Command)]
struct Open<'a> {
    #[id]
    account: u64,
    owner: &'a str,
}

fn main() {}
