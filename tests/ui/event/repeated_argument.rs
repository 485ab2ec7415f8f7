use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
#[event(name = "opened", name = "account-opened")]
struct Opened;

fn main() {}
