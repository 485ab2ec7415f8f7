use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
struct Opened;

#[derive(Serialize, Deserialize)]
struct Summary;

#[projection(name = "summaries", key = u64, mode = synchronous)]
impl Summary {
    #[on]
    fn opened(_: &Opened) -> Self {
        Summary
    }
}

fn main() {}
