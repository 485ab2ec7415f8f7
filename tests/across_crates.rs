//! Registration by link time over several crates: all is found, and what is doubled is named.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "tests stop at what they did not expect")]

use cqrs::Registry;
use cqrs::engine::OpenError;
use cqrs::prelude::*;
use other_crate::{CloseShop, OpenShop, Shop};

#[derive(Event, Serialize, Deserialize, Debug)]
struct Opened {
    owner: String,
}

#[derive(Command, Debug)]
struct Open {
    #[id]
    account: u64,
    owner: String,
}

#[derive(Debug)]
struct Account {}

#[aggregate(id = u64)]
impl Account {
    #[handle]
    fn open(cmd: Open) -> Opened {
        Opened { owner: cmd.owner }
    }
    #[apply]
    fn opened(_: &Opened) -> Self {
        Self {}
    }
}

/// Reads an event of the other crate.
#[derive(Serialize, Deserialize, Default, Debug, PartialEq)]
struct Closures {
    count: u64,
}

#[projection(name = "closures", key = u64)]
impl Closures {
    #[on]
    fn closed(&mut self, _: &other_crate::Closed) {
        self.count += 1;
    }
}

#[test]
fn both_crates_are_found() {
    let linked = format!("{:?}", Registry::linked());
    assert!(
        linked.contains("aggregate `Account` (across_crates::Account at tests/across_crates.rs:"),
        "{linked}"
    );
    assert!(linked.contains("aggregate `Shop` (other_crate::Shop at "), "{linked}");
}

#[tokio::test]
async fn one_stored_name_in_two_crates_does_not_start() {
    let Err(OpenError::Registry(error)) = Engine::open("memory:").await else { panic!("it opened") };
    let [fault] = error.faults() else { panic!("{error}") };
    assert!(fault.starts_with("two event types are stored as `Opened`: `across_crates::Opened`"), "{fault}");
    assert!(fault.contains("`other_crate::Opened`"), "{fault}");
}

#[tokio::test]
async fn a_projection_reads_another_crates_events() {
    let registry = Registry::new().with::<Shop>().with::<Closures>();
    let shop = Engine::builder().registry(registry).open("memory:").await.unwrap();
    shop.execute(OpenShop { shop: 7 }).await.unwrap();
    let receipt = shop.execute(CloseShop { shop: 7 }).await.unwrap();
    assert_eq!(shop.get::<Closures>(&7).after(&receipt).await.unwrap(), Some(Closures { count: 1 }));
}
