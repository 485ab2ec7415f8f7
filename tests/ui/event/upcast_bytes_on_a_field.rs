use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
struct Opened {
    #[event(upcast_bytes = repair)]
    owner: String,
}

fn repair(_: u32, _: &[u8]) -> Option<Vec<u8>> {
    None
}

fn main() {}
