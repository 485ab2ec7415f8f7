//! A few connections that many share: what is asked at once travels together, and is answered in turn.

use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cqrs_core::error::StoreErrorKind;
use cqrs_core::store::BoxFuture;
use futures_util::FutureExt as _;
use futures_util::future::Shared;

use crate::drive::{Kept, Lent};
use crate::error::Fault;
use crate::open::{Conn, Place, Role};
use crate::schema::Meta;

#[derive(Debug)]
pub(crate) struct Lanes {
    place: Arc<Place>,
    meta: Meta,
    role: Role,
    lanes: Vec<Lane>,
    uses: Uses,
}

/// A connection and its work, once somebody has asked for it.
type Lane = Mutex<Option<Opening>>;

type Opened = (Arc<Conn>, Arc<Kept>);

/// Several may wait for it, and none has to be there for it to be opened.
type Opening = Shared<BoxFuture<'static, Result<Opened, Fault>>>;

impl Lanes {
    pub(crate) fn new(place: Arc<Place>, meta: Meta, role: Role, count: usize) -> Self {
        let count = count.max(1);
        let lanes = (0..count).map(|_| Lane::default()).collect();
        Self { place, meta, role, lanes, uses: Uses::new(count) }
    }

    /// Does something on a connection; once more on another one if it turns out to be lost, since a reader
    /// takes no harm from asking twice. A server that was away has left all of them behind, and each may still
    /// look well.
    pub(crate) async fn read<T, F>(&self, work: impl Fn(Share) -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let mut left = self.lanes.len();
        loop {
            let (share, mut lent) = self.lend().await?;
            match lent.along(work(share)).await {
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
        self.connected(self.uses.share()).await.map(|(share, _)| share)
    }

    /// A connection that nobody else uses meanwhile, with its work, as long as there is little to do; else as
    /// [`share`](Self::share), and with nothing to do along.
    pub(crate) async fn lend(&self) -> Result<(Share, Lent), Fault> {
        let used = self.uses.lend();
        let alone = used.alone;
        let (share, kept) = self.connected(used).await?;
        let lent = if alone { kept.lend() } else { Lent::nothing() };
        Ok((share, lent))
    }

    async fn connected(&self, used: Used) -> Result<(Share, Arc<Kept>), Fault> {
        let Some(lane) = self.lanes.get(used.lane) else {
            return Err(Fault::corrupt("there is no connection"));
        };
        let opening = {
            let mut there = lane.lock().unwrap_or_else(PoisonError::into_inner);
            let is_gone = |opening: &Opening| match opening.peek() {
                Some(Ok((conn, _))) => conn.client.is_closed(),
                Some(Err(_)) => true,
                None => false,
            };
            let found = there.take().filter(|opening| !is_gone(opening));
            there.insert(found.unwrap_or_else(|| self.open())).clone()
        };
        let (conn, kept) = opening.await?;
        Ok((Share { conn, _used: used }, kept))
    }

    /// Opens a connection in a task of its own: whoever wants it may not be polled any more, and others wait.
    fn open(&self) -> Opening {
        let (place, role, meta) = (Arc::clone(&self.place), self.role, self.meta);
        let opening = tokio::spawn(async move {
            let (conn, drive) = place.connect_driven(role, meta).await?;
            Ok((Arc::new(conn), Kept::new(drive)))
        });
        let stopped = |_| Fault::new(StoreErrorKind::Failed, "the task that connects has stopped");
        async move { opening.await.map_err(stopped)? }.boxed().shared()
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

/// Who uses which lane. One that is used alone is served by whoever has it, so nobody else waits there. The
/// first is never used alone: there is always one where all find room, whatever becomes of those who are
/// alone.
#[derive(Clone, Debug)]
struct Uses(Arc<Mutex<Vec<Use>>>);

#[derive(Clone, Copy, Debug, Default)]
struct Use {
    busy: usize,
    alone: bool,
}

impl Uses {
    fn new(lanes: usize) -> Self {
        Self(Arc::new(Mutex::new(vec![Use::default(); lanes])))
    }

    fn all(&self) -> MutexGuard<'_, Vec<Use>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lane that has the least to do, of those that can be shared.
    fn share(&self) -> Used {
        let mut all = self.all();
        let shared = all.iter_mut().enumerate().filter(|(_, each)| !each.alone);
        let least = shared.min_by_key(|(_, each)| each.busy);
        let lane = least.map_or(0, |(lane, each)| {
            each.busy += 1;
            lane
        });
        drop(all);
        Used { of: self.clone(), lane, alone: false }
    }

    /// A lane for one alone. Where many read, what is asked at once travels together on all lanes, which is
    /// more in all than what as many can ask one after the other.
    fn lend(&self) -> Used {
        let mut all = self.all();
        let is_calm = all.iter().map(|each| each.busy).sum::<usize>() + 1 < all.len();
        let idle = all.iter_mut().enumerate().skip(1).find(|(_, each)| is_calm && each.busy == 0);
        let lane = idle.map(|(lane, each)| {
            *each = Use { busy: 1, alone: true };
            lane
        });
        drop(all);
        lane.map_or_else(|| self.share(), |lane| Used { of: self.clone(), lane, alone: true })
    }
}

/// The use of a lane, until this is dropped.
#[derive(Debug)]
struct Used {
    of: Uses,
    lane: usize,
    alone: bool,
}

impl Drop for Used {
    fn drop(&mut self) {
        if let Some(each) = self.of.all().get_mut(self.lane) {
            *each = Use { busy: each.busy.saturating_sub(1), alone: false };
        }
    }
}

/// Connections that one uses at a time.
#[derive(Debug, Default)]
pub(crate) struct Alone(Mutex<Vec<Conn>>);

/// More than this are closed when they are put back.
const KEPT: usize = 2;

impl Alone {
    pub(crate) fn take(&self) -> Option<Conn> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|conn| !conn.client.is_closed());
        all.pop()
    }

    pub(crate) fn put(&self, conn: Conn) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() < KEPT {
            all.push(conn);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lanes(used: &[Used]) -> Vec<(usize, bool)> {
        used.iter().map(|used| (used.lane, used.alone)).collect()
    }

    #[test]
    fn few_are_alone_and_more_find_room_on_the_first_lane() {
        let uses = Uses::new(4);
        let mut all: Vec<Used> = (0..6).map(|_| uses.lend()).collect();
        let alone = [(1, true), (2, true), (3, true)];
        assert_eq!(lanes(&all), [&alone[..], &[(0, false); 3]].concat());
        // Whoever shares is never sent to one that is used alone.
        assert_eq!(uses.share().lane, 0);
        all.remove(1);
        // Many are there still, so the lane that is free is shared.
        let more = [uses.lend(), uses.share()];
        assert_eq!(lanes(&more), [(2, false), (2, false)]);
        drop((all, more));
        assert_eq!(lanes(&[uses.lend()]), [(1, true)]);
        assert!(uses.all().iter().all(|each| each.busy == 0 && !each.alone));
    }

    #[test]
    fn the_only_lane_is_never_used_alone() {
        let uses = Uses::new(1);
        assert_eq!(lanes(&[uses.lend(), uses.lend()]), [(0, false), (0, false)]);
    }
}
