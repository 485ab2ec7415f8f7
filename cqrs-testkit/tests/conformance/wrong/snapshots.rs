//! Snapshots, spoilt.

use std::sync::atomic::Ordering;

use cqrs_core::error::StoreError;
use cqrs_core::event::{Metadata, NewEvent, Timestamp};
use cqrs_core::store::{Append, AppendError, EventStore as _, Guard, Snapshot};
use cqrs_core::{StreamId, Version};
use uuid::Uuid;

use super::{Flaw, Wrong, lock};

impl Wrong {
    fn snapshot_stream(&self, stream: &StreamId) -> StreamId {
        let lower = || stream.as_str().to_lowercase().parse().unwrap_or_else(|_| stream.clone());
        if self.has(Flaw::SnapshotsWithoutCase) { lower() } else { stream.clone() }
    }

    fn print(&self, fingerprint: u64) -> u64 {
        let small = self.has(Flaw::SmallFingerprints) && fingerprint == u64::MAX;
        if small { u64::MAX >> 1 } else { fingerprint }
    }

    pub(super) async fn snapshot_wrongly(
        &self,
        stream: StreamId,
        print: u64,
    ) -> Result<Option<Snapshot>, StoreError> {
        self.unblocked().await;
        let taken = self.snapshot_stream(&stream);
        let mut found = self.inner.snapshot(&taken, self.print(print)).await?;
        if found.is_none() {
            found = match self.flaw {
                Flaw::GivesAnyFingerprint => self.of_any_print(&stream),
                Flaw::OneSnapshotForEachFingerprint => {
                    let this = |old: &&Snapshot| old.stream == stream && old.fingerprint == print;
                    lock(&self.state.snapshots).iter().rev().find(this).cloned()
                }
                _ => None,
            };
        }
        Ok(found.map(|found| Snapshot { stream, ..found }))
    }

    /// Whatever was saved last, unless it was forgotten, replaced or never meant for this stream.
    fn of_any_print(&self, stream: &StreamId) -> Option<Snapshot> {
        let saved = lock(&self.state.snapshots);
        // Only what was saved once and with a print of its own, so that no other rule takes notice.
        match saved.as_slice() {
            [only] if only.stream == *stream && only.fingerprint == 2 => Some(only.clone()),
            _ => None,
        }
    }

    pub(super) async fn save_snapshot_wrongly(&self, mut snapshot: Snapshot) -> Result<(), StoreError> {
        self.unblocked().await;
        snapshot.stream = self.snapshot_stream(&snapshot.stream);
        snapshot.fingerprint = self.print(snapshot.fingerprint);
        match self.flaw {
            Flaw::OldSnapshotsReplace => {
                self.inner.limits().check_snapshot(&snapshot)?;
                self.inner.forget_snapshot(&snapshot.stream).await?;
            }
            Flaw::KeepsTheFirstEventOfASnapshot => {
                let there = self.inner.snapshot(&snapshot.stream, snapshot.fingerprint).await?;
                let same =
                    there.filter(|there| (there.log, there.version) == (snapshot.log, snapshot.version));
                snapshot.event = same.map_or(snapshot.event, |there| there.event);
            }
            Flaw::SavesAreAppends => self.append_instead(&snapshot).await?,
            Flaw::KeepsNothing if snapshot.version == Version::NONE => return Ok(()),
            Flaw::SavesWhatItSaysItCannot => return self.documents.save_snapshot(snapshot).await,
            Flaw::DroppedSavesBlock => {
                self.state.busy.store(true, Ordering::SeqCst);
                tokio::task::yield_now().await;
                self.state.busy.store(false, Ordering::SeqCst);
            }
            _ => {}
        }
        self.inner.save_snapshot(snapshot.clone()).await?;
        lock(&self.state.snapshots).push(snapshot);
        Ok(())
    }

    async fn append_instead(&self, snapshot: &Snapshot) -> Result<(), StoreError> {
        let event = NewEvent {
            id: Uuid::new_v4(),
            stream: snapshot.stream.clone(),
            name: "Snapshot".into(),
            schema_version: 1,
            payload: bytes::Bytes::new(),
            tags: cqrs_core::event::Tags::default(),
            time: Timestamp::from_micros(1),
            metadata: std::sync::Arc::new(Metadata::new()),
        };
        match self.inner.append(Append::new(vec![event], Guard::Any)).await {
            Err(AppendError::Store(error)) => Err(error),
            _ => Ok(()),
        }
    }

    pub(super) async fn forget_snapshot_wrongly(&self, stream: StreamId) -> Result<(), StoreError> {
        self.unblocked().await;
        let stream = self.snapshot_stream(&stream);
        lock(&self.state.snapshots).retain(|old| old.stream != stream);
        if self.has(Flaw::ForgetsNothing) {
            return Ok(());
        }
        self.inner.forget_snapshot(&stream).await
    }
}
