//! Connections that many callers share: statements sent at the same time are pipelined and answered in turn.
//!
//! Whatever uses a shared connection runs in a task that the store owns, to its end and within a time limit.
//! A caller's future only waits for that task. So a future that was polled once and is then left alone keeps no
//! connection, and no answer that nobody takes off the connection stops the answers to others.

use std::ops::Deref;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use cqrs_core::error::StoreErrorKind;
use cqrs_core::store::BoxFuture;
use futures_util::FutureExt as _;
use futures_util::future::Shared;
use tokio::task::JoinHandle;

use crate::error::Fault;
use crate::limit::within;
use crate::open::{Conn, Link, Place, Role};
use crate::schema::Meta;

/// A fixed number of shared connections, each opened when it is first needed. Other stores on the same server use
/// them as well.
#[derive(Debug)]
pub(crate) struct Lanes {
    place: Arc<Place>,
    meta: Meta,
    role: Role,
    lanes: Arc<[Lane]>,
}

/// A shared connection.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    opening: Mutex<Option<Opening>>,
    busy: Arc<AtomicUsize>,
}

/// Several callers may wait for a connection, and none of them has to stay for it to be opened.
type Opening = Shared<BoxFuture<'static, Result<Arc<Link>, Fault>>>;

impl Lanes {
    pub(crate) fn new(place: Arc<Place>, meta: Meta, role: Role, lanes: &Arc<[Lane]>) -> Arc<Self> {
        let lanes = Arc::clone(lanes);
        Arc::new(Self { place, meta, role, lanes })
    }

    /// Runs a read in a task. If its connection turns out to be lost, the read is repeated on another one: after
    /// an outage each of them may be lost and not yet know it.
    pub(crate) fn read<T, F>(
        self: &Arc<Self>,
        doing: &'static str,
        work: impl Fn(Share) -> F + Send + Sync + 'static,
    ) -> Running<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Fault>> + Send + 'static,
    {
        let lanes = Arc::clone(self);
        self.place.run(async move {
            let mut left = lanes.lanes.len();
            loop {
                match lanes.once(doing, &work).await {
                    Err(fault) if fault.ends_connection() && !fault.is_timeout() && left > 0 => {
                        tracing::debug!(doing, error = %fault, "lost a connection while reading; trying another one");
                        left -= 1;
                    }
                    done => return done,
                }
            }
        })
    }

    /// Runs a write in a task, once.
    pub(crate) fn write<T, F>(
        self: &Arc<Self>,
        doing: &'static str,
        work: impl FnOnce(Share) -> F + Send + 'static,
    ) -> Running<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Fault>> + Send + 'static,
    {
        let lanes = Arc::clone(self);
        self.place.run(async move { lanes.once(doing, work).await })
    }

    async fn once<T, F>(&self, doing: &'static str, work: impl FnOnce(Share) -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let share = self.share().await?;
        let conn = Arc::clone(&share.conn);
        let done = within(self.place.timeouts.client(), doing, Box::pin(work(share))).await;
        if let Err(fault) = &done
            && (fault.is_timeout() || fault.leaves_server())
        {
            tracing::warn!(doing, error = %fault, "giving a connection up");
            conn.give_up();
        }
        done
    }

    /// The connection that has the least to do; a new one if there is none yet or it was lost.
    async fn share(&self) -> Result<Share, Fault> {
        let least = self.lanes.iter().min_by_key(|lane| lane.busy.load(Ordering::SeqCst));
        let lane = least.ok_or_else(|| Fault::corrupt("the store has no connections"))?;
        let used = Used::of(lane);
        let opening = {
            let mut there = lane.opening.lock().unwrap_or_else(PoisonError::into_inner);
            let is_gone = |opening: &Opening| match opening.peek() {
                Some(Ok(conn)) => conn.is_lost(),
                Some(Err(_)) => true,
                None => false,
            };
            let found = there.take().filter(|opening| !is_gone(opening));
            there.insert(found.unwrap_or_else(|| self.open())).clone()
        };
        let conn = self.place.on(opening.await?, self.role, self.meta).await?;
        Ok(Share { conn, _used: used })
    }

    /// Opens a connection in a task: the caller that wants it may go away, and others wait for it.
    fn open(&self) -> Opening {
        let (place, role) = (Arc::clone(&self.place), self.role);
        let opening = self.place.run(async move { place.connect_shared(role).await }).detached();
        opening.boxed().shared()
    }
}

/// A connection that others may use as well.
#[derive(Debug)]
pub(crate) struct Share {
    conn: Arc<Conn>,
    _used: Used,
}

impl Deref for Share {
    type Target = Conn;

    fn deref(&self) -> &Conn {
        &self.conn
    }
}

/// One use of a lane, until this is dropped.
#[derive(Debug)]
struct Used(Arc<AtomicUsize>);

impl Used {
    fn of(lane: &Lane) -> Self {
        lane.busy.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(&lane.busy))
    }
}

impl Drop for Used {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A task of the store. It goes on whether or not this is polled, and is stopped when this is dropped.
#[derive(Debug)]
pub(crate) struct Running<T> {
    task: JoinHandle<Result<T, Fault>>,
    detached: bool,
}

impl<T> Running<T> {
    pub(crate) fn new(task: JoinHandle<Result<T, Fault>>) -> Self {
        Self { task, detached: false }
    }

    /// The same, where dropping it leaves the task running.
    pub(crate) fn detached(mut self) -> Self {
        self.detached = true;
        self
    }
}

impl<T> Future for Running<T> {
    type Output = Result<T, Fault>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let stopped =
            |_| Fault::new(StoreErrorKind::Failed, "a task of the store has stopped with its runtime");
        Pin::new(&mut self.task).poll(context).map(|done| done.map_err(stopped)?)
    }
}

impl<T> Drop for Running<T> {
    fn drop(&mut self) {
        if !self.detached {
            self.task.abort();
        }
    }
}

/// Connections that one caller uses at a time.
#[derive(Debug, Default)]
pub(crate) struct Alone(Mutex<Vec<Conn>>);

/// More than this are closed when they are put back, and all of them where several stores share a few.
const KEPT: usize = 2;

impl Alone {
    pub(crate) fn take(&self) -> Option<Conn> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|conn| !conn.is_lost());
        all.pop()
    }

    pub(crate) fn put(&self, conn: Conn, is_only_store: bool) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_only_store {
            all.clear();
        } else if all.len() < KEPT {
            all.push(conn);
        }
    }
}
