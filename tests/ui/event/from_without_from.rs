use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
#[event(name = "opened")]
struct OpenedV1;

#[derive(Event, Serialize, Deserialize)]
#[event(name = "opened", version = 2, from = OpenedV1)]
struct Opened;

fn main() {}
