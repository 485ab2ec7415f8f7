use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
struct Noted<T> {
    text: T,
}

fn main() {}
