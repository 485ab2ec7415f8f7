use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
struct Opened {
    owner: String,
}
#[derive(Event, Serialize, Deserialize)]
struct Closed;

#[derive(Serialize, Deserialize)]
struct Summary<T>(T);

#[projection(name = "summaries", key = u64)]
impl<T: Default> Summary<T> {
    #[on]
    fn opened(_: &Opened) -> Self {
        Summary(T::default())
    }
    #[on]
    fn closed(&mut self, _: &Closed) {}
}

fn main() {}
