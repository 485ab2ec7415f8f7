use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
#[event(version = 2, from = Self)]
struct Opened;

fn main() {}
