use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
#[event(nmae = "opened", version = 2)]
struct Opened {
    #[event(name = "by")]
    owner: String,
}

fn main() {}
