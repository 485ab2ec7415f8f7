use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
#[event(nmae = "opened")]
struct Opened;

fn main() {}
