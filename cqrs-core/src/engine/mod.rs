//! The engine: commands in, read models out.
//!
//! ```text
//! execute(command)                                            get / list
//!   route → queue per stream → load → decide → fold → append    ↑
//!                                                    ↓          documents
//!                                                   log → followers ↑
//! ```
//!
//! [`execute`](Engine::execute) works on the log alone. Each projection has a follower, which reads
//! the log in batches and keeps the projection's documents; it runs in the background, or when
//! [`catch_up`](Engine::catch_up) is called.

mod build;
pub(crate) mod consumer;
mod error;
mod execute;
mod follow;
mod gate;
mod read;
mod slots;

use std::any::TypeId;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;

use crate::context::{Clock, IdSource, Services};
use crate::event::Metadata;
use crate::read_store::ReadStore;
use crate::registry::Registry;
use crate::store::EventStore;

pub use build::{EngineBuilder, OpenError, StoreScheme, Stores};
pub use error::{ExecuteError, Failure, ReadError};
pub use execute::Execute;
pub use follow::{CatchUpError, ConsumerFault, ConsumerState, ConsumerStatus};
pub use read::{Cursor, Get, List, Loaded, Page};

use follow::Follower;
use gate::Gate;
use slots::Slots;

/// Accepts commands, keeps read models and answers from them. Cloning gives another handle on the
/// same engine.
///
/// When the last handle is dropped, the background followers stop; [`shutdown`](Self::shutdown)
/// waits for them.
#[derive(Clone)]
pub struct Engine(Arc<Handle>);

struct Handle {
    inner: Arc<Inner>,
    /// Dropping it stops the followers.
    stop: watch::Sender<bool>,
    running: Mutex<Vec<JoinHandle<()>>>,
}

/// What commands, queries and followers share.
struct Inner {
    log: Arc<dyn EventStore>,
    documents: Arc<dyn ReadStore>,
    registry: Registry,
    services: Services,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
    no_metadata: Arc<Metadata>,
    attempts: u32,
    slots: Slots,
    gate: Gate,
    aggregates: std::collections::HashSet<TypeId>,
    followers: HashMap<&'static str, Arc<Follower>>,
    /// Whether followers run by themselves, or only when somebody waits for them.
    background: bool,
}

impl Engine {
    /// Opens the store that the URL names, with all aggregates and projections that are linked
    /// into the program, and runs the projections in the background.
    ///
    /// `memory:` is a log that ends with the engine. Other stores bring their own schemes.
    ///
    /// # Errors
    /// [`OpenError`] if no store has the URL's scheme, the store cannot be opened, or the registry
    /// is not sound.
    pub async fn open(url: &str) -> Result<Self, OpenError> {
        Self::builder().open(url).await
    }

    /// An engine with services, another registry or other settings.
    pub fn builder() -> EngineBuilder {
        EngineBuilder::default()
    }

    /// Folds everything that is in the log now into every projection, and returns when it is done.
    ///
    /// # Errors
    /// [`CatchUpError`] with the first projection that cannot go on; the others have caught up.
    pub async fn catch_up(&self) -> Result<(), CatchUpError> {
        let inner = &self.0.inner;
        let mut fault = Ok(());
        for follower in inner.followers.values() {
            if let Err(error) = follower.catch_up(inner).await {
                fault = fault.and(Err(error));
            }
        }
        fault
    }

    /// How far each projection is, per partition, by name.
    #[must_use]
    pub fn status(&self) -> Vec<ConsumerStatus> {
        let mut all: Vec<_> =
            self.0.inner.followers.values().flat_map(|follower| follower.status()).collect();
        all.sort_by(|a, b| (a.name, a.partition).cmp(&(b.name, b.partition)));
        all
    }

    /// Refuses new commands, finishes those that were accepted and the batches that projections
    /// have begun, and returns when all is done. Reading goes on to work.
    pub async fn shutdown(&self) {
        self.0.inner.gate.close().await;
        self.0.stop.send_replace(true);
        // Each is taken off when it is done, so that who gives up waiting, or comes second, can wait.
        let mut running = self.0.running.lock().await;
        while let Some(task) = running.last_mut() {
            // One that panicked is done too.
            let _ = task.await;
            running.pop();
        }
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &self.0.inner;
        f.debug_struct("Engine").field("log", &inner.log).field("registry", &inner.registry).finish()
    }
}
