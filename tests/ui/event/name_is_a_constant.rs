use cqrs::prelude::*;

const NAME: &str = "opened";

#[derive(Event, Serialize, Deserialize)]
#[event(name = NAME)]
struct Opened;

fn main() {}
