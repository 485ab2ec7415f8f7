//! Schema versions: a newer store stays usable by an older program as far as it says so, and a store is
//! migrated by a call of its own and never by opening it.

#![allow(missing_docs, reason = "a test")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at a fault")]

mod support;

use cqrs_core::error::{StoreError, StoreErrorKind};
use cqrs_core::id::Partition;
use cqrs_core::read_store::{Collection, Entry, RangeRead, ReadStore as _};
use cqrs_core::store::{Append, AppendError, EventStore as _, Guard, Snapshot};
use cqrs_postgres::PostgresStore;
use support::{connect, event, payload, read_stream, schema, stream, with};
use tokio_postgres::Client;

/// The schema as the release before created it.
const VERSION_2: &str = include_str!("fixtures/schema_v2.sql");
/// An event that the release before has written.
const EVENT: &str =
    "INSERT INTO {s}.events (partition, position, version, schema_version, time, id, stream, name, payload)
    VALUES (0, 1, 1, 1, 0, gen_random_uuid(), 'A/1', 'Happened', 'before');
    INSERT INTO {s}.names VALUES ('Happened', 0, 0);
    INSERT INTO {s}.consumers (consumer, epoch) VALUES ('p', 3);
    INSERT INTO {s}.documents (collection, key, content) VALUES ('p', 'clé 1', '{}'), ('q', 'clé 1', '[]')";

/// A store of version 2 with one event: its URL and its schema.
async fn version_2(client: &Client, url: &str) -> (String, String) {
    let schema = schema();
    let sql = format!("{VERSION_2};{EVENT}").replace("{s}", &format!("\"{schema}\""));
    client.batch_execute(&sql).await.unwrap();
    (with(url, &format!("schema={schema}")), schema)
}

async fn append(store: &PostgresStore, text: &str) -> Result<(), StoreError> {
    match store.append(Append::new(vec![event("A/1", text)], Guard::Any)).await {
        Ok(_) => Ok(()),
        Err(AppendError::Store(error)) => Err(error),
        Err(other) => panic!("{other}"),
    }
}

/// The columns and functions of a schema, and what its meta table says of versions.
async fn shape(client: &Client, schema: &str) -> Vec<String> {
    let select = "SELECT table_name || '.' || column_name || ' ' || data_type || coalesce(column_default, '')
            FROM information_schema.columns WHERE table_schema = $1
        UNION ALL SELECT p.oid::regprocedure::text || p.prosrc FROM pg_proc p JOIN pg_namespace n
            ON n.oid = p.pronamespace WHERE n.nspname = $1 ORDER BY 1";
    let mut all: Vec<String> =
        client.query(select, &[&schema]).await.unwrap().iter().map(|row| row.get(0)).collect();
    let meta = format!("SELECT (to_jsonb(m) - 'log')::text FROM {schema}.meta m");
    all.push(client.query_one(&meta, &[]).await.unwrap().get(0));
    all.iter().map(|line| line.replace(schema, "{s}")).collect()
}

async fn functions(client: &Client, schema: &str) -> Vec<String> {
    let select = "SELECT p.proname::text FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname = $1";
    client.query(select, &[&schema]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn a_store_of_the_version_before_is_migrated_by_the_call_and_not_by_opening_it() {
    let Some(cluster) = pg_cluster::shared() else { return };
    let client = connect(cluster.url()).await;
    let (url, schema) = version_2(&client, cluster.url()).await;
    let before = shape(&client, &schema).await;

    let error = PostgresStore::open(&url).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unsupported, "{error}");
    let told = error.to_string();
    for words in ["has version 2", "requires version 3", "`PostgresStore::migrate`", "migration_sql"] {
        assert!(told.contains(words), "{told}");
    }
    let sql = PostgresStore::migration_sql(&url).await.unwrap();
    assert!(sql.contains("ALTER TABLE") && sql.trim_end().ends_with("COMMIT;"), "{sql}");
    // Neither has changed anything.
    assert_eq!(shape(&client, &schema).await, before);

    PostgresStore::migrate(&url).await.unwrap();
    let store = PostgresStore::open(&url).await.unwrap();
    append(&store, "after").await.unwrap();
    let texts: Vec<_> = read_stream(&store, "A/1").await.iter().map(|event| payload(event)).collect();
    assert_eq!(texts, ["before", "after"]);
    assert_eq!(store.claim("p").await.unwrap().epoch, 4);
    let range = RangeRead::new("p", Collection::DOCUMENTS, 9);
    let entry = Entry { key: "clé 1".into(), content: "{}".into() };
    assert_eq!(store.range(range).await.unwrap(), [entry]);
    store.verify().await.unwrap();

    // A second call finds nothing to do, and a store that is new is of the same shape.
    let migrated = shape(&client, &schema).await;
    PostgresStore::migrate(&url).await.unwrap();
    assert_eq!(PostgresStore::migration_sql(&url).await.unwrap(), "");
    assert_eq!(shape(&client, &schema).await, migrated);
    let new = support::schema();
    PostgresStore::open(&with(cluster.url(), &format!("schema={new}"))).await.unwrap();
    let (migrated_now, created) = (shape(&client, &schema).await, shape(&client, &new).await);
    let missing: Vec<_> = created.iter().filter(|part| !migrated_now.contains(part)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[tokio::test]
async fn the_statements_for_review_are_those_that_the_call_runs() {
    let Some(cluster) = pg_cluster::shared() else { return };
    let client = connect(cluster.url()).await;
    let mut shapes = Vec::new();
    for by_hand in [true, false] {
        let (url, schema) = version_2(&client, cluster.url()).await;
        if by_hand {
            client.batch_execute(&PostgresStore::migration_sql(&url).await.unwrap()).await.unwrap();
        } else {
            PostgresStore::migrate(&url).await.unwrap();
        }
        append(&PostgresStore::open(&url).await.unwrap(), "after").await.unwrap();
        shapes.push(shape(&client, &schema).await);
        // So are those for a store that does not exist.
        let schema = support::schema();
        let url = with(cluster.url(), &format!("schema={schema}"));
        if by_hand {
            let sql = PostgresStore::migration_sql(&with(&url, "partitions=3")).await.unwrap();
            client.batch_execute(&sql).await.unwrap();
        } else {
            PostgresStore::migrate(&with(&url, "partitions=3")).await.unwrap();
        }
        PostgresStore::open(&with(&url, "partitions=3")).await.unwrap();
        shapes.push(shape(&client, &schema).await);
    }
    assert!(shapes[0] == shapes[2] && shapes[1] == shapes[3]);
}

/// What is still open when the store is migrated goes on writing, and moves no checkpoint any more.
#[tokio::test]
async fn programs_of_the_version_before_keep_their_functions_but_that_of_checkpoints() {
    let Some(cluster) = pg_cluster::shared() else { return };
    let client = connect(cluster.url()).await;
    let (url, schema) = version_2(&client, cluster.url()).await;
    let before = functions(&client, &schema).await;
    PostgresStore::migrate(&url).await.unwrap();
    let after = functions(&client, &schema).await;
    let gone: Vec<_> = before.iter().filter(|name| !after.contains(name)).collect();
    assert_eq!(gone, ["commit"]);
}

/// What a program can do with a store of a newer version.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Use {
    All,
    Read,
    Nothing,
}

#[tokio::test]
async fn a_newer_version_is_used_as_far_as_it_says() {
    let Some(cluster) = pg_cluster::shared() else { return };
    let client = connect(cluster.url()).await;
    let cases = [
        ((3, 3, 3), Use::All),
        ((4, 3, 3), Use::All),
        ((99, 1, 2), Use::All),
        ((4, 3, 4), Use::Read),
        ((4, 4, 4), Use::Nothing),
        // A program that cannot read does not write either.
        ((4, 4, 3), Use::Nothing),
    ];
    for ((version, reader, writer), allowed) in cases {
        let schema = schema();
        let url = with(cluster.url(), &format!("schema={schema}&application_name={schema}"));
        let case = format!("{version} {reader} {writer}");
        let open = PostgresStore::open(&url).await.unwrap();
        append(&open, "one").await.unwrap();
        // What a newer release may add without keeping others out.
        let newer = "ALTER TABLE {s}.events ADD COLUMN added text DEFAULT 'x' NOT NULL;
            ALTER TABLE {s}.consumers ADD COLUMN added integer;
            ALTER TABLE {s}.meta ADD COLUMN added integer;
            CREATE TABLE {s}.more (a integer);
            CREATE FUNCTION {s}.append_group_v99() RETURNS integer LANGUAGE sql AS 'SELECT 1'"
            .replace("{s}", &schema);
        let meta = format!(
            "{newer}; UPDATE {schema}.meta SET version = {version}, min_reader = {reader}, min_writer = {writer}"
        );
        client.batch_execute(&meta).await.unwrap();
        // One that is open already finds out with its next connection.
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1";
        client.execute(end, &[&schema]).await.unwrap();
        for store in [Ok(open), PostgresStore::open(&url).await] {
            let store = match store {
                Ok(store) => store,
                Err(error) => {
                    assert_eq!(
                        (allowed, error.kind()),
                        (Use::Nothing, StoreErrorKind::Unsupported),
                        "{case}"
                    );
                    assert!(error.to_string().contains("this program knows version 3"), "{error}");
                    continue;
                }
            };
            let read = store.head(Partition::ONLY).await;
            assert_eq!(read.is_ok(), allowed != Use::Nothing, "{case}: {read:?}");
            let mut writes = vec![write(&store).await];
            writes.push(store.claim("p").await.map(drop));
            writes.push(store.forget_snapshot(&stream("A/1")).await);
            let snapshot = Snapshot {
                stream: stream("A/1"),
                log: store_log(&store).await,
                version: cqrs_core::id::Version::new(1),
                position: cqrs_core::id::Position::new(1),
                event: uuid::Uuid::from_u128(1),
                fingerprint: 1,
                state: "x".into(),
            };
            writes.push(store.save_snapshot(snapshot).await);
            writes.push(store.reserve(&stream("A/1")).await.map(drop));
            for (number, written) in writes.into_iter().enumerate() {
                match written {
                    Ok(()) => assert_eq!(allowed, Use::All, "{case}: {number}"),
                    Err(error) => {
                        assert_ne!(allowed, Use::All, "{case}: {number}: {error}");
                        assert_eq!(error.kind(), StoreErrorKind::Unsupported, "{case}: {number}: {error}");
                    }
                }
            }
        }
    }
}

/// One that was open before may have found its connection gone, and says so once.
async fn write(store: &PostgresStore) -> Result<(), StoreError> {
    for _ in 0..50 {
        match append(store, "two").await {
            Err(error) if matches!(error.kind(), StoreErrorKind::Unavailable | StoreErrorKind::Unknown) => {}
            done => return done,
        }
    }
    append(store, "two").await
}

async fn store_log(store: &PostgresStore) -> cqrs_core::store::LogId {
    match store.head(Partition::ONLY).await {
        Ok(head) => head.log,
        Err(_) => cqrs_core::store::LogId(uuid::Uuid::nil()),
    }
}

#[tokio::test]
async fn who_may_not_change_the_schema_is_refused_by_name() {
    let Some(cluster) = pg_cluster::made() else { return };
    let client = connect(cluster.url()).await;
    let (_, schema) = version_2(&client, cluster.url()).await;
    let role = format!("r{schema}");
    let grants = format!(
        "CREATE ROLE {role} LOGIN PASSWORD 'pw'; GRANT USAGE ON SCHEMA {schema} TO {role};
         GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {role}"
    );
    client.batch_execute(&grants).await.unwrap();
    let url = with(&cluster.server().url(&role, "pw", "postgres"), &format!("schema={schema}"));
    let error = PostgresStore::open(&url).await.unwrap_err();
    assert!(error.to_string().contains("`PostgresStore::migrate`"), "{error}");
    assert!(PostgresStore::migration_sql(&url).await.unwrap().contains("ALTER TABLE"));
    let error = PostgresStore::migrate(&url).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Failed, "{error}");
    assert!(error.to_string().contains("lacks a right"), "{error}");
}

/// A report that reads the table for an hour does not make the migration, and all who come after it, wait.
#[tokio::test]
async fn a_migration_does_not_wait_for_long_transactions() {
    let Some(cluster) = pg_cluster::shared() else { return };
    let client = connect(cluster.url()).await;
    let (url, schema) = version_2(&client, cluster.url()).await;
    client.batch_execute(&format!("BEGIN; SELECT * FROM {schema}.meta")).await.unwrap();
    let error = PostgresStore::migrate(&url).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{error}");
    client.batch_execute("COMMIT").await.unwrap();
    PostgresStore::migrate(&url).await.unwrap();
    PostgresStore::open(&url).await.unwrap();
}
