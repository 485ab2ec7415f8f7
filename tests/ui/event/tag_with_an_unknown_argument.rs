use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
struct Opened {
    #[tag(key = "by")]
    owner: String,
}

fn main() {}
