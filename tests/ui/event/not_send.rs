use cqrs::prelude::*;

use std::rc::Rc;

#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Name(#[serde(skip)] Rc<u8>);

#[derive(Event, Serialize, Deserialize)]
struct Opened {
    owner: Name,
}

fn main() {}
