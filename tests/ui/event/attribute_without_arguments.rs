use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
#[event]
struct Opened;

fn main() {}
