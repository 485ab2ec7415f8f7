//! Reservations, spoilt.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cqrs_core::error::StoreError;
use cqrs_core::store::{Append, EventStore as _, Guard, Reservation};
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard};

use super::{Flaw, Wrong, linger};

/// What whoever has reserved has.
struct Turn {
    held: Option<OwnedRwLockWriteGuard<()>>,
    is_kept: bool,
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.is_kept {
            std::mem::forget(self.held.take());
        }
    }
}

impl Wrong {
    /// Lets whoever has reserved go first.
    pub(super) async fn among_others(&self, append: &Append) -> Option<OwnedRwLockReadGuard<()>> {
        let waits = match self.flaw {
            Flaw::ReservesAgainstGuards => append.guard != Guard::Any,
            Flaw::ReservesForOneHandle => !self.second,
            _ => true,
        };
        if !waits {
            return None;
        }
        self.state.appends.fetch_add(1, Ordering::SeqCst);
        Some(Arc::clone(&self.state.turn).read_owned().await)
    }

    pub(super) async fn reserve_wrongly(&self) -> Result<Option<Reservation>, StoreError> {
        if !self.capabilities().reservations && !self.has(Flaw::ReservesMoreThanItSays) {
            return Ok(None);
        }
        let turn = Arc::clone(&self.state.turn);
        let held = match self.flaw {
            Flaw::ReservesInQuietTimes => {
                let appends = || self.state.appends.load(Ordering::SeqCst);
                let mut before = None;
                while before != Some(appends()) {
                    before = Some(appends());
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                turn.write_owned().await
            }
            _ => turn.write_owned().await,
        };
        let mut turn = Turn { held: Some(held), is_kept: self.has(Flaw::KeepsDroppedReservations) };
        let store = self.clone();
        Ok(Some(Reservation::new(move |mut append| {
            Box::pin(async move {
                let mut held = turn.held.take();
                if store.has(Flaw::ReservesUntilTheAppend) {
                    held = None;
                    linger().await;
                }
                if store.has(Flaw::ReservedNeedsNoGuard) {
                    append = Append::new(append.events, Guard::Any).with_key(append.key);
                }
                let appended = store.append_wrongly(append).await;
                drop(held);
                appended
            })
        })))
    }
}
