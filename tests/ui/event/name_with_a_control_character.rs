use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
#[event(name = "account\0opened")]
struct Opened;

fn main() {}
