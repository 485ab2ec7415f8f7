use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
#[event(name = "opened")]
struct OpenedV1;

#[derive(Event, Serialize, Deserialize)]
#[event(name = "opened", version = 3, from = OpenedV1)]
struct Opened;

impl From<OpenedV1> for Opened {
    fn from(_: OpenedV1) -> Self {
        Opened
    }
}

fn main() {}
