use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
#[event(name = opened)]
struct Opened;

fn main() {}
