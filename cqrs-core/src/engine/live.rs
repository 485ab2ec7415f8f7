//! Projections that keep nothing: folded from the log whenever they are read.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use super::Inner;
use super::consumer::{DocumentConsumer, Documents, query};
use super::error::ReadError;
use crate::event::RecordedEvent;
use crate::id::{StreamId, Version};
use crate::pace::Pieces;
use crate::projection::Projection;
use crate::read_store::Entry;
use crate::store::{Direction, StreamRead};

/// Events of a stream that are read at once.
const PAGE: usize = 1_000;

impl Inner {
    /// The document with this key, as the log makes it now.
    pub(super) async fn live_document<P: Projection>(&self, key: &str) -> Result<Option<Bytes>, ReadError> {
        let streams = if P::BY_STREAM { self.registry.streams::<P>(key) } else { None };
        let mut documents = match streams {
            Some(streams) => self.fold_streams::<P>(streams).await?,
            None => self.fold_log::<P>(Some(key)).await?,
        };
        Ok(documents.remove(key.as_bytes()))
    }

    /// At most `limit` documents behind a key, as the log makes them now.
    pub(super) async fn live_documents<P: Projection>(
        &self,
        after: Option<String>,
        limit: usize,
    ) -> Result<Vec<Entry>, ReadError> {
        let documents = self.fold_log::<P>(None).await?;
        let from = after.map_or(Bound::Unbounded, |key| Bound::Excluded(Bytes::from(key)));
        let page = documents.range((from, Bound::Unbounded)).take(limit);
        let entry = |(key, content): (&Bytes, &Bytes)| Entry { key: key.clone(), content: content.clone() };
        Ok(page.map(entry).collect())
    }

    /// Folds all events, or those that go into one document.
    async fn fold_log<P: Projection>(&self, only: Option<&str>) -> Result<Documents, ReadError> {
        let (wanted, mut documents) = (query::<P::Event>(), Documents::new());
        for partition in self.partitions() {
            let head = self.log.head(partition).await?.position;
            let fold = &mut |events: &[Arc<RecordedEvent>]| {
                let folded = DocumentConsumer::<P>::fold(&mut documents, events, only);
                folded.map_err(|unfit| unfit.error.into())
            };
            self.read_log_to::<ReadError>(partition, head, &wanted, fold).await?;
        }
        Ok(documents)
    }

    /// Folds what lies in some streams.
    async fn fold_streams<P: Projection>(&self, streams: Vec<StreamId>) -> Result<Documents, ReadError> {
        let query = query::<P::Event>();
        // One place in the log for all of them, so that of two events the later never comes without
        // the earlier.
        let mut heads = Vec::new();
        for partition in self.partitions() {
            let here = |stream: &StreamId| self.log.partition_of(stream) == partition;
            if streams.iter().any(here) {
                heads.push((partition, self.log.head(partition).await?.position));
            }
        }
        let wanted = |event: &Arc<RecordedEvent>| {
            let place = (event.meta.partition, event.meta.position);
            query.matches(&event.name, &event.tags)
                && heads.iter().any(|(partition, head)| place.0 == *partition && place.1 <= *head)
        };
        let mut events = Vec::new();
        for stream in streams {
            // A method may ask for the envelope, so they are read and not folded.
            let (mut behind, direction) = (Version::NONE, Direction::Forward);
            loop {
                let read = StreamRead { stream: stream.clone(), from: behind.next(), direction, limit: PAGE };
                let slice = self.log.read_stream(read).await?;
                let Some(last) = slice.events.last() else { break };
                behind = last.meta.version;
                events.extend(slice.events.iter().filter(|event| wanted(event)).cloned());
                if behind == slice.version {
                    break;
                }
            }
        }
        events.sort_by_key(|event| (event.meta.partition, event.meta.position));
        let mut documents = Documents::new();
        let (mut left, mut pieces) = (events.as_slice(), Pieces::default());
        while !left.is_empty() {
            let (piece, others) = left.split_at(pieces.size().min(left.len()));
            let folded =
                pieces.work(piece.len(), || DocumentConsumer::<P>::fold(&mut documents, piece, None));
            folded.map_err(|unfit| unfit.error)?;
            pieces.pause().await;
            left = others;
        }
        Ok(documents)
    }
}
