use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
#[event(name = "opened")]
struct OpenedV1;

#[derive(Event, Serialize, Deserialize)]
#[event(name = "opened", version = 2, from = OpenedV1, upcast(lift))]
struct Opened;

fn lift(json: serde_json::Value) -> serde_json::Value {
    json
}

fn main() {}
