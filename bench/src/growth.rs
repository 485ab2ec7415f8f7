//! Logs whose appends are guarded by a query of tags, to see what a guard costs as the log grows.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::contender::{About, Contender, Place};

/// A log. Each event has a tag that all have and one of a thousand; a guarded append adds a tag of its own,
/// under the condition that no event has both the common one and that.
pub trait Log: Sized + Send + Sync + 'static {
    fn about() -> About;

    /// Opens it in an empty place.
    fn open(place: &Place) -> impl Future<Output = anyhow::Result<Self>> + Send;

    /// Lets it grow to so many events by the quickest way that it has, as far as the time allows, and says
    /// how many there are.
    fn grow(&mut self, events: u64, time: Duration) -> impl Future<Output = anyhow::Result<u64>> + Send;

    /// Appends an event with a tag of this number, unless there is one; says whether it did.
    fn append(&mut self, number: u64) -> impl Future<Output = anyhow::Result<bool>> + Send;

    /// How many events are stored, by a count of its own.
    fn stored(&self) -> impl Future<Output = anyhow::Result<u64>> + Send;

    /// How many were acknowledged.
    fn expected(&self) -> u64;
}

/// Over how many streams the events are spread, where a log has streams.
pub const STREAMS: u64 = 50_000;

pub const PAYLOAD: &[u8] = br#"{"cents":12345,"reference":"invoice 2026-11-0042 of the northern branch, paid in cash at the counter, thank you very much"}"#;

/// The tag that all events have.
pub fn common() -> String {
    "all:1".to_owned()
}

/// One of a thousand.
pub fn some(number: u64) -> String {
    format!("some:{}", number % 1_000)
}

/// A tag of its own.
pub fn own(number: u64) -> String {
    format!("own:{number}")
}

/// A contender whose commands are guarded by tags themselves: its log grows by accounts that are opened, each
/// of which is one event under the condition that no event has the account's tag.
pub struct ByCommands<C> {
    contender: Arc<C>,
    events: u64,
}

impl<C: Contender> Log for ByCommands<C> {
    fn about() -> About {
        C::about()
    }

    async fn open(place: &Place) -> anyhow::Result<Self> {
        Ok(Self { contender: Arc::new(C::open(place).await?), events: 0 })
    }

    async fn grow(&mut self, events: u64, time: Duration) -> anyhow::Result<u64> {
        let begun = Instant::now();
        let next = Arc::new(AtomicU64::new(self.events));
        let open = |_| {
            let (contender, next) = (Arc::clone(&self.contender), Arc::clone(&next));
            tokio::spawn(async move {
                let mut opened = 0;
                while begun.elapsed() < time {
                    let account = next.fetch_add(1, Ordering::Relaxed);
                    if account >= events {
                        break;
                    }
                    contender.open_account(account).await?;
                    opened += 1;
                }
                anyhow::Ok(opened)
            })
        };
        for task in (0..4).map(open).collect::<Vec<_>>() {
            self.events += task.await??;
        }
        Ok(self.events)
    }

    async fn append(&mut self, number: u64) -> anyhow::Result<bool> {
        // An account that is open is an error there, and so is everything else that goes wrong.
        let opened = self.contender.open_account(1_000_000_000 + number).await.is_ok();
        self.events += u64::from(opened);
        Ok(opened)
    }

    async fn stored(&self) -> anyhow::Result<u64> {
        self.contender.stored().await
    }

    fn expected(&self) -> u64 {
        self.events
    }
}
