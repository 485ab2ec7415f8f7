use cqrs::prelude::*;

#[derive(Event, Serialize)]
struct Noted<'a> {
    text: &'a str,
}

fn main() {}
