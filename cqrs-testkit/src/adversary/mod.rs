//! The adversary: many writers and many readers on one log, in any number of processes, and a check of
//! what every reader was given against what every writer was told.
//!
//! The conformance suite asks for each clause by itself. This asks for all of them at once, for as long
//! as you like, while you make trouble for the store. It is for the clause that most stores on SQL break:
//! a reader that has seen position p never finds a new event at or below p.
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
//! Writers append to streams of their own and to shared ones, to several at once, with guards that hold,
//! that race and that cannot hold, with command keys and without. They repeat commands, pause, drop
//! appends that are under way, and sometimes reserve their turn. After [`Unknown`](cqrs_core::error::StoreErrorKind::Unknown) they look up
//! what became of it. Readers go by position, all of the log or by a query, looking again and again or
//! waiting for news.
//!
//! Then it holds these against each other: what writers were told, what each reader was given, and what
//! the log holds in the end. The [`Report`] counts what does not agree.
//!
//! What one handle cannot do by itself is yours to bring: [`trouble`](Adversary::trouble) runs beside the
//! writers, to hold locks, kill connections or restart the server.
//!
//! **Several processes** run it on one log at the same time, each with a [`part`](Adversary::part) of its
//! own. Each examines what its own writers were told, and that its readers were given the events of all.

mod audit;
mod ground;
mod reader;
mod report;
mod writer;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use cqrs_core::store::{BoxFuture, EventStore};
use tokio::task::JoinSet;

use self::audit::Audit;
use self::ground::{Ground, Random};
use self::reader::Reader;
pub use self::report::{ReaderReport, Report};
use self::writer::Writer;

/// How many appends to make: what the variable `CQRS_ADVERSARY_APPENDS` says, else `unless_set`.
///
/// # Panics
/// If the variable is not a number.
#[must_use]
pub fn appends(unless_set: u64) -> u64 {
    number("CQRS_ADVERSARY_APPENDS").unwrap_or(unless_set)
}

#[allow(clippy::panic, reason = "this is how a test fails")]
fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    let number = text.replace('_', "").parse();
    Some(number.unwrap_or_else(|_| panic!("{variable} is {text:?}, which is not a number")))
}

/// A run, before it begins.
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
    /// It may be behind the others.
    Replica,
}

impl std::fmt::Debug for Adversary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let handles: Vec<_> = self.handles.iter().map(|handle| &handle.name).collect();
        write!(f, "Adversary({} appends, seed {}, on {handles:?})", self.appends, self.seed)
    }
}

impl Adversary {
    /// A run of this many appends over all writers. The seed is that of the variable
    /// `CQRS_ADVERSARY_SEED`, else a random one.
    ///
    /// # Panics
    /// If the variable is not a number.
    #[must_use]
    pub fn new(appends: u64) -> Self {
        let seed = number("CQRS_ADVERSARY_SEED").unwrap_or_else(ground::any_seed);
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

    /// Decides what each writer does, and how long it pauses. It does not decide who comes first.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Which of several runs on one log this is, each in a process of its own.
    #[must_use]
    pub fn part(mut self, part: u16) -> Self {
        self.part = part;
        self
    }

    /// How many writers each handle gets; 8 unless set, and 0 counts as 1.
    #[must_use]
    pub fn writers(mut self, writers: usize) -> Self {
        self.writers = writers.max(1);
        self
    }

    /// How long a call may take, and readers may need to reach the end once the writers are done, before
    /// that counts as a fault; 30 seconds unless set.
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

    /// Reads through this handle too, which may be behind the others, such as that of a standby.
    #[must_use]
    pub fn replica(mut self, name: impl Into<String>, log: Arc<dyn EventStore>) -> Self {
        self.handles.push(Handle { name: name.into(), log, role: Role::Replica });
        self
    }

    /// Does this beside the writers; it is dropped as soon as they are done.
    #[must_use]
    pub fn trouble(mut self, trouble: impl Future<Output = ()> + Send + 'static) -> Self {
        self.troubles.push(Box::pin(trouble));
        self
    }

    /// Runs until all writers are done and all readers have been given what there is; then examines it.
    ///
    /// It needs a tokio runtime, and for races one with several threads.
    pub async fn run(self) -> Report {
        let Some(first) = self.handles.iter().find(|handle| handle.role == Role::Whole) else {
            return Report::fault(self.seed, "the adversary was given no log");
        };
        let log = Arc::clone(&first.log);
        let ground = Arc::new(Ground::new(&*log, self.patience));
        let readers = self.read(&ground);
        let monitor = tokio::spawn(reader::watch(
            Arc::clone(&ground),
            readers.iter().map(|reader| Arc::clone(&reader.progress)).collect(),
        ));
        let reading: Vec<_> = readers.into_iter().map(|reader| tokio::spawn(reader.run())).collect();
        let writing = self.write(&ground);
        let mut troubles = JoinSet::new();
        self.troubles.into_iter().for_each(|trouble| drop(troubles.spawn(trouble)));
        let told: Vec<_> = all(&ground, writing).await.into_iter().flatten().collect();
        troubles.shutdown().await;

        ground.end(&*log).await;
        let read = all(&ground, reading).await;
        monitor.abort();
        let audit = Audit::read(&*log, &ground).await;
        audit.report(self.seed, &ground, &told, read)
    }

    /// One of each kind for each handle and each partition.
    fn read(&self, ground: &Arc<Ground>) -> Vec<Reader> {
        let mut readers = Vec::new();
        for Handle { name, log, role } in &self.handles {
            let tags = log.capabilities().tags;
            for kind in reader::KINDS.into_iter().filter(|kind| tags || !kind.tags) {
                for partition in ground.partitions() {
                    let random = Random::new(self.seed ^ (readers.len() as u64 + 1) << 24);
                    let (log, replica) = (Arc::clone(log), *role == Role::Replica);
                    readers.push(Reader::new(name, log, replica, kind, partition, ground, random));
                }
            }
        }
        readers
    }

    fn write(&self, ground: &Arc<Ground>) -> Vec<tokio::task::JoinHandle<Vec<writer::Told>>> {
        let logs = self.handles.iter().filter(|handle| handle.role == Role::Whole);
        let logs: Vec<_> = logs.flat_map(|handle| std::iter::repeat_n(&handle.log, self.writers)).collect();
        let count = logs.len() as u64;
        let one = |(at, log): (u64, &Arc<dyn EventStore>)| {
            let share = self.appends / count + u64::from(at < self.appends % count);
            let id = u32::from(self.part) * 1_000 + at as u32;
            let random = Random::new(self.seed ^ (u64::from(id) << 32));
            tokio::spawn(Writer::new(id, Arc::clone(log), Arc::clone(ground), random).run(share))
        };
        (0..).zip(logs).map(one).collect()
    }
}

/// What the tasks give; one that panics is a fault.
async fn all<T>(ground: &Ground, tasks: Vec<tokio::task::JoinHandle<T>>) -> Vec<T> {
    let mut done = Vec::new();
    for task in tasks {
        match task.await {
            Ok(result) => done.push(result),
            Err(error) => ground.fault(format!("a task of the adversary ended early: {error}")),
        }
    }
    done
}
