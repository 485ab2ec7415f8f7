//! The read side: documents by key and in pages, and aggregates as they are now.

use std::fmt;
use std::future::IntoFuture;
use std::marker::PhantomData;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::error::ReadError;
use super::execute::fold;
use super::follow::{CatchUpError, ConsumerState, Follower, Progress};
use super::{Engine, Inner};
use crate::aggregate::Aggregate;
use crate::codec::{CodecError, Json};
use crate::event::RecordedEvent;
use crate::id::{Id as _, StreamId, Version};
use crate::projection::Projection;
use crate::receipt::Receipt;
use crate::store::BoxFuture;

/// How long a read waits for a receipt unless it says otherwise.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long a reader trusts this process's own follower to tell it, before it looks at the stored
/// checkpoint: the follower may run in another process.
const LOOK: Duration = Duration::from_millis(100);
/// Documents in one page unless it says otherwise.
const PAGE: usize = 100;

impl Engine {
    /// The document with this key, or `None`.
    ///
    /// ```ignore
    /// let summary = bank.get::<Summary>(&account).after(&receipt).await?;
    /// ```
    pub fn get<P: Projection>(&self, key: &P::Key) -> Get<'_, P> {
        Get { engine: self, key: key.as_text().to_string(), wait: Wait::default(), projection: PhantomData }
    }

    /// A page of a projection's documents, in the order of their keys' text.
    pub fn list<P: Projection>(&self) -> List<'_, P> {
        let (limit, cursor) = (PAGE, None);
        List { engine: self, cursor, limit, wait: Wait::default(), projection: PhantomData }
    }

    /// The current state of an aggregate, folded from its stream.
    ///
    /// # Errors
    /// [`ReadError`] if the store fails or the stream holds an event that does not fold.
    pub async fn load<A: Aggregate>(&self, id: &A::Id) -> Result<Loaded<A>, ReadError> {
        let stream = StreamId::new(A::NAME, id.as_text())?;
        let mut state = A::initial();
        let apply = &mut |events: &[Arc<RecordedEvent>]| fold(&mut state, events);
        let last = self.0.inner.read_behind::<ReadError>(&stream, Version::NONE, apply).await?;
        Ok(Loaded { state, version: last.map_or(Version::NONE, |(version, _)| version) })
    }
}

/// An aggregate's state, and the version it was folded up to.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Loaded<A> {
    /// The state; `None` if it does not exist and nothing but an event can begin it.
    pub state: Option<A>,
    /// The version of the stream, to be expected by the next command.
    pub version: Version,
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

/// A document to be read; await it.
#[must_use = "a document is read when the request is awaited"]
pub struct Get<'e, P> {
    engine: &'e Engine,
    key: String,
    wait: Wait,
    projection: PhantomData<fn() -> P>,
}

/// A page of documents to be read; await it.
#[must_use = "a page is read when the request is awaited"]
pub struct List<'e, P> {
    engine: &'e Engine,
    cursor: Option<Cursor>,
    limit: usize,
    wait: Wait,
    projection: PhantomData<fn() -> P>,
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

impl<'e, P: Projection> IntoFuture for Get<'e, P> {
    type Output = Result<Option<P>, ReadError>;
    type IntoFuture = BoxFuture<'e, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let inner = &self.engine.0.inner;
            inner.ready::<P>(self.wait).await?;
            let found = inner.documents.get(P::NAME, vec![self.key.clone()]).await?;
            let document = found.into_iter().next().flatten();
            document.map(|bytes| read_document(&self.key, &bytes)).transpose()
        })
    }
}

impl<'e, P: Projection> IntoFuture for List<'e, P> {
    type Output = Result<Page<P>, ReadError>;
    type IntoFuture = BoxFuture<'e, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let inner = &self.engine.0.inner;
            inner.ready::<P>(self.wait).await?;
            let after = self.cursor.map(|Cursor(key)| key);
            // One more than wanted tells whether there is a next page.
            let mut found = inner.documents.list(P::NAME, after, self.limit.saturating_add(1)).await?;
            let more = found.len() > self.limit;
            found.truncate(self.limit);
            let next = found.last().filter(|_| more).map(|(key, _)| Cursor(key.clone()));
            let read =
                |(key, bytes): (String, Bytes)| Ok((read_key::<P>(&key)?, read_document(&key, &bytes)?));
            Ok(Page { documents: found.into_iter().map(read).collect::<Result<_, ReadError>>()?, next })
        })
    }
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
    async fn ready<P: Projection>(&self, wait: Wait) -> Result<(), ReadError> {
        if !self.registry.has_projection::<P>() {
            return Err(ReadError::NotRegistered(P::NAME));
        }
        match wait.receipt {
            Some(receipt) => self.wait_for(P::NAME, receipt, wait.timeout).await,
            None => Ok(()),
        }
    }

    async fn wait_for(
        &self,
        projection: &'static str,
        receipt: Receipt,
        timeout: Duration,
    ) -> Result<(), ReadError> {
        let follower = self.followers.get(projection).ok_or(ReadError::NotRegistered(projection))?;
        if receipt.partition().get() >= self.log.capabilities().partitions {
            return Err(ReadError::ForeignReceipt);
        }
        if !receipt.is_of(self.log.head(receipt.partition()).await?.log) {
            return Err(ReadError::ForeignReceipt);
        }
        let reached = async {
            if self.background {
                self.watch(follower, receipt).await
            } else {
                self.drive(follower, receipt).await
            }
        };
        match tokio::time::timeout(timeout, reached).await {
            Ok(end) => end,
            Err(_) => Err(behind(follower, receipt)),
        }
    }

    /// Waits until the background has got there, in this process or another.
    async fn watch(&self, follower: &Follower, receipt: Receipt) -> Result<(), ReadError> {
        let (partition, wanted) = (receipt.partition(), receipt.position());
        let mut progress = follower.watch();
        let settled = |progress: &Progress| {
            progress.on(partition) >= wanted || matches!(progress.state, ConsumerState::Stopped(_))
        };
        loop {
            let seen = tokio::time::timeout(LOOK, progress.wait_for(settled)).await;
            let seen = seen.ok().and_then(Result::ok).map(|seen| seen.clone());
            if seen.as_ref().is_some_and(|seen| seen.on(partition) >= wanted) {
                return Ok(());
            }
            // What stopped this process's follower may be no trouble to a newer program's.
            let stored = self.documents.checkpoint(follower.name(), partition).await?;
            if stored.is_some_and(|checkpoint| checkpoint.position >= wanted) {
                return Ok(());
            }
            if let Some(ConsumerState::Stopped(fault)) = seen.as_ref().map(|seen| &seen.state) {
                let (projection, fault) = (follower.name(), fault.clone());
                let position = progress.borrow().on(partition);
                return Err(ReadError::Stopped { projection, position, fault });
            }
        }
    }

    /// Gets there itself, in an engine whose projections do not run in the background.
    async fn drive(&self, follower: &Follower, receipt: Receipt) -> Result<(), ReadError> {
        let partition = receipt.partition();
        follower.reach(self, partition, receipt.position()).await.map_err(|error| match error {
            CatchUpError::Stopped { projection, fault } => {
                let position = follower.watch().borrow().on(partition);
                ReadError::Stopped { projection, position, fault }
            }
            CatchUpError::Store { source, .. } => ReadError::Store(source),
        })?;
        // The end of the log may lie before the receipt, if it was made up or the log rewound.
        let reached = follower.watch().borrow().on(partition) >= receipt.position();
        if reached { Ok(()) } else { Err(behind(follower, receipt)) }
    }
}

fn behind(follower: &Follower, receipt: Receipt) -> ReadError {
    let progress = follower.watch().borrow().clone();
    let trouble = match &progress.state {
        ConsumerState::Retrying(why) => Some(why.clone()),
        ConsumerState::Following | ConsumerState::Standby | ConsumerState::Stopped(_) => None,
    };
    let (position, wanted) = (progress.on(receipt.partition()), receipt.position());
    ReadError::Behind { projection: follower.name(), position, wanted, trouble }
}
