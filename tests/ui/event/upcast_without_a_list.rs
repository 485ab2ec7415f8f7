use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
#[event(version = 2, upcast = lift)]
struct Opened;

fn lift(json: serde_json::Value) -> serde_json::Value {
    json
}

fn main() {}
