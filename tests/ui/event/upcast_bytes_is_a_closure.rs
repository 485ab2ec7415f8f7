use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
#[event(upcast_bytes = |_, _| None)]
struct Opened {
    owner: String,
}

fn main() {}
