//! What the stores of one process share of a server: its connections.
//!
//! Stores in several schemas, such as one for each tenant, have the same server configuration. Statements name
//! their schema, so a connection serves all of them. The number of connections is bounded for each server, and
//! does not depend on the number of stores:
//!
//! | connections | |
//! |---|---|
//! | reading | `readers` (4), shared: statements of many callers travel together |
//! | read models | 2, shared in the same way |
//! | writing | [`WRITERS`], or one for each partition of the largest log; each used by one partition at a time |
//! | statements of projections' own | [`GUESTS`], each used by one batch at a time |
//! | listening | 1 |

use std::collections::HashMap;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use cqrs_core::error::StoreErrorKind;
use futures_util::future::{self, Either};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Config};

use crate::error::Fault;
use crate::limit::within;
use crate::open::Timeouts;
use crate::readers::Lane;
use crate::url::Files;

/// How many connections write at most, unless one log has more partitions.
const WRITERS: usize = 16;
/// How many connections run statements of projections' own.
const GUESTS: usize = 4;
/// How many connections serve read models.
const KEEPERS: usize = 2;
/// How often one that waits for a connection asks those that do not use theirs.
const ASK: Duration = Duration::from_millis(20);

/// All that makes connections of two stores the same.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Key {
    pub(crate) config: Config,
    pub(crate) ssl: Option<SslMode>,
    pub(crate) files: Files,
    pub(crate) passfile: Option<PathBuf>,
    /// The address of the source of credentials, which the stores of this server keep alive.
    pub(crate) source: Option<usize>,
    pub(crate) bouncer: bool,
    pub(crate) timeouts: Timeouts,
    pub(crate) readers: usize,
    /// Connections end with the runtime that they were opened in.
    pub(crate) runtime: tokio::runtime::Id,
}

/// The connections to one server.
#[derive(Debug)]
pub(crate) struct Server {
    key: Key,
    pub(crate) readers: Arc<[Lane]>,
    pub(crate) keepers: Arc<[Lane]>,
    writing: Places,
    guests: Places,
    ear: Ear,
}

static SERVERS: Mutex<Vec<Weak<Server>>> = Mutex::new(Vec::new());

impl Server {
    /// The server that other stores of this process use already, or a new one.
    pub(crate) fn of(key: Key) -> Arc<Self> {
        let mut all = SERVERS.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|server| server.strong_count() > 0);
        if let Some(server) = all.iter().filter_map(Weak::upgrade).find(|server| server.key == key) {
            return server;
        }
        let lanes = |count: usize| (0..count.max(1)).map(|_| Lane::default()).collect();
        let server = Arc::new(Self {
            readers: lanes(key.readers),
            keepers: lanes(KEEPERS),
            writing: Places::new(WRITERS),
            guests: Places::new(GUESTS),
            ear: Ear::default(),
            key,
        });
        all.push(Arc::downgrade(&server));
        server
    }

    /// Makes room for a log, whose partitions may all be written at the same time.
    pub(crate) fn serves(&self, partitions: u16) {
        self.writing.at_least(usize::from(partitions));
    }

    /// The right to one more connection that writes.
    pub(crate) async fn writing(&self, limit: Duration) -> Result<OwnedSemaphorePermit, Fault> {
        self.writing.take("write", limit).await
    }

    /// The right to one more connection for statements of a projection's own.
    pub(crate) async fn guest(&self, limit: Duration) -> Result<OwnedSemaphorePermit, Fault> {
        self.guests.take("run statements of projections", limit).await
    }

    /// Waits until another partition wants the connection of one that writes nothing.
    pub(crate) async fn is_wanted(&self) {
        self.writing.wanted.notified().await;
    }

    /// Whether others wait for a connection to write.
    pub(crate) fn has_waiting_writers(&self) -> bool {
        self.writing.waiting.load(Ordering::SeqCst) > 0
    }

    pub(crate) fn is_listening(&self, channel: &str) -> bool {
        self.ear.is_open.load(Ordering::SeqCst) && self.ear.channels().contains_key(channel)
    }

    /// Listens to a channel, on the one connection that listens.
    pub(crate) async fn listen<F>(
        &self,
        channel: String,
        heard: &Arc<Notify>,
        limit: Duration,
        connect: impl FnOnce(Heard) -> F,
    ) -> Result<(), Fault>
    where
        F: Future<Output = Result<Client, Fault>>,
    {
        let mut client = self.ear.client.lock().await;
        {
            let mut channels = self.ear.channels();
            for heard in channels.values_mut() {
                heard.retain(|heard| heard.strong_count() > 0);
            }
            channels.retain(|_, heard| !heard.is_empty());
            let there = channels.entry(channel.clone()).or_default();
            if !there.iter().any(|other| std::ptr::eq(other.as_ptr(), Arc::as_ptr(heard))) {
                there.push(Arc::downgrade(heard));
            }
        }
        let listening = match client.take().filter(|client| !client.is_closed()) {
            Some(client) => {
                // Listening to a channel twice is listening once.
                let listen = format!("LISTEN \"{channel}\"");
                within(limit, "listen", async { Ok(client.batch_execute(&listen).await?) }).await?;
                client
            }
            None => {
                self.ear.is_open.store(false, Ordering::SeqCst);
                let heard = Heard(Arc::clone(&self.ear.channels), Arc::clone(&self.ear.is_open));
                let client = connect(heard).await?;
                let all: String =
                    self.ear.channels().keys().map(|channel| format!("LISTEN \"{channel}\";")).collect();
                within(limit, "listen", async { Ok(client.batch_execute(&all).await?) }).await?;
                self.ear.is_open.store(true, Ordering::SeqCst);
                client
            }
        };
        *client = Some(listening);
        Ok(())
    }
}

/// A bounded number of connections.
#[derive(Debug)]
struct Places {
    free: Arc<Semaphore>,
    size: Mutex<usize>,
    waiting: AtomicUsize,
    wanted: Notify,
}

impl Places {
    fn new(size: usize) -> Self {
        Self {
            free: Arc::new(Semaphore::new(size)),
            size: Mutex::new(size),
            waiting: AtomicUsize::new(0),
            wanted: Notify::new(),
        }
    }

    fn at_least(&self, wanted: usize) {
        let mut size = self.size.lock().unwrap_or_else(PoisonError::into_inner);
        self.free.add_permits(wanted.saturating_sub(*size));
        *size = wanted.max(*size);
    }

    async fn take(&self, doing: &str, limit: Duration) -> Result<OwnedSemaphorePermit, Fault> {
        if let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() {
            return Ok(permit);
        }
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let _waiting = Waiting(&self.waiting);
        let acquire = async {
            let mut acquired = pin!(Arc::clone(&self.free).acquire_owned());
            loop {
                self.wanted.notify_one();
                match future::select(acquired.as_mut(), pin!(tokio::time::sleep(ASK))).await {
                    Either::Left((permit, _)) => return permit,
                    Either::Right(_) => {}
                }
            }
        };
        match crate::limit::until(limit, acquire).await {
            Some(Ok(permit)) => Ok(permit),
            _ => Err(Fault::new(
                StoreErrorKind::Unavailable,
                format!(
                    "all connections of this process that {doing} are in use, for {} s; they are shared by the stores on this server",
                    limit.as_secs_f32()
                ),
            )),
        }
    }
}

struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

type Channels = Arc<Mutex<HashMap<String, Vec<Weak<Notify>>>>>;

/// The connection that listens, to the channels of all stores.
#[derive(Default)]
struct Ear {
    client: tokio::sync::Mutex<Option<Client>>,
    channels: Channels,
    is_open: Arc<AtomicBool>,
}

impl std::fmt::Debug for Ear {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ear")
    }
}

impl Ear {
    fn channels(&self) -> MutexGuard<'_, HashMap<String, Vec<Weak<Notify>>>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hands on what is heard, until it is dropped with the connection.
pub(crate) struct Heard(Channels, Arc<AtomicBool>);

impl Heard {
    pub(crate) fn tell(&self, channel: &str) {
        let channels = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for heard in channels.get(channel).into_iter().flatten().filter_map(Weak::upgrade) {
            heard.notify_one();
        }
    }
}

impl Drop for Heard {
    fn drop(&mut self) {
        self.1.store(false, Ordering::SeqCst);
        // Those that wait look by themselves from now on.
        let channels = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        channels.values().flatten().filter_map(Weak::upgrade).for_each(|heard| heard.notify_one());
    }
}
