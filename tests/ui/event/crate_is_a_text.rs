use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
#[event(crate = "cqrs")]
struct Opened;

fn main() {}
