use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
struct Stayed;

#[derive(Event, Serialize, Deserialize)]
#[event(replaces = Stayed)]
struct NightSpent;

fn main() {}
