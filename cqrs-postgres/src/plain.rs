//! Appends that rest on the log's last event alone, written with a plain statement.
//!
//! As long as nobody else writes, all that this process knows of the log is still so. A statement that finds
//! the event at its end that this process has written last may write what was decided on it. It needs half
//! of the time that the function `append_group` does, which is given lists and looks everything up.

use tokio_postgres::types::Type;
use uuid::Uuid;

use crate::append::{Rows, Start, Target};
use crate::error::Fault;
use crate::known::Known;
use crate::open::{Conn, Param, Sql};

impl Rows<'_> {
    /// Whether it is only events, without a tag and a key, and all is known: if the log ends as is known, so
    /// is what is seen of it before they are written.
    pub(crate) fn is_plain(&self, known: &Known) -> bool {
        let only_events = self.key_names.is_empty() && self.tag_names.is_empty();
        // Of one event all has to be known; of several, what is not is looked up.
        let known_enough = self.heads.is_empty() || self.streams.len() > 1;
        let named = |(position, _): (i64, Uuid)| {
            let last = position + self.streams.len() as i64;
            known.has_names(position + 1, last, self.names.iter().copied())
        };
        only_events && known_enough && self.end.is_some_and(named)
    }

    /// Writes them with a plain statement, if nobody has the lock and nothing has happened meanwhile; or else
    /// `None`, and nothing was written.
    pub(crate) async fn write_plainly(
        &self,
        conn: &Conn,
        to: &Target,
        fenced: i64,
    ) -> Result<Option<Start>, Fault> {
        let Some((position, last)) = self.end else { return Ok(None) };
        let partition = i32::from(to.partition.get());
        let basis: [Param<'_>; 5] = [&to.lock, &fenced, &last, &partition, &position];
        let written = match self.streams.len() {
            1 => {
                let one: [Param<'_>; 9] = [
                    &self.versions[0],
                    &self.schema_versions[0],
                    &self.times[0],
                    &self.ids[0],
                    &self.streams[0],
                    &self.names[0],
                    &self.tags.first().and_then(Option::as_ref),
                    &self.metadata.first().and_then(Option::as_ref),
                    &self.payloads[0],
                ];
                conn.execute(&APPEND_ONE, &[&basis[..], &one].concat()).await?
            }
            _ => {
                let all: [Param<'_>; 9] = [
                    &self.versions,
                    &self.schema_versions,
                    &self.times,
                    &self.ids,
                    &self.streams,
                    &self.names,
                    &self.tags,
                    &self.metadata,
                    &self.payloads,
                ];
                let heads: [Param<'_>; 2] = [&self.heads, &self.bases];
                let (append, heads) = match self.heads.is_empty() {
                    true => (&APPEND_ALL, &heads[..0]),
                    false => (&APPEND_ALL_LOOKED_UP, &heads[..]),
                };
                conn.execute(append, &[&basis[..], &all, heads].concat()).await?
            }
        };
        Ok((written > 0).then_some(Start { position, as_known: true }))
    }
}

// What all of the following rest on, looked at once, before anything is written. Their snapshot is older than
// their lock, so what they see may be old; but if somebody has written since, the position is taken, and if
// somebody has fenced, the sequence has moved, which all see at once. A `CASE` is evaluated in its order. Of which
// log it is need not be asked: no other has that event at its end.
macro_rules! if_undisturbed {
    ($select:literal, $rest:literal, $($of_rows:ident)*) => {
        Sql::new(
            concat!(
                "INSERT INTO {s}.events (partition, position, version, schema_version, time, id, stream, name, tags,
                                         metadata, payload) ",
                $select,
                " WHERE CASE WHEN pg_try_advisory_xact_lock($1)
                             THEN pg_sequence_last_value('{s}.fenced'::regclass) = $2 ELSE false END
                    AND (SELECT e.position = $5 AND e.id = $3 FROM {s}.events e WHERE e.partition = $4
                         ORDER BY e.position DESC LIMIT 1)",
                $rest
            ),
            &[
                Type::INT8,
                Type::INT8,
                Type::UUID,
                Type::INT4,
                Type::INT8,
                $(Type::$of_rows),*
            ],
        )
    };
}

pub(crate) static APPEND_ONE: Sql = if_undisturbed!(
    "SELECT $4, $5 + 1, $6, $7, $8, $9, $10, $11, $12, $13, $14",
    "",
    INT8 INT8 INT8 UUID TEXT TEXT TEXT TEXT BYTEA
);

// Lists in the place of columns are taken apart side by side, and one that is shorter than the others goes on
// with `NULL`. In the place of a table, each would be stored once more first.
macro_rules! append_all {
    ($rest:literal, $($of_rest:ident)*) => {
        if_undisturbed!(
            "SELECT $4, generate_series($5 + 1, $5 + cardinality($6)), unnest($6), unnest($7), unnest($8),
                    unnest($9), unnest($10), unnest($11), unnest($12), unnest($13), unnest($14)",
            $rest,
            INT8_ARRAY INT8_ARRAY INT8_ARRAY UUID_ARRAY TEXT_ARRAY TEXT_ARRAY TEXT_ARRAY TEXT_ARRAY BYTEA_ARRAY
                $($of_rest)*
        )
    };
}

pub(crate) static APPEND_ALL: Sql = append_all!("",);

pub(crate) static APPEND_ALL_LOOKED_UP: Sql = append_all!(
    " AND NOT EXISTS (SELECT FROM unnest($15, $16) AS h (stream, base)
                      WHERE coalesce((SELECT e.version FROM {s}.events e WHERE e.stream = h.stream
                                      ORDER BY e.version DESC LIMIT 1), 0) <> h.base)",
    TEXT_ARRAY INT8_ARRAY
);

static FENCED: Sql = Sql::new("SELECT pg_sequence_last_value('{s}.fenced'::regclass)", &[]);

/// How often a writer was fenced so far.
pub(crate) async fn fenced(conn: &Conn) -> Result<i64, Fault> {
    Ok(conn.row(&FENCED, &[]).await?.try_get(0)?)
}
