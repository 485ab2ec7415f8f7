//! This framework, through its public API alone.

mod bank;
pub mod log;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use cqrs::engine::Stores;
use cqrs::memory::MemoryStore;
use cqrs::postgres::PostgresStore;
use cqrs::prelude::*;
use cqrs::sqlite::SqliteStore;
use cqrs::store::EventStore as _;
use cqrs::{Partition, Registry};

use crate::contender::{About, Contender, Outcome, Place, REFERENCE};
use crate::limits;
use bank::{Account, Deposit, Open, Summary, Withdraw};

/// The engine on one of the stores: two engines, so that commands run without a read model, as those of
/// the other contenders do.
struct Bank {
    commands: Engine,
    /// What is left to do for a read model is done when it is asked for.
    reads: Engine,
}

impl Bank {
    async fn open(stores: impl Into<Stores>) -> anyhow::Result<Self> {
        let stores = stores.into();
        let commands = Engine::builder().registry(Registry::new().with::<Account>()).hot_streams(20_000);
        let reads = Registry::new().with::<Account>().with::<Summary>();
        let reads = Engine::builder().registry(reads).without_background();
        Ok(Self { commands: commands.build(stores.clone()).await?, reads: reads.build(stores).await? })
    }

    async fn open_account(&self, account: u64) -> anyhow::Result<()> {
        self.commands.execute(Open { account, reference: REFERENCE.to_owned() }).await?;
        Ok(())
    }

    async fn deposit(&self, account: u64, cents: u64) -> anyhow::Result<Outcome> {
        self.commands.execute(Deposit { account, cents, reference: REFERENCE.to_owned() }).await?;
        Ok(Outcome::Accepted)
    }

    async fn withdraw(&self, account: u64, cents: u64) -> anyhow::Result<Outcome> {
        match self.commands.execute(Withdraw { account, cents, reference: REFERENCE.to_owned() }).await {
            Ok(_) => Ok(Outcome::Accepted),
            Err(ExecuteError::Refused(_)) => Ok(Outcome::Refused),
            Err(error) => Err(error.into()),
        }
    }

    /// The engine for reading has decided no command, so it remembers no account.
    async fn rehydrate(&self, account: u64) -> anyhow::Result<u64> {
        let loaded = self.reads.load::<Account>(&account).await?;
        Ok(loaded.state.context("the account is not open")?.balance)
    }

    async fn project(&self) -> anyhow::Result<Option<()>> {
        self.reads.catch_up().await?;
        Ok(Some(()))
    }

    async fn projected(&self, account: u64) -> anyhow::Result<Option<u64>> {
        Ok(self.reads.get::<Summary>(&account).await?.map(|summary| summary.balance))
    }

    async fn close(self) {
        self.commands.shutdown().await;
        self.reads.shutdown().await;
    }
}

const REMEMBERS: &str =
    "Remembers the last state of up to 20,000 accounts (a setting), so that a command reads nothing.";

/// What the three have in common, with how each is opened and counted.
macro_rules! contender {
    (
        $contender:ident, $name:literal on $store:literal, less $less:expr,
        open($place:ident) $open:block, stored($self:ident) $stored:block
    ) => {
        impl Contender for $contender {
            fn about() -> About {
                About { name: $name, store: $store, packages: &["cqrs"], less: &$less }
            }
            async fn open($place: &Place) -> anyhow::Result<Self> {
                $open
            }
            async fn open_account(&self, account: u64) -> anyhow::Result<()> {
                self.bank.open_account(account).await
            }
            async fn deposit(&self, account: u64, cents: u64) -> anyhow::Result<Outcome> {
                self.bank.deposit(account, cents).await
            }
            async fn withdraw(&self, account: u64, cents: u64) -> anyhow::Result<Outcome> {
                self.bank.withdraw(account, cents).await
            }
            async fn rehydrate(&self, account: u64) -> anyhow::Result<u64> {
                self.bank.rehydrate(account).await
            }
            async fn stored(&$self) -> anyhow::Result<u64> {
                $stored
            }
            async fn project(&self) -> anyhow::Result<Option<()>> {
                self.bank.project().await
            }
            async fn projected(&self, account: u64) -> anyhow::Result<Option<u64>> {
                self.bank.projected(account).await
            }
            async fn close(self) -> anyhow::Result<()> {
                self.bank.close().await;
                Ok(())
            }
        }
    };
}

/// On the store in memory.
pub struct Memory {
    bank: Bank,
    store: MemoryStore,
}

contender! {
    Memory, "cqrs-memory" on "memory",
    less ["Nothing survives the process."],
    open(_place) {
        let store = MemoryStore::new();
        Ok(Self { bank: Bank::open(store.clone()).await?, store })
    },
    stored(self) { Ok(self.store.head(Partition::ONLY).await?.position.get()) }
}

/// On one SQLite file.
pub struct Sqlite {
    bank: Bank,
    file: PathBuf,
}

contender! {
    Sqlite, "cqrs-sqlite" on "SQLite",
    less [REMEMBERS],
    open(place) {
        let file = place.dir.join("bank.db");
        let bank = Bank::open(Arc::new(SqliteStore::open(&file).await?)).await?;
        Ok(Self { bank, file })
    },
    stored(self) { limits::sqlite::count(&self.file, "cqrs_events") }
}

/// On a PostgreSQL server.
pub struct Postgres {
    bank: Bank,
    url: String,
}

contender! {
    Postgres, "cqrs-postgres" on "PostgreSQL",
    less [REMEMBERS, "Opens no pool: one connection writes for all tasks, up to four read."],
    open(place) {
        let bank = Bank::open(Arc::new(PostgresStore::open(&place.postgres).await?)).await?;
        Ok(Self { bank, url: place.postgres.clone() })
    },
    stored(self) { limits::postgres::count(&self.url, "cqrs.events").await }
}
