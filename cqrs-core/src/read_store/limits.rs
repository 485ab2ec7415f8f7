//! The limits of names, keys, and contents. They are the same on every store.

use crate::error::StoreError;
use crate::store::{check_size, without_nul};

/// The longest name of a consumer, in bytes of UTF-8.
pub const MAX_NAME_BYTES: usize = 200;
/// The longest name of a collection, in bytes.
pub const MAX_COLLECTION_BYTES: usize = 100;
/// The longest key of a document, in bytes of UTF-8. Databases index it.
pub const MAX_KEY_BYTES: usize = 1_024;
/// The longest key of an entry of another collection, in bytes. Databases index it together with the names.
pub const MAX_ENTRY_KEY_BYTES: usize = 2_200;
/// The largest document, and the largest content of any other entry, in bytes.
pub const MAX_DOCUMENT_BYTES: usize = 16 << 20;

/// Rejects a name that no store accepts; `what` is what it names, such as `consumer`. Every store calls this
/// in [`ReadStore::claim`](super::ReadStore::claim).
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

/// Rejects a document's key that no store accepts.
///
/// # Errors
/// [`Invalid`](crate::error::StoreErrorKind::Invalid) with a message that names the limit.
pub fn check_key(key: &str) -> Result<(), StoreError> {
    check_size("the document's key", "bytes", key.len(), MAX_KEY_BYTES)?;
    without_nul("the document's key", key)
}

/// Rejects a document, or another entry's content, of a size that no store accepts.
///
/// # Errors
/// [`Invalid`](crate::error::StoreErrorKind::Invalid) with a message that names the limit.
pub fn check_document(bytes: usize) -> Result<(), StoreError> {
    check_size("the document", "bytes", bytes, MAX_DOCUMENT_BYTES)
}
