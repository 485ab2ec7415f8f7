use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
struct Opened;

#[derive(Event, Serialize, Deserialize)]
struct Closed;

#[derive(Default, Serialize, Deserialize)]
struct Summary;

#[projection(name = "summary", key = u64)]
impl Summary {
    #[on]
    fn opened(&mut self, _: &Opened) {}
}

#[projection(name = "summary", key = u64)]
impl Summary {
    #[on]
    fn closed(&mut self, _: &Closed) {}
}

fn main() {}
