use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
#[event(colour = "red")]
struct Opened;

fn main() {}
