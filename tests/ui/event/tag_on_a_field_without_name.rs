use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
struct Opened(#[tag] String);

fn main() {}
