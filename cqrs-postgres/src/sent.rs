//! Groups on their way: one is sent while the server still writes the one before.
//!
//! The server carries out in turn what is sent on a connection, so between two groups it need not wait until
//! this process has heard of the one and sent the other. Who is sent behind another is decided on the log as the
//! one before is about to leave it, and written only if its streams end with the very events that it was decided
//! on.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use cqrs_core::store::{Append, BoxFuture};
use futures_util::future;
use tokio_postgres::error::SqlState;

use crate::append::{self, Facts, Ground, Outcome, Rows, Target, Written};
use crate::error::Fault;
use crate::inline::{Effects, Held};
use crate::known::Shared;
use crate::limit::within;
use crate::open::Conn;
use crate::plain::{self, Plain};
use crate::writer::Job;

/// A group that is on its way.
pub(crate) struct Sent {
    pub(crate) size: usize,
    landing: BoxFuture<'static, Landed>,
}

/// A group that was on its way, and what came of it.
pub(crate) struct Landed {
    pub(crate) group: Vec<Job>,
    /// What it was sent on.
    pub(crate) conn: Arc<Conn>,
    pub(crate) came: Came,
}

/// What comes of a group that is sent.
pub(crate) enum Came {
    /// It is written; the last event is at this position.
    Written(Vec<Outcome>, i64),
    /// The same, but for those whose streams have moved. Some of them may have to be tried in another way.
    Partly(Vec<Option<Outcome>>, i64),
    /// It was not sent, because it asks for more than can be assumed.
    NotSent,
    /// Nothing was written: something of what it rests on does not hold.
    Moved,
    Failed(Fault),
}

/// How a group is written.
enum Way<'a> {
    /// With a plain statement.
    Plainly(Plain<'a>),
    /// With the function `append_group`, given the block of the index of names that has its names.
    ByFunction(Option<i64>),
    /// Not at all: there is nothing to write, and what was asked is looked up.
    Nothing,
}

/// Sends a group, behind another one or alone. Gives it back if it cannot be sent so.
pub(crate) async fn send(
    conn: Arc<Conn>,
    to: Target,
    known: Shared,
    floor: i64,
    group: Vec<Job>,
    limit: Duration,
) -> Result<Sent, Vec<Job>> {
    let size = group.len();
    let mut landing: BoxFuture<'static, Landed> = Box::pin(fly(conn, to, known, floor, group, limit));
    // It is sent when it is first polled.
    match future::poll_fn(|context| Poll::Ready(landing.as_mut().poll(context))).await {
        Poll::Ready(Landed { group, came: Came::NotSent, .. }) => Err(group),
        Poll::Ready(landed) => Ok(Sent { size, landing: Box::pin(future::ready(landed)) }),
        Poll::Pending => Ok(Sent { size, landing }),
    }
}

impl Sent {
    /// Waits until it has landed. May be dropped and called again, until it has.
    pub(crate) fn landed(&mut self) -> Pin<&mut (dyn Future<Output = Landed> + Send)> {
        self.landing.as_mut()
    }
}

async fn fly(
    conn: Arc<Conn>,
    to: Target,
    known: Shared,
    floor: i64,
    group: Vec<Job>,
    limit: Duration,
) -> Landed {
    let appends: Vec<&Append> = group.iter().map(Job::append).collect();
    let came = written(&conn, &to, &known, floor, &appends, limit).await;
    drop(appends);
    Landed { group, conn, came }
}

async fn written(
    conn: &Conn,
    to: &Target,
    shared: &Shared,
    floor: i64,
    group: &[&Append],
    limit: Duration,
) -> Came {
    let (mut facts, mut outcomes, mut rows, way) = {
        let mut known = shared.lock();
        let Some(mut facts) = Facts::assumed(group, to, &known) else { return Came::NotSent };
        let none = Held::default();
        let (outcomes, rows) = append::decide(&mut facts, &mut Effects::new(&none), group);
        let way = match rows.plain(&known, floor) {
            _ if rows.is_empty() => Way::Nothing,
            Some(plain) => Way::Plainly(plain),
            None => Way::ByFunction(known.block_with(rows.names.iter().copied())),
        };
        // From now on it is taken to be written. If that turns out to be wrong, it is forgotten.
        if let Some((position, _)) = facts.end() {
            facts.remember(&mut known, position);
        }
        (facts, outcomes, rows, way)
    };
    let writing = async {
        match way {
            Way::Plainly(plain) => {
                let done = rows.write_plainly(conn, to, &plain).await;
                let in_vain = match &done {
                    Ok(start) => start.is_none(),
                    Err(fault) => fault.is(&SqlState::UNIQUE_VIOLATION),
                };
                if in_vain {
                    // Somebody else has written, which need not concern any of these: all is looked up.
                    shared.lock().plainly_in_vain();
                    rows.end = None;
                    by_function(conn, to, shared, group, &rows, (None, floor)).await
                } else {
                    done.map(|start| start.map(Written::from))
                }
            }
            Way::ByFunction(block) => by_function(conn, to, shared, group, &rows, (block, floor)).await,
            Way::Nothing => facts.check(conn, to, floor).await.map(|start| start.map(Written::from)),
        }
    };
    let done = within(limit, "append", writing).await;
    let mut known = shared.lock();
    match done {
        Ok(Some(written)) => {
            let Written { start, moved } = &written;
            known.end_was(start.as_known && moved.is_empty());
            if !moved.is_empty() {
                facts.leave_out(moved, &mut known);
            }
            if !(start.as_known && moved.is_empty()) {
                facts.remember(&mut known, start.position);
            }
            let head = start.position + facts.head();
            if moved.is_empty() {
                append::shift(&mut outcomes, *start);
                return Came::Written(outcomes, head);
            }
            Came::Partly(append::left_out(group, outcomes, &written), head)
        }
        done => {
            known.end_was_another();
            facts.forget(&mut known);
            match done {
                Err(fault) if !fault.is(&SqlState::UNIQUE_VIOLATION) => Came::Failed(fault),
                _ => Came::Moved,
            }
        }
    }
}

/// What a plain statement needs to know is asked on the way, as soon as the next one could be plain.
async fn by_function<'a>(
    conn: &Conn,
    to: &Target,
    known: &Shared,
    group: &[&Append],
    rows: &Rows<'a>,
    (block, floor): (Option<i64>, i64),
) -> Result<Option<Written<'a>>, Fault> {
    let ground = match group.iter().all(|append| append::only_stream(append).is_some()) {
        true => Ground::EachForItself,
        false => Ground::Assumed,
    };
    let write = rows.write(conn, to, ground, block, floor);
    if !known.lock().lacks_fenced() {
        return write.await;
    }
    let (written, fenced) = future::join(write, plain::fenced(conn)).await;
    // It is no part of what was written, which stands whatever became of the question. It is asked again.
    match fenced {
        Ok(fenced) => known.lock().remember_fenced(fenced),
        Err(fault) => {
            tracing::debug!(error = %fault, "cannot read the sequence of fences; appending without the fast path");
        }
    }
    written
}
