//! Blocks in which nothing is marked yet.
#![deny(warnings)]
use cqrs::prelude::*;

#[derive(Default)]
pub struct Account;

#[aggregate(id = u64)]
impl Account {}

#[derive(Default, Serialize, Deserialize)]
pub struct Summary;

#[projection(name = "summaries", key = u64)]
impl Summary {
    pub fn untouched(&self) -> u64 {
        7
    }
}

fn main() {
    let _: Option<AccountEvent> = None;
    assert_eq!(Summary.untouched(), 7);
}
