//! Ids in their stored form, which is text.

use cqrs_core::{Id, StreamId};

use crate::report::Failure;

/// Returns the id's text. Fails if it does not parse back to an equal value, as [`Id`] requires.
pub(crate) fn text<I: Id>(id: &I) -> Result<String, Failure> {
    let text = id.as_text().to_string();
    let kind = std::any::type_name::<I>();
    let title = format!("the id {text:?} cannot be stored");
    match I::from_text(&text) {
        Ok(back) if back.as_text().to_string() == text => Ok(text),
        Ok(back) => Err(Failure::new(title).cause(format!(
            "the text {text:?} of a `{kind}` parses back to another value, which prints as {:?}",
            back.as_text().to_string()
        ))),
        Err(error) => Err(Failure::new(title)
            .cause(format!("the text {text:?} of a `{kind}` does not parse back: {error}"))),
    }
}

/// Returns the stream of the aggregate `category` with this id.
pub(crate) fn stream<I: Id>(category: &str, id: &I) -> Result<StreamId, Failure> {
    let text = text(id)?;
    StreamId::new(category, &text)
        .map_err(|error| Failure::new(format!("the id {text:?} names no stream")).cause(error.to_string()))
}
