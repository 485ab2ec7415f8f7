//! The adversary: many concurrent writers and readers on one log, in one or several processes. It checks everything
//! that readers received against every response that writers got.
//!
//! The conformance suite checks each clause of the contract by itself. The adversary checks all of them at once, for
//! as long as you like, while you disturb the store. It targets the clause that most SQL stores break: a reader that
//! has seen position p never finds a new event at or below p.
//!
//! ```
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! use std::sync::Arc;
//!
//! use cqrs_core::memory::MemoryStore;
//! use cqrs_testkit::adversary::{Adversary, appends};
//!
//! let store = MemoryStore::new();
//! let report = Adversary::new(appends(500))
//!     // Some tasks write through this handle, others read.
//!     .on("first handle", Arc::new(store.clone()))
//!     .on("second handle", Arc::new(store))
//!     .run()
//!     .await;
//! println!("{report}");
//! report.assert_clean();
//! # });
//! ```
//!
//! Writers append to their own streams, to shared ones, and to several at once. They use guards that hold, that race,
//! and that cannot hold, with and without idempotency keys. They repeat commands, pause, drop pending appends, and
//! sometimes reserve a turn. After [`Unknown`](cqrs_core::error::StoreErrorKind::Unknown) they look up the outcome.
//! Readers follow the whole log or a query by position, either polling or waiting for new events.
//!
//! At the end, the adversary compares the responses that writers got, the events that each reader received, and the
//! log. The [`Report`] counts the differences.
//!
//! Add disturbances that a single handle cannot cause with [`trouble`](Adversary::trouble): it runs concurrently with
//! the writers, and can hold locks, kill connections, or restart the server.
//!
//! **Several processes** can run it on one log at the same time, each with its own [`part`](Adversary::part). Each
//! checks the responses that its own writers got, and that its readers received the events of all processes.

mod audit;
mod reader;
mod report;
mod run;
mod writer;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use cqrs_core::store::{BoxFuture, EventStore};
use tokio::task::JoinSet;

use self::audit::Audit;
use self::reader::Reader;
pub use self::report::{ReaderReport, Report};
use self::run::{Random, RunState};
use self::writer::Writer;

/// Returns the number of appends in the variable `CQRS_ADVERSARY_APPENDS`, or `default`.
///
/// # Panics
/// If the variable is not a number.
#[must_use]
pub fn appends(default: u64) -> u64 {
    number("CQRS_ADVERSARY_APPENDS").unwrap_or(default)
}

#[allow(clippy::panic, reason = "this is how a test fails")]
fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    let number = text.replace('_', "").parse();
    Some(number.unwrap_or_else(|_| panic!("{variable} is {text:?}, which is not a number")))
}

/// A run of the adversary, before it starts.
pub struct Adversary {
    appends: u64,
    seed: u64,
    part: u16,
    writers: usize,
    patience: Duration,
    handles: Vec<Handle>,
    troubles: Vec<BoxFuture<'static, ()>>,
}

struct Handle {
    name: String,
    log: Arc<dyn EventStore>,
    role: Role,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Whole,
    /// It may lag.
    Replica,
}

impl std::fmt::Debug for Adversary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let handles: Vec<_> = self.handles.iter().map(|handle| &handle.name).collect();
        write!(f, "Adversary({} appends, seed {}, on {handles:?})", self.appends, self.seed)
    }
}

impl Adversary {
    /// Creates a run with this many appends over all writers. The seed comes from the variable `CQRS_ADVERSARY_SEED`,
    /// or is random.
    ///
    /// # Panics
    /// If the variable is not a number.
    #[must_use]
    pub fn new(appends: u64) -> Self {
        let seed = number("CQRS_ADVERSARY_SEED").unwrap_or_else(run::any_seed);
        Self {
            appends,
            seed,
            part: 0,
            writers: 8,
            patience: Duration::from_secs(30),
            handles: Vec::new(),
            troubles: Vec::new(),
        }
    }

    /// Sets the seed, which decides what each writer does and how long it pauses. It does not decide the outcome of
    /// races.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Sets the number of this run, for several runs on one log in different processes.
    #[must_use]
    pub fn part(mut self, part: u16) -> Self {
        self.part = part;
        self
    }

    /// Sets the number of writers for each handle, at least 1 (default: 8).
    #[must_use]
    pub fn writers(mut self, writers: usize) -> Self {
        self.writers = writers.max(1);
        self
    }

    /// Sets the maximum duration of a call, and the time that readers have to reach the end once the writers are done
    /// (default: 30 s). Taking longer is a fault.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Writes and reads through this handle of the log.
    #[must_use]
    pub fn on(mut self, name: impl Into<String>, log: Arc<dyn EventStore>) -> Self {
        self.handles.push(Handle { name: name.into(), log, role: Role::Whole });
        self
    }

    /// Reads through this handle, which may lag behind the others, such as the handle of a standby.
    #[must_use]
    pub fn replica(mut self, name: impl Into<String>, log: Arc<dyn EventStore>) -> Self {
        self.handles.push(Handle { name: name.into(), log, role: Role::Replica });
        self
    }

    /// Runs this future concurrently with the writers. It is dropped as soon as they are done.
    #[must_use]
    pub fn trouble(mut self, trouble: impl Future<Output = ()> + Send + 'static) -> Self {
        self.troubles.push(Box::pin(trouble));
        self
    }

    /// Runs until all writers are done and all readers have reached the end, then audits the log.
    ///
    /// It requires a tokio runtime, and one with several threads for real races.
    pub async fn run(self) -> Report {
        let Some(first) = self.handles.iter().find(|handle| handle.role == Role::Whole) else {
            return Report::fault(self.seed, "no handle to write through; add one with `on`");
        };
        let log = Arc::clone(&first.log);
        let run = Arc::new(RunState::new(&*log, self.patience));
        let readers = self.read(&run);
        let monitor = tokio::spawn(reader::watch(
            Arc::clone(&run),
            readers.iter().map(|reader| Arc::clone(&reader.progress)).collect(),
        ));
        let reading: Vec<_> = readers.into_iter().map(|reader| tokio::spawn(reader.run())).collect();
        let writing = self.write(&run);
        let mut troubles = JoinSet::new();
        self.troubles.into_iter().for_each(|trouble| drop(troubles.spawn(trouble)));
        let outcomes: Vec<_> = all(&run, writing).await.into_iter().flatten().collect();
        troubles.shutdown().await;

        run.end(&*log).await;
        let read = all(&run, reading).await;
        monitor.abort();
        let audit = Audit::read(&*log, &run).await;
        audit.report(self.seed, &run, &outcomes, read)
    }

    /// Creates one reader of each kind for each handle and each partition.
    fn read(&self, run: &Arc<RunState>) -> Vec<Reader> {
        let mut readers = Vec::new();
        for Handle { name, log, role } in &self.handles {
            let tags = log.capabilities().tags;
            for kind in reader::KINDS.into_iter().filter(|kind| tags || !kind.tags) {
                for partition in run.partitions() {
                    let random = Random::new(self.seed ^ (readers.len() as u64 + 1) << 24);
                    let (log, replica) = (Arc::clone(log), *role == Role::Replica);
                    readers.push(Reader::new(name, log, replica, kind, partition, run, random));
                }
            }
        }
        readers
    }

    fn write(&self, run: &Arc<RunState>) -> Vec<tokio::task::JoinHandle<Vec<writer::AppendOutcome>>> {
        let logs = self.handles.iter().filter(|handle| handle.role == Role::Whole);
        let logs: Vec<_> = logs.flat_map(|handle| std::iter::repeat_n(&handle.log, self.writers)).collect();
        let count = logs.len() as u64;
        let one = |(at, log): (u64, &Arc<dyn EventStore>)| {
            let share = self.appends / count + u64::from(at < self.appends % count);
            let id = u32::from(self.part) * 1_000 + at as u32;
            let random = Random::new(self.seed ^ (u64::from(id) << 32));
            tokio::spawn(Writer::new(id, Arc::clone(log), Arc::clone(run), random).run(share))
        };
        (0..).zip(logs).map(one).collect()
    }
}

/// Collects the results of tasks. A task that panics is a fault.
async fn all<T>(run: &RunState, tasks: Vec<tokio::task::JoinHandle<T>>) -> Vec<T> {
    let mut done = Vec::new();
    for task in tasks {
        match task.await {
            Ok(result) => done.push(result),
            Err(error) => run.fault(format!("a task of the adversary failed: {error}")),
        }
    }
    done
}
