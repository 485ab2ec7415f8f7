use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
#[event(name = "opened" version = 1)]
struct Opened;

fn main() {}
