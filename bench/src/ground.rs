//! Where contenders keep what they store: a PostgreSQL server and a directory, as long as the run takes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use pg_cluster::{Cluster, PASSWORD, Server, USER};
use tempfile::TempDir;
use tokio_postgres::Client;

use crate::limits::postgres::connect;
use crate::plan::Form;

/// What is not as PostgreSQL has it by itself.
fn settings(form: Form) -> [(&'static str, &'static str); 5] {
    [
        // Nothing is timed in a smoke run.
        ("fsync", if form == Form::Smoke { "off" } else { "on" }),
        ("shared_buffers", "1GB"),
        // No checkpoint in the middle of somebody's round.
        ("max_wal_size", "8GB"),
        ("checkpoint_timeout", "1h"),
        ("max_connections", "1000"),
    ]
}

pub struct Ground {
    cluster: Option<Cluster>,
    admin: Option<Client>,
    dir: TempDir,
    places: u64,
}

/// A database and a directory for one contender.
#[derive(Clone, Debug)]
pub struct Spot {
    pub database: String,
    pub dir: PathBuf,
}

impl Ground {
    /// Without a server on this machine, only what is said of PostgreSQL is left out.
    pub async fn prepare(form: Form) -> anyhow::Result<Self> {
        if std::env::var_os("CQRS_POSTGRES_URL").is_some() {
            bail!("the benchmark measures a server of its own: unset CQRS_POSTGRES_URL");
        }
        let cluster = pg_cluster::own(&settings(form));
        let admin = match &cluster {
            Some(cluster) => Some(connect(cluster.url()).await?),
            None => None,
        };
        Ok(Self { cluster, admin, dir: tempfile::tempdir()?, places: 0 })
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn settings(form: Form) -> BTreeMap<String, String> {
        settings(form).map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }

    pub fn server(&self) -> Option<&Server> {
        self.cluster.as_ref().map(Cluster::server)
    }

    pub async fn version(&self) -> anyhow::Result<Option<String>> {
        let Some(admin) = &self.admin else { return Ok(None) };
        let row = admin.query_one("SHOW server_version", &[]).await?;
        Ok(Some(row.try_get(0)?))
    }

    /// The URL of a database, by a port that is the server's or that of somebody in between.
    pub fn url(&self, spot: &Spot, port: Option<u16>) -> String {
        // Where there is no server, nobody looks at it.
        let port = port.or_else(|| self.server().map(Server::port)).unwrap_or_default();
        format!("postgres://{USER}:{PASSWORD}@127.0.0.1:{port}/{}", spot.database)
    }

    /// An empty place. Not `durable`, a commit does not wait for the disk.
    pub async fn spot(&mut self, durable: bool) -> anyhow::Result<Spot> {
        self.places += 1;
        let database = format!("bench_{}", self.places);
        if let Some(admin) = &self.admin {
            admin.batch_execute(&format!("CREATE DATABASE {database}")).await?;
            let wait = if durable { "on" } else { "off" };
            let alter = format!("ALTER DATABASE {database} SET synchronous_commit = {wait}");
            admin.batch_execute(&alter).await?;
        }
        let dir = self.dir().join(&database);
        std::fs::create_dir(&dir)?;
        Ok(Spot { database, dir })
    }

    /// What PostgreSQL does by itself a minute later, at a time when it is in nobody's way.
    pub async fn settle(&self, spot: &Spot) -> anyhow::Result<()> {
        if self.admin.is_some() {
            let client = connect(&self.url(spot, None)).await?;
            client.batch_execute("VACUUM ANALYZE").await.context("VACUUM ANALYZE")?;
            client.batch_execute("CHECKPOINT").await?;
        }
        Ok(())
    }

    pub async fn remove(&self, spot: &Spot) -> anyhow::Result<()> {
        if let Some(admin) = &self.admin {
            admin.batch_execute(&format!("DROP DATABASE {} WITH (FORCE)", spot.database)).await?;
        }
        Ok(std::fs::remove_dir_all(&spot.dir)?)
    }
}
