//! The domain of the tests, and the stores that two releases share.

use std::convert::Infallible;
use std::sync::Arc;

use cqrs::Registry;
use cqrs::engine::{ConsumerStatus, EngineBuilder, OpenError};
use cqrs::memory::MemoryStore;
use cqrs::prelude::*;

#[derive(Event, Serialize, Deserialize)]
#[event(name = "customer.registered")]
pub struct Registered {}
#[derive(Event, Serialize, Deserialize)]
#[event(name = "customer.noted")]
pub struct Noted {}
#[derive(Event, Serialize, Deserialize)]
#[event(name = "customer.moved")]
pub struct Moved {}

#[derive(Command)]
pub struct Register {
    #[id]
    pub customer: String,
}
#[derive(Command)]
pub struct Note {
    #[id]
    pub customer: String,
}
#[derive(Command)]
pub struct Move {
    #[id]
    pub customer: String,
}

#[derive(Default)]
pub struct Customer {}

/// All releases write all events; it is the projections that do not read all of them.
#[aggregate(id = String, name = "customer", error = Infallible)]
impl Customer {
    #[handle]
    fn register(&self, _: Register) -> Registered {
        Registered {}
    }
    #[handle]
    fn note(&self, _: Note) -> Noted {
        Noted {}
    }
    #[handle]
    fn moves(&self, _: Move) -> Moved {
        Moved {}
    }
    #[apply]
    fn registered(&mut self, _: &Registered) {}
    #[apply]
    fn noted(&mut self, _: &Noted) {}
    #[apply]
    fn moved(&mut self, _: &Moved) {}
}

/// A program without projections.
pub fn writers() -> Registry {
    Registry::new().with::<Customer>()
}

/// What a document has counted: `customer.registered`, `customer.noted`, and `customer.moved`.
pub type Counts = (u32, u32, u32);

/// A store that several engines open, as several programs would.
pub struct Place {
    pub name: &'static str,
    store: Store,
}

enum Store {
    Memory(Arc<MemoryStore>),
    Url(String, Option<tempfile::TempDir>),
}

impl Place {
    /// One of each kind, empty.
    pub fn all() -> Vec<Self> {
        let memory = Self { name: "memory", store: Store::Memory(Arc::new(MemoryStore::new())) };
        [Some(memory), Some(Self::sqlite()), Self::postgres()].into_iter().flatten().collect()
    }

    pub fn sqlite() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", dir.path().join("shop.db").display());
        Self { name: "SQLite", store: Store::Url(url, Some(dir)) }
    }

    pub fn postgres() -> Option<Self> {
        if !cfg!(feature = "postgres") {
            return None;
        }
        let url = pg_cluster::shared()?.schema_url("deploy");
        Some(Self { name: "PostgreSQL", store: Store::Url(url, None) })
    }

    /// Where the file of SQLite is.
    pub fn file(&self) -> std::path::PathBuf {
        match &self.store {
            Store::Url(_, Some(dir)) => dir.path().join("shop.db"),
            Store::Url(..) | Store::Memory(_) => panic!("{} has no file", self.name),
        }
    }

    /// The URL of the store.
    #[cfg(feature = "postgres")]
    pub fn url(&self) -> &str {
        match &self.store {
            Store::Url(url, _) => url,
            Store::Memory(_) => panic!("{} has no URL", self.name),
        }
    }

    pub async fn open(&self, builder: EngineBuilder) -> Result<Engine, OpenError> {
        match &self.store {
            Store::Memory(store) => builder.build(Arc::clone(store)).await,
            Store::Url(url, _) => builder.open(url).await,
        }
    }

    /// A program that also runs its projections.
    pub async fn program(&self, registry: Registry) -> Engine {
        self.open(Engine::builder().registry(registry)).await.unwrap()
    }

    /// A program that moves its projections only when it is told to.
    pub async fn quiet(&self, registry: Registry) -> Engine {
        self.open(Engine::builder().registry(registry).without_background()).await.unwrap()
    }

    /// A program that leaves its projections to others.
    pub async fn guest(&self, registry: Registry) -> Engine {
        self.open(Engine::builder().registry(registry).projections_elsewhere()).await.unwrap()
    }
}

pub async fn status(engine: &Engine) -> ConsumerStatus {
    engine.status().await.unwrap().into_iter().next().expect("one projection")
}

pub fn id(customer: &str) -> String {
    customer.to_owned()
}

pub async fn register(engine: &Engine, customer: &str) -> Receipt {
    engine.execute(Register { customer: id(customer) }).await.unwrap()
}

pub async fn note(engine: &Engine, customer: &str) -> Receipt {
    engine.execute(Note { customer: id(customer) }).await.unwrap()
}

pub async fn moves(engine: &Engine, customer: &str) -> Receipt {
    engine.execute(Move { customer: id(customer) }).await.unwrap()
}
