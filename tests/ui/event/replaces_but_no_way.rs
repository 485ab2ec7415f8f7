use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
struct Stayed;

#[derive(Event, Serialize, Deserialize)]
#[event(version = 2, replaces = Stayed)]
struct NightSpent;

impl From<Stayed> for Vec<NightSpent> {
    fn from(_: Stayed) -> Self {
        vec![NightSpent]
    }
}

fn main() {}
