//! What is registered, and what the engine says when something is doubled or missing.

use std::sync::Arc;

use cqrs::Registry;
use cqrs::engine::{OpenError, Stores};
use cqrs::memory::MemoryStore;
use cqrs::prelude::*;

use crate::bank::*;

/// A shop in the same program, with a service.
mod shop {
    use cqrs::prelude::*;

    pub trait Prices: Service {
        fn cents(&self, article: &str) -> u64;
    }

    #[derive(Event, Serialize, Deserialize)]
    #[event(name = "shop.ordered")]
    pub struct Ordered {
        pub cents: u64,
    }

    #[derive(Command)]
    pub struct Order {
        #[id]
        pub basket: String,
        pub article: String,
    }

    #[derive(Default)]
    pub struct Basket {
        pub cents: u64,
    }

    #[aggregate(id = String)]
    impl Basket {
        #[handle]
        fn order(&self, cmd: Order, prices: &dyn Prices) -> Ordered {
            Ordered { cents: prices.cents(&cmd.article) }
        }
        #[apply]
        fn ordered(&mut self, event: &Ordered) {
            self.cents += event.cents;
        }
    }
}

/// Another domain, which has not heard of the first.
mod rival {
    use cqrs::prelude::*;

    #[derive(Event, Serialize, Deserialize)]
    pub struct Opened {}

    #[derive(Default)]
    pub struct Account {}

    #[derive(Command)]
    pub struct Open {
        #[id]
        pub door: u64,
    }

    #[aggregate(id = u64)]
    impl Account {
        #[handle]
        fn open(_: Open) -> Opened {
            Opened {}
        }
        #[apply]
        fn opened(&mut self, _: &Opened) {}
    }

    #[derive(Default, Serialize, Deserialize)]
    pub struct Doors {}

    #[projection(name = "summary", key = u64)]
    impl Doors {
        #[on]
        fn opened(&mut self, _: &Opened) {}
    }
}

struct Fixed(u64);

impl Service for Fixed {}

impl shop::Prices for Fixed {
    fn cents(&self, _: &str) -> u64 {
        self.0
    }
}

async fn refused(registry: Registry) -> Vec<String> {
    let built = Engine::builder().registry(registry).without_background().build(MemoryStore::new()).await;
    let Err(OpenError::Registry(error)) = built else { panic!("{built:?}") };
    error.faults().to_vec()
}

#[tokio::test]
async fn everything_that_is_linked_is_found() {
    let linked = format!("{:?}", Registry::linked());
    for name in ["aggregate `Account`", "aggregate `Basket`", "projection `summary`", "projection `total`"] {
        assert!(linked.contains(name), "{linked}");
    }
    assert!(linked.contains("tests/engine/bank.rs:"), "{linked}");
}

#[tokio::test]
async fn what_is_doubled_is_named_all_at_once() {
    let faults = refused(registry().with::<rival::Account>().with::<rival::Doors>()).await;
    assert_eq!(faults.len(), 4, "{faults:#?}");
    assert!(
        faults[0].starts_with(
            "two aggregates are named `Account`: aggregate `Account` (engine::bank::Account at "
        )
    );
    assert!(faults[1].starts_with("two projections are named `summary`"));
    assert!(
        faults[2].starts_with("two event types are stored as `Opened`: `engine::bank::Opened`"),
        "{}",
        faults[2]
    );
    assert!(faults[2].ends_with("give one of them `#[event(name = \"…\")]`"));
    // The same type once more, as when what is linked is also spelled out, is no fault.
    let twice = Engine::builder().registry(registry().with::<Account>()).without_background();
    twice.build(MemoryStore::new()).await.unwrap();
}

#[tokio::test]
async fn a_missing_service_is_told_at_the_start() {
    let faults = refused(Registry::new().with::<shop::Basket>()).await;
    assert_eq!(faults.len(), 1);
    assert!(faults[0].contains("needs the service `dyn engine::registry::shop::Prices`"), "{faults:?}");
    let shop = Engine::builder()
        .registry(Registry::new().with::<shop::Basket>())
        .service::<dyn shop::Prices>(Arc::new(Fixed(250)))
        .without_background()
        .open("memory:")
        .await
        .unwrap();
    let order = shop::Order { basket: "b/1 ☃".into(), article: "tea".into() };
    shop.execute(order).await.unwrap();
    assert_eq!(shop.load::<shop::Basket>(&"b/1 ☃".into()).await.unwrap().state.unwrap().cents, 250);
}

#[tokio::test]
async fn what_is_not_registered_is_named_when_it_is_used() {
    let shop =
        Engine::builder().registry(Registry::new()).without_background().open("memory:").await.unwrap();
    let error = shop.execute(Open { account: 1, owner: "Ada".into() }).await.unwrap_err();
    assert!(error.to_string().starts_with("the aggregate `Account` is not registered with this engine"));
    let error = shop.get::<Summary>(&1).await.unwrap_err();
    assert!(error.to_string().starts_with("the projection `summary` is not registered with this engine"));
    assert!(shop.list::<Summary>().await.is_err());
}

#[tokio::test]
async fn an_unknown_url_names_what_can_be_opened_and_no_password() {
    let error = Engine::open("other://ada:secret@db/bank").await.unwrap_err();
    let known = ["`memory:`"]
        .into_iter()
        .chain(cfg!(feature = "postgres").then_some("`postgres:`, `postgresql:`"))
        .chain(cfg!(feature = "sqlite").then_some("`sqlite:`"));
    let known = known.collect::<Vec<_>>().join(", ");
    assert_eq!(
        error.to_string(),
        format!(
            "no store here opens `other:…`; this program knows {known}. A store is brought by a feature of the crate `cqrs`, or by a crate of its own that is linked"
        )
    );
    let error = Engine::open("memory:bank").await.unwrap_err();
    assert!(error.to_string().contains("write `memory:`"), "{error}");
}

#[test]
fn an_engine_with_background_work_needs_a_runtime() {
    let build = Engine::builder().registry(registry()).build(Stores::from(MemoryStore::new()));
    let mut build = std::pin::pin!(build);
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    let std::task::Poll::Ready(built) = build.as_mut().poll(&mut cx) else { panic!("it waits") };
    assert!(matches!(built.unwrap_err(), OpenError::NoRuntime));
}

#[tokio::test]
async fn an_id_without_text_is_refused() {
    let shop = Engine::builder()
        .registry(Registry::new().with::<shop::Basket>())
        .service::<dyn shop::Prices>(Arc::new(Fixed(250)))
        .without_background()
        .open("memory:")
        .await
        .unwrap();
    let error = shop.execute(shop::Order { basket: String::new(), article: "tea".into() }).await.unwrap_err();
    assert!(error.to_string().contains("does not name a stream"), "{error}");
}

#[test]
fn a_receipt_parses_from_what_it_prints_and_from_nothing_else() {
    let receipt: Receipt = "3-42-5-7f3a9c1e-0000abcd".parse().unwrap();
    assert_eq!(receipt.to_string(), "3-42-5-7f3a9c1e-0000abcd");
    assert_eq!(receipt.expected().to_string(), "5-0000abcd");
    assert_eq!((receipt.partition().get(), receipt.position().get(), receipt.version().get()), (3, 42, 5));
    for wrong in [
        "",
        "1-2-3",
        "1-2-3-00000001",
        "1-2-3-00000001-4",
        "1-2-3-00000001-00000001-",
        "a-2-3-00000001-00000001",
        "1-+2-3-00000001-00000001",
        "1-2-3-+0000001-00000001",
        "1-2-3-00000001-+0000001",
        "70000-1-1-00000001-00000001",
    ] {
        assert!(wrong.parse::<Receipt>().is_err(), "{wrong}");
    }
    for wrong in ["", "-", "5-", "+5", "5-1", "5-+0000001", "5-00000001-", "x-00000001"] {
        assert!(wrong.parse::<cqrs::ExpectedVersion>().is_err(), "{wrong}");
    }
}
