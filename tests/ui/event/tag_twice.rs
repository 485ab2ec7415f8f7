use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
struct Opened {
    #[tag]
    #[tag(name = "by")]
    owner: String,
}

fn main() {}
