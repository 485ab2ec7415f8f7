//! The tables of a schema of the database, and the migration of older versions.
//!
//! A schema holds one log with its read models; several can live in one database. Its name stands in
//! the statements as `{s}`.
//!
//! What has to be checked and written under the log's lock is done by functions, because a function
//! makes one statement and one round trip of it. They are `VOLATILE`, so that each statement inside
//! sees what was committed before it began: the lock is a statement of its own, and what follows is
//! decided on a snapshot that is newer than the lock. That holds for transactions that are `read
//! committed`; in others the functions refuse.
//!
//! Mostly nobody else has written since this process last did. Then a plain statement is enough, which
//! costs half of a function that is given lists (see `plain`): what it has to rest on is the log's last
//! event, and what its snapshot cannot show it, two things do that all see at once: a position is taken once,
//! and a sequence counts the writers that were fenced.
//!
//! The lock is an advisory one, and the last position is read from the index of positions. A row that
//! counts would be lock and number in one, and was measured as fast (an insert of one row by one client
//! after the other: 3,753 commits per second against 3,725); but each of its updates leaves a dead row
//! behind as long as anybody in the cluster holds an old snapshot: a dump, a long report, a forgotten
//! transaction. Beside such a one it fell from 2,304 to 1,271 within 20 seconds and went on falling, where
//! this way stayed at about 3,000.
//!
//! Numbers from a sequence under a lock that appends share, and that a reader takes for itself for a moment,
//! let many processes commit at once: 16 clients that each append one event at a time came to 16,578 a second
//! that way and to 3,914 this way; 4 to 9,048 and 4,543; one to 2,923 and 3,008 (`benches/append/locks.rs`,
//! on two cores). But their positions have holes, which nobody can tell from events that are missing; a reader
//! has to stop all writers, and cannot do so on a standby; and a guard on anything but the stream itself, and
//! an inline projection, need a lock of their own. Within a process appends are merged, which gives more than
//! either (30,000 and more); for many processes that each write a little there are partitions. With no lock
//! at all, 16 clients tried each append 16 times and came to 1,043.

use std::sync::{Mutex, PoisonError};

use cqrs_core::error::StoreErrorKind;
use cqrs_core::id::{Partition, StreamId};
use cqrs_core::store::LogId;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use crate::append::Target;
use crate::error::Fault;

/// The version of the schema that this program creates and works with. The table `meta` stores it, with the
/// versions that a program has to know to read the store ([`MIN_READER`]) and to write to it
/// ([`MIN_WRITER`]).
///
/// A program opens a store of a newer version if it knows those: a change that older programs can ignore,
/// such as a column with a default, raises the version alone. So an old and a new release run next to each
/// other, and a release can be rolled back. Programs of version 1 and 2 know no such numbers and refuse every
/// newer version.
pub(crate) const VERSION: i32 = 3;
/// The lowest version that a program has to know to read a store that this program has created or migrated.
const MIN_READER: i32 = 3;
/// The lowest version that a program has to know to write to it.
const MIN_WRITER: i32 = 3;

/// The relations of a store, all of them made at once.
const TABLES: [&str; 11] = [
    "meta",
    "events",
    "names",
    "tags",
    "keys",
    "fences",
    "fenced",
    "consumers",
    "checkpoints",
    "entries",
    "snapshots",
];

/// Version 1. Texts are compared by their bytes, whatever the database's collation is.
///
/// `names` tells which blocks of 256 positions have an event with a name: there are few names and many
/// events, and an index with an entry for each event cost a fifth of the append.
const TABLES_1: &str = r#"
CREATE TABLE {s}.meta (
    one smallint PRIMARY KEY CHECK (one = 1),
    store text NOT NULL CHECK (store = 'cqrs'),
    version integer NOT NULL,
    log uuid NOT NULL,
    partitions integer NOT NULL CHECK (partitions BETWEEN 1 AND 65535)
);
CREATE TABLE {s}.events (
    partition integer NOT NULL,
    position bigint NOT NULL,
    version bigint NOT NULL,
    schema_version bigint NOT NULL,
    time bigint NOT NULL,
    id uuid NOT NULL CONSTRAINT events_by_id UNIQUE,
    stream text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    tags text,
    metadata text,
    payload bytea NOT NULL,
    CONSTRAINT events_by_position PRIMARY KEY (partition, position),
    CONSTRAINT events_by_stream UNIQUE (stream, version)
);
CREATE TABLE {s}.names (
    name text COLLATE "C" NOT NULL,
    partition integer NOT NULL,
    block bigint NOT NULL,
    PRIMARY KEY (name, partition, block)
);
CREATE TABLE {s}.tags (
    tag text COLLATE "C" NOT NULL,
    partition integer NOT NULL,
    position bigint NOT NULL,
    PRIMARY KEY (tag, partition, position)
);
CREATE TABLE {s}.keys (
    stream text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    partition integer NOT NULL,
    position bigint NOT NULL,
    versions text NOT NULL,
    PRIMARY KEY (stream, key)
);
CREATE TABLE {s}.fences (
    writer uuid PRIMARY KEY
);
CREATE SEQUENCE {s}.fenced;
SELECT nextval('{s}.fenced');
CREATE TABLE {s}.consumers (
    consumer text COLLATE "C" PRIMARY KEY,
    epoch bigint NOT NULL,
    batch uuid
) WITH (fillfactor = 50);
CREATE TABLE {s}.checkpoints (
    consumer text COLLATE "C" NOT NULL,
    partition integer NOT NULL,
    log uuid NOT NULL,
    position bigint NOT NULL,
    event uuid,
    PRIMARY KEY (consumer, partition)
);
CREATE TABLE {s}.documents (
    collection text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    content bytea NOT NULL,
    PRIMARY KEY (collection, key)
) WITH (fillfactor = 80);
CREATE TABLE {s}.snapshots (
    stream text COLLATE "C" PRIMARY KEY,
    log uuid NOT NULL,
    version bigint NOT NULL,
    position bigint NOT NULL,
    fingerprint bigint NOT NULL,
    state bytea NOT NULL
) WITH (fillfactor = 80);

-- Statements of a projection's own run in the transaction that moves its checkpoint. While they do, their
-- batch stands here, and who commits then commits a part: that is refused, whoever sends it.
CREATE FUNCTION {s}.batch_is_closed() RETURNS trigger LANGUAGE plpgsql AS $f$
BEGIN
    IF EXISTS (SELECT FROM {s}.consumers c WHERE c.consumer = NEW.consumer AND c.batch = NEW.batch) THEN
        RAISE EXCEPTION 'the statements of the projection % are not to end their transaction', NEW.consumer
            USING ERRCODE = 'CQ005';
    END IF;
    RETURN NULL;
END
$f$;
CREATE CONSTRAINT TRIGGER batch_is_closed AFTER INSERT OR UPDATE OF batch ON {s}.consumers
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.batch IS NOT NULL)
    EXECUTE FUNCTION {s}.batch_is_closed();
"#;

/// Version 3: the versions that a program has to know, and the columns that this version adds.
///
/// A program of version 2 that is still open keeps its functions and continues to append. Its projections stop
/// instead, because it does not know which events belong to a consumer, and would skip those of newer programs:
/// the function that moves their checkpoints is gone. A snapshot names its last event. One that a program of version
/// 2 saves does not, and is never used. The table stays, because roles have rights on it.
///
/// A consumer owns several collections of entries, with bytes for keys. Those of version 2 were documents, in the
/// collection without a name; their table is renamed, and so keeps the rights of roles. An append of a program of
/// version 2 that brings inline projections fails, because the table that it writes them to is gone.
const TABLES_3: &str = r#"
ALTER TABLE {s}.meta ADD COLUMN min_reader integer NOT NULL DEFAULT 3;
ALTER TABLE {s}.meta ADD COLUMN min_writer integer NOT NULL DEFAULT 3;
ALTER TABLE {s}.consumers ADD COLUMN revision bigint NOT NULL DEFAULT 0;
ALTER TABLE {s}.consumers ADD COLUMN record text;
DELETE FROM {s}.snapshots;
ALTER TABLE {s}.snapshots ADD COLUMN event uuid;
DROP FUNCTION IF EXISTS {s}.commit(
    text, integer, bigint, integer[], uuid[], bigint[], uuid[], uuid, bigint, uuid, text, text[], bytea[], text[]
);
ALTER TABLE {s}.documents RENAME TO entries;
ALTER TABLE {s}.entries RENAME COLUMN collection TO consumer;
ALTER TABLE {s}.entries
    DROP CONSTRAINT documents_pkey,
    ADD COLUMN collection text COLLATE "C" NOT NULL DEFAULT '',
    ALTER COLUMN key TYPE bytea USING convert_to(key, 'UTF8'),
    ADD PRIMARY KEY (consumer, collection, key);
ALTER TABLE {s}.entries ALTER COLUMN collection DROP DEFAULT;
"#;

/// What leads from each version to the next one, from nothing on. Version 2 had other functions than version 1,
/// and the same tables.
const STEPS: [&str; VERSION as usize] = [TABLES_1, "", TABLES_3];

/// The functions of this version.
///
/// Their names end with the version that introduced them in this form. A function that changes gets a new name,
/// and the old one stays for the programs that call it, until a version raises [`MIN_WRITER`] past them.
///
/// The planner is kept from walking through a table: it plans once for a connection, and often while
/// the table is still small. Nor is a plan compiled that only looks dear because of that.
const FUNCTIONS: &str = r#"
CREATE OR REPLACE FUNCTION {s}.last_position_v3(p_partition integer) RETURNS bigint
LANGUAGE sql STABLE AS $f$
    SELECT coalesce((SELECT e.position FROM {s}.events e WHERE e.partition = p_partition
                     ORDER BY e.position DESC LIMIT 1), 0)
$f$;

-- Appends what a process has decided under the assumption that some streams end with these versions and
-- events (`NULL` for any), and that some keys are not there. Of the streams in `p_sure` it knows that, as long as
-- its own event `p_last` at `p_end` is the log's last one; of the names of the events, that the block `p_block`
-- has them. Gives the position before the first event, as `-1 - position` if the last event was another one; or
-- nothing, and then nothing was written, because the assumption does not hold. If each append of the group is
-- about one stream, it may be written `p_partly`: without the rows of streams that have moved, whose numbers in
-- `p_heads || p_sure` come behind the position, and their versions behind those. `o_last` is the id of the event at
-- the position. `p_floor` is the highest head that the process has reported: a log that ends before it was rewound.
CREATE OR REPLACE FUNCTION {s}.append_group_v3(
    p_log uuid, p_writer uuid, p_lock bigint, p_partition integer, p_certain boolean,
    p_partly boolean, p_end bigint, p_last uuid, p_block bigint,
    p_sure text[], p_sure_bases bigint[], p_sure_lasts uuid[],
    p_heads text[], p_bases bigint[], p_lasts uuid[],
    p_key_streams text[], p_key_names text[], p_key_ends bigint[], p_key_versions text[],
    p_streams text[], p_versions bigint[], p_ids uuid[], p_names text[], p_schema_versions bigint[],
    p_times bigint[], p_tags text[], p_metadata text[], p_payloads bytea[],
    p_tag_ends bigint[], p_tag_names text[], p_floor bigint, OUT o_answer bigint[], OUT o_last uuid
) LANGUAGE plpgsql VOLATILE AS $f$
DECLARE
    v_log boolean;
    v_fenced boolean;
    v_head bigint;
    v_same boolean;
    v_count integer := cardinality(p_streams);
    v_rows bigint;
    v_moved text[];
    v_numbers bigint[];
    v_versions bigint[];
    v_kept bigint[];
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'this transaction is %', current_setting('transaction_isolation') USING ERRCODE = 'CQ004';
    END IF;
    -- An expression costs less than a statement, and mostly nobody else has the lock.
    IF NOT pg_try_advisory_xact_lock(p_lock) THEN
        PERFORM pg_advisory_xact_lock(p_lock);
    END IF;
    SELECT EXISTS (SELECT FROM {s}.meta m WHERE m.log = p_log),
           EXISTS (SELECT FROM {s}.fences f WHERE f.writer = p_writer),
           coalesce(l.position, 0), l.id, coalesce(l.position = p_end AND l.id = p_last, false)
        INTO v_log, v_fenced, v_head, o_last, v_same
        FROM (VALUES (1)) AS one LEFT JOIN LATERAL
            (SELECT e.position, e.id FROM {s}.events e WHERE e.partition = p_partition
             ORDER BY e.position DESC LIMIT 1) l ON true;
    IF NOT v_log THEN
        RAISE EXCEPTION 'the log is not %', p_log USING ERRCODE = 'CQ001';
    END IF;
    IF v_fenced THEN
        RAISE EXCEPTION 'the writer % is fenced', p_writer USING ERRCODE = 'CQ002';
    END IF;
    IF v_head < p_floor THEN
        RAISE EXCEPTION 'partition % ends at position %, and % was reported before', p_partition, v_head, p_floor
            USING ERRCODE = 'CQ006';
    END IF;
    IF NOT v_same THEN
        p_heads := p_heads || p_sure;
        p_bases := p_bases || p_sure_bases;
        p_lasts := p_lasts || p_sure_lasts;
    END IF;
    IF cardinality(p_heads) > 0 THEN
        SELECT array_agg(h.stream), array_agg(h.number), array_agg(coalesce(l.version, 0))
            INTO v_moved, v_numbers, v_versions
            FROM unnest(p_heads, p_bases, p_lasts) WITH ORDINALITY AS h (stream, base, last, number)
            LEFT JOIN LATERAL (SELECT e.version, e.id FROM {s}.events e WHERE e.stream = h.stream
                               ORDER BY e.version DESC LIMIT 1) l ON true
            WHERE coalesce(l.version, 0) <> h.base OR l.id <> h.last;
    END IF;
    IF v_moved IS NOT NULL AND p_certain THEN
        RAISE EXCEPTION 'a stream moved under the lock' USING ERRCODE = 'CQ003';
    END IF;
    IF (v_moved IS NOT NULL AND NOT p_partly)
        OR (cardinality(p_key_names) > 0
            AND EXISTS (SELECT FROM unnest(p_key_streams, p_key_names) AS k (stream, name)
                        JOIN {s}.keys there ON there.stream = k.stream AND there.key = k.name)) THEN
        IF p_certain THEN
            RAISE EXCEPTION 'a key appeared under the lock' USING ERRCODE = 'CQ003';
        END IF;
        RETURN;
    END IF;
    IF v_moved IS NOT NULL THEN
        v_kept := ARRAY(SELECT r.number FROM unnest(p_streams) WITH ORDINALITY AS r (stream, number)
                        WHERE r.stream <> ALL (v_moved) ORDER BY r.number);
        v_count := cardinality(v_kept);
        INSERT INTO {s}.events (partition, position, version, schema_version, time, id, stream, name, tags,
                                metadata, payload)
            SELECT p_partition, v_head + row_number() OVER (ORDER BY r.number), r.version, r.schema_version,
                   r.time, r.id, r.stream, r.name, r.tags, r.metadata, r.payload
            FROM unnest(p_versions, p_schema_versions, p_times, p_ids, p_streams, p_names, p_tags, p_metadata,
                        p_payloads) WITH ORDINALITY
                AS r (version, schema_version, time, id, stream, name, tags, metadata, payload, number)
            WHERE r.stream <> ALL (v_moved);
    -- Taking lists apart costs as much as two rows, so what is alone is not taken from one.
    ELSIF v_count = 1 THEN
        INSERT INTO {s}.events (partition, position, version, schema_version, time, id, stream, name, tags,
                                metadata, payload)
            VALUES (p_partition, v_head + 1, p_versions[1], p_schema_versions[1], p_times[1], p_ids[1],
                    p_streams[1], p_names[1], p_tags[1], p_metadata[1], p_payloads[1]);
    ELSE
        INSERT INTO {s}.events (partition, position, version, schema_version, time, id, stream, name, tags,
                                metadata, payload)
            SELECT p_partition, generate_series(v_head + 1, v_head + v_count), unnest(p_versions),
                   unnest(p_schema_versions), unnest(p_times), unnest(p_ids), unnest(p_streams),
                   unnest(p_names), unnest(p_tags), unnest(p_metadata), unnest(p_payloads);
    END IF;
    GET DIAGNOSTICS v_rows = ROW_COUNT;
    IF v_rows <> v_count THEN
        RAISE EXCEPTION 'the table of events took % of % rows; a trigger or a rule skips some', v_rows, v_count
            USING ERRCODE = 'CQ003';
    END IF;
    IF NOT v_same OR p_block IS NULL OR (v_head + 1) >> 8 <> p_block OR (v_head + v_count) >> 8 <> p_block THEN
        INSERT INTO {s}.names (name, partition, block)
            SELECT DISTINCT n.name, p_partition, (v_head + coalesce(array_position(v_kept, n.number), n.number)) >> 8
            FROM unnest(p_names) WITH ORDINALITY AS n (name, number)
            WHERE v_kept IS NULL OR n.number = ANY (v_kept)
            ON CONFLICT DO NOTHING;
    END IF;
    IF cardinality(p_tag_names) > 0 THEN
        INSERT INTO {s}.tags (tag, partition, position)
            SELECT t.name, p_partition, v_head + coalesce(array_position(v_kept, t.number), t.number)
            FROM unnest(p_tag_names, p_tag_ends) AS t (name, number)
            WHERE v_kept IS NULL OR t.number = ANY (v_kept);
    END IF;
    IF cardinality(p_key_names) > 0 THEN
        INSERT INTO {s}.keys (stream, key, partition, position, versions)
            SELECT k.stream, k.name, p_partition,
                   v_head + CASE WHEN v_kept IS NULL THEN k.number
                                 ELSE (SELECT count(*) FROM unnest(v_kept) AS n (number)
                                       WHERE n.number <= k.number) END,
                   k.versions
            FROM unnest(p_key_streams, p_key_names, p_key_ends, p_key_versions)
                AS k (stream, name, number, versions)
            WHERE v_moved IS NULL OR k.stream <> ALL (v_moved);
    END IF;
    o_answer := ARRAY[CASE WHEN v_same THEN v_head ELSE -1 - v_head END] || v_numbers || v_versions;
END
$f$;

-- From now on nothing comes that this writer has sent and that is still under way.
CREATE OR REPLACE FUNCTION {s}.fence_v3(p_lock bigint, p_writer uuid) RETURNS void
LANGUAGE plpgsql VOLATILE AS $f$
BEGIN
    PERFORM pg_advisory_xact_lock(p_lock);
    INSERT INTO {s}.fences (writer) VALUES (p_writer) ON CONFLICT DO NOTHING;
    -- A statement that has its snapshot already does not see the row; a sequence it does.
    PERFORM nextval('{s}.fenced');
END
$f$;

-- The first position from `p_from` to `p_upto` that has one of the names. It leaps from block to block.
CREATE OR REPLACE FUNCTION {s}.next_named_v3(
    p_partition integer, p_names text[], p_from bigint, p_upto bigint
) RETURNS bigint LANGUAGE plpgsql STABLE
SET enable_seqscan TO off SET enable_bitmapscan TO off SET jit TO off AS $f$
DECLARE
    v_from bigint := p_from;
    v_block bigint;
    v_found bigint;
BEGIN
    LOOP
        SELECT min(f.block) INTO v_block FROM unnest(p_names) AS n (name),
            LATERAL (SELECT b.block FROM {s}.names b
                     WHERE b.name = n.name AND b.partition = p_partition AND b.block >= v_from >> 8
                     ORDER BY b.block LIMIT 1) f;
        IF v_block IS NULL OR v_block << 8 > p_upto THEN RETURN NULL; END IF;
        SELECT e.position INTO v_found FROM {s}.events e
            WHERE e.partition = p_partition AND e.position >= greatest(v_from, v_block << 8)
              AND e.position <= least(p_upto, (v_block << 8) + 255) AND e.name = ANY (p_names)
            ORDER BY e.position LIMIT 1;
        IF FOUND THEN RETURN v_found; END IF;
        v_from := (v_block + 1) << 8;
    END LOOP;
END
$f$;

-- The same from the other end: the last position behind `p_after`, up to `p_upto`.
CREATE OR REPLACE FUNCTION {s}.last_named_v3(
    p_partition integer, p_names text[], p_after bigint, p_upto bigint
) RETURNS bigint LANGUAGE plpgsql STABLE
SET enable_seqscan TO off SET enable_bitmapscan TO off SET jit TO off AS $f$
DECLARE
    v_upto bigint := p_upto;
    v_block bigint;
    v_found bigint;
BEGIN
    LOOP
        SELECT max(f.block) INTO v_block FROM unnest(p_names) AS n (name),
            LATERAL (SELECT b.block FROM {s}.names b
                     WHERE b.name = n.name AND b.partition = p_partition AND b.block <= v_upto >> 8
                     ORDER BY b.block DESC LIMIT 1) f;
        IF v_block IS NULL OR (v_block << 8) + 255 <= p_after THEN RETURN NULL; END IF;
        SELECT e.position INTO v_found FROM {s}.events e
            WHERE e.partition = p_partition AND e.position > p_after AND e.position >= v_block << 8
              AND e.position <= least(v_upto, (v_block << 8) + 255) AND e.name = ANY (p_names)
            ORDER BY e.position DESC LIMIT 1;
        IF FOUND THEN RETURN v_found; END IF;
        v_upto := (v_block << 8) - 1;
    END LOOP;
END
$f$;

-- The positions of the events that have one of the names and all of the tags, ascending. The names and
-- each tag are ascending lists that can leap, and an intersection leaps from one to the next: its cost
-- follows the rarest of them, however long the others are.
CREATE OR REPLACE FUNCTION {s}.matches_v3(
    p_partition integer, p_names text[], p_tags text[], p_after bigint, p_upto bigint, p_limit bigint
) RETURNS SETOF bigint LANGUAGE plpgsql STABLE
SET enable_seqscan TO off SET enable_bitmapscan TO off SET jit TO off AS $f$
DECLARE
    v_at bigint := p_after + 1;
    v_found bigint;
    v_tag text;
    v_left bigint := p_limit;
BEGIN
    IF cardinality(p_names) = 0 AND cardinality(p_tags) = 0 THEN
        RETURN QUERY SELECT generate_series(v_at, least(p_upto, p_after + p_limit));
        RETURN;
    ELSIF cardinality(p_tags) = 0 THEN
        -- Where one is, others are near: up to 1,024 positions are read at once.
        LOOP
            v_at := {s}.next_named_v3(p_partition, p_names, v_at, p_upto);
            IF v_at IS NULL THEN RETURN; END IF;
            RETURN QUERY SELECT e.position FROM {s}.events e
                WHERE e.partition = p_partition AND e.position >= v_at
                  AND e.position <= least(p_upto, v_at | 1023) AND e.name = ANY (p_names)
                ORDER BY e.position LIMIT v_left;
            GET DIAGNOSTICS v_found = ROW_COUNT;
            v_left := v_left - v_found;
            IF v_left <= 0 THEN RETURN; END IF;
            v_at := (v_at | 1023) + 1;
        END LOOP;
    ELSIF cardinality(p_tags) = 1 AND cardinality(p_names) = 0 THEN
        RETURN QUERY SELECT t.position FROM {s}.tags t
            WHERE t.tag = p_tags[1] AND t.partition = p_partition AND t.position BETWEEN v_at AND p_upto
            ORDER BY t.position LIMIT p_limit;
        RETURN;
    END IF;
    <<leap>>
    WHILE v_at <= p_upto AND v_left > 0 LOOP
        FOREACH v_tag IN ARRAY p_tags LOOP
            SELECT t.position INTO v_found FROM {s}.tags t
                WHERE t.tag = v_tag AND t.partition = p_partition AND t.position BETWEEN v_at AND p_upto
                ORDER BY t.position LIMIT 1;
            IF v_found IS NULL THEN RETURN; END IF;
            IF v_found > v_at THEN
                v_at := v_found;
                CONTINUE leap;
            END IF;
        END LOOP;
        IF cardinality(p_names) > 0 THEN
            v_found := {s}.next_named_v3(p_partition, p_names, v_at, p_upto);
            IF v_found IS NULL THEN RETURN; END IF;
            IF v_found > v_at THEN
                v_at := v_found;
                CONTINUE leap;
            END IF;
        END IF;
        RETURN NEXT v_at;
        v_at := v_at + 1;
        v_left := v_left - 1;
    END LOOP;
END
$f$;

-- The last position that `matches_v3` would give, from the other end.
CREATE OR REPLACE FUNCTION {s}.last_match_v3(
    p_partition integer, p_names text[], p_tags text[], p_after bigint, p_upto bigint
) RETURNS bigint LANGUAGE plpgsql STABLE
SET enable_seqscan TO off SET enable_bitmapscan TO off SET jit TO off AS $f$
DECLARE
    v_at bigint := p_upto;
    v_found bigint;
    v_tag text;
BEGIN
    <<leap>>
    WHILE v_at > p_after LOOP
        FOREACH v_tag IN ARRAY p_tags LOOP
            SELECT t.position INTO v_found FROM {s}.tags t
                WHERE t.tag = v_tag AND t.partition = p_partition
                  AND t.position > p_after AND t.position <= v_at
                ORDER BY t.position DESC LIMIT 1;
            IF v_found IS NULL THEN RETURN NULL; END IF;
            IF v_found < v_at THEN
                v_at := v_found;
                CONTINUE leap;
            END IF;
        END LOOP;
        IF cardinality(p_names) > 0 THEN
            v_found := {s}.last_named_v3(p_partition, p_names, p_after, v_at);
            IF v_found IS NULL THEN RETURN NULL; END IF;
            IF v_found < v_at THEN
                v_at := v_found;
                CONTINUE leap;
            END IF;
        END IF;
        RETURN v_at;
    END LOOP;
    RETURN NULL;
END
$f$;

-- Writes entries and moves the checkpoint, unless the consumer has another owner or has moved on any
-- partition: that is looked up in a statement behind the one that holds the consumer, as an append does that
-- moves it, so it sees what was committed until then. An update
-- that is joined to the list would lock and log each row once where the upsert does it twice; but planned while
-- the table is empty, it walks the list for each entry. For the same reason entries are removed by their place, which
-- one lookup for each finds.
CREATE OR REPLACE FUNCTION {s}.commit_v3(
    p_consumer text, p_partition integer, p_epoch bigint,
    p_from_partitions integer[], p_from_logs uuid[], p_from_positions bigint[], p_from_events uuid[],
    p_to_log uuid, p_to_position bigint, p_to_event uuid,
    p_collections text[], p_keys bytea[], p_contents bytea[],
    p_gone_collections text[], p_gone_keys bytea[]
) RETURNS boolean LANGUAGE plpgsql VOLATILE
SET enable_seqscan TO off SET enable_bitmapscan TO off SET jit TO off AS $f$
DECLARE
    v_epoch bigint;
    v_partitions integer[];
    v_logs uuid[];
    v_positions bigint[];
    v_events uuid[];
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'this transaction is %', current_setting('transaction_isolation') USING ERRCODE = 'CQ004';
    END IF;
    SELECT c.epoch INTO v_epoch FROM {s}.consumers c WHERE c.consumer = p_consumer FOR NO KEY UPDATE;
    SELECT coalesce(array_agg(c.partition), '{}'), coalesce(array_agg(c.log), '{}'),
           coalesce(array_agg(c.position), '{}'), coalesce(array_agg(c.event), '{}')
        INTO v_partitions, v_logs, v_positions, v_events
        FROM (SELECT t.partition, t.log, t.position, t.event FROM {s}.checkpoints t
              WHERE t.consumer = p_consumer ORDER BY t.partition) c;
    -- An epoch of 0 is that of a consumer that was held by an append and claimed by nobody.
    IF v_epoch IS DISTINCT FROM p_epoch OR p_epoch = 0 OR v_partitions IS DISTINCT FROM p_from_partitions
        OR v_logs IS DISTINCT FROM p_from_logs OR v_positions IS DISTINCT FROM p_from_positions
        OR v_events IS DISTINCT FROM p_from_events THEN
        RETURN false;
    END IF;
    INSERT INTO {s}.checkpoints (consumer, partition, log, position, event)
        VALUES (p_consumer, p_partition, p_to_log, p_to_position, p_to_event)
        ON CONFLICT (consumer, partition) DO UPDATE
        SET log = excluded.log, position = excluded.position, event = excluded.event;
    IF cardinality(p_keys) > 0 THEN
        INSERT INTO {s}.entries (consumer, collection, key, content)
            SELECT p_consumer, n.collection, n.key, n.content
            FROM unnest(p_collections, p_keys, p_contents) AS n (collection, key, content)
            ON CONFLICT (consumer, collection, key) DO UPDATE SET content = excluded.content;
    END IF;
    IF cardinality(p_gone_keys) > 0 THEN
        DELETE FROM {s}.entries e WHERE e.ctid = ANY (ARRAY(
            SELECT (SELECT t.ctid FROM {s}.entries t
                    WHERE t.consumer = p_consumer AND t.collection = n.collection AND t.key = n.key)
            FROM unnest(p_gone_collections, p_gone_keys) AS n (collection, key)));
    END IF;
    RETURN true;
END
$f$;

-- A payload as a person reads it: as JSON where it is that, else as text or in hexadecimal digits.
CREATE OR REPLACE FUNCTION {s}.readable(p_payload bytea) RETURNS json LANGUAGE plpgsql IMMUTABLE AS $f$
BEGIN
    RETURN convert_from(p_payload, 'UTF8')::json;
EXCEPTION WHEN OTHERS THEN
    BEGIN
        RETURN to_json(convert_from(p_payload, 'UTF8'));
    EXCEPTION WHEN OTHERS THEN
        RETURN to_json(encode(p_payload, 'hex'));
    END;
END
$f$;

CREATE OR REPLACE VIEW {s}.log AS
    SELECT partition, position, stream, version, name, schema_version,
           -- A time from the year 294247 on has no timestamp, nor a number of 64 bits with a sign.
           CASE WHEN time >= 0 THEN to_timestamp(time / 1000000.0) END AS time, {s}.readable(payload) AS payload,
           tags::json AS tags, metadata::json AS metadata, id
    FROM {s}.events;
"#;

/// The names that this process has met.
static NAMES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// The name of a schema, checked, and how it is written in statements.
#[derive(Clone, Debug)]
pub(crate) struct Schema {
    name: String,
    quoted: String,
    number: usize,
}

impl Schema {
    /// Takes letters, digits and `_`, so that the name reads the same wherever it is typed.
    pub(crate) fn new(name: &str) -> Result<Self, Fault> {
        let starts = name.starts_with(|first: char| first.is_ascii_lowercase() || first == '_');
        let whole = name.chars().all(|one| one.is_ascii_lowercase() || one.is_ascii_digit() || one == '_');
        if !starts || !whole || name.len() > 63 || name.starts_with("pg_") {
            return Err(Fault::new(
                StoreErrorKind::Invalid,
                format!(
                    "{name:?} cannot be the name of its schema: take a-z, 0-9 and `_`, at most 63, not beginning with a digit or `pg_`"
                ),
            ));
        }
        let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
        let number = names.iter().position(|known| known == name).unwrap_or_else(|| {
            names.push(name.to_owned());
            names.len() - 1
        });
        Ok(Self { name: name.to_owned(), quoted: format!("\"{name}\""), number })
    }

    /// The same for equal names in this process, and short.
    pub(crate) fn number(&self) -> usize {
        self.number
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The statement with the schema's name in its place.
    pub(crate) fn text(&self, sql: &str) -> String {
        sql.replace("{s}", &self.quoted)
    }

    /// The channel on which is told that the log has moved.
    pub(crate) fn channel(&self) -> String {
        format!("cqrs:{}", self.name)
    }
}

/// What the table `meta` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) log: LogId,
    pub(crate) partitions: u16,
    pub(crate) versions: Versions,
}

impl Meta {
    /// Where a stream lies.
    pub(crate) fn partition_of(&self, stream: &StreamId) -> Partition {
        match self.partitions {
            1 => Partition::ONLY,
            many => Partition::new((hash(stream.as_str()) % u64::from(many)) as u16),
        }
    }
}

/// The version of a schema, and the versions that a program has to know to use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Versions {
    schema: i32,
    min_reader: i32,
    min_writer: i32,
}

impl Versions {
    /// From a row that has the three numbers at its end, from column `first` on.
    pub(crate) fn of_row(row: &Row, first: usize) -> Result<Self, Fault> {
        let schema: i32 = row.try_get(first)?;
        // Before version 3 there were none, and a program had to know the version itself.
        let min_reader = row.try_get::<_, Option<i32>>(first + 1)?.unwrap_or(schema);
        let min_writer = row.try_get::<_, Option<i32>>(first + 2)?.unwrap_or(schema);
        Ok(Self { schema, min_reader, min_writer })
    }

    /// Refuses a store that this program does not know how to read.
    pub(crate) fn readable(&self, schema: &Schema) -> Result<(), Fault> {
        self.known("read", self.min_reader.max(1), schema)
    }

    /// Refuses a store that this program does not know how to write to.
    pub(crate) fn writable(&self, schema: &Schema) -> Result<(), Fault> {
        self.known("write to", self.min_writer.max(self.min_reader), schema)
    }

    fn known(&self, doing: &str, needed: i32, schema: &Schema) -> Result<(), Fault> {
        if needed <= VERSION {
            return Ok(());
        }
        Err(Fault::new(
            StoreErrorKind::Unsupported,
            format!(
                "the schema `{}` has version {}; a program that knows version {needed} can {doing} it, and this program knows version {VERSION}: deploy a newer release",
                schema.name, self.schema
            ),
        ))
    }
}

/// What a schema turned out to be.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// Nothing of a store is in it, or it is not there.
    Nothing,
    /// A store of an older version, which has to be migrated.
    Older(i32),
    /// A store that this program can at least read.
    Ready(Meta),
}

/// Finds the store of a schema, or creates it. Opening a store that is there requires no more rights than to
/// read.
pub(crate) async fn prepare(
    client: &Client,
    schema: &Schema,
    partitions: Option<u16>,
) -> Result<Meta, Fault> {
    let meta = match inspect(client, schema).await? {
        Found::Ready(meta) => meta,
        Found::Nothing => change(client, schema, partitions, false).await?,
        Found::Older(version) => return Err(outdated(schema, version)),
    };
    match partitions {
        Some(wanted) if wanted != meta.partitions => Err(Fault::new(
            StoreErrorKind::Invalid,
            format!(
                "the log in the schema `{}` has {} partitions, and {wanted} are asked for: that is settled when it is created",
                schema.name, meta.partitions
            ),
        )),
        _ => Ok(meta),
    }
}

/// Creates the store of a schema, or migrates it to this program's version.
pub(crate) async fn migrate(client: &Client, schema: &Schema, partitions: Option<u16>) -> Result<(), Fault> {
    match inspect(client, schema).await? {
        Found::Ready(_) => Ok(()),
        Found::Nothing | Found::Older(_) => change(client, schema, partitions, true).await.map(drop),
    }
}

/// The statements that [`migrate`] runs, with its transaction around them; nothing if there is nothing to do.
pub(crate) async fn migration_sql(
    client: &Client,
    schema: &Schema,
    partitions: Option<u16>,
) -> Result<String, Fault> {
    let from = match inspect(client, schema).await? {
        Found::Ready(_) => return Ok(String::new()),
        Found::Nothing => 0,
        Found::Older(version) => version,
    };
    let statements = statements(client, schema, from, partitions).await?;
    Ok(format!("{BEGIN};\n{};\n{statements}COMMIT;\n", lock(schema)))
}

const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";

/// Lets one program at a time change a schema. The one that comes second finds it done. Changing a table may
/// take long, but waiting for its lock must not, because every other statement on the table waits meanwhile.
fn lock(schema: &Schema) -> String {
    let lock = hash(&format!("cqrs schema {}", schema.name)).cast_signed();
    format!(
        "SET LOCAL lock_timeout = '30s';
SELECT pg_advisory_xact_lock({lock});
SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = 0"
    )
}

async fn change(
    client: &Client,
    schema: &Schema,
    partitions: Option<u16>,
    migrates: bool,
) -> Result<Meta, Fault> {
    client.batch_execute(BEGIN).await?;
    let done = async {
        client.batch_execute(&lock(schema)).await?;
        let from = match inspect(client, schema).await? {
            Found::Ready(meta) => return Ok(Found::Ready(meta)),
            Found::Older(version) if !migrates => return Err(outdated(schema, version)),
            Found::Older(version) => version,
            Found::Nothing => 0,
        };
        client.batch_execute(&statements(client, schema, from, partitions).await?).await?;
        inspect(client, schema).await
    }
    .await;
    match done {
        Ok(Found::Ready(meta)) => client.batch_execute("COMMIT").await.map(|()| meta).map_err(Fault::from),
        Ok(_) => Err(Fault::corrupt("the schema is not there after it was created")),
        Err(fault) => {
            // If this fails too, the connection ends, and its transaction with it.
            let _ = client.batch_execute("ROLLBACK").await;
            Err(fault)
        }
    }
}

/// Gives the log a new id, and moves what is of this log in the same schema along.
///
/// Appends under way are waited for. Programs that have the log open notice with their next append: the function
/// finds another log, and a plain statement finds that the sequence has moved.
pub(crate) async fn assign_new_log_id(client: &Client, schema: &Schema) -> Result<LogId, Fault> {
    client.batch_execute(BEGIN).await?;
    let done = async {
        client.batch_execute(&lock(schema)).await?;
        let meta = match inspect(client, schema).await? {
            Found::Ready(meta) => meta,
            Found::Older(version) => return Err(outdated(schema, version)),
            Found::Nothing => {
                let words = format!("the schema `{}` has no log", schema.name);
                return Err(Fault::new(StoreErrorKind::Invalid, words));
            }
        };
        meta.versions.writable(schema)?;
        for partition in (0..meta.partitions).map(Partition::new) {
            let lock = Target::new(meta.log, partition).lock;
            client.batch_execute(&format!("SELECT pg_advisory_xact_lock({lock})")).await?;
        }
        let assign = schema.text("UPDATE {s}.meta SET log = gen_random_uuid() RETURNING log");
        let rows = client.query_typed(&assign, &[]).await?;
        let new = rows.first().ok_or_else(|| Fault::corrupt("the log has no id"))?.try_get(0)?;
        let moved = format!(
            "UPDATE {{s}}.checkpoints SET log = '{new}' WHERE log = '{0}';
             UPDATE {{s}}.snapshots SET log = '{new}' WHERE log = '{0}';
             SELECT nextval('{{s}}.fenced')",
            meta.log
        );
        client.batch_execute(&schema.text(&moved)).await?;
        Ok(LogId(new))
    }
    .await;
    match done {
        Ok(new) => client.batch_execute("COMMIT").await.map(|()| new).map_err(Fault::from),
        Err(fault) => {
            // If this fails too, the connection ends, and its transaction with it.
            let _ = client.batch_execute("ROLLBACK").await;
            Err(fault)
        }
    }
}

/// The statements that lead from a version to this program's; version 0 is a schema without a store.
async fn statements(
    client: &Client,
    schema: &Schema,
    from: i32,
    partitions: Option<u16>,
) -> Result<String, Fault> {
    let mut text = format!("-- The schema {} from version {from} to version {VERSION}.\n", schema.name);
    let there = "SELECT 1 FROM pg_namespace WHERE nspname = $1";
    if client.query_typed(there, &[(&schema.name, Type::TEXT)]).await?.is_empty() {
        text += "CREATE SCHEMA {s};\n";
    }
    for step in STEPS.iter().skip(usize::try_from(from).unwrap_or(STEPS.len())) {
        text += step;
    }
    text += FUNCTIONS;
    text += &match from {
        0 => format!(
            "INSERT INTO {{s}}.meta (one, store, version, min_reader, min_writer, log, partitions)
    VALUES (1, 'cqrs', {VERSION}, {MIN_READER}, {MIN_WRITER}, gen_random_uuid(), {});\n",
            partitions.unwrap_or(1)
        ),
        _ => format!(
            "UPDATE {{s}}.meta SET version = {VERSION}, min_reader = {MIN_READER}, min_writer = {MIN_WRITER};\n"
        ),
    };
    Ok(schema.text(&text))
}

/// Reports what a schema is. Nothing is written.
async fn inspect(client: &Client, schema: &Schema) -> Result<Found, Fault> {
    let tables = "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = $1 AND c.relname::text = ANY ($2)";
    let rows =
        client.query_typed(tables, &[(&schema.name, Type::TEXT), (&&TABLES[..], Type::TEXT_ARRAY)]).await?;
    let there = rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<&str>, _>>()?;
    if there.is_empty() {
        return Ok(Found::Nothing);
    }
    if !there.contains(&"meta") {
        return Err(foreign(schema, there.first().copied().unwrap_or_default()));
    }
    let meta = read_meta(client, schema).await?;
    let version = meta.versions.schema;
    if version < 1 {
        return Err(impossible(version));
    }
    meta.versions.readable(schema)?;
    if version < VERSION {
        return Ok(Found::Older(version));
    }
    match TABLES.iter().find(|table| !there.contains(table)) {
        Some(missing) => Err(Fault::corrupt(format!("the table `{missing}` is missing"))),
        None => Ok(Found::Ready(meta)),
    }
}

async fn read_meta(client: &Client, schema: &Schema) -> Result<Meta, Fault> {
    use tokio_postgres::error::SqlState;
    // An older version has no columns for the last two.
    let select = schema.text(
        "SELECT m.log, m.partitions, m.version, (to_jsonb(m) ->> 'min_reader')::integer,
                (to_jsonb(m) ->> 'min_writer')::integer
         FROM {s}.meta m WHERE m.store = 'cqrs'",
    );
    let rows = match client.query_typed(&select, &[]).await.map_err(Fault::from) {
        Err(fault) if fault.is(&SqlState::UNDEFINED_COLUMN) || fault.is(&SqlState::UNDEFINED_FUNCTION) => {
            return Err(foreign(schema, "meta"));
        }
        done => done?,
    };
    let row = rows.first().ok_or_else(|| Fault::corrupt("the log has no id"))?;
    let partitions: i32 = row.try_get(1)?;
    let partitions =
        u16::try_from(partitions).map_err(|_| Fault::corrupt("its number of partitions cannot be"))?;
    Ok(Meta { log: LogId(row.try_get(0)?), partitions, versions: Versions::of_row(row, 2)? })
}

fn outdated(schema: &Schema, version: i32) -> Fault {
    Fault::new(
        StoreErrorKind::Unsupported,
        format!(
            "the schema `{}` has version {version}, and this program requires version {VERSION}: call `PostgresStore::migrate` once as the owner of the schema; `PostgresStore::migration_sql` returns its statements for review",
            schema.name
        ),
    )
}

fn impossible(version: i32) -> Fault {
    Fault::corrupt(format!("its tables have the impossible version {version}"))
}

fn foreign(schema: &Schema, table: &str) -> Fault {
    let name = &schema.name;
    Fault::new(
        StoreErrorKind::Invalid,
        format!(
            "the schema `{name}` has a table `{table}` that is not of this store: name another one, such as `?schema={name}_log`"
        ),
    )
}

/// FNV-1a: short, and the same in every process and every version.
pub(crate) fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
