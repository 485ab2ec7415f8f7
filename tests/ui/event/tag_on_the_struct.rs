use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
#[tag]
struct Opened {
    owner: String,
}

fn main() {}
