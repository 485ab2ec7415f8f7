//! Collections of a consumer, and the entries in them.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;

use super::limits::{MAX_COLLECTION_BYTES, MAX_ENTRY_KEY_BYTES, check_document, check_key};
use crate::error::StoreError;
use crate::store::check_size;

/// The name of a collection: an ordered map from key bytes to content bytes, owned by one consumer.
///
/// A consumer's documents are the collection [`DOCUMENTS`](Self::DOCUMENTS). Others have a name of 1 to
/// [`MAX_COLLECTION_BYTES`] characters from `a-z`, `0-9`, `_`, `.`, `:`, and `-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Collection(Cow<'static, str>);

impl Collection {
    /// A consumer's documents. Their keys are UTF-8 text without U+0000.
    pub const DOCUMENTS: Self = Self::new("");

    /// Creates the name of a collection. [`check`](Self::check) rejects an invalid one.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self(Cow::Borrowed(name))
    }

    /// Returns the name; empty for [`DOCUMENTS`](Self::DOCUMENTS).
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Returns whether it is [`DOCUMENTS`](Self::DOCUMENTS).
    #[must_use]
    pub fn is_documents(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether a store accepts the name. No entry has a collection with another one.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b':' | b'-');
        self.0.len() <= MAX_COLLECTION_BYTES && self.0.bytes().all(allowed)
    }

    /// Rejects an invalid name.
    ///
    /// # Errors
    /// [`Invalid`](crate::error::StoreErrorKind::Invalid) with a message that names the rule.
    pub fn check(&self) -> Result<(), StoreError> {
        check_size("the collection's name", "bytes", self.0.len(), MAX_COLLECTION_BYTES)?;
        if self.is_valid() {
            return Ok(());
        }
        Err(StoreError::invalid(format!(
            "the collection's name {:?} has a character other than a-z, 0-9, `_`, `.`, `:`, and `-`",
            self.0
        )))
    }
}

impl From<String> for Collection {
    fn from(name: String) -> Self {
        Self(Cow::Owned(name))
    }
}

impl fmt::Display for Collection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_documents() { "documents" } else { &self.0 })
    }
}

/// The collection and the key of an entry of some consumer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryKey {
    /// The collection.
    pub collection: Collection,
    /// The key in it. Keys are ordered by their bytes.
    pub key: Bytes,
}

impl EntryKey {
    /// Creates the key of an entry.
    #[must_use]
    pub fn new(collection: Collection, key: impl Into<Bytes>) -> Self {
        Self { collection, key: key.into() }
    }

    /// Creates the key of a document.
    #[must_use]
    pub fn document(key: impl Into<Bytes>) -> Self {
        Self::new(Collection::DOCUMENTS, key)
    }

    /// Rejects a key that no store accepts.
    ///
    /// # Errors
    /// [`Invalid`](crate::error::StoreErrorKind::Invalid) with a message that names the limit or the rule.
    pub fn check(&self) -> Result<(), StoreError> {
        if self.collection.is_documents() {
            let text = std::str::from_utf8(&self.key)
                .map_err(|_| StoreError::invalid("the document's key is not UTF-8 text"))?;
            return check_key(text);
        }
        self.collection.check()?;
        check_size("the entry's key", "bytes", self.key.len(), MAX_ENTRY_KEY_BYTES)
    }
}

/// An entry of a collection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: Bytes,
    /// Its content.
    pub content: Bytes,
}

/// A change of one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EntryWrite {
    /// The entry.
    pub entry: EntryKey,
    /// Its new content, or `None` to remove it. Removing an entry that is not there has no effect.
    pub content: Option<Bytes>,
}

impl EntryWrite {
    /// Sets the content of an entry, or removes it if the content is `None`.
    #[must_use]
    pub fn new(entry: EntryKey, content: Option<Bytes>) -> Self {
        Self { entry, content }
    }

    /// Sets the content of an entry.
    #[must_use]
    pub fn put(collection: Collection, key: impl Into<Bytes>, content: impl Into<Bytes>) -> Self {
        Self::new(EntryKey::new(collection, key), Some(content.into()))
    }

    /// Removes an entry.
    #[must_use]
    pub fn remove(collection: Collection, key: impl Into<Bytes>) -> Self {
        Self::new(EntryKey::new(collection, key), None)
    }

    /// Returns the size of its content in bytes; 0 if it removes the entry.
    #[must_use]
    pub fn size(&self) -> usize {
        self.content.as_ref().map_or(0, Bytes::len)
    }

    /// Rejects a write that no store accepts.
    ///
    /// # Errors
    /// [`Invalid`](crate::error::StoreErrorKind::Invalid) with a message that names the limit or the rule.
    pub fn check(&self) -> Result<(), StoreError> {
        self.entry.check()?;
        check_document(self.size())
    }
}
