//! A few connections that many share: what is asked at once travels together, and is answered in turn.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Mutex;

use crate::error::Fault;
use crate::open::{Conn, Place, Role};
use crate::schema::Meta;

#[derive(Debug)]
pub(crate) struct Lanes {
    place: Arc<Place>,
    meta: Meta,
    role: Role,
    lanes: Vec<Arc<Lane>>,
}

#[derive(Debug, Default)]
struct Lane {
    conn: Mutex<Option<Arc<Conn>>>,
    busy: AtomicUsize,
}

impl Lanes {
    pub(crate) fn new(place: Arc<Place>, meta: Meta, role: Role, count: usize) -> Self {
        Self { place, meta, role, lanes: (0..count.max(1)).map(|_| Arc::default()).collect() }
    }

    /// Does something on the connection that has the least to do; once more on another one if it turns out
    /// to be lost, since a reader takes no harm from asking twice. A server that was away has left all of them
    /// behind, and each may still look well.
    pub(crate) async fn read<T, F>(&self, work: impl Fn(Share) -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let mut left = self.lanes.len();
        loop {
            match work(self.share().await?).await {
                Err(fault) if fault.ends_connection() && left > 0 => left -= 1,
                done => return done,
            }
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.lanes.len()
    }

    /// The connection that has the least to do; a new one if there is none yet or it was lost.
    pub(crate) async fn share(&self) -> Result<Share, Fault> {
        let Some(lane) = self.lanes.iter().min_by_key(|lane| lane.busy.load(Ordering::Relaxed)) else {
            return Err(Fault::corrupt("there is no connection"));
        };
        lane.busy.fetch_add(1, Ordering::Relaxed);
        let busy = Busy(Arc::clone(lane));
        let mut there = lane.conn.lock().await;
        if let Some(conn) = there.as_ref().filter(|conn| !conn.client.is_closed()) {
            return Ok(Share { conn: Arc::clone(conn), _busy: busy });
        }
        *there = None;
        let conn = Arc::new(self.place.connect(self.role, self.meta).await?);
        *there = Some(Arc::clone(&conn));
        Ok(Share { conn, _busy: busy })
    }
}

/// A connection that others use as well.
#[derive(Debug)]
pub(crate) struct Share {
    conn: Arc<Conn>,
    _busy: Busy,
}

impl Deref for Share {
    type Target = Conn;

    fn deref(&self) -> &Conn {
        &self.conn
    }
}

/// Counts one that is under way, until it is dropped.
#[derive(Debug)]
struct Busy(Arc<Lane>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Connections that one uses at a time.
#[derive(Debug, Default)]
pub(crate) struct Alone(std::sync::Mutex<Vec<Conn>>);

/// More than this are closed when they are put back.
const KEPT: usize = 2;

impl Alone {
    pub(crate) fn take(&self) -> Option<Conn> {
        let mut all = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        all.retain(|conn| !conn.client.is_closed());
        all.pop()
    }

    pub(crate) fn put(&self, conn: Conn) {
        let mut all = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if all.len() < KEPT {
            all.push(conn);
        }
    }
}
