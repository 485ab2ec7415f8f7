//! Where read models live: documents, and the checkpoint that moves with them.
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
//!   still the ones that the batch starts from ([`Batch::from`]) and its epoch is still the one that [`claim`]
//!   gave. Otherwise it gives [`CommitError::Fenced`] and writes nothing: somebody else owns the consumer, or
//!   has moved it. All partitions count because events of several may change one document: who was passed on
//!   one of them may have read a document that is another by now.
//! - **Claim.** [`claim`](ReadStore::claim) raises the consumer's epoch, so that every batch of
//!   a former owner is fenced from then on, in all partitions, and gives the stored checkpoints. A
//!   consumer has one epoch over all partitions, because events of several partitions may change
//!   one document. A lease may decide who claims; the epoch decides who may write.
//! - **Owned.** From one claim to the next, a consumer's documents change by batches of that claim's epoch
//!   alone, and by appends that keep the consumer inline, which move its checkpoint on their partition. So an
//!   owner may fold onto documents that it has committed without reading them again, for as long as its
//!   commits succeed.
//! - **Handlers.** A batch may bring [`Handlers`] instead of documents: the user's own statements for
//!   one kind of [`Database`](crate::consumer::Database). The store runs them step by step, in order,
//!   inside the transaction of the batch; the first time that the consumer commits at all, in any
//!   partition, it runs their [`set_up`](crate::consumer::RunIn::set_up) before. If a step fails for what
//!   the user's code makes of the event, that is [`CommitError::Unfit`], and nothing of the batch is
//!   written. A store that is not that database refuses the batch with
//!   [`StoreErrorKind::Unsupported`](crate::error::StoreErrorKind::Unsupported), and says beforehand, by
//!   [`database`](ReadStore::database), for which one it runs handlers.
//! - **Record.** Next to its epoch a consumer has a [`Record`]: the event names that its programs read. A
//!   store that keeps records says so by [`keeps_records`](ReadStore::keeps_records). Then
//!   [`set_record`](ReadStore::set_record) replaces the record only if its revision is still the expected
//!   one. In the same commit it raises the revision by one and the epoch, so that every batch of an owner
//!   that has read the former record is fenced. It changes no checkpoint and no document.
//!   [`claim`](ReadStore::claim) returns the revision of the record that belongs to its epoch. An append
//!   that keeps the consumer inline compares the revision in its own commit (see [`store`](crate::store)).
//! - **Reset.** [`reset`](ReadStore::reset) removes, in one commit, a consumer's checkpoints on all partitions, the
//!   content of its record, and all documents of the collection with its name. The same commit raises its epoch,
//!   so that every batch of a former owner is fenced, and the revision of its record in a store that keeps records.
//!   Neither starts again at a lower number. It changes no other consumer and no other collection. The tables of a
//!   consumer with handlers are the user's and stay as they are. A consumer that is not known is no fault.
//! - **Read your writes.** A read that starts after a commit sees it.
//! - **Texts.** No name of a consumer or a collection and no key of a document has the character U+0000,
//!   which not every database can hold; contents may hold any bytes. A claim or a batch that has it in one
//!   gives [`Invalid`](crate::error::StoreErrorKind::Invalid) and writes nothing; a read of what cannot be
//!   there finds nothing.
//! - **Limits.** The name of a consumer or a collection has 1 to [`MAX_NAME_BYTES`] bytes, a document's key
//!   at most [`MAX_KEY_BYTES`], a document at most [`MAX_DOCUMENT_BYTES`]. They are the same on every store,
//!   so that read models can move between stores. A claim or a batch past a limit gives
//!   [`Invalid`](crate::error::StoreErrorKind::Invalid) with a message that names the limit, and writes nothing.
//! - **Order.** [`list`](ReadStore::list) gives documents by the bytes of their key's text.
//! - **Cancellation.** Any future may be dropped; a dropped commit took place as a whole or not at
//!   all.
//!
//! [`claim`]: ReadStore::claim

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use uuid::Uuid;

use crate::consumer::{Handlers, Unfit};
use crate::error::StoreError;
use crate::id::{Partition, Position};
use crate::store::{BoxFuture, LogId, LogPoint, check_size, unsupported, without_nul};

/// Documents and checkpoints. The contract is in the [module's documentation](self).
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a read store",
    label = "not a read store",
    note = "the contract is in the documentation of `cqrs::read_store`"
)]
pub trait ReadStore: fmt::Debug + Send + Sync + 'static {
    /// Takes a consumer over: raises its epoch and gives it with the stored checkpoints.
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

    /// Writes documents and moves the checkpoint, in one commit.
    ///
    /// # Errors
    /// [`CommitError::Fenced`] if the consumer has another owner or has moved, [`CommitError::Unfit`] if
    /// a handler refuses an event, and nothing was written; [`CommitError::Store`] if the store failed.
    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<(), CommitError>>;

    /// The [name](crate::consumer::Database::NAME) of the database whose handlers it runs, if any.
    fn database(&self) -> Option<&'static str> {
        None
    }

    /// Whether [records](Record) are kept (default: no). Without them two releases of a program that read
    /// different events must not run at the same time, and the engine warns at startup.
    fn keeps_records(&self) -> bool {
        false
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

    /// Removes a consumer's checkpoints, documents and recorded names, and fences its owner, as the module's clause
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

    /// The documents with these keys, in the order of the keys.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot answer.
    fn get(
        &self,
        collection: &str,
        keys: Vec<String>,
    ) -> BoxFuture<'_, Result<Vec<Option<Bytes>>, StoreError>>;

    /// Writes back what is kept elsewhere, and releases files and connections. A later call opens again what it
    /// needs. A store that has nothing to do, or does it in
    /// [`EventStore::close`](crate::store::EventStore::close), leaves this as it is.
    ///
    /// # Errors
    /// [`StoreError`] if not everything could be written back; what was committed is still durable.
    fn close(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async { Ok(()) })
    }

    /// At most `limit` documents whose key comes behind `after`, by the bytes of the key. Fewer
    /// than `limit` only at the end.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot answer.
    fn list(
        &self,
        collection: &str,
        after: Option<String>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<(String, Bytes)>, StoreError>>;
}

/// How far a consumer is: everything up to the position has taken effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log that was followed. Another one at this place means the log was replaced.
    pub log: LogId,
    /// The last position that has taken effect or did not concern the consumer.
    pub position: Position,
    /// The id of the event at that position, whether or not it concerned the consumer, by which a rewound log is
    /// detected; `None` at the start of the log.
    pub event: Option<Uuid>,
}

impl Checkpoint {
    /// Its position with the event there.
    #[must_use]
    pub const fn point(&self) -> LogPoint {
        LogPoint { position: self.position, event: self.event }
    }
}

/// What the programs that know a consumer have recorded about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The number of changes so far; 0 if nothing was ever recorded.
    pub revision: u64,
    /// What is recorded.
    pub content: RecordContent,
}

/// The content of a [`Record`]. A store keeps it as it is; only the engine interprets it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordContent {
    /// Each stored event name that the consumer reads, with its highest schema version.
    pub reads: BTreeMap<String, u32>,
    /// Names and versions that a program is about to add, until it has made sure that the checkpoint has
    /// not passed such an event.
    pub adding: BTreeMap<String, u32>,
    /// The fingerprint of the code that folds, if it is known.
    pub fold: Option<u64>,
}

/// A consumer that was taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Who may write from now on; grows with each claim.
    pub epoch: u64,
    /// Where to go on, by partition; from the start of those that are not named.
    pub checkpoints: BTreeMap<Partition, Checkpoint>,
    /// The revision of the consumer's [`Record`]; 0 in a store that keeps none.
    pub revision: u64,
}

/// The effect of some events on a read model, and the checkpoint behind them.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Whose batch it is, such as a projection's name.
    pub consumer: String,
    /// The partition that its events come from.
    pub partition: Partition,
    /// The epoch that its claim gave.
    pub epoch: u64,
    /// The checkpoints that it starts from, those of the other partitions too: what the claim gave and the
    /// owner has committed since.
    pub from: BTreeMap<Partition, Checkpoint>,
    /// The checkpoint behind it, on its partition.
    pub to: Checkpoint,
    /// Where the documents lie.
    pub collection: String,
    /// Each changed document once: its key, and its new content or `None` to remove it.
    pub writes: Vec<(String, Option<Bytes>)>,
    /// Statements of the user's own, if that is how the consumer writes.
    pub handlers: Option<Handlers>,
}

impl Batch {
    /// Rejects a batch past a limit or with U+0000 in one of its texts. Every store calls this first.
    ///
    /// # Errors
    /// [`Invalid`](crate::error::StoreErrorKind::Invalid) with a message that names the text and the limit.
    pub fn check(&self) -> Result<(), StoreError> {
        check_name("consumer", &self.consumer)?;
        check_name("collection", &self.collection)?;
        self.writes.iter().try_for_each(|(key, content)| {
            check_key(key)?;
            check_document(content.as_ref().map_or(0, Bytes::len))
        })
    }
}

/// The longest name of a consumer or a collection, in bytes of UTF-8.
pub const MAX_NAME_BYTES: usize = 200;
/// The longest key of a document, in bytes of UTF-8. Databases index it.
pub const MAX_KEY_BYTES: usize = 1_024;
/// The largest document, in bytes.
pub const MAX_DOCUMENT_BYTES: usize = 16 << 20;

/// Rejects a name that no store takes; `what` is what it names, such as `consumer`. Every store calls this
/// in [`ReadStore::claim`].
///
/// # Errors
/// [`Invalid`](crate::error::StoreErrorKind::Invalid) with a message that names the limit.
pub fn check_name(what: &str, name: &str) -> Result<(), StoreError> {
    if name.is_empty() {
        return Err(StoreError::invalid(format!("the {what}'s name is empty")));
    }
    check_size(format_args!("the {what}'s name"), "bytes", name.len(), MAX_NAME_BYTES)?;
    without_nul(format_args!("the {what}'s name"), name)
}

/// Rejects a document's key that no store takes.
///
/// # Errors
/// [`Invalid`](crate::error::StoreErrorKind::Invalid) with a message that names the limit.
pub fn check_key(key: &str) -> Result<(), StoreError> {
    check_size("the document's key", "bytes", key.len(), MAX_KEY_BYTES)?;
    without_nul("the document's key", key)
}

/// Rejects a document of a size that no store takes.
///
/// # Errors
/// [`Invalid`](crate::error::StoreErrorKind::Invalid) with a message that names the limit.
pub fn check_document(bytes: usize) -> Result<(), StoreError> {
    check_size("the document", "bytes", bytes, MAX_DOCUMENT_BYTES)
}

/// Why a batch was not committed.
#[derive(Debug)]
pub enum CommitError {
    /// Another owner has claimed the consumer, its record has changed, or one of its checkpoints has moved.
    Fenced,
    /// A handler cannot take an event.
    Unfit(Unfit),
    /// The store failed.
    Store(StoreError),
}

impl fmt::Display for CommitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fenced => f.write_str("another owner has taken this consumer over"),
            Self::Unfit(unfit) => unfit.error.fmt(f),
            Self::Store(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for CommitError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Fenced => None,
            Self::Unfit(unfit) => unfit.error.source(),
            Self::Store(error) => error.source(),
        }
    }
}

impl From<StoreError> for CommitError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
