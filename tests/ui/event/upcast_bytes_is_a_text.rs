use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
#[event(upcast_bytes = "repair")]
struct Opened {
    owner: String,
}

fn repair(_: u32, _: &[u8]) -> Option<Vec<u8>> {
    None
}

fn main() {}
