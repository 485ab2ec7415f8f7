//! How an engine is put together.

use std::any::TypeId;
use std::fmt;
use std::sync::{Arc, Mutex};

use foldhash::HashMap;
use tokio::sync::watch;

use super::bounded::bounded;
use super::follow::Follower;
use super::gate::Gate;
use super::heads::Heads;
use super::inline::InlineSet;
use super::nested::EngineMark;
use super::record::{Agreement, Read, RecordFault, Records};
use super::slots::Slots;
use super::snapshots::{Plan, Saves};
use super::timeouts::Timeouts;
use super::{Engine, Handle, Inner, Running, Runs};
use crate::consumer::Consumer;
use crate::context::{Clock, IdSource, Service, Services, SystemClock, TimeOrderedIds};
use crate::error::{StoreError, StoreErrorKind};
use crate::event::Metadata;
use crate::id::Partition;
use crate::memory::MemoryStore;
use crate::projection::Mode;
use crate::read_store::ReadStore;
use crate::registry::{Registry, RegistryError};
use crate::store::{BoxFuture, EventStore};

/// The settings of an engine. Finish with [`open`](Self::open) or [`build`](Self::build).
#[derive(Debug)]
#[must_use = "an engine comes from `open` or `build`"]
pub struct EngineBuilder {
    registry: Option<Registry>,
    services: Services,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
    attempts: u32,
    hot_streams: usize,
    hot_state_bytes: usize,
    runs: Runs,
    read_models: Option<Url>,
    timeouts: Timeouts,
    rejects_changed_folds: bool,
}

/// Where a store is. It may carry a password, so no part of it but the scheme is shown.
struct Url(String);

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:…", scheme(&self.0).unwrap_or_default())
    }
}

/// The scheme of a URL, if it has one. A connection string such as `host=… password=…` has none, whatever
/// comes before its first colon.
fn scheme(url: &str) -> Option<&str> {
    let (scheme, _) = url.split_once(':')?;
    let letters = |one: char| one.is_ascii_alphanumeric() || "+-.".contains(one);
    let is_one = scheme.starts_with(|first: char| first.is_ascii_alphabetic()) && scheme.chars().all(letters);
    is_one.then_some(scheme)
}

impl Default for EngineBuilder {
    fn default() -> Self {
        Self {
            registry: None,
            services: Services::new(),
            clock: Arc::new(SystemClock),
            ids: Arc::new(TimeOrderedIds::default()),
            attempts: 10,
            hot_streams: 10_000,
            hot_state_bytes: 64 << 20,
            runs: Runs::Background,
            read_models: None,
            timeouts: Timeouts::default(),
            rejects_changed_folds: false,
        }
    }
}

impl EngineBuilder {
    /// Works with these aggregates and projections instead of all that are linked into the program.
    pub fn registry(mut self, registry: Registry) -> Self {
        self.registry = Some(registry);
        self
    }

    /// Gives handlers a service, under its type or under a trait:
    /// `.service::<dyn Rates>(Arc::new(BankRates))`.
    pub fn service<T: Service + ?Sized>(mut self, service: Arc<T>) -> Self {
        self.services.insert(service);
        self
    }

    /// Takes the time from here instead of the system.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Takes fresh ids from here; UUIDv7 unless set.
    pub fn ids(mut self, ids: impl IdSource) -> Self {
        self.ids = Arc::new(ids);
        self
    }

    /// How often a command is decided before a race that is lost each time is given up; 10 unless
    /// set, at least 1.
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts.max(1);
        self
    }

    /// Sets of how many streams the engine remembers the last state (default: 10,000, at least 1).
    ///
    /// [`hot_state_bytes`](Self::hot_state_bytes) limits their size.
    pub fn hot_streams(mut self, streams: usize) -> Self {
        self.hot_streams = streams;
        self
    }

    /// Sets how many bytes of memory the remembered states may take together (default: 64 MiB).
    ///
    /// Past that, the engine drops the states that were used least recently, and reads their streams again with their
    /// next command. It never remembers a state that is larger than the limit. The states of commands under way count,
    /// but are not dropped, so the limit may be exceeded by them.
    ///
    /// The size of a state is an estimate without a cost for each command: the size of its type, and if that owns memory
    /// elsewhere (it has a `Drop`, as a `String` or `Vec` in it does), the length of its snapshot and of the events
    /// folded since. Without `#[aggregate(snapshot = …)]`, that is the length of all its events, which is too much for
    /// a state that replaces more than it collects. `#[aggregate(state_size = …)]` returns the true size. What the
    /// engine needs for each stream besides its state, some hundred bytes, is limited by
    /// [`hot_streams`](Self::hot_streams).
    pub fn hot_state_bytes(mut self, bytes: usize) -> Self {
        self.hot_state_bytes = bytes;
        self
    }

    /// Sets how long the engine waits for what it depends on: services, the store, other commands, the end.
    pub fn timeouts(mut self, timeouts: Timeouts) -> Self {
        self.timeouts = timeouts;
        self
    }

    /// Does not run projections in the background: they move only in
    /// [`catch_up`](Engine::catch_up), and when a read waits for a receipt. For tests that want the
    /// same order every time.
    pub fn without_background(mut self) -> Self {
        self.runs = Runs::OnDemand;
        self
    }

    /// Leaves the projections to other engines, in this process or another: this one never takes one
    /// over, and a read that waits for a receipt looks at what they have stored. For a program that
    /// only reads, or only writes. An explicit [`catch_up`](Engine::catch_up) takes them over even so,
    /// and so does a command that finds an inline projection behind.
    pub fn projections_elsewhere(mut self) -> Self {
        self.runs = Runs::Elsewhere;
        self
    }

    /// Rejects a projection that folds the same events in another way than the code that made its documents
    /// (default: a warning, and [`ConsumerStatus::fold_changed`](super::ConsumerStatus::fold_changed)).
    pub fn reject_changed_folds(mut self) -> Self {
        self.rejects_changed_folds = true;
        self
    }

    /// Keeps documents and checkpoints in the store that this URL names, and not beside the log. If
    /// that store is lost, projections begin at the start of the log and fill an empty one.
    pub fn read_models(mut self, url: impl Into<String>) -> Self {
        self.read_models = Some(Url(url.into()));
        self
    }

    /// Opens the store that the URL names, and builds the engine on it.
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub async fn open(self, url: &str) -> Result<Engine, OpenError> {
        let stores = open_stores(url).await?;
        self.build(stores).await
    }

    /// Builds the engine on stores that are open already. The URL of [`read_models`](Self::read_models),
    /// if there is one, takes the place of their documents.
    ///
    /// # Errors
    /// [`OpenError`] if the registry is not sound, the store of read models cannot be opened, a projection
    /// reads events that its documents have missed, or there is no tokio runtime to run projections in.
    pub async fn build(self, stores: impl Into<Stores>) -> Result<Engine, OpenError> {
        let mut stores = stores.into();
        let registry = self.registry.unwrap_or_else(Registry::linked);
        registry.check(&self.services).map_err(OpenError::Registry)?;
        if let Some(Url(url)) = &self.read_models {
            stores.documents = open_stores(url).await?.documents;
        }
        registry.check_stores(&stores).map_err(OpenError::Registry)?;
        let are_documents_apart = stores.are_apart();
        let Stores { log, documents } = bounded(stores, self.timeouts.store);
        let partitions = log.capabilities().partitions;
        // Asked for now, so that a store that does not answer shows at the start.
        let log_id = log.head(Partition::ONLY).await.map_err(OpenError::Store)?.log;
        let mut consumers = registry.consumers();
        // Link-time registration has no order of its own. Of several inline projections that reject an append, the
        // first by name is the one that is reported.
        consumers.sort_by_key(|(_, consumer)| consumer.name());
        let records = Records { log: &*log, documents: &*documents };
        let consumers = agree(records, consumers, self.rejects_changed_folds).await?;
        let followers: Vec<_> = consumers
            .into_iter()
            .map(|(mode, consumer, agreement)| {
                Arc::new(Follower::new(consumer, agreement, mode, partitions, self.runs))
            })
            .collect();
        let inline = followers.iter().filter(|follower| follower.is_inline()).map(Arc::clone).collect();
        let inner = Inner {
            inline: InlineSet::new(inline),
            followers: followers.into_iter().map(|follower| (follower.name(), follower)).collect(),
            guards_events: log.capabilities().event_guards,
            aggregates: aggregates(&registry, &*log),
            saves: Saves::new(self.runs != Runs::OnDemand),
            log,
            log_id,
            documents,
            are_documents_apart,
            registry,
            services: self.services,
            clock: self.clock,
            ids: self.ids,
            no_metadata: Arc::new(Metadata::new()),
            attempts: self.attempts,
            slots: Slots::new(self.hot_streams, self.hot_state_bytes),
            gate: Gate::default(),
            heads: Heads::new(partitions),
            runs: self.runs,
            timeouts: self.timeouts,
            mark: EngineMark::default(),
        };
        inner.plan_inline().await.map_err(OpenError::Store)?;
        start(Arc::new(inner))
    }
}

/// Records what each projection reads, before the first command. Nothing is recorded if one is refused.
async fn agree(
    records: Records<'_>,
    consumers: Consumers,
    rejects_changed_folds: bool,
) -> Result<Vec<(Mode, Arc<dyn Consumer>, Agreement)>, OpenError> {
    if !consumers.is_empty() && !records.documents.read_capabilities().records {
        tracing::warn!(
            store = ?records.documents,
            "this read store does not record which events a projection reads: two releases that read different events must not run at the same time"
        );
    }
    let (mut faults, mut agreed) = (Vec::new(), Vec::new());
    for (mode, consumer) in consumers {
        let read = records.read(&*consumer).await.map_err(OpenError::Store)?;
        let (projection, mut known) = (consumer.name(), None);
        match read {
            Read::Settled(agreement) => {
                if agreement.fold_changed {
                    let changed = RecordFault::FoldChanged { projection };
                    tracing::warn!(projection, "{changed}");
                    faults.extend(rejects_changed_folds.then_some(changed));
                }
                known = Some(agreement);
            }
            Read::ToRecord => {}
            Read::Refused(fault) => faults.push(fault),
        }
        agreed.push((mode, consumer, known));
    }
    if !faults.is_empty() {
        return Err(OpenError::Record(faults));
    }
    let mut all = Vec::with_capacity(agreed.len());
    for (mode, consumer, known) in agreed {
        let agreement = match known {
            Some(agreement) => agreement,
            None => {
                let agreed = records.agree(&*consumer).await.map_err(OpenError::Store)?;
                agreed.map_err(|(fault, _)| OpenError::Record(vec![fault]))?
            }
        };
        all.push((mode, consumer, agreement));
    }
    Ok(all)
}

/// A snapshot is a cache, so an aggregate that asks for some works on a store that keeps none.
fn aggregates(registry: &Registry, log: &dyn EventStore) -> HashMap<TypeId, Option<Plan>> {
    let keeps = log.capabilities().snapshots;
    let aggregate = |(ty, name, plan): (TypeId, &'static str, Option<Plan>)| {
        if plan.is_some() && !keeps {
            tracing::warn!(
                aggregate = name,
                "this store keeps no snapshots: streams are read from their beginning"
            );
        }
        (ty, plan.filter(|_| keeps))
    };
    registry.aggregates().map(aggregate).collect()
}

/// What is to be followed, and when.
type Consumers = Vec<(Mode, Arc<dyn Consumer>)>;

fn start(inner: Arc<Inner>) -> Result<Engine, OpenError> {
    let (stop, stopped) = watch::channel(false);
    let mut running = Vec::new();
    if inner.runs == Runs::Background {
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| OpenError::NoRuntime)?;
        for follower in inner.followers.values() {
            let (ending, ended) = watch::channel(());
            let work = Arc::clone(follower).run(inner.clone(), stopped.clone());
            let task = runtime.spawn(async move {
                let _ending = ending;
                work.await;
            });
            running.push(Running { projection: follower.name(), task: task.abort_handle(), ended });
        }
    }
    Ok(Engine(Arc::new(Handle { inner, stop, running: Mutex::new(running) })))
}

/// A log and the read models beside it.
#[derive(Clone, Debug)]
pub struct Stores {
    /// The log.
    pub log: Arc<dyn EventStore>,
    /// Where documents and checkpoints live.
    pub documents: Arc<dyn ReadStore>,
}

impl Stores {
    /// Whether read models can be part of an append's commit: one object is both, and can.
    pub(crate) fn can_inline(&self) -> bool {
        !self.are_apart() && self.log.capabilities().inline
    }

    /// Returns whether the documents may be in another store than the log: these are not two handles on one value.
    fn are_apart(&self) -> bool {
        !std::ptr::addr_eq(Arc::as_ptr(&self.log), Arc::as_ptr(&self.documents))
    }
}

impl<S: EventStore + ReadStore> From<Arc<S>> for Stores {
    fn from(store: Arc<S>) -> Self {
        Self { log: store.clone(), documents: store }
    }
}

impl From<MemoryStore> for Stores {
    fn from(store: MemoryStore) -> Self {
        Arc::new(store).into()
    }
}

/// Which store opens URLs of a scheme. A store's crate submits one with `inventory::submit!`, so
/// that linking the crate is all it takes to open its URLs.
#[derive(Clone, Copy, Debug)]
pub struct StoreScheme {
    /// What stands before the URL's first `:`.
    pub scheme: &'static str,
    /// Opens the store that the whole URL names.
    pub open: fn(url: String) -> BoxFuture<'static, Result<Stores, StoreError>>,
}

inventory::collect!(StoreScheme);

async fn open_stores(url: &str) -> Result<Stores, OpenError> {
    if url.eq_ignore_ascii_case("memory:") || url == "memory" {
        return Ok(MemoryStore::new().into());
    }
    let scheme = scheme(url).unwrap_or_default();
    // The schemes of URLs are the same in capitals.
    if scheme.eq_ignore_ascii_case("memory") {
        let message = "a store in memory has no name, and a text follows `memory:`: write `memory:`";
        return Err(OpenError::Store(StoreError::new(StoreErrorKind::Invalid, message)));
    }
    match inventory::iter::<StoreScheme>().find(|known| known.scheme.eq_ignore_ascii_case(scheme)) {
        Some(known) => (known.open)(url.to_owned()).await.map_err(OpenError::Store),
        None => {
            let linked = inventory::iter::<StoreScheme>().map(|known| known.scheme);
            let mut known: Vec<_> = std::iter::once("memory").chain(linked).collect();
            known.sort_unstable();
            Err(OpenError::UnknownScheme { scheme: scheme.to_owned(), known })
        }
    }
}

/// Why an engine was not opened.
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// No store that is linked into the program opens such a URL.
    UnknownScheme {
        /// The scheme: what comes before the URL's first `:`. Empty if the text is not a URL.
        scheme: String,
        /// The schemes that can be opened.
        known: Vec<&'static str>,
    },
    /// Something is doubled or missing among aggregates, projections, events and services.
    Registry(RegistryError),
    /// The store could not be opened.
    Store(StoreError),
    /// Projections do not fit the documents that other releases of this program have made.
    Record(Vec<RecordFault>),
    /// Projections run in the background, but not outside a tokio runtime.
    NoRuntime,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownScheme { scheme, known } if scheme.is_empty() => {
                let known = known.join(":`, `");
                write!(f, "no store can be opened by a text that does not begin with the scheme of a URL; this program knows `{known}:`")
            }
            Self::UnknownScheme { scheme, known } => {
                let known = known.join(":`, `");
                write!(f, "no store here opens `{scheme}:…`; this program knows `{known}:`. A store is brought by a feature of the crate `cqrs`, or by a crate of its own that is linked")
            }
            Self::Registry(error) => error.fmt(f),
            Self::Store(error) => error.fmt(f),
            Self::Record(faults) => {
                for (at, fault) in faults.iter().enumerate() {
                    write!(f, "{}{fault}", if at == 0 { "" } else { "\n" })?;
                }
                Ok(())
            }
            Self::NoRuntime => f.write_str(
                "projections run in the background, which needs a tokio runtime: open the engine inside one, or build it `without_background()`",
            ),
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Store(error) => error.source(),
            Self::UnknownScheme { .. } | Self::Registry(_) | Self::Record(_) | Self::NoRuntime => None,
        }
    }
}
