use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
#[event(version = 2, from = Opened)]
struct Opened;

fn main() {}
