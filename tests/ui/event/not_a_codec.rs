use cqrs::prelude::*;

struct Xml;

#[derive(Event, Serialize, Deserialize)]
#[event(codec = Xml)]
struct Opened;

fn main() {}
