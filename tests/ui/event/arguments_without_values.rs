use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
#[event(version = 2, from, codec, crate)]
struct Opened;

#[derive(Event, Serialize, Deserialize)]
#[event(replaces)]
struct Closed;

fn main() {}
