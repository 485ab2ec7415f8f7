//! The contract of a read store: documents, other collections, and the checkpoint that moves with them.
//!
//! Everything that follows the log is a *consumer with a checkpoint*. The checkpoint lives where
//! the effect lives and moves in the same commit, so that an event is neither missed nor counted
//! twice, whatever crashes where.
//!
//! # Contract
//!
//! - **One commit.** All writes of a [`Batch`] and its checkpoint become visible together or not
//!   at all.
//! - **Fenced.** A batch is accepted only if its consumer's stored checkpoints, those of all partitions, are
//!   still the ones that the batch starts from ([`Batch::from`]), and its epoch is still the one that [`claim`]
//!   returned. Otherwise it returns [`CommitError::Fenced`] and writes nothing: another owner has claimed the
//!   consumer, or has moved it. All partitions count because events of several may change one document. An owner
//!   that was overtaken on one of them may have read a document that has changed since.
//! - **Claim.** [`claim`](ReadStore::claim) raises the consumer's epoch, so that every batch of a former owner is
//!   fenced from then on, in all partitions, and returns the stored checkpoints. A consumer has one epoch over all
//!   partitions, because events of several partitions may change one document. A lease may decide which program
//!   claims; the epoch decides which one may write.
//! - **Owned.** From one claim to the next, a consumer's documents change by batches of that claim's epoch
//!   alone, and by appends that keep the consumer inline, which move its checkpoint on their partition. So an
//!   owner may fold onto documents that it has committed without reading them again, for as long as its
//!   commits succeed.
//! - **Collections.** A consumer owns [collections](Collection), each an ordered map from key bytes to content
//!   bytes. Its documents are [`Collection::DOCUMENTS`]. One batch may change entries of several collections, and
//!   each entry at most once. Two consumers never share an entry. A store that stores documents only leaves
//!   [`ReadCapabilities::collections`] unset, and refuses a batch that writes to another collection with
//!   [`StoreErrorKind::Unsupported`](crate::error::StoreErrorKind::Unsupported) before it writes anything.
//! - **Handlers.** A batch may also have [`Handlers`]: the user's own statements for one kind of
//!   [`Database`](crate::consumer::Database). The store runs them step by step, in order, inside the transaction
//!   that writes the entries of the batch. The first time that the consumer commits at all, in any partition, it
//!   runs their [`set_up`](crate::consumer::RunIn::set_up) before. If the user's code rejects an event in one of
//!   the steps, the commit returns [`CommitError::Unfit`], and nothing of the batch is written. A store that is
//!   not that database refuses the batch with
//!   [`StoreErrorKind::Unsupported`](crate::error::StoreErrorKind::Unsupported).
//!   [`ReadCapabilities::database`] names the database whose handlers the store runs.
//! - **Record.** Next to its epoch a consumer has a [`Record`]: the event names that its programs read. A
//!   store that stores records sets [`ReadCapabilities::records`]. Then
//!   [`set_record`](ReadStore::set_record) replaces the record only if its revision is still the expected
//!   one. In the same commit it raises the revision by one and the epoch, so that every batch of an owner
//!   that has read the former record is fenced. It changes no checkpoint and no document.
//!   [`claim`](ReadStore::claim) returns the revision of the record that belongs to its epoch. An append
//!   that keeps the consumer inline compares the revision in its own commit (see [`store`](crate::store)).
//! - **Reset.** [`reset`](ReadStore::reset) removes, in one commit, a consumer's checkpoints on all partitions, the
//!   content of its record, and all entries of its collections. The same commit raises its epoch, so that every
//!   batch of a former owner is fenced, and the revision of its record in a store that keeps records. Neither
//!   starts again at a lower number. It changes no other consumer. The tables of a consumer with handlers are the
//!   user's and stay as they are. A consumer that is not known is no fault.
//! - **Read your writes.** A read that starts after a commit sees it.
//! - **Names and keys.** No name of a consumer and no key of a document has the character U+0000, which not
//!   every database can hold. The key of a document is UTF-8 text; keys of other collections and all contents
//!   may have any bytes. The name of a collection has only the characters that [`Collection`] lists. A claim or a
//!   batch that breaks this returns [`Invalid`](crate::error::StoreErrorKind::Invalid) and writes nothing. A read
//!   of what cannot exist finds nothing.
//! - **Limits.** The name of a consumer has 1 to [`MAX_NAME_BYTES`] bytes, that of a collection at most
//!   [`MAX_COLLECTION_BYTES`]. A document's key has at most [`MAX_KEY_BYTES`], another entry's key at most
//!   [`MAX_ENTRY_KEY_BYTES`], and a content at most [`MAX_DOCUMENT_BYTES`]. They are the same on every store, so
//!   that read models can move between stores. A claim or a batch past a limit returns
//!   [`Invalid`](crate::error::StoreErrorKind::Invalid) with a message that names the limit, and writes nothing.
//! - **Reads.** [`get`](ReadStore::get) and [`range`](ReadStore::range) each return one committed state: entries
//!   of one batch are seen together or not at all, in all collections that the read covers.
//! - **Order.** [`range`](ReadStore::range) returns entries in the order of the bytes of their keys, ascending or
//!   descending. It returns fewer than the limit only if the range has no more.
//!   [`count`](ReadStore::count) returns how many entries the same range read returns.
//! - **Capabilities.** [`ReadStore::read_capabilities`] names the optional parts that the store implements (default:
//!   none). It refuses every other part by name.
//! - **Cancellation.** Any future may be dropped; a dropped commit took place as a whole or not at
//!   all.
//!
//! [`claim`]: ReadStore::claim

mod batch;
mod capabilities;
mod checkpoint;
mod collection;
mod limits;
mod range;
mod record;

use std::fmt;

use bytes::Bytes;

pub use self::batch::{Batch, CommitError};
pub use self::capabilities::ReadCapabilities;
pub use self::checkpoint::{Checkpoint, Claim};
pub use self::collection::{Collection, Entry, EntryKey, EntryWrite};
pub use self::limits::{
    MAX_COLLECTION_BYTES, MAX_DOCUMENT_BYTES, MAX_ENTRY_KEY_BYTES, MAX_KEY_BYTES, MAX_NAME_BYTES,
    check_document, check_key, check_name,
};
pub use self::range::RangeRead;
pub use self::record::{Record, RecordContent};
#[cfg(doc)]
use crate::consumer::Handlers;
use crate::error::StoreError;
use crate::id::Partition;
use crate::store::{BoxFuture, unsupported};

/// Documents and checkpoints. The contract is in the [module's documentation](self).
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a read store",
    label = "not a read store",
    note = "the contract is in the documentation of `cqrs::read_store`"
)]
pub trait ReadStore: fmt::Debug + Send + Sync + 'static {
    /// Takes a consumer over: raises its epoch and returns it with the stored checkpoints.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot answer.
    fn claim(&self, consumer: &str) -> BoxFuture<'_, Result<Claim, StoreError>>;

    /// The stored checkpoint on a partition, or `None` if the consumer has not committed there yet.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot answer.
    fn checkpoint(
        &self,
        consumer: &str,
        partition: Partition,
    ) -> BoxFuture<'_, Result<Option<Checkpoint>, StoreError>>;

    /// Writes entries, runs handlers, and moves the checkpoint, in one commit.
    ///
    /// # Errors
    /// [`CommitError::Fenced`] if the consumer has another owner or has moved, [`CommitError::Unfit`] if
    /// a handler refuses an event, and nothing was written; [`CommitError::Store`] if the store failed.
    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<(), CommitError>>;

    /// The optional parts of the contract that the store implements (default: none).
    fn read_capabilities(&self) -> ReadCapabilities {
        ReadCapabilities::none()
    }

    /// Returns a consumer's record; revision 0 without content if nothing is recorded. A store that keeps no
    /// records leaves this as it is.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot answer.
    fn record(&self, consumer: &str) -> BoxFuture<'_, Result<Record, StoreError>> {
        let _ = consumer;
        Box::pin(async { Ok(Record::default()) })
    }

    /// Replaces a consumer's record if its revision is still `expected`, as the module's clause "Record"
    /// says. Returns whether it was. A store that keeps no records leaves this as it is.
    ///
    /// # Errors
    /// [`StoreErrorKind::Unsupported`](crate::error::StoreErrorKind::Unsupported) if the store keeps none,
    /// else any [`StoreError`].
    fn set_record(
        &self,
        consumer: &str,
        expected: u64,
        content: RecordContent,
    ) -> BoxFuture<'_, Result<bool, StoreError>> {
        let _ = (consumer, expected, content);
        Box::pin(async { Err(unsupported("record which events a projection reads")) })
    }

    /// Removes a consumer's checkpoints, entries and recorded names, and fences its owner, as the module's clause
    /// "Reset" says. The consumer then begins at the start of the log. A store that cannot do this leaves it as
    /// it is.
    ///
    /// # Errors
    /// [`StoreErrorKind::Unsupported`](crate::error::StoreErrorKind::Unsupported) if the store cannot do this, else
    /// any [`StoreError`].
    fn reset(&self, consumer: &str) -> BoxFuture<'_, Result<(), StoreError>> {
        let _ = consumer;
        Box::pin(async { Err(unsupported("reset a projection")) })
    }

    /// Returns the contents of a consumer's entries, in the order of the keys asked for; `None` for each entry
    /// that is not there. All are of one committed state.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot answer.
    fn get(
        &self,
        consumer: &str,
        entries: Vec<EntryKey>,
    ) -> BoxFuture<'_, Result<Vec<Option<Bytes>>, StoreError>>;

    /// Returns the entries of a range, all of one committed state.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot answer.
    fn range(&self, range: RangeRead) -> BoxFuture<'_, Result<Vec<Entry>, StoreError>>;

    /// Returns how many entries [`range`](Self::range) returns for this range: all of it, or the limit. A store
    /// that can count without reading contents overrides the default, which reads them.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot answer.
    fn count(&self, range: RangeRead) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(async move { Ok(self.range(range).await?.len() as u64) })
    }

    /// Writes back what is kept elsewhere, and releases files and connections. A later call opens again what it
    /// needs. A store that has nothing to do, or does it in
    /// [`EventStore::close`](crate::store::EventStore::close), leaves this as it is.
    ///
    /// # Errors
    /// [`StoreError`] if not everything could be written back; what was committed is still durable.
    fn close(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async { Ok(()) })
    }
}
