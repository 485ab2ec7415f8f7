//! Statements of the user's own and entries of collections in one commit.

#![allow(missing_docs, missing_debug_implementations, unreachable_pub, reason = "a test")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at a fault")]

mod support;

use std::sync::Arc;

use bytes::Bytes;
use cqrs_core::consumer::{Consumer, Effect, Handlers, Routed, RunIn, Unfit, Work};
use cqrs_core::error::{BoxError, FoldError, FoldFault};
use cqrs_core::event::RecordedEvent;
use cqrs_core::id::{Partition, Position};
use cqrs_core::read_store::{
    Batch, Checkpoint, Claim, Collection, CommitError, EntryKey, EntryWrite, RangeRead, ReadStore as _,
};
use cqrs_core::store::{Append, AppendError, BoxFuture, EventStore as _, Guard, LogRead, Query};
use cqrs_postgres::{Postgres, PostgresStore, Transaction};
use support::{connect, event, schema, with};
use tokio_postgres::Client;

const PARKED: Collection = Collection::new("parked");

/// Writes the payload of each event to a table of its own. The table rejects an empty one.
struct Rows {
    schema: String,
    events: Vec<Arc<RecordedEvent>>,
}

impl RunIn<Postgres> for Rows {
    fn set_up<'a, 't>(&'a self, tx: &'a Transaction<'t>) -> BoxFuture<'a, Result<(), BoxError>>
    where
        't: 'a,
    {
        let create = format!("CREATE TABLE {}.notes (note text NOT NULL CHECK (note <> ''))", self.schema);
        Box::pin(async move { Ok(tx.batch_execute(&create).await?) })
    }

    fn steps(&self) -> usize {
        self.events.len()
    }

    fn run<'a, 't>(&'a self, step: usize, tx: &'a Transaction<'t>) -> BoxFuture<'a, Result<(), BoxError>>
    where
        't: 'a,
    {
        let insert = format!("INSERT INTO {}.notes (note) VALUES ($1)", self.schema);
        Box::pin(async move {
            let note = std::str::from_utf8(&self.events[step].payload)?;
            tx.execute(&insert, &[&note]).await?;
            Ok(())
        })
    }

    fn unfit(&self, step: usize, error: BoxError) -> Option<Unfit> {
        let recorded = self.events.get(step)?;
        let fault = FoldFault::Handler(error);
        Some(Unfit { good: step, error: FoldError::new(&recorded.name, &recorded.meta, fault) })
    }
}

/// Has statements, and an entry for each event in a collection of its own.
#[derive(Debug)]
struct Notes(String);

impl Consumer for Notes {
    fn name(&self) -> &'static str {
        "notes"
    }

    fn query(&self) -> Query {
        Query::all()
    }

    fn database(&self) -> Option<&'static str> {
        Some("PostgreSQL")
    }

    fn route(&self, events: &[Arc<RecordedEvent>]) -> Result<Routed, Unfit> {
        Ok(Routed::new(
            vec![EntryKey::new(PARKED, "count")],
            Box::new(Noted(self.0.clone(), events.to_vec())),
        ))
    }
}

struct Noted(String, Vec<Arc<RecordedEvent>>);

impl Work for Noted {
    fn fold(self: Box<Self>, entries: Vec<Option<Bytes>>) -> Result<Effect, Unfit> {
        let before = entries[0].as_ref().map_or(0, |count| count[0]);
        let count = vec![before + u8::try_from(self.1.len()).unwrap()];
        let ids = self.1.iter().map(|event| Bytes::copy_from_slice(event.meta.id.as_bytes()));
        let mut writes: Vec<_> = ids.map(|id| EntryWrite::put(PARKED, id, "")).collect();
        writes.push(EntryWrite::put(PARKED, "count", count));
        let mut effect = Effect::of_writes(writes);
        effect.handlers = Some(Handlers::new::<Postgres>(Arc::new(Rows { schema: self.0, events: self.1 })));
        Ok(effect)
    }
}

async fn notes(client: &Client, schema: &str) -> i64 {
    let rows = client.query(&format!("SELECT count(*) FROM {schema}.notes"), &[]).await.unwrap();
    rows[0].get(0)
}

/// Opens a store in a schema of its own, and another connection.
async fn opened(cluster: &pg_cluster::Cluster) -> (PostgresStore, Client, String) {
    let schema = schema();
    let store = PostgresStore::open(&with(cluster.url(), &format!("schema={schema}"))).await.unwrap();
    (store, connect(cluster.url()).await, schema)
}

async fn entries(store: &PostgresStore) -> u64 {
    store.count(RangeRead::new("notes", PARKED, 100)).await.unwrap()
}

/// Commits what the consumer makes of the events after a checkpoint, as a follower does.
async fn follow(store: &PostgresStore, schema: &str, claim: &mut Claim) -> Result<(), CommitError> {
    let from = claim.checkpoints.get(&Partition::ONLY).map_or(Position::START, |from| from.position);
    let (partition, query) = (Partition::ONLY, Query::all());
    let slice = store.read_log(LogRead { partition, after: from, up_to: None, query, limit: 99 }).await?;
    let routed = Notes(schema.to_owned()).route(&slice.events).unwrap();
    let effect = routed.work.fold(store.get("notes", routed.reads).await?).unwrap();
    let to = Checkpoint { log: slice.head.log, position: slice.read_to, event: slice.read_to_event };
    let batch = Batch::new("notes", claim, to).with_writes(effect.writes).with_handlers(effect.handlers);
    store.commit(batch).await?;
    claim.checkpoints.insert(partition, to);
    Ok(())
}

#[tokio::test]
async fn a_batch_with_statements_writes_entries_in_the_same_commit() {
    let Some(cluster) = pg_cluster::shared() else { return };
    let (store, client, schema) = opened(cluster).await;
    let append = |text: &str| store.append(Append::new(vec![event("Note/1", text)], Guard::Any));
    let mut claim = store.claim("notes").await.unwrap();
    append("one").await.unwrap();
    append("two").await.unwrap();
    follow(&store, &schema, &mut claim).await.unwrap();
    assert_eq!((notes(&client, &schema).await, entries(&store).await), (2, 3));
    append("").await.unwrap();
    let refused = follow(&store, &schema, &mut claim).await;
    assert!(matches!(refused, Err(CommitError::Unfit(_))), "{refused:?}");
    assert_eq!(
        (notes(&client, &schema).await, entries(&store).await),
        (2, 3),
        "nothing of the refused batch"
    );
}

#[tokio::test]
async fn an_inline_append_with_statements_writes_entries_in_the_same_commit() {
    let Some(cluster) = pg_cluster::shared() else { return };
    let (store, client, schema) = opened(cluster).await;
    let append = |text: &str| {
        let inline = std::iter::once(Arc::new(Notes(schema.clone())) as Arc<dyn Consumer>).collect();
        store.append(Append::new(vec![event("Note/1", text)], Guard::Any).with_inline(inline))
    };
    append("one").await.unwrap();
    append("two").await.unwrap();
    assert_eq!((notes(&client, &schema).await, entries(&store).await), (2, 3));
    let refused = append("").await;
    assert!(matches!(refused, Err(AppendError::Unfit { consumer: "notes", .. })), "{refused:?}");
    assert_eq!(
        (notes(&client, &schema).await, entries(&store).await),
        (2, 3),
        "nothing of the refused append"
    );
    append("three").await.unwrap();
    let count = store.get("notes", vec![EntryKey::new(PARKED, "count")]).await.unwrap();
    assert_eq!(count, [Some(Bytes::from_static(&[3]))]);
}
