//! The same work without a framework.

use tokio::sync::{mpsc, oneshot};
use tokio_postgres::{Client, NoTls};

pub const PAYLOAD: &[u8] = br#"{"cents":12345,"reference":"invoice 2026-11-0042 of the northern branch, paid in cash at the counter, thank you very much"}"#;

pub async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

pub async fn table(client: &Client, name: &str) {
    let create = format!(
        "CREATE TABLE {name} (position bigserial PRIMARY KEY, stream text COLLATE \"C\" NOT NULL,
            version bigint NOT NULL, name text NOT NULL, payload bytea NOT NULL, UNIQUE (stream, version))"
    );
    client.batch_execute(&create).await.unwrap();
}

pub type Row = (String, i64);

/// One row in one statement.
pub struct Single {
    client: Client,
    insert: tokio_postgres::Statement,
}

impl Single {
    pub async fn new(url: &str, table: &str) -> Self {
        let client = connect(url).await;
        let insert = format!("INSERT INTO {table} (stream, version, name, payload) VALUES ($1, $2, $3, $4)");
        let insert = client.prepare(&insert).await.unwrap();
        Self { client, insert }
    }

    pub async fn insert(&self, (stream, version): Row) {
        self.client.execute(&self.insert, &[&stream, &version, &"Deposited", &PAYLOAD]).await.unwrap();
    }
}

/// What waits together in one statement.
#[derive(Clone)]
pub struct Batched(mpsc::Sender<(Row, oneshot::Sender<()>)>);

impl Batched {
    pub async fn new(url: &str, table: &str) -> Self {
        let client = connect(url).await;
        let insert = format!(
            "INSERT INTO {table} (stream, version, name, payload)
             SELECT * FROM UNNEST ($1::text[], $2::bigint[], $3::text[], $4::bytea[])"
        );
        let insert = client.prepare(&insert).await.unwrap();
        let (way, mut rows) = mpsc::channel::<(Row, oneshot::Sender<()>)>(1_024);
        tokio::spawn(async move {
            let mut group = Vec::new();
            while let Some(first) = rows.recv().await {
                group.push(first);
                tokio::task::yield_now().await;
                while group.len() < 1_000
                    && let Ok(next) = rows.try_recv()
                {
                    group.push(next);
                }
                let (streams, versions): (Vec<&str>, Vec<i64>) =
                    group.iter().map(|((stream, version), _)| (stream.as_str(), *version)).unzip();
                let names = vec!["Deposited"; group.len()];
                let payloads = vec![PAYLOAD; group.len()];
                client.execute(&insert, &[&streams, &versions, &names, &payloads]).await.unwrap();
                group.drain(..).for_each(|(_, answer)| _ = answer.send(()));
            }
        });
        Self(way)
    }

    pub async fn insert(&self, row: Row) {
        let (answer, done) = oneshot::channel();
        self.0.send((row, answer)).await.unwrap();
        done.await.unwrap();
    }
}
