use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
struct Opened;

#[projection(name = "views", key = u64)]
impl Vec<u64> {
    #[on]
    fn opened(&mut self, _: &Opened) {}
}

fn main() {}
