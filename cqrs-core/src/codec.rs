//! The seam between an event's type and its bytes.

use std::cell::Cell;
use std::{fmt, io};

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::ser::Formatter;

use crate::json;

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
    note = "derive them, for the types of its fields too: `#[derive(Serialize, Deserialize)]`; if the compiler finds no crate `serde`, add `serde = {{ version = \"1\", features = [\"derive\"] }}` to Cargo.toml"
)]
pub trait Storable: Sized {
    /// As the bytes of a codec.
    ///
    /// # Errors
    /// [`CodecError`] if the value's `Serialize` fails.
    fn to_bytes<C: Codec>(&self) -> Result<Bytes, CodecError>;

    /// As the payload of an event, which nests at most [`MAX_EVENT_DEPTH`] levels deep in JSON.
    ///
    /// # Errors
    /// [`CodecError`] if the value's `Serialize` fails, or it nests deeper.
    #[doc(hidden)]
    fn to_event_bytes<C: Codec>(&self) -> Result<Bytes, CodecError>;

    /// From the bytes of a codec.
    ///
    /// # Errors
    /// [`CodecError`] if the bytes are not what the codec writes, or do not fit the type.
    fn from_bytes<C: Codec>(bytes: &[u8]) -> Result<Self, CodecError>;

    /// What reads back from its stored form in JSON, without keeping that, with the length of that form.
    ///
    /// # Errors
    /// [`CodecError`] if it does not serialize or does not read back.
    #[doc(hidden)]
    fn through_json(&self) -> Result<(usize, Self), CodecError>;

    /// What serde sees of the type, as one number: the same for the same fields, variants and kinds of values.
    fn shape() -> u64;
}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned> Storable for T {
    fn to_bytes<C: Codec>(&self) -> Result<Bytes, CodecError> {
        C::encode(self)
    }

    fn to_event_bytes<C: Codec>(&self) -> Result<Bytes, CodecError> {
        let _limit = Limit::set(MAX_EVENT_DEPTH);
        C::encode(self)
    }

    fn from_bytes<C: Codec>(bytes: &[u8]) -> Result<Self, CodecError> {
        C::decode(bytes)
    }

    fn through_json(&self) -> Result<(usize, Self), CodecError> {
        Json::written(self, |bytes| {
            Ok((bytes.len(), Json::decode(bytes).map_err(|error| not_read(&error))?))
        })?
    }

    fn shape() -> u64 {
        crate::shape::shape::<T>()
    }
}

/// JSON, as `serde_json` writes it.
///
/// Documents and snapshots nest at most [`MAX_DEPTH`] levels deep, which is what `serde_json` reads, and events at most
/// [`MAX_EVENT_DEPTH`] when they are written. Writing stops at that level, so a deeper value is an error and never
/// exhausts the stack.
#[derive(Clone, Copy, Debug)]
pub struct Json;

/// The deepest nesting of arrays and objects that [`Json`] writes and reads.
pub const MAX_DEPTH: usize = 127;

/// The deepest nesting of arrays and objects that [`Json`] writes in an event. It is less than [`MAX_DEPTH`], because a
/// document or a snapshot may keep a part of an event some levels deeper, and must not fail when the event is stored.
pub const MAX_EVENT_DEPTH: usize = 100;

thread_local!(static LIMIT: Cell<usize> = const { Cell::new(MAX_DEPTH) });

/// Limits the nesting of everything that this thread writes meanwhile, also by a codec that converts the JSON.
struct Limit {
    before: usize,
}

impl Limit {
    fn set(levels: usize) -> Self {
        Self { before: LIMIT.replace(levels) }
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        LIMIT.set(self.before);
    }
}

impl Json {
    /// Writes a value and lends the bytes.
    pub(crate) fn written<T: Serialize, R>(
        value: &T,
        read: impl FnOnce(&[u8]) -> R,
    ) -> Result<R, CodecError> {
        // Where it grows is used again.
        thread_local!(static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) });
        let mut scratch = SCRATCH.take();
        scratch.clear();
        let mut serializer =
            serde_json::Serializer::with_formatter(&mut scratch, Bounded { depth: 0, limit: LIMIT.get() });
        value.serialize(&mut serializer).map_err(CodecError::new)?;
        let end = read(&scratch);
        if scratch.capacity() <= KEPT {
            SCRATCH.set(scratch);
        }
        Ok(end)
    }
}

impl Codec for Json {
    fn encode<T: Serialize>(value: &T) -> Result<Bytes, CodecError> {
        Self::written(value, Bytes::copy_from_slice)
    }

    fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
        serde_json::from_slice(bytes).map_err(|error| unfit(bytes, error))
    }
}

/// What a thread keeps to write into, in bytes.
const KEPT: usize = 16 << 10;

/// Compact JSON that ends at the depth which can be read.
struct Bounded {
    depth: usize,
    limit: usize,
}

impl Bounded {
    fn enter(&mut self) -> io::Result<()> {
        if self.depth == self.limit {
            let message = format!("the value nests deeper than {} levels, which is the limit", self.limit);
            return Err(io::Error::other(message));
        }
        self.depth += 1;
        Ok(())
    }
}

impl Formatter for Bounded {
    fn begin_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.enter()?;
        writer.write_all(b"[")
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.depth -= 1;
        writer.write_all(b"]")
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.enter()?;
        writer.write_all(b"{")
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.depth -= 1;
        writer.write_all(b"}")
    }
}

/// An error of `serde_json` with the field that it is about, which its own message often leaves out.
fn unfit(bytes: &[u8], error: serde_json::Error) -> CodecError {
    match json::path_at(bytes, error.line(), error.column()) {
        Some(path) => CodecError::new(format!("in `{path}`: {error}")),
        None => CodecError::new(error),
    }
}

/// Writes a value that is to be stored, and reads it back: the value that every later reader gets. A value
/// that cannot be read back is an error, because it must not be stored.
pub(crate) fn pass_through<C: Codec, T: Storable>(value: &T) -> Result<(Bytes, T), CodecError> {
    let bytes = value.to_bytes::<C>()?;
    let back = T::from_bytes::<C>(&bytes).map_err(|error| not_read(&error))?;
    Ok((bytes, back))
}

fn not_read(error: &CodecError) -> CodecError {
    CodecError::new(format!("{NOT_READ}{error}"))
}

/// What a codec says, without what is in the value: for logs. A message of the user's own is left out, because it
/// may hold anything.
pub(crate) fn reason(error: &CodecError) -> String {
    let whole = error.to_string();
    let text = whole.strip_prefix(NOT_READ).unwrap_or(&whole);
    // The path names map keys.
    let text = match text.strip_prefix("in `").and_then(|rest| rest.split_once("`: ")) {
        Some((_, message)) => message,
        None => text,
    };
    // What is expected is of the type, what was found of the value.
    let expected = || text.split_once(", expected ").map(|(_, expected)| format!(", expected {expected}"));
    for (starts, is_of_the_type) in [
        ("missing field `", true),
        ("duplicate field `", true),
        ("invalid length ", true),
        ("recursion limit exceeded", true),
        ("EOF ", true),
        ("u128 is not supported", true),
        ("i128 is not supported", true),
        ("data did not match any variant of ", true),
        ("the value nests deeper than ", true),
        ("invalid type: ", false),
        ("invalid value: ", false),
        ("unknown field ", false),
        ("unknown variant ", false),
    ] {
        if text.starts_with(starts) {
            let kind = starts.trim_end().trim_end_matches(':');
            return if is_of_the_type {
                text.to_owned()
            } else {
                format!("{kind}{}", expected().unwrap_or_default())
            };
        }
    }
    "its `Serialize` or `Deserialize` fails".to_owned()
}

const NOT_READ: &str = "what it writes cannot be read back: ";

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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Codec as _, Json, reason};

    #[test]
    fn a_reason_for_a_log_has_no_content() {
        let secret = |text: &str| {
            let error = Json::decode::<BTreeMap<String, (u32, bool)>>(text.as_bytes()).err();
            error.map(|error| (error.to_string(), reason(&error)))
        };
        for (text, expected) in [
            (r#"{"secret":["secret",true]}"#, "invalid type, expected u32 at line 1 column 19"),
            (r#"{"secret":[1]}"#, "invalid length 1, expected a tuple of size 2 at line 1 column 13"),
            (r#"{"secret":[-7,true]}"#, "invalid value, expected u32 at line 1 column 13"),
            (r#"{"secret":[1,true"#, "EOF while parsing a list at line 1 column 17"),
            (r#"{"secret":[1,secret]}"#, "its `Serialize` or `Deserialize` fails"),
        ] {
            let Some((_, said)) = secret(text) else { unreachable!("{text} is not readable") };
            assert_eq!(said, expected, "{text}");
            assert!(!said.contains("secret"));
        }
    }
}
