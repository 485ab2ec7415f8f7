//! The optional parts of the read store's contract.

use super::batch::Batch;
use crate::error::StoreError;
use crate::store::unsupported;

/// The optional parts of the contract that a read store implements. None of them by default, so that a store
/// never claims a part that was added after it was written.
///
/// ```
/// use cqrs_core::read_store::ReadCapabilities;
///
/// let mut capabilities = ReadCapabilities::none();
/// capabilities.collections = true;
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReadCapabilities {
    /// The store has [records](super::Record) of the event names that a consumer reads. Without them
    /// two releases of a program that read different events must not run at the same time, and the engine warns
    /// at startup.
    pub records: bool,
    /// A consumer may own [collections](super::Collection) other than its documents.
    pub collections: bool,
    /// The [name](crate::consumer::Database::NAME) of the database whose handlers the store runs, if any.
    pub database: Option<&'static str>,
}

impl ReadCapabilities {
    /// Returns those of a store that implements documents and checkpoints only.
    #[must_use]
    pub const fn none() -> Self {
        Self { records: false, collections: false, database: None }
    }

    /// Rejects a batch that writes to a collection other than documents, unless the store has them. A store that
    /// stores documents only calls this next to [`Batch::check`].
    ///
    /// # Errors
    /// [`Unsupported`](crate::error::StoreErrorKind::Unsupported) with a message that names the collection.
    pub fn check(&self, batch: &Batch) -> Result<(), StoreError> {
        let other = batch.writes.iter().find(|write| !write.entry.collection.is_documents());
        match other {
            Some(write) if !self.collections => {
                let collection = &write.entry.collection;
                Err(unsupported(format_args!("store the collection `{collection}` next to documents")))
            }
            _ => Ok(()),
        }
    }
}
