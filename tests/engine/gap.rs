//! Inline projections next to a program that does not link them: its events make them lag, and no command fails for
//! that.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cqrs::Registry;
use cqrs::engine::Stores;
use cqrs::memory::MemoryStore;
use cqrs::prelude::*;
use cqrs::read_store::ReadStore;
use cqrs::store::EventStore;
use cqrs_testkit::faults::{Call, Faulty};

use crate::bank::{Account, Deposit, Deposited, open};
use crate::inline::Vault;

#[cfg(feature = "sqlite")]
mod on_sqlite {
    use cqrs::sqlite::{Sqlite, Transaction, rusqlite};

    use super::*;

    pub struct Tally;

    #[projection(name = "tally", sql = Sqlite, mode = inline)]
    impl Tally {
        #[setup]
        fn table(tx: &Transaction<'_>) -> rusqlite::Result<()> {
            tx.execute_batch("CREATE TABLE tally (position integer PRIMARY KEY, cents integer)")
        }
        #[on]
        fn deposited(tx: &Transaction<'_>, event: &Deposited, meta: &EventMeta) -> rusqlite::Result<usize> {
            tx.execute("INSERT INTO tally VALUES (?1, ?2)", (meta.position.get(), event.cents))
        }
    }

    pub fn cents(file: &std::path::Path) -> u64 {
        let conn = rusqlite::Connection::open(file).unwrap();
        conn.query_row("SELECT sum(cents) FROM tally", (), |row| row.get(0)).unwrap()
    }
}

#[cfg(feature = "postgres")]
mod on_postgres {
    use cqrs::postgres::{Postgres, Transaction, tokio_postgres};

    use super::*;

    pub struct Tally;

    #[projection(name = "tally", sql = Postgres, mode = inline)]
    impl Tally {
        #[setup]
        async fn table(tx: &Transaction<'_>) -> Result<(), tokio_postgres::Error> {
            tx.batch_execute("CREATE TABLE tally (position bigint PRIMARY KEY, cents bigint)").await
        }
        #[on]
        async fn deposited(
            tx: &Transaction<'_>,
            event: &Deposited,
            meta: &EventMeta,
        ) -> Result<u64, tokio_postgres::Error> {
            let (position, cents) = (meta.position.get().cast_signed(), event.cents.cast_signed());
            tx.execute("INSERT INTO tally VALUES ($1, $2)", &[&position, &cents]).await
        }
    }

    pub async fn cents(url: &str) -> u64 {
        let (server, options) = url.split_once('?').unwrap();
        let schema = options.trim_start_matches("schema=").split('&').next().unwrap();
        let (client, connection) = tokio_postgres::connect(server, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let sum = format!("SELECT sum(cents)::bigint FROM {schema}.tally");
        client.query_one(&sum, &[]).await.unwrap().get::<_, i64>(0).cast_unsigned()
    }
}

/// A store, a projection that is kept inline on it, and what that one has counted.
enum Place {
    Documents(&'static str, Stores, #[allow(dead_code, reason = "it goes with its owner")] tempfile::TempDir),
    #[cfg(feature = "sqlite")]
    Sqlite(cqrs::sqlite::SqliteStore, tempfile::TempDir),
    #[cfg(feature = "postgres")]
    Postgres(cqrs::postgres::PostgresStore, String),
}

impl Place {
    async fn all() -> Vec<Self> {
        let documents = crate::waits::stores().await.into_iter();
        let documents = documents.map(|(store, stores, files)| Self::Documents(store, stores, files));
        let mut all: Vec<_> = documents.collect();
        #[cfg(feature = "sqlite")]
        {
            let files = tempfile::tempdir().unwrap();
            let store = cqrs::sqlite::SqliteStore::open(files.path().join("bank.db")).await.unwrap();
            all.push(Self::Sqlite(store, files));
        }
        #[cfg(feature = "postgres")]
        if let Some(url) = crate::waits::postgres_url() {
            all.push(Self::Postgres(cqrs::postgres::PostgresStore::open(&url).await.unwrap(), url));
        }
        all
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Documents(name, ..) => name,
            #[cfg(feature = "sqlite")]
            Self::Sqlite(..) => "statements on sqlite",
            #[cfg(feature = "postgres")]
            Self::Postgres(..) => "statements on postgres",
        }
    }

    fn stores(&self) -> Stores {
        match self {
            Self::Documents(_, stores, _) => stores.clone(),
            #[cfg(feature = "sqlite")]
            Self::Sqlite(store, _) => store.clone().into(),
            #[cfg(feature = "postgres")]
            Self::Postgres(store, _) => store.clone().into(),
        }
    }

    fn registry(&self) -> Registry {
        let registry = Registry::new().with::<Account>();
        match self {
            Self::Documents(..) => registry.with::<Vault>(),
            #[cfg(feature = "sqlite")]
            Self::Sqlite(..) => registry.with::<on_sqlite::Tally>(),
            #[cfg(feature = "postgres")]
            Self::Postgres(..) => registry.with::<on_postgres::Tally>(),
        }
    }

    /// The count of the projection.
    async fn cents(&self, with: &Engine) -> u64 {
        match self {
            Self::Documents(..) => with.get::<Vault>(&"all".to_owned()).await.unwrap().unwrap().cents,
            #[cfg(feature = "sqlite")]
            Self::Sqlite(_, files) => on_sqlite::cents(&files.path().join("bank.db")),
            #[cfg(feature = "postgres")]
            Self::Postgres(_, url) => on_postgres::cents(url).await,
        }
    }
}

async fn plain(stores: Stores) -> Engine {
    let plain = Engine::builder().registry(Registry::new().with::<Account>()).without_background();
    plain.build(stores).await.unwrap()
}

/// A program that does not know the projection writes without a pause, and no command of one that does is lost to that:
/// catching up is no attempt.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_writer_without_the_projection_fails_no_command() {
    for place in Place::all().await {
        let (store, plain) = (place.name(), plain(place.stores()).await);
        open(&plain, 1, 0).await;
        let with = Engine::builder().registry(place.registry()).attempts(1).build(place.stores());
        let with = with.await.unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let writers = (2..6).map(|account| {
            let (plain, stop) = (plain.clone(), stop.clone());
            tokio::spawn(async move {
                open(&plain, account, 0).await;
                let mut written = 0;
                while !stop.load(Ordering::SeqCst) {
                    plain.execute(Deposit { account, cents: 1 }).await.unwrap();
                    written += 1;
                    if written % 16 == 0 {
                        tokio::task::yield_now().await;
                    }
                }
                written
            })
        });
        let writers: Vec<_> = writers.collect();
        for _ in 0..40 {
            with.execute(Deposit { account: 1, cents: 1 }).await.expect(store);
        }
        stop.store(true, Ordering::SeqCst);
        let mut cents = 40;
        for writer in writers {
            cents += writer.await.unwrap();
        }
        with.execute(Deposit { account: 1, cents: 0 }).await.expect(store);
        assert_eq!(place.cents(&with).await, cents, "{store}");
        assert!(with.verify().await.unwrap().is_sound(), "{store}");
    }
}

/// An append applies the same as its follower would have applied, up to the gap that it may close.
#[tokio::test]
async fn an_append_applies_the_few_events_that_were_missed() {
    for place in Place::all().await {
        let (store, plain) = (place.name(), plain(place.stores()).await);
        let with = Engine::builder().registry(place.registry()).without_background();
        let with = with.build(place.stores()).await.unwrap();
        open(&plain, 1, 5).await;
        let mut cents = 5;
        for missed in [1, 99, 100, 101, 1_000] {
            for _ in 0..missed {
                plain.execute(Deposit { account: 1, cents: 1 }).await.unwrap();
            }
            with.execute(Deposit { account: 1, cents: 2 }).await.expect(store);
            cents += missed + 2;
            assert_eq!(place.cents(&with).await, cents, "{store}, {missed} missed");
        }
        with.catch_up().await.unwrap();
        assert!(with.verify().await.unwrap().is_sound(), "{store}");
    }
}

/// Executes a command while another program writes so many events whenever the projection has caught up; gives the
/// numbers of batches and reservations.
async fn beside<S: EventStore + ReadStore + Clone>(
    store: S,
    registry: Registry,
    events: usize,
) -> (Engine, [usize; 2]) {
    let plain = plain(Stores::from(Arc::new(store.clone()))).await;
    let faulty = Faulty::new(store);
    open(&plain, 1, 0).await;
    let with = Engine::builder().registry(registry).attempts(1).without_background();
    let with = with.build(Arc::new(faulty.clone())).await.unwrap();
    with.execute(Deposit { account: 1, cents: 1 }).await.unwrap();
    let write = move |plain: Engine| async move {
        for _ in 0..events {
            plain.execute(Deposit { account: 2, cents: 1 }).await.unwrap();
        }
    };
    open(&plain, 2, 0).await;
    for _ in 0..events.max(100) {
        plain.execute(Deposit { account: 2, cents: 1 }).await.unwrap();
    }
    for _ in 0..20 {
        faulty.meanwhile(Call::Commit, write(plain.clone()));
    }
    let counts = || [Call::Commit, Call::Reserve].map(|call| faulty.count(call));
    let before = counts();
    with.execute(Deposit { account: 1, cents: 1 }).await.unwrap();
    let after = counts();
    (with, [after[0] - before[0], after[1] - before[1]])
}

/// The rest that was written while it caught up goes into the append: of documents if it is small, of all else under a
/// reservation, which no batch of the projection has to wait for.
#[tokio::test]
async fn what_was_written_while_it_caught_up_is_applied_by_the_append() {
    for (events, reserved) in [(30, 0), (150, 1)] {
        for place in Place::all().await {
            let store = place.name();
            let (with, [batches, reservations], reserved) = match &place {
                Place::Documents("memory", ..) => {
                    let (with, counts) = beside(MemoryStore::new(), place.registry(), events).await;
                    (with, counts, reserved)
                }
                // The others are those with statements: they are the same stores.
                Place::Documents(..) => continue,
                #[cfg(feature = "sqlite")]
                Place::Sqlite(store, _) => {
                    let (with, counts) = beside(store.clone(), place.registry(), events).await;
                    (with, counts, 1)
                }
                #[cfg(feature = "postgres")]
                Place::Postgres(store, _) => {
                    let (with, counts) = beside(store.clone(), place.registry(), events).await;
                    (with, counts, 1)
                }
            };
            assert_eq!([batches, reservations], [1, reserved], "{store}, {events} events");
            assert!(with.verify().await.unwrap().is_sound());
        }
    }
}
