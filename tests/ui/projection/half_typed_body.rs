use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
struct Opened;

#[derive(Default, Serialize, Deserialize)]
struct View {
    seen: u64,
}

#[projection(name = "views", key = u64)]
impl View {
    #[on]
    fn opened(&mut self, _: &Opened) {
        self.seen +=
    }
}

fn main() {}
