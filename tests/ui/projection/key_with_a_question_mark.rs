use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
struct Opened {
    by: String,
}

#[derive(Default, Serialize, Deserialize)]
struct View;

#[projection(name = "views", key = u64)]
impl View {
    #[on(key = event.by.parse()?)]
    fn opened(&mut self, event: &Opened) {}
}

fn main() {}
