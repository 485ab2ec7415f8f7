use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
struct Opened {
    owner: String,
}
#[derive(Event, Serialize, Deserialize)]
struct Closed;

#[derive(Serialize, Deserialize)]
struct Summary;

#[projection]
impl Summary {
    #[on]
    fn opened(_: &Opened) -> Self {
        Summary
    }
    #[on]
    fn closed(&mut self, _: &Closed) {}
}

fn main() {}
