//! PostgreSQL by hand, with `tokio-postgres`.

use tokio_postgres::{Client, NoTls};

/// A connection of its own.
pub async fn connect(url: &str) -> anyhow::Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// The rows of a table, by a connection of its own.
pub async fn count(url: &str, table: &str) -> anyhow::Result<u64> {
    let row = connect(url).await?.query_one(&format!("SELECT count(*) FROM {table}"), &[]).await?;
    Ok(row.get::<_, i64>(0).try_into()?)
}
