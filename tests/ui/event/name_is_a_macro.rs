use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
#[event(name = concat!("bank.", "opened"))]
struct Opened;

fn main() {}
