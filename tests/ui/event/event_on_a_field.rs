use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
struct Opened {
    #[event(name = "by")]
    owner: String,
}

fn main() {}
