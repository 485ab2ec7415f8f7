//! The seam between an event's type and its bytes.

use std::cell::Cell;
use std::fmt;
use std::sync::LazyLock;

use bytes::Bytes;
use memchr::memmem::Finder;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// How values become bytes. [`Json`] unless `#[event(codec = …)]` names another.
///
/// A codec must read every byte sequence that it ever wrote, in all releases.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a codec",
    label = "not a codec",
    note = "implement `cqrs::Codec` for it, or leave `codec = …` out to store JSON"
)]
pub trait Codec: 'static {
    /// Writes a value.
    ///
    /// # Errors
    /// [`CodecError`] if the value's `Serialize` fails.
    fn encode<T: Serialize>(value: &T) -> Result<Bytes, CodecError>;

    /// Reads a value.
    ///
    /// # Errors
    /// [`CodecError`] if the bytes are not what this codec writes, or do not fit `T`.
    fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError>;
}

/// What can be stored: every type that derives `Serialize` and `Deserialize`.
///
/// It has both as its condition and not as its supertraits: so a type that lacks them gets one
/// message, in our words.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be stored",
    label = "not both `Serialize` and `Deserialize`",
    note = "derive them: `#[derive(Serialize, Deserialize)]`, and for the types of its fields too"
)]
pub trait Storable: Sized {
    /// As the bytes of a codec.
    ///
    /// # Errors
    /// [`CodecError`] if the value's `Serialize` fails.
    fn to_bytes<C: Codec>(&self) -> Result<Bytes, CodecError>;

    /// From the bytes of a codec.
    ///
    /// # Errors
    /// [`CodecError`] if the bytes are not what the codec writes, or do not fit the type.
    fn from_bytes<C: Codec>(bytes: &[u8]) -> Result<Self, CodecError>;
}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned> Storable for T {
    fn to_bytes<C: Codec>(&self) -> Result<Bytes, CodecError> {
        C::encode(self)
    }

    fn from_bytes<C: Codec>(bytes: &[u8]) -> Result<Self, CodecError> {
        C::decode(bytes)
    }
}

/// JSON, as `serde_json` writes it.
#[derive(Clone, Copy, Debug)]
pub struct Json;

impl Codec for Json {
    fn encode<T: Serialize>(value: &T) -> Result<Bytes, CodecError> {
        // Where it grows is used again, so that one allocation remains, of the length that it has.
        thread_local!(static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) });
        let mut scratch = SCRATCH.take();
        scratch.clear();
        serde_json::to_writer(&mut scratch, value).map_err(CodecError::new)?;
        let bytes = Bytes::copy_from_slice(&scratch);
        if scratch.capacity() <= KEPT {
            SCRATCH.set(scratch);
        }
        Ok(bytes)
    }

    fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
        serde_json::from_slice(bytes).map_err(CodecError::new)
    }
}

/// What a thread keeps to write into, in bytes.
const KEPT: usize = 16 << 10;

static NULL: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("null"));

/// Writes a value that is to be stored, and refuses one that would not come back: JSON has no word
/// for a float that is not a number, and writes `null`, which is read as none.
pub(crate) fn encode<C: Codec, T: Storable>(value: &T) -> Result<Bytes, CodecError> {
    let bytes = value.to_bytes::<C>()?;
    if NULL.find(&bytes).is_some() {
        let back = T::from_bytes::<C>(&bytes).map(drop);
        back.map_err(|error| CodecError::new(format!("what it writes could not be read back: {error}")))?;
    }
    Ok(bytes)
}

/// A value that does not become bytes, or bytes that do not become a value.
#[derive(Debug)]
pub struct CodecError(Box<dyn std::error::Error + Send + Sync>);

impl CodecError {
    /// Wraps the codec's own error.
    pub fn new(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(cause.into())
    }
}

// The codec's own words are the message, so they are not repeated as a source.
impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for CodecError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}
