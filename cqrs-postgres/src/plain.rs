//! Appends that rest on the log's last event alone, written with a plain statement.
//!
//! As long as nobody else writes, all that this process knows of the log is still so. A statement that finds
//! the event at its end that this process has written last may write what was decided on it. It needs half
//! of the time that the function `append` does, which is given lists and looks everything up.

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
        let basis: [Param<'_>; 6] = [&to.lock, &fenced, &to.log.0, &last, &partition, &position];
        let written = match self.streams.len() {
            1 => {
                let one: [Param<'_>; 9] = [
                    &self.versions[0],
                    &self.schema_versions[0],
                    &self.times[0],
                    &self.ids[0],
                    &self.streams[0],
                    &self.names[0],
                    &self.tags[0],
                    &self.metadata[0],
                    &self.payloads[0],
                ];
                conn.execute(&APPEND_ONE, &[&basis[..], &one].concat()).await?
            }
            _ => {
                let all: [Param<'_>; 11] = [
                    &self.versions,
                    &self.schema_versions,
                    &self.times,
                    &self.ids,
                    &self.streams,
                    &self.names,
                    &self.tags,
                    &self.metadata,
                    &self.payloads,
                    &self.heads,
                    &self.bases,
                ];
                conn.execute(&APPEND_ALL, &[&basis[..], &all].concat()).await?
            }
        };
        Ok((written > 0).then_some(Start { position, as_known: true }))
    }
}

// What both of the following rest on, looked at once. Their snapshot is older than their lock, so what they
// see may be old; but if somebody has written since, the position is taken, and if somebody has fenced, the
// sequence has moved, which all see at once. A `CASE` is evaluated in its order.
macro_rules! if_undisturbed {
    ($rest:literal) => {
        concat!(
            "WITH undisturbed AS MATERIALIZED (SELECT
                 WHERE CASE WHEN pg_try_advisory_xact_lock($1)
                            THEN pg_sequence_last_value('{s}.fenced'::regclass) = $2 ELSE false END
                   AND EXISTS (SELECT FROM {s}.meta m WHERE m.log = $3)
                   AND EXISTS (SELECT FROM (SELECT e.position, e.id FROM {s}.events e WHERE e.partition = $5
                                            ORDER BY e.position DESC LIMIT 1) l
                               WHERE l.position = $6 AND l.id = $4))
             INSERT INTO {s}.events (partition, position, version, schema_version, time, id, stream, name,
                                     tags, metadata, payload) ",
            $rest
        )
    };
}

pub(crate) static APPEND_ONE: Sql = Sql::new(
    if_undisturbed!("SELECT $5, $6 + 1, $7, $8, $9, $10, $11, $12, $13, $14, $15 FROM undisturbed"),
    &[
        Type::INT8,
        Type::INT8,
        Type::UUID,
        Type::UUID,
        Type::INT4,
        Type::INT8,
        Type::INT8,
        Type::INT8,
        Type::INT8,
        Type::UUID,
        Type::TEXT,
        Type::TEXT,
        Type::TEXT,
        Type::TEXT,
        Type::BYTEA,
    ],
);

pub(crate) static APPEND_ALL: Sql = Sql::new(
    if_undisturbed!(
        "SELECT $5, $6 + n.number, n.version, n.schema_version, n.time, n.id, n.stream, n.name, n.tags,
                n.metadata, n.payload
         FROM undisturbed, unnest($7, $8, $9, $10, $11, $12, $13, $14, $15) WITH ORDINALITY
             AS n (version, schema_version, time, id, stream, name, tags, metadata, payload, number)
         WHERE NOT EXISTS (SELECT FROM unnest($16, $17) AS h (stream, base)
                           WHERE coalesce((SELECT e.version FROM {s}.events e WHERE e.stream = h.stream
                                           ORDER BY e.version DESC LIMIT 1), 0) <> h.base)"
    ),
    &[
        Type::INT8,
        Type::INT8,
        Type::UUID,
        Type::UUID,
        Type::INT4,
        Type::INT8,
        Type::INT8_ARRAY,
        Type::INT8_ARRAY,
        Type::INT8_ARRAY,
        Type::UUID_ARRAY,
        Type::TEXT_ARRAY,
        Type::TEXT_ARRAY,
        Type::TEXT_ARRAY,
        Type::TEXT_ARRAY,
        Type::BYTEA_ARRAY,
        Type::TEXT_ARRAY,
        Type::INT8_ARRAY,
    ],
);

static FENCED: Sql = Sql::new("SELECT pg_sequence_last_value('{s}.fenced'::regclass)", &[]);

/// How often a writer was fenced so far.
pub(crate) async fn fenced(conn: &Conn) -> Result<i64, Fault> {
    Ok(conn.row(&FENCED, &[]).await?.try_get(0)?)
}
