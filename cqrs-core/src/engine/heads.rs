//! The log's heads, which one follower looks at for all of an engine.
//!
//! A follower at the end of the log waits here. One of those that wait, whichever is first, asks the store and
//! shows the others what it has found. So an idle engine asks the store as often with thirty projections as with
//! one.

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{Mutex, watch};

use super::follow::{Backoff, race};
use crate::error::StoreError;
use crate::id::{Partition, Position};
use crate::store::{EventStore, Head};
use crate::timer;

/// The time for which the store's `wait` is trusted before the heads are read: from the first time to the last, doubling while
/// nothing happens. Without a `wait`, the heads are read as often as at first.
const POLL: Duration = Duration::from_millis(500);
const IDLE: (Duration, Duration) = (POLL, Duration::from_secs(10));
/// Between two looks at a store whose `wait` returns without news: from the first to the last, doubling.
const EARLY: (Duration, Duration) = (Duration::from_millis(20), POLL);

/// The heads as they were read last.
pub(super) struct Heads {
    seen: watch::Sender<Seen>,
    /// Held by the follower that asks the store.
    looking: Mutex<()>,
}

#[derive(Clone, Default)]
struct Seen {
    /// By the number of the partition.
    heads: Vec<Option<Head>>,
    /// How often something was seen that is not growth: another log, a shorter one, another last event, or a
    /// store that fails. Each follower then looks at the log by itself, and reports what it finds.
    disturbances: u64,
}

impl Seen {
    fn position(&self, partition: usize) -> Position {
        self.heads.get(partition).copied().flatten().map_or(Position::START, |head| head.position)
    }

    fn show(&mut self, partition: usize, read: &Result<Head, StoreError>) -> bool {
        let Some(known) = self.heads.get_mut(partition) else { return false };
        let Ok(head) = read else {
            self.disturbances += 1;
            return true;
        };
        let before = known.replace(*head);
        let grown = before.is_none_or(|before| before.log == head.log && before.position < head.position);
        if !grown && before != Some(*head) {
            self.disturbances += 1;
        }
        before != Some(*head)
    }
}

impl Heads {
    pub(super) fn new(partitions: u16) -> Self {
        let heads = vec![None; usize::from(partitions)];
        Self { seen: watch::Sender::new(Seen { heads, disturbances: 0 }), looking: Mutex::new(()) }
    }

    /// How often the log was found disturbed. A follower asks before it looks at the log.
    pub(super) fn disturbances(&self) -> u64 {
        self.seen.borrow().disturbances
    }

    /// Has each follower look at the log and at its checkpoint again.
    pub(super) fn disturb(&self) {
        self.seen.send_modify(|seen| seen.disturbances += 1);
    }

    /// Waits until a partition has grown beyond what the caller has reached, or was disturbed `since`.
    pub(super) async fn news(&self, log: &dyn EventStore, reached: &[Position], since: u64) {
        let is_news = |seen: &Seen| {
            let grown = |(partition, reached)| seen.position(partition) > reached;
            seen.disturbances != since || reached.iter().copied().enumerate().any(grown)
        };
        let mut seen = self.seen.subscribe();
        let shown = async {
            // It gives no error, for the sender is here.
            let _ = seen.wait_for(is_news).await;
        };
        let looking = async {
            let _one = self.looking.lock().await;
            self.look(log, is_news).await;
        };
        race(shown, looking).await;
    }

    async fn look(&self, log: &dyn EventStore, is_news: impl Fn(&Seen) -> bool) {
        let (mut early, mut idle) = (Backoff::new(EARLY), Backoff::new(IDLE));
        while !is_news(&self.seen.borrow()) {
            let after = self.seen.borrow().clone();
            let partitions = 0..after.heads.len();
            let wait = |partition: usize| log.wait(named(partition), after.position(partition));
            let mut waits: Vec<_> =
                partitions.clone().map(|partition| (partition, wait(partition))).collect();
            let mut grown = Vec::new();
            // The waits go on while the heads are read now and then, because the store may not be able to wait.
            loop {
                let pause = if waits.len() < after.heads.len() { POLL } else { idle.next() };
                let waiting = async {
                    std::future::poll_fn(|cx| {
                        waits.retain_mut(|(partition, wait)| match wait.as_mut().poll(cx) {
                            Poll::Pending => true,
                            Poll::Ready(Ok(())) => {
                                grown.push(*partition);
                                false
                            }
                            Poll::Ready(Err(_)) => false,
                        });
                        if grown.is_empty() { Poll::Pending } else { Poll::Ready(()) }
                    })
                    .await;
                };
                let woken = {
                    let waiting = pin!(waiting);
                    race(waiting, timer::sleep(pause)).await
                };
                let some =
                    if grown.is_empty() { partitions.clone().collect() } else { std::mem::take(&mut grown) };
                let moved = self.read(log, some).await;
                if is_news(&self.seen.borrow()) {
                    return;
                }
                match woken.is_first() {
                    // Nothing, or nothing that this follower did not know.
                    true if !moved => timer::sleep(early.next()).await,
                    true => {}
                    false => continue,
                }
                break;
            }
        }
    }

    /// Reads the heads of some partitions and shows them; answers whether anything is new.
    async fn read(&self, log: &dyn EventStore, partitions: Vec<usize>) -> bool {
        let mut moved = false;
        for partition in partitions {
            let head = log.head(named(partition)).await;
            moved |= self.seen.send_if_modified(|seen| seen.show(partition, &head));
        }
        moved
    }
}

fn named(partition: usize) -> Partition {
    Partition::new(u16::try_from(partition).unwrap_or(u16::MAX))
}
