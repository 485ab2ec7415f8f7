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

/// What a plain statement needs beside the rows.
#[derive(Debug)]
pub(crate) struct Plain<'a> {
    /// The position and the id of the log's last event.
    end: (i64, Uuid),
    /// How often a writer was fenced so far.
    fenced: i64,
    /// Names that the index of names may not have for the blocks in which the events will lie, and these blocks.
    names: Vec<&'a str>,
    blocks: Vec<i64>,
}

impl<'a> Rows<'a> {
    /// What a plain statement needs, if one can write these: if it is only events, without a tag and a key, and
    /// enough is known. As long as the log ends as is known, so is what is seen of it before they are written.
    /// A log that ends before `floor` was rewound, which the function tells.
    pub(crate) fn plain(&self, known: &Known, floor: i64) -> Option<Plain<'a>> {
        let (fenced, end) = (known.fenced()?, self.end?);
        if end.0 < floor || !(self.key_names.is_empty() && self.tag_names.is_empty()) {
            return None;
        }
        let (names, blocks): (Vec<_>, Vec<_>) = known.lacks_names(end.0, &self.names).into_iter().unzip();
        // Of one event all has to be known; of several, what is not is looked up and added.
        let known_enough = self.streams.len() > 1 || (self.heads.is_empty() && names.is_empty());
        known_enough.then_some(Plain { end, fenced, names, blocks })
    }

    /// Writes them with a plain statement, if nobody has the lock and nothing has happened meanwhile; or else
    /// `None`, and nothing was written.
    pub(crate) async fn write_plainly(
        &self,
        conn: &Conn,
        to: &Target,
        plain: &Plain<'_>,
    ) -> Result<Option<Start>, Fault> {
        let (position, last) = plain.end;
        let partition = i32::from(to.partition.get());
        let basis: [Param<'_>; 5] = [&to.lock, &plain.fenced, &last, &partition, &position];
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
                let unknown: [Param<'_>; 5] =
                    [&self.heads, &self.bases, &self.lasts, &plain.names, &plain.blocks];
                let (append, unknown) = match self.heads.is_empty() && plain.names.is_empty() {
                    true => (&APPEND_ALL, &unknown[..0]),
                    false => (&APPEND_ALL_UNKNOWN, &unknown[..]),
                };
                conn.execute(append, &[&basis[..], &all, unknown].concat()).await?
            }
        };
        let wanted = self.streams.len() as u64;
        if written != 0 && written != wanted {
            return Err(Fault::corrupt(format!(
                "PostgreSQL wrote {written} of {wanted} events of a group: does a trigger or a rule of the table `events` skip rows?"
            )));
        }
        Ok((written > 0).then_some(Start { position, last: Some(last), as_known: true }))
    }
}

// What all of the following rest on, looked at once, before anything is written. Their snapshot is older than
// their lock, so what they see may be old; but if somebody has written since, the position is taken, and if
// somebody has fenced, the sequence has moved, which all see at once. A `CASE` is evaluated in its order. Of which
// log it is need not be asked: no other has that event at its end.
macro_rules! undisturbed {
    () => {
        "CASE WHEN pg_try_advisory_xact_lock($1)
              THEN pg_sequence_last_value('{s}.fenced'::regclass) = $2 ELSE false END
         AND (SELECT e.position = $5 AND e.id = $3 FROM {s}.events e WHERE e.partition = $4
              ORDER BY e.position DESC LIMIT 1)"
    };
}

macro_rules! insert {
    () => {
        "INSERT INTO {s}.events (partition, position, version, schema_version, time, id, stream, name, tags,
                                 metadata, payload) "
    };
}

// Lists in the place of columns are taken apart side by side, and one that is shorter than the others goes on
// with `NULL`. In the place of a table, each would be stored once more first.
macro_rules! select_all {
    () => {
        "SELECT $4, generate_series($5 + 1, $5 + cardinality($6)), unnest($6), unnest($7), unnest($8),
                unnest($9), unnest($10), unnest($11), unnest($12), unnest($13), unnest($14)"
    };
}

macro_rules! types {
    ($($of_rows:ident)*) => {
        &[Type::INT8, Type::INT8, Type::UUID, Type::INT4, Type::INT8, $(Type::$of_rows),*]
    };
}

macro_rules! types_of_all {
    ($($of_unknown:ident)*) => {
        types!(
            INT8_ARRAY INT8_ARRAY INT8_ARRAY UUID_ARRAY TEXT_ARRAY TEXT_ARRAY TEXT_ARRAY TEXT_ARRAY BYTEA_ARRAY
                $($of_unknown)*
        )
    };
}

pub(crate) static APPEND_ONE: Sql = Sql::new(
    concat!(insert!(), "SELECT $4, $5 + 1, $6, $7, $8, $9, $10, $11, $12, $13, $14 WHERE ", undisturbed!()),
    types!(INT8 INT8 INT8 UUID TEXT TEXT TEXT TEXT BYTEA),
);

pub(crate) static APPEND_ALL: Sql =
    Sql::new(concat!(insert!(), select_all!(), " WHERE ", undisturbed!()), types_of_all!());

/// The same, where some streams or names are not known.
pub(crate) static APPEND_ALL_UNKNOWN: Sql = Sql::new(
    concat!(
        "WITH basis AS (SELECT 1 WHERE ",
        undisturbed!(),
        " AND NOT EXISTS (SELECT FROM unnest($15, $16, $17) AS h (stream, base, last)
                          LEFT JOIN LATERAL (SELECT e.version, e.id FROM {s}.events e WHERE e.stream = h.stream
                                             ORDER BY e.version DESC LIMIT 1) l ON true
                          WHERE coalesce(l.version, 0) <> h.base OR l.id <> h.last)),
              named AS (INSERT INTO {s}.names (name, partition, block)
                        SELECT unnest($18), $4, unnest($19) FROM basis ON CONFLICT DO NOTHING) ",
        insert!(),
        select_all!(),
        " FROM basis"
    ),
    types_of_all!(TEXT_ARRAY INT8_ARRAY UUID_ARRAY TEXT_ARRAY INT8_ARRAY),
);

static FENCED: Sql = Sql::new("SELECT pg_sequence_last_value('{s}.fenced'::regclass)", &[]);

static NEXT_FENCED: Sql = Sql::new("SELECT nextval('{s}.fenced')", &[]);

/// How often a writer was fenced so far.
pub(crate) async fn fenced(conn: &Conn) -> Result<i64, Fault> {
    if let Some(fenced) = conn.row(&FENCED, &[]).await?.try_get(0)? {
        return Ok(fenced);
    }
    // A dump or a replica of the schema alone leaves the sequence without a value.
    tracing::warn!("the sequence `fenced` had no value, as after a restore; it is given one");
    conn.row(&NEXT_FENCED, &[]).await?;
    let fenced = conn.row(&FENCED, &[]).await?.try_get::<_, Option<i64>>(0)?;
    fenced.ok_or_else(|| Fault::corrupt("the sequence `fenced` takes no value"))
}
