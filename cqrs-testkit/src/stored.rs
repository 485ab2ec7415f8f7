//! Events in their stored form, which the test kit compares, prints, and folds.

use std::borrow::Cow;

use bytes::Bytes;
use cqrs_core::codec::CodecError;
use cqrs_core::event::{self, Encoded, EventSet, RecordedEvent, Stored, Tags};
use cqrs_core::{Event, EventMeta};

use crate::report::compare::{Difference, differences, fields, leaf_rows};
use crate::report::leaves::{Ignored, Leaves};
use crate::report::table::Table;
use crate::report::{Failure, chain};

/// An event in its stored form: name, version, payload, and tags.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) name: Cow<'static, str>,
    pub(crate) version: u32,
    pub(crate) payload: Bytes,
    pub(crate) tags: Tags,
}

impl From<Encoded> for Image {
    fn from(encoded: Encoded) -> Self {
        let Encoded { name, version, payload, tags } = encoded;
        Self { name: name.into(), version, payload, tags }
    }
}

impl Image {
    pub(crate) fn stored(&self) -> Stored<'_> {
        Stored { name: &self.name, version: self.version, payload: &self.payload }
    }

    pub(crate) fn leaves(&self) -> Leaves {
        Leaves::of_bytes(&self.payload)
    }

    /// Returns the event as recorded in a log.
    pub(crate) fn recorded(&self, meta: EventMeta) -> RecordedEvent {
        let Self { name, version, payload, tags } = self.clone();
        RecordedEvent { meta, name, schema_version: version, payload, tags }
    }

    /// Returns the name, followed by the version if it is not 1.
    pub(crate) fn title(&self) -> String {
        if self.version == 1 { self.name.to_string() } else { format!("{} v{}", self.name, self.version) }
    }

    /// Returns the event on one line: `Deposited { cents: 5 }`.
    pub(crate) fn inline(&self) -> String {
        format!("{}{}", self.title(), self.leaves().inline(90))
    }
}

/// Encodes events of a set. `what` names each of them in a failure.
pub(crate) fn images<S: EventSet>(
    events: &[S],
    what: &dyn Fn(usize) -> String,
) -> Result<Vec<Image>, Failure> {
    let image = |(at, event): (usize, &S)| match event.encode() {
        Ok(encoded) => Ok(Image::from(encoded)),
        Err(error) => Err(unwritable(&what(at), error.cause())),
    };
    events.iter().enumerate().map(image).collect()
}

pub(crate) fn unwritable(what: &str, error: &CodecError) -> Failure {
    Failure::new(format!("{what} cannot be stored")).cause(format!("its `Serialize` fails: {}", chain(error)))
}

/// Decodes a stored event as events of a set. `what` names it in a failure.
pub(crate) fn read<S: EventSet>(image: &Image, what: &str) -> Result<Vec<S>, Failure> {
    let mut events = Vec::new();
    event::decode::<S>(&image.stored(), &mut |event| events.push(event))
        .map_err(|error| unreadable(image, what, &chain(&error)))?;
    Ok(events)
}

fn unreadable(image: &Image, what: &str, why: &str) -> Failure {
    let mut table = Table::new("stored", "read back");
    let mut lines = vec![image.title()];
    lines.extend(image.leaves().0.iter().map(|leaf| format!("   {}", leaf.path.before(&leaf.text))));
    table = table.opposed(&lines, &["(does not read)".to_owned()]);
    Failure::new(format!("{what}, `{}`, does not read back from what is stored", image.name))
        .table(table)
        .cause(why)
}

/// Decodes a stored event, and checks that encoding it again does not change it.
pub(crate) fn round_trip<S: EventSet>(image: &Image, what: &str) -> Result<S, Failure> {
    let event = only(read::<S>(image, what)?, image, what)?;
    let again = event.encode().map_err(|error| unwritable(&format!("{what}, read back,"), error.cause()))?;
    unchanged(image, &Image::from(again), what)?;
    Ok(event)
}

/// Encodes an event that need not be in a set.
pub(crate) fn image_of<E: Event>(event: &E, what: &str) -> Result<Image, Failure> {
    let mut tags = Tags::default();
    event.tags(&mut tags);
    let payload = event.to_event_bytes::<E::Codec>().map_err(|error| unwritable(what, &error))?;
    Ok(Image { name: E::NAME.into(), version: E::VERSION, payload, tags })
}

/// Does the same as [`round_trip`] for an event that need not be in a set.
pub(crate) fn round_trip_of<E: Event>(image: &Image, what: &str) -> Result<(), Failure> {
    let mut read = None;
    cqrs_core::__private::decode::<E>(&image.stored(), &mut |event| read = Some(event))
        .map_err(|error| unreadable(image, what, &chain(&error)))?;
    match read {
        Some(event) => unchanged(image, &image_of(&event, what)?, what),
        None => Err(unreadable(image, what, "its type reads no event from it")),
    }
}

fn only<S>(mut events: Vec<S>, image: &Image, what: &str) -> Result<S, Failure> {
    match (events.pop(), events.is_empty()) {
        (Some(event), true) => Ok(event),
        _ => Err(Failure::new(format!("{what}, `{}`, does not read back as one event", image.name))
            .cause("another event says that it replaces one of this stored name and version")),
    }
}

fn unchanged(first: &Image, again: &Image, what: &str) -> Result<(), Failure> {
    let name = &first.name;
    let (left, right) = (first.leaves(), again.leaves());
    let differing = differences(&left, &right, &Ignored::default());
    if first.name == again.name && first.version == again.version && differing.is_empty() {
        return Ok(());
    }
    let mut table = Table::new("stored", "read back");
    leaf_rows(&mut table, &left, &right, &Ignored::default());
    let cause = if differing.is_empty() {
        format!("`{}` reads back as `{}`", first.title(), again.title())
    } else {
        changed(name, &differing)
    };
    let failure = Failure::new(format!("{what}, `{name}`, is not the same after storing and reading back"))
        .table(table)
        .cause(cause);
    if !differing.is_empty() && left.same_values(&right) {
        return Err(failure.note(
            "the same values in another order: the order of a `HashSet` changes every time, that of a `BTreeSet` does not",
        ));
    }
    Err(failure
        .note("check its `#[serde(…)]` attributes; if the change is intended, add `.without_round_trip()`"))
}

fn changed(name: &str, differing: &[Difference]) -> String {
    format!("`{name}` changes in {}", fields(differing, ["stored", "read back"]))
}
