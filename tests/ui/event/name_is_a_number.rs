use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
#[event(name = 7)]
struct Opened;

fn main() {}
