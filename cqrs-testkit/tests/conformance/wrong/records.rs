//! Records, spoilt.

use cqrs_core::error::StoreError;
use cqrs_core::read_store::{
    Batch, Collection, Entry, EntryWrite, RangeRead, ReadStore as _, Record, RecordContent,
};
use cqrs_core::store::unsupported;

use super::{Flaw, Ground, Wrong, linger, lock};

impl Wrong {
    /// Whether the store below has records.
    pub(super) fn has_records(&self) -> bool {
        self.ground != Ground::Plain
    }

    /// Returns whether the store below has collections other than documents.
    pub(super) fn has_collections(&self) -> bool {
        self.ground != Ground::Plain
    }

    fn recorded(&self, consumer: &str) -> String {
        let lower = self.has(Flaw::RecordsWithoutCase);
        if lower { consumer.to_lowercase() } else { consumer.to_owned() }
    }

    pub(super) async fn record_wrongly(&self, consumer: String) -> Result<Record, StoreError> {
        let consumer = self.recorded(&consumer);
        if self.has(Flaw::RecordsForOneHandle) && self.second {
            let cached = lock(&self.state.records).get(&consumer).cloned();
            if let Some(cached) = cached {
                return Ok(cached);
            }
        }
        let mut record = self.documents.record(&consumer).await?;
        if self.has(Flaw::StartsWithARecord) && record.revision == 0 {
            record.content.fold = Some(0);
        }
        if self.has(Flaw::ResetsStartRevisionsAgain) && lock(&self.state.unfenced).contains(&consumer) {
            record.revision = 0;
        }
        if self.second {
            lock(&self.state.records).insert(consumer, record.clone());
        }
        Ok(record)
    }

    pub(super) async fn set_record_wrongly(
        &self,
        consumer: String,
        mut expected: u64,
        mut content: RecordContent,
    ) -> Result<bool, StoreError> {
        if !self.has_records() && !self.has(Flaw::RecordsMoreThanItSays) {
            return Err(unsupported("record what a consumer reads"));
        }
        let consumer = self.recorded(&consumer);
        let there = self.documents.record(&consumer).await?.revision;
        match self.flaw {
            Flaw::ForgetsWhatIsAdded => content.adding.clear(),
            Flaw::ResetsStartRevisionsAgain if lock(&self.state.unfenced).contains(&consumer) => {
                expected = there;
            }
            Flaw::RecordsOverAnyRevision if expected > there => expected = there,
            Flaw::RecordsOneAfterAnother if expected == there => {
                linger().await;
                expected = self.documents.record(&consumer).await?.revision;
            }
            _ => {}
        }
        let done = self.documents.set_record(&consumer, expected, content).await?;
        if done && self.has(Flaw::RecordsFenceNobody) {
            lock(&self.state.unfenced).insert(consumer.clone());
        }
        if done && self.has(Flaw::RecordsForgetDocuments) {
            self.write_anyhow(&consumer, vec![EntryWrite::remove(Collection::DOCUMENTS, "k")]);
        }
        Ok(done)
    }

    pub(super) async fn reset_wrongly(&self, consumer: String) -> Result<(), StoreError> {
        if !self.flaw.is_reset() {
            return Err(unsupported("reset a consumer"));
        }
        let documents = self.documents.range(RangeRead::documents(&*consumer, 1)).await?;
        self.documents.reset(&consumer).await?;
        match self.flaw {
            Flaw::ResetsLeaveDocuments => {
                let left = |entry: Entry| EntryWrite::put(Collection::DOCUMENTS, entry.key, entry.content);
                self.write_anyhow(&consumer, documents.into_iter().map(left).collect());
            }
            Flaw::ResetsFenceNobody | Flaw::ResetsStartRevisionsAgain => {
                lock(&self.state.unfenced).insert(consumer);
            }
            Flaw::ResetsWithoutCase => self.documents.reset(&consumer.replace('p', "P")).await?,
            _ => {}
        }
        Ok(())
    }

    /// Has a batch pass that a record or a reset should have fenced.
    pub(super) async fn unfence(&self, batch: &mut Batch) -> Result<(), StoreError> {
        let last = lock(&self.state.epochs).get(&batch.consumer).copied();
        if last == Some(batch.epoch) && lock(&self.state.unfenced).remove(&batch.consumer) {
            batch.epoch = self.documents.claim(&batch.consumer).await?.epoch;
        }
        Ok(())
    }
}
