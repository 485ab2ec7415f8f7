use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
#[event(name = "opened", version = 3, from = Newer)]
struct Older;

#[derive(Event, Serialize, Deserialize)]
#[event(name = "opened", version = 4, from = Older)]
struct Newer;

impl From<Newer> for Older {
    fn from(_: Newer) -> Self {
        Older
    }
}

impl From<Older> for Newer {
    fn from(_: Older) -> Self {
        Newer
    }
}

fn main() {}
