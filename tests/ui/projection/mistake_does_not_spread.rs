use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
struct Opened {
    owner: String,
}
#[derive(Event, Serialize, Deserialize)]
struct Closed;

#[derive(Serialize, Deserialize)]
struct Summary;

#[projection(name = "summaries")]
impl Summary {
    #[on]
    fn opened(_: &Opened) -> Self {
        Summary
    }
    #[on(key = 7)]
    fn closed(&mut self, _: &Closed) {}
}

fn main() {
    let _ = <Summary as cqrs::Projection>::initial();
}
