use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
struct Opened {
    owner: String,
}
#[derive(Event, Serialize, Deserialize)]
struct Closed;

#[derive(Serialize, Deserialize)]
struct Summary;

#[derive(Event, Serialize, Deserialize)]
#[event(name = "Closed")]
struct Shut;

#[projection(name = "summaries", key = u64)]
impl Summary {
    #[on]
    fn opened(_: &Opened) -> Self {
        Summary
    }
    #[on]
    fn closed(&mut self, _: &Closed) {}
    #[on]
    fn shut(&mut self, _: &Shut) {}
}

fn main() {}
