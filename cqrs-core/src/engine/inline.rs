//! Which inline projections this program's appends bring.
//!
//! While this program does not read all that is recorded for one, its appends guard it: no such event may
//! have come since the log was searched. With one in the log the projection is on standby, and appends leave
//! it out, so that commands go on. A program that reads the event closes the gap.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::Inner;
use super::follow::{Follower, position};
use super::record::Agreement;
use crate::error::StoreError;
use crate::event::NewEvent;
use crate::id::Partition;
use crate::store::{Guard, Inline, InlineConsumer, LogPoint};

/// The inline projections of a program.
pub(super) struct InlineSet {
    /// In the order of the registry.
    followers: Vec<Arc<Follower>>,
    plan: RwLock<Arc<Plan>>,
    outdated: AtomicBool,
}

/// What appends bring.
#[derive(Default)]
pub(super) struct Plan {
    inline: Inline,
    watched: Vec<Watched>,
}

/// A projection of which this program does not read all that is recorded, while no such event is in the log.
struct Watched {
    consumer: &'static str,
    agreement: Arc<Agreement>,
    /// The log was searched up to here.
    after: LogPoint,
}

impl InlineSet {
    pub(super) fn new(followers: Vec<Arc<Follower>>) -> Self {
        Self { followers, plan: RwLock::default(), outdated: AtomicBool::new(false) }
    }

    /// Says that a record has changed.
    pub(super) fn outdate(&self) {
        self.outdated.store(true, Ordering::Release);
    }

    pub(super) fn is_outdated(&self) -> bool {
        self.outdated.load(Ordering::Acquire)
    }

    pub(super) fn plan(&self) -> Arc<Plan> {
        Arc::clone(&self.plan.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.followers.is_empty()
    }
}

impl Plan {
    /// What an append of these events brings, and what has to hold for it. If it has lost too often, what has
    /// to be guarded is left out: its follower closes the gap.
    pub(super) fn of(&self, guard: Guard, events: &[NewEvent], is_patient: bool) -> (Guard, Inline) {
        if self.watched.is_empty() {
            return (guard, self.inline.clone());
        }
        let mut guards = vec![guard];
        let mut left_out = Vec::new();
        for Watched { consumer, agreement, after } in &self.watched {
            let blocks = |event: &NewEvent| agreement.blocks(&event.name, event.schema_version);
            if is_patient && !events.iter().any(blocks) {
                guards.push(Guard::Unchanged { query: agreement.unshared(), after: *after });
            } else {
                left_out.push(*consumer);
            }
        }
        let brought = self.inline.iter().filter(|consumer| !left_out.contains(&consumer.name()));
        (Guard::All(guards), brought.cloned().collect())
    }
}

impl Inner {
    /// Looks at the records of all inline projections, and at the log as far as they ask for it.
    pub(super) async fn plan_inline(&self) -> Result<(), StoreError> {
        let set = &self.inline;
        let (mut inline, mut watched) = (Vec::new(), Vec::new());
        set.outdated.store(false, Ordering::Release);
        for follower in &set.followers {
            let agreement = follower.renew(self).await?;
            if !agreement.is_whole() {
                let Some(after) = self.searched_inline(follower, &agreement).await? else { continue };
                watched.push(Watched { consumer: follower.name(), agreement: agreement.clone(), after });
            }
            inline.push(InlineConsumer::new(follower.shared(), agreement.revision));
        }
        let plan = Plan { inline: inline.into_iter().collect(), watched };
        *set.plan.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(plan);
        Ok(())
    }

    /// Up to where the log has no event that keeps this program from moving an inline projection;
    /// `None` if there is one.
    async fn searched_inline(
        &self,
        follower: &Follower,
        agreement: &Agreement,
    ) -> Result<Option<LogPoint>, StoreError> {
        // A guard speaks of one partition, and an event on another may change the same document.
        if follower.partitions().count() > 1 {
            return Ok(None);
        }
        let partition = Partition::ONLY;
        let from = position(self.documents.checkpoint(follower.name(), partition).await?);
        let end = self.log.head(partition).await?;
        let head = end.position;
        if follower.passed(self, agreement, &[(partition, head)].into()).await?.is_some() {
            return Ok(None);
        }
        let between = self.records().blocked_between(agreement, partition, (from, head)).await?;
        Ok(between.is_none().then_some(LogPoint { position: head, event: end.event }))
    }
}
