use cqrs::prelude::*;

trait Account {}

#[aggregate(id = u64)]
impl dyn Account {}

fn main() {}
