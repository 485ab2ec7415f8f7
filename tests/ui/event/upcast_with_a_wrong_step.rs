use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
#[event(version = 2, upcast(lift))]
struct Opened;

fn lift(json: String) -> String {
    json
}

fn main() {}
