use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
struct Opened;

#[derive(Default, Serialize, Deserialize)]
struct View;

#[projection(name = "views", key = u64)]
impl View {
    #[on]
    fn opened(&mut self, _: &EventMeta, _event: &Opened) {}
}

fn main() {}
