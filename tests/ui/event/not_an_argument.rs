use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
#[event("opened")]
struct Opened;

fn main() {}
