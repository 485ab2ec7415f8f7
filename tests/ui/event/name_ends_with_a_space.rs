use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
#[event(name = "account-opened ")]
struct Opened;

fn main() {}
