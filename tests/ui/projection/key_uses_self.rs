use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
struct Opened;

#[derive(Default, Serialize, Deserialize)]
struct View {
    seen: u64,
}

#[projection(name = "views", key = u64)]
impl View {
    #[on(key = self.seen)]
    fn opened(&mut self, _: &Opened) {}
}

fn main() {}
