use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
#[event(upcast_bytes = repair)]
struct Opened {
    owner: String,
}

fn repair(_: &str) -> Option<String> {
    None
}

fn main() {}
