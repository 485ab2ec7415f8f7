//! Idempotency keys: a second delivery is told from a key that another command uses by mistake.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cqrs::Registry;
use cqrs::engine::Failure;
use cqrs::memory::MemoryStore;
use cqrs::prelude::*;

/// Counts how often a handler asks it.
pub trait Gateway: Service {
    fn charge(&self);
}

#[derive(Default)]
struct Counting(AtomicU64);

impl Service for Counting {}
impl Gateway for Counting {
    fn charge(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[derive(Event, Serialize, Deserialize)]
pub struct Paid {
    pub cents: u64,
}
#[derive(Event, Serialize, Deserialize)]
pub struct Declined;

/// Its content can be compared.
#[derive(Command, Serialize)]
pub struct Pay {
    #[id]
    pub id: u64,
    pub cents: u64,
    /// Written in any order.
    pub labels: std::collections::HashSet<String>,
}
/// Its content cannot be compared.
#[derive(Command)]
pub struct Charge {
    #[id]
    pub id: u64,
    pub cents: u64,
}
#[derive(Command)]
pub struct Decline {
    #[id]
    pub id: u64,
}

#[derive(Debug, PartialEq, thiserror::Error)]
#[error("too much")]
pub struct TooMuch;

#[derive(Default)]
pub struct Till {
    cents: u64,
}

#[aggregate(id = u64, error = TooMuch)]
impl Till {
    #[handle]
    fn pay(&self, cmd: Pay) -> Result<Paid, TooMuch> {
        if cmd.cents > 100 && self.cents == 0 { Err(TooMuch) } else { Ok(Paid { cents: cmd.cents }) }
    }
    #[handle]
    async fn charge(&self, cmd: Charge, gateway: &dyn Gateway) -> Paid {
        gateway.charge();
        Paid { cents: cmd.cents }
    }
    #[handle]
    fn decline(&self, _: Decline) -> Declined {
        Declined
    }
    #[apply]
    fn paid(&mut self, event: &Paid) {
        self.cents += event.cents;
    }
    #[apply]
    fn declined(&mut self, _: &Declined) {}
}

async fn till(store: impl Into<cqrs::engine::Stores>) -> (Engine, Arc<Counting>) {
    let gateway = Arc::new(Counting::default());
    let builder = Engine::builder().registry(Registry::new().with::<Till>());
    let builder = builder.service::<dyn Gateway>(gateway.clone()).without_background();
    (builder.build(store).await.unwrap(), gateway)
}

fn pay(cents: u64) -> Pay {
    let labels = (0..20).map(|label| label.to_string()).collect();
    Pay { id: 1, cents, labels }
}

fn reused<E: std::fmt::Debug + std::error::Error>(end: Result<Receipt, ExecuteError<E>>) -> String {
    match end {
        Err(error @ ExecuteError::Failed(Failure::KeyReused(_))) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

async fn reused_keys_are_reported(store: impl Into<cqrs::engine::Stores>) {
    let (till, gateway) = till(store).await;
    let first = till.execute(pay(5)).key("a").await.unwrap();
    let again = till.execute(pay(5)).key("a").await.unwrap();
    assert_eq!((again.position(), again.is_repeated()), (first.position(), true));
    assert_eq!(
        reused(till.execute(pay(6)).key("a").await),
        "the idempotency key \"a\" of Till/1 was used by the command `Pay` with other content; give each command a key of its own"
    );
    let other = "the idempotency key \"a\" of Till/1 was used by the command `Pay`, and now by the command `Charge`; give each command a key of its own, or execute both through `Engine::request`";
    assert_eq!(reused(till.execute(Charge { id: 1, cents: 5 }).key("a").await), other);
    assert_eq!(gateway.0.load(Ordering::SeqCst), 0, "the service was called for a key that is reused");
    reused(till.execute(Decline { id: 1 }).key("a").await);
    reused(till.request("a").execute(pay(5)).await);
    // Without content, the same command is taken for a second delivery.
    till.execute(Charge { id: 1, cents: 5 }).key("b").await.unwrap();
    assert!(till.execute(Charge { id: 1, cents: 6 }).key("b").await.unwrap().is_repeated());
    assert_eq!(gateway.0.load(Ordering::SeqCst), 1);
    // Another stream is another scope.
    till.execute(Charge { id: 2, cents: 5 }).key("a").await.unwrap();
}

#[tokio::test]
async fn a_reused_key_names_both_commands_in_memory() {
    reused_keys_are_reported(MemoryStore::new()).await;
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn a_reused_key_names_both_commands_in_sqlite() {
    let dir = tempfile::tempdir().unwrap();
    let store = cqrs::sqlite::SqliteStore::open(dir.path().join("keys.db")).await.unwrap();
    reused_keys_are_reported(store).await;
}

#[tokio::test]
async fn a_request_of_several_commands_takes_effect_once() {
    let (till, _) = till(MemoryStore::new()).await;
    let deliver = || async {
        let request = till.request("posting-1");
        match request.execute(pay(500)).await {
            Err(ExecuteError::Refused(TooMuch)) => request.execute(Decline { id: 1 }).await,
            other => other,
        }
    };
    let first = deliver().await.unwrap();
    assert!(!first.is_repeated());
    // By now the payment would be accepted, but the request has its answer.
    till.execute(pay(1)).await.unwrap();
    let again = deliver().await.unwrap();
    assert_eq!((again.position(), again.is_repeated()), (first.position(), true));
    assert_eq!(till.load::<Till>(&1).await.unwrap().state.unwrap().cents, 1);
    reused(till.execute(Decline { id: 1 }).key("posting-1").await);
}
