use cqrs::prelude::*;

#[derive(Event)]
struct Opened {
    owner: String,
}

fn main() {}
