//! The read side: documents by key and in pages, and aggregates as they are now.

use std::any::TypeId;
use std::fmt;
use std::future::{Future, IntoFuture};
use std::marker::PhantomData;
use std::mem;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use uuid::Uuid;

use super::error::ReadError;
use super::follow::{
    Backoff, CatchUpError, ConsumerFault, ConsumerState, Follower, Progress, Trouble, check, point,
};
use super::record::UnsharedEvent;
use super::snapshots::Folded;
use super::{Engine, Inner, Runs};
use crate::aggregate::Aggregate;
use crate::codec::{CodecError, Json};
use crate::event::Timestamp;
use crate::id::{Id as _, Partition, Position, StreamId, Version};
use crate::projection::{Mode, Projection, SqlProjection};
use crate::read_store::{Entry, EntryKey, RangeRead};
use crate::receipt::{ExpectedVersion, Receipt};
use crate::store::{BoxFuture, Head, LogId, LogPoint};
use crate::timer;

/// How long a read waits for a receipt unless it says otherwise.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long a reader trusts this process's own follower to tell it, before it looks at the stored
/// checkpoint, for the follower may run in another process: from the first time to the last, doubling.
const LOOK: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(100));
/// In an engine that has been shut down, for how long the checkpoint has to stand still until a reader
/// believes that no other engine moves it: longer than it takes one to take it over.
const STILL: Duration = Duration::from_secs(1);
/// How long a read that has waited in vain looks for the reason.
const LAST_LOOK: Duration = Duration::from_secs(1);
/// Documents in one page unless it says otherwise.
const PAGE: usize = 100;

impl Engine {
    /// The document with this key, or `None`.
    ///
    /// ```ignore
    /// let summary = bank.get::<Summary>(&account).after(&receipt).await?;
    /// ```
    pub fn get<P: Projection>(&self, key: &P::Key) -> Get<'_, P> {
        let (key, wait) = (key.as_text().to_string(), Wait::default());
        Get { engine: self, key, wait, running: None, projection: PhantomData }
    }

    /// A page of a projection's documents, in the order of their keys' text.
    pub fn list<P: Projection>(&self) -> List<'_, P> {
        let (limit, cursor) = (PAGE, None);
        List { engine: self, cursor, limit, wait: Wait::default(), running: None, projection: PhantomData }
    }

    /// Waits until a projection with its own SQL shows what the receipt's command did.
    ///
    /// ```ignore
    /// bank.reached::<Ledger>(&receipt).await?;
    /// ```
    pub fn reached<P: SqlProjection>(&self, receipt: &Receipt) -> Reached<'_, P> {
        let wait = Wait { receipt: Some(*receipt), ..Wait::default() };
        Reached { engine: self, wait, running: None, projection: PhantomData }
    }

    /// The current state of an aggregate, folded from its stream.
    ///
    /// # Errors
    /// [`ReadError`] if the store fails or the stream holds an event that does not fold.
    pub async fn load<A: Aggregate>(&self, id: &A::Id) -> Result<Loaded<A>, ReadError> {
        let stream = StreamId::new(A::NAME, id.as_text())?;
        let inner = &self.0.inner;
        let plan = inner.aggregates.get(&TypeId::of::<A>()).copied().flatten();
        let mut state = Folded::<A>::new();
        let mut place = inner.read_whole::<ReadError>(&stream, plan, &mut state).await?;
        inner.keep(&stream, plan, &mut place, &state).await;
        Ok(Loaded { state: state.into_inner(), version: place.end.version, event: place.end.event })
    }
}

/// An aggregate's state, and the version it was folded up to.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Loaded<A> {
    /// The state; `None` if it does not exist and nothing but an event can begin it.
    pub state: Option<A>,
    /// The version of the stream.
    pub version: Version,
    /// The id of the event at that version; `None` for a stream without events.
    pub event: Option<Uuid>,
}

impl<A> Loaded<A> {
    /// The version with the mark of its event, to be expected by the next command.
    #[must_use]
    pub fn expected(&self) -> ExpectedVersion {
        ExpectedVersion::new(self.version, self.event)
    }
}

impl<A> From<&Loaded<A>> for ExpectedVersion {
    fn from(loaded: &Loaded<A>) -> Self {
        loaded.expected()
    }
}

/// What a read waits for, and for how long.
#[derive(Clone, Copy, Debug)]
struct Wait {
    receipt: Option<Receipt>,
    timeout: Duration,
}

impl Default for Wait {
    fn default() -> Self {
        Self { receipt: None, timeout: TIMEOUT }
    }
}

/// A document to be read: a future that does nothing until it is polled.
#[must_use = "a document is read when the request is awaited"]
pub struct Get<'e, P> {
    engine: &'e Engine,
    key: String,
    wait: Wait,
    running: Option<BoxFuture<'e, Result<Option<StoredDocument>, ReadError>>>,
    projection: PhantomData<fn() -> P>,
}

/// A page of documents to be read: a future that does nothing until it is polled.
#[must_use = "a page is read when the request is awaited"]
pub struct List<'e, P> {
    engine: &'e Engine,
    cursor: Option<Cursor>,
    limit: usize,
    wait: Wait,
    running: Option<BoxFuture<'e, Result<Found, ReadError>>>,
    projection: PhantomData<fn() -> P>,
}

/// Tables that have to show what a command did: a future that does nothing until it is polled.
#[must_use = "it waits when it is awaited"]
pub struct Reached<'e, P> {
    engine: &'e Engine,
    wait: Wait,
    running: Option<BoxFuture<'e, Result<(), ReadError>>>,
    projection: PhantomData<fn() -> P>,
}

impl<P> Reached<'_, P> {
    /// How long to wait; 5 seconds unless set.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.wait.timeout = timeout;
        self
    }
}

impl<P> fmt::Debug for Reached<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reached").field("wait", &self.wait).finish_non_exhaustive()
    }
}

impl<P: SqlProjection> Future for Reached<'_, P> {
    type Output = Result<(), ReadError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { engine, wait, running, .. } = self.get_mut();
        let ready = || Box::pin(engine.0.inner.ready(P::NAME, TypeId::of::<P>(), *wait)) as BoxFuture<'_, _>;
        running.get_or_insert_with(ready).as_mut().poll(cx)
    }
}

macro_rules! waiting {
    ($request:ident) => {
        impl<P> $request<'_, P> {
            /// Waits until the projection shows what the receipt's command did.
            pub fn after(mut self, receipt: &Receipt) -> Self {
                self.wait.receipt = Some(*receipt);
                self
            }

            /// How long to wait for the receipt; 5 seconds unless set.
            pub fn timeout(mut self, timeout: Duration) -> Self {
                self.wait.timeout = timeout;
                self
            }

            /// Also tells how old what is read may be, for two more round trips per partition.
            pub fn dated(self) -> DatedRead<Self> {
                DatedRead { read: self }
            }
        }

        impl<P> fmt::Debug for $request<'_, P> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($request)).field("wait", &self.wait).finish_non_exhaustive()
            }
        }
    };
}

waiting!(Get);
waiting!(List);

/// A read that tells how old its answer may be; await it.
#[must_use = "it is read when the request is awaited"]
#[derive(Debug)]
pub struct DatedRead<R> {
    read: R,
}

/// What was read, and from when it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Dated<T> {
    /// What was read.
    pub value: T,
    /// Every command that was accepted before this instant is in it, as far as the clocks of those
    /// who decide agree. It may be newer.
    pub as_of: Timestamp,
    /// How long ago that was, by the engine's clock; zero if the projection had all there was.
    pub age: Duration,
}

impl<P> List<'_, P> {
    /// At most this many documents; 100 unless set, at least 1.
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = limit.max(1);
        self
    }

    /// Goes on behind a former page.
    pub fn from(mut self, cursor: Cursor) -> Self {
        self.cursor = Some(cursor);
        self
    }
}

/// A page of documents.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Page<P: Projection> {
    /// The documents with their keys.
    pub documents: Vec<(P::Key, P)>,
    /// Where the next page begins; `None` if this is the last.
    pub next: Option<Cursor>,
}

/// Where a page begins. It prints to a text and parses from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(String);

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Cursor {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl<P: Projection> Get<'_, P> {
    /// Takes the request out.
    fn take(&mut self) -> Self {
        Self { key: mem::take(&mut self.key), running: None, ..*self }
    }

    async fn read(self) -> Result<Option<StoredDocument>, ReadError> {
        let inner = &self.engine.0.inner;
        let document = match P::MODE {
            Mode::Live => inner.live_document::<P>(&self.key).await?,
            Mode::Async | Mode::Inline => {
                let found = inner.documents.get(P::NAME, vec![EntryKey::document(self.key.clone())]).await?;
                found.into_iter().next().flatten()
            }
        };
        Ok(document.map(|bytes| (self.key, bytes)))
    }

    fn decode(found: Option<StoredDocument>) -> Result<Option<P>, ReadError> {
        found.map(|(key, bytes)| read_document(&key, &bytes)).transpose()
    }
}

/// A key with the bytes of its document.
type StoredDocument = (String, Bytes);

/// A page as it is stored.
struct Found {
    documents: Vec<Entry>,
    next: Option<Cursor>,
}

impl<P: Projection> List<'_, P> {
    /// Takes the request out.
    fn take(&mut self) -> Self {
        Self { cursor: self.cursor.take(), running: None, ..*self }
    }

    async fn read(self) -> Result<Found, ReadError> {
        let inner = &self.engine.0.inner;
        let after = self.cursor.map(|Cursor(key)| key);
        // One more than wanted tells whether there is a next page.
        let limit = self.limit.saturating_add(1);
        let mut found = match P::MODE {
            Mode::Live => inner.live_documents::<P>(after, limit).await?,
            Mode::Async | Mode::Inline => {
                let range = RangeRead::documents(P::NAME, limit);
                let range = after.map_or(range.clone(), |key| range.after(key));
                inner.documents.range(range).await?
            }
        };
        let more = found.len() > self.limit;
        found.truncate(self.limit);
        let next = found.last().filter(|_| more).map(|last| Cursor(text(&last.key)));
        Ok(Found { documents: found, next })
    }

    fn decode(found: Found) -> Result<Page<P>, ReadError> {
        let read = |entry: Entry| {
            let key = text(&entry.key);
            Ok((read_key::<P>(&key)?, read_document(&key, &entry.content)?))
        };
        let documents = found.documents.into_iter().map(read).collect::<Result<_, ReadError>>()?;
        Ok(Page { documents, next: found.next })
    }
}

macro_rules! awaited {
    ($request:ident gives $answer:ty) => {
        impl<P: Projection> Future for $request<'_, P> {
            type Output = Result<$answer, ReadError>;

            fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
                let this = self.get_mut();
                let running = this.running.take().unwrap_or_else(|| {
                    let (request, engine, wait) = (this.take(), this.engine, this.wait);
                    Box::pin(async move {
                        engine.0.inner.ready(P::NAME, TypeId::of::<P>(), wait).await?;
                        request.read().await
                    })
                });
                this.running.insert(running).as_mut().poll(cx).map(|found| Self::decode(found?))
            }
        }

        impl<'e, P: Projection> IntoFuture for DatedRead<$request<'e, P>> {
            type Output = Result<Dated<$answer>, ReadError>;
            type IntoFuture = BoxFuture<'e, Self::Output>;

            fn into_future(self) -> Self::IntoFuture {
                Box::pin(async move {
                    let inner = &self.read.engine.0.inner;
                    inner.ready(P::NAME, TypeId::of::<P>(), self.read.wait).await?;
                    // Before the documents, so that they are at least as new.
                    let (as_of, age) = match P::MODE {
                        Mode::Live => (inner.clock.now(), Duration::ZERO),
                        Mode::Async | Mode::Inline => inner.as_of(P::NAME).await?,
                    };
                    let value = $request::<P>::decode(self.read.read().await?)?;
                    Ok(Dated { value, as_of, age })
                })
            }
        }
    };
}

awaited!(Get gives Option<P>);
awaited!(List gives Page<P>);

/// A document's key as text.
fn text(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}

fn read_document<P: Projection>(key: &str, bytes: &Bytes) -> Result<P, ReadError> {
    P::from_bytes::<Json>(bytes).map_err(|source| bad_document::<P>(key, source))
}

fn read_key<P: Projection>(key: &str) -> Result<P::Key, ReadError> {
    P::Key::from_text(key)
        .map_err(|error| bad_document::<P>(key, CodecError::new(format!("its key does not parse: {error}"))))
}

fn bad_document<P: Projection>(key: &str, source: CodecError) -> ReadError {
    ReadError::Document { projection: P::NAME, key: key.to_owned(), source }
}

impl Inner {
    /// Makes sure that there is such a projection, and that it shows what the receipt's command did.
    async fn ready(&self, name: &'static str, projection: TypeId, wait: Wait) -> Result<(), ReadError> {
        if !self.registry.has_projection(projection) {
            return Err(ReadError::NotRegistered(name));
        }
        let follower = self.followers.get(name);
        match (follower, wait.receipt) {
            (Some(follower), Some(receipt)) => self.wait_for(follower, receipt, wait.timeout).await,
            // It is folded when it is read.
            (None, Some(receipt)) => self.compare(receipt, LogPoint::START).await.map(drop),
            (Some(follower), None) => self.check_history(follower).await,
            (None, None) => Ok(()),
        }
    }

    /// Makes sure that the log has what the receipt is of, and answers whether it has this event at this position.
    /// Both take one read.
    async fn compare(&self, receipt: Receipt, point: LogPoint) -> Result<(Head, bool), ReadError> {
        let (partition, wanted) = (receipt.partition(), receipt.position());
        if partition.get() >= self.log.capabilities().partitions {
            return Err(ReadError::ForeignReceipt);
        }
        let (first, second) = (wanted.min(point.position), wanted.max(point.position));
        let slice = self.points(partition, first, second).await?;
        let at_second = slice.read_to_event.filter(|_| slice.read_to == second);
        let (at_receipt, at_point) = match wanted <= point.position {
            true => (slice.after_event, at_second),
            false => (at_second, slice.after_event),
        };
        if !receipt.is_of(slice.head.log) {
            return Err(ReadError::ForeignReceipt);
        }
        if !receipt.is_of_event(at_receipt) {
            return Err(ReadError::LostReceipt { position: wanted, head: slice.head.position });
        }
        Ok((slice.head, point.position <= slice.head.position && point.agrees(at_point)))
    }

    /// Makes sure that documents are of this log's history. Documents in the log's own store are rewound together with
    /// it, so there once a second is enough. While the log cannot be read, they can.
    async fn check_history(&self, follower: &Follower) -> Result<(), ReadError> {
        if !self.are_documents_apart && follower.was_checked() {
            return Ok(());
        }
        match Box::pin(follower.check_all(self)).await {
            Ok(()) => {
                follower.note_checked();
                Ok(())
            }
            Err(Trouble::Fault(fault)) => Err(stopped(follower, Partition::ONLY, fault)),
            Err(Trouble::Store(_) | Trouble::Fenced | Trouble::Standby(_)) => Ok(()),
        }
    }

    async fn wait_for(
        &self,
        follower: &Follower,
        receipt: Receipt,
        timeout: Duration,
    ) -> Result<(), ReadError> {
        let (partition, wanted) = (receipt.partition(), receipt.position());
        let reached = async {
            // What this engine's follower has committed is in memory. An inline projection is moved by appends, and
            // one that runs elsewhere by another engine.
            let point = match self.runs {
                Runs::Background | Runs::OnDemand if !follower.is_inline() => {
                    follower.watch().borrow().point(partition)
                }
                _ => point(self.documents.checkpoint(follower.name(), partition).await?),
            };
            let (head, is_there) = self.compare(receipt, point).await?;
            if !is_there {
                // In memory it may be old.
                let checked = Box::pin(follower.check_all(self)).await;
                checked.map_err(|trouble| troubled(follower, partition, trouble))?;
            }
            if is_there && point.position >= wanted {
                return Ok(());
            }
            match self.runs {
                Runs::Background | Runs::Elsewhere => self.watch(follower, head.log, receipt).await,
                Runs::OnDemand => self.drive(follower, receipt).await,
            }
        };
        match timer::timeout(timeout, reached).await {
            Some(end) => end,
            None => Err(self.behind(follower, receipt).await),
        }
    }

    /// Why a projection has not come as far as the receipt.
    async fn behind(&self, follower: &Follower, receipt: Receipt) -> ReadError {
        // Whoever moves it, this program may know why it does not move.
        let standby = async {
            follower.renew(self).await?;
            follower.standby(self).await
        };
        match timer::timeout(LAST_LOOK, standby).await {
            Some(Ok(Some(event))) => standby_before(follower, receipt, event),
            Some(Ok(None) | Err(_)) | None => behind(follower, receipt),
        }
    }

    /// Waits until the background has got there, in this process or another.
    async fn watch(&self, follower: &Follower, log: LogId, receipt: Receipt) -> Result<(), ReadError> {
        let (partition, wanted) = (receipt.partition(), receipt.position());
        let mut progress = follower.watch();
        let settled = |progress: &Progress| {
            progress.on(partition) >= wanted || matches!(progress.state, ConsumerState::Stopped(_))
        };
        let mut looks = Backoff::new(LOOK);
        let mut stands = None;
        // It is moved by appends and not by its follower.
        let mut seen = if follower.is_inline() { Some(progress.borrow().clone()) } else { None };
        loop {
            if seen.is_none() {
                let settled = timer::timeout(looks.next(), progress.wait_for(settled)).await;
                seen = settled.and_then(Result::ok).map(|seen| seen.clone());
            }
            if seen.as_ref().is_some_and(|seen| seen.on(partition) >= wanted) {
                return Ok(());
            }
            // What stopped this process's follower may be no trouble to a newer program's.
            let stored = self.documents.checkpoint(follower.name(), partition).await?;
            // One of another log, at whatever position, says nothing.
            let stored = stored.filter(|stored| stored.log == log);
            if let Some(checkpoint) = stored.filter(|stored| stored.position >= wanted) {
                let checked = check(self, partition, checkpoint).await;
                return checked.map_err(|trouble| troubled(follower, partition, trouble));
            }
            let stored = stored.map(|stored| stored.position);
            if let Some(ConsumerState::Stopped(fault)) = seen.as_ref().map(|seen| &seen.state) {
                return Err(stopped(follower, partition, fault.clone()));
            }
            seen = None;
            // Nobody here moves it any more: wait only as long as somebody elsewhere does.
            let (gone, standby) = match &*progress.borrow() {
                Progress { state: ConsumerState::StandbyBefore(event), .. } => (true, Some(event.clone())),
                Progress { gone, .. } => (*gone, None),
            };
            if gone {
                match stands {
                    Some((at, since)) if at == stored && Instant::now() - since >= STILL => {
                        return Err(match standby {
                            Some(event) => standby_before(follower, receipt, event),
                            None => behind(follower, receipt),
                        });
                    }
                    Some((at, _)) if at == stored => {}
                    _ => stands = Some((stored, Instant::now())),
                }
            }
        }
    }

    /// Gets there itself, in an engine whose projections do not run in the background.
    async fn drive(&self, follower: &Follower, receipt: Receipt) -> Result<(), ReadError> {
        let partition = receipt.partition();
        follower.reach(self, partition, receipt.position()).await.map_err(|error| match error {
            CatchUpError::Stopped { fault, .. } => stopped(follower, partition, fault),
            CatchUpError::Standby { event, .. } => standby_before(follower, receipt, event),
            CatchUpError::Store { source, .. } => ReadError::Store(source),
        })?;
        // The end of the log may lie before the receipt, if it was made up or the log rewound.
        let reached = follower.watch().borrow().on(partition) >= receipt.position();
        if reached { Ok(()) } else { Err(behind(follower, receipt)) }
    }
}

fn stopped(follower: &Follower, partition: Partition, fault: ConsumerFault) -> ReadError {
    // A follower that has not claimed the projection yet knows no checkpoint.
    let position = match fault {
        ConsumerFault::Rewound { checkpoint, .. } => checkpoint,
        _ => follower.watch().borrow().on(partition),
    };
    ReadError::Stopped { projection: follower.name(), position, fault }
}

fn troubled(follower: &Follower, partition: Partition, trouble: Trouble) -> ReadError {
    match trouble {
        Trouble::Fault(fault) => stopped(follower, partition, fault),
        Trouble::Store(error) => ReadError::Store(error),
        // Nothing here writes, so nothing is fenced.
        Trouble::Fenced | Trouble::Standby(_) => behind_on(follower, partition, Position::START),
    }
}

fn standby_before(follower: &Follower, receipt: Receipt, event: Arc<UnsharedEvent>) -> ReadError {
    let position = follower.watch().borrow().on(receipt.partition());
    ReadError::Standby { projection: follower.name(), position, wanted: receipt.position(), event }
}

fn behind(follower: &Follower, receipt: Receipt) -> ReadError {
    behind_on(follower, receipt.partition(), receipt.position())
}

fn behind_on(follower: &Follower, partition: Partition, wanted: Position) -> ReadError {
    let progress = follower.watch().borrow().clone();
    let trouble = match &progress.state {
        _ if progress.gone => Some("its follower here has ended, and no other moves it".to_owned()),
        ConsumerState::Retrying(why) => Some(why.clone()),
        ConsumerState::Following
        | ConsumerState::Standby
        | ConsumerState::StandbyBefore(_)
        | ConsumerState::Stopped(_)
        | ConsumerState::Ended => None,
    };
    let position = progress.on(partition);
    ReadError::Behind { projection: follower.name(), position, wanted, trouble }
}
