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

mod bounded;
mod budget;
mod build;
pub(crate) mod consumer;
mod entries;
mod error;
mod execute;
mod fold;
mod follow;
mod gate;
mod heads;
mod held;
mod inline;
mod lag;
mod live;
mod nested;
mod read;
mod record;
mod reset;
mod shutdown;
mod slots;
pub(crate) mod snapshots;
pub(crate) mod sql;
mod timeouts;
mod verify;

use std::any::TypeId;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use foldhash::HashMap;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::context::{Clock, IdSource, Services};
use crate::error::StoreError;
use crate::event::Metadata;
use crate::read_store::ReadStore;
use crate::registry::Registry;
use crate::store::{EventStore, LogId};

pub use build::{EngineBuilder, OpenError, StoreScheme, Stores};
pub use error::{ExecuteError, Failure, KeyReused, ReadError, Rejection};
pub use execute::{Execute, Request};
pub use follow::{CatchUpError, ConsumerFault, ConsumerState, ConsumerStatus};
pub use lag::Lag;
pub use read::{Cursor, Dated, DatedRead, Get, List, Loaded, Page, Reached};
pub use record::{RecordError, RecordFault, UnsharedEvent};
pub use reset::ResetError;
pub use shutdown::{AbandonedCommand, Shutdown};
pub use timeouts::Timeouts;
pub use verify::{
    BatchedDifference, Compared, Decoded, Difference, SnapshotDifference, Verification, Verified,
    VerifiedSnapshots,
};

use follow::Follower;
use gate::Gate;
use heads::Heads;
use inline::InlineSet;
use nested::EngineMark;
use slots::Slots;
use snapshots::{Plan, Saves};

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
    running: Mutex<Vec<Running>>,
}

/// A follower's task.
#[derive(Clone)]
struct Running {
    projection: &'static str,
    task: AbortHandle,
    /// Closed when the task has ended.
    ended: watch::Receiver<()>,
}

/// What commands, queries and followers share.
struct Inner {
    log: Arc<dyn EventStore>,
    /// What the log was called when the engine was built.
    log_id: LogId,
    documents: Arc<dyn ReadStore>,
    /// True if the documents may be in another store than the log, which is not rewound together with it.
    are_documents_apart: bool,
    registry: Registry,
    services: Services,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
    no_metadata: Arc<Metadata>,
    attempts: u32,
    slots: Slots,
    gate: Gate,
    /// What the followers wait for.
    heads: Heads,
    /// The projections whose effect is part of each append's commit.
    inline: InlineSet,
    /// Whether an append can expect an event. If it can, a command is decided on what this process remembers of the
    /// stream, and on what others before it are about to write.
    guards_events: bool,
    /// Those that are registered, each with how its snapshots are made.
    aggregates: HashMap<TypeId, Option<Plan>>,
    saves: Saves,
    /// By name, which is the order in which they are moved and reported.
    followers: BTreeMap<&'static str, Arc<Follower>>,
    runs: Runs,
    timeouts: Timeouts,
    /// Tells its queues from those of other engines.
    mark: EngineMark,
}

/// Who moves the projections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Runs {
    /// A task each.
    Background,
    /// Whoever waits for them.
    OnDemand,
    /// Another engine.
    Elsewhere,
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

    /// Folds everything that is in the log now into every projection, in the order of their names, and returns when
    /// it is done.
    ///
    /// # Errors
    /// [`CatchUpError`] with the first projection, by name, that cannot go on; the others have caught up.
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

    /// How far each projection is, ordered by name and partition: its stored checkpoint against the end of
    /// the log, whoever moves it, and what this engine's follower is doing. Projections that are
    /// folded when they are read are not in it.
    ///
    /// A stall shows here: the [`time`](Lag::time) of a projection's lag grows as long as there is
    /// something behind its checkpoint that does not take effect. So raise an alarm on a lag of more
    /// seconds than your readers can bear, and on [`ConsumerState::Stopped`]. It takes two round
    /// trips per projection and partition, and one per projection.
    ///
    /// # Errors
    /// [`StoreError`] if a store cannot answer.
    pub async fn status(&self) -> Result<Vec<ConsumerStatus>, StoreError> {
        let inner = &self.0.inner;
        let mut all = Vec::new();
        for follower in inner.followers.values() {
            all.extend(follower.status(inner).await?);
        }
        Ok(all)
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &self.0.inner;
        f.debug_struct("Engine").field("log", &inner.log).field("registry", &inner.registry).finish()
    }
}
