//! Projections with their own SQL.

use cqrs::Registry;
use cqrs::engine::ConsumerState;
use cqrs::prelude::*;

use crate::shop::{Customer, Moved, Noted, Place, moves, note, status};

/// Two releases of a projection, the second of which reads one event more. The methods are `async` on PostgreSQL.
macro_rules! releases {
    ($module:ident, $sql:ty, $transaction:ty, $mode:tt, [$($async:tt)?], $execute:ident [$($await:tt)*], $database:ident) => {
        mod $module {
            use cqrs::error::BoxError;

            use super::*;

            const TABLE: &str = "CREATE TABLE noted (number bigserial, customer text)";
            const NOTED: &str = "INSERT INTO noted (customer) VALUES ('noted')";
            const MOVED: &str = "INSERT INTO noted (customer) VALUES ('moved')";

            pub struct Old;
            #[projection(name = "moves", sql = $sql, mode = $mode)]
            impl Old {
                #[setup]
                $($async)? fn set_up(tx: &$transaction) -> Result<(), BoxError> {
                    Ok(tx.$execute(TABLE)$($await)*?)
                }
                #[on]
                $($async)? fn noted(tx: &$transaction, _: &Noted) -> Result<(), BoxError> {
                    Ok(tx.$execute(NOTED)$($await)*?)
                }
            }

            pub struct New;
            #[projection(name = "moves", sql = $sql, mode = $mode)]
            impl New {
                #[setup]
                $($async)? fn set_up(tx: &$transaction) -> Result<(), BoxError> {
                    Ok(tx.$execute(TABLE)$($await)*?)
                }
                #[on]
                $($async)? fn noted(tx: &$transaction, _: &Noted) -> Result<(), BoxError> {
                    Ok(tx.$execute(NOTED)$($await)*?)
                }
                #[on]
                $($async)? fn moved(tx: &$transaction, _: &Moved) -> Result<(), BoxError> {
                    Ok(tx.$execute(MOVED)$($await)*?)
                }
            }

            #[tokio::test]
            async fn an_old_release_does_not_pass_what_only_a_new_one_reads() {
                let Some(place) = $database::place() else { return };
                let old_registry = || Registry::new().with::<Customer>().with::<Old>();
                let new_registry = || Registry::new().with::<Customer>().with::<New>();
                let old = place.program(old_registry()).await;
                let noted = note(&old, "a").await;
                old.reached::<Old>(&noted).await.unwrap();
                let new = place.guest(new_registry()).await;
                let moved = moves(&new, "a").await;
                let noted = note(&old, "b").await;
                let read = old.reached::<Old>(&noted).await;
                assert!(matches!(read, Err(ReadError::Standby { .. })), "{read:?}");
                assert!(matches!(status(&old).await.state, ConsumerState::StandbyBefore(_)));
                new.shutdown().await;
                let new = place.program(new_registry()).await;
                new.reached::<New>(&moved).await.unwrap();
                new.reached::<New>(&noted).await.unwrap();
                old.shutdown().await;
                new.shutdown().await;
                assert_eq!($database::rows(&place).await, ["noted", "moved", "noted"]);
            }
        }
    };
}

mod sqlite {
    use super::Place;

    pub fn place() -> Option<Place> {
        Some(Place::sqlite())
    }

    pub async fn rows(place: &Place) -> Vec<String> {
        let conn = cqrs::sqlite::rusqlite::Connection::open(place.file()).unwrap();
        let mut select = conn.prepare("SELECT customer FROM noted ORDER BY rowid").unwrap();
        let rows = select.query_map((), |row| row.get(0)).unwrap();
        rows.collect::<Result<_, _>>().unwrap()
    }
}

releases!(lagging, cqrs::sqlite::Sqlite, cqrs::sqlite::Transaction<'_>, async, [], execute_batch [], sqlite);
releases!(inline, cqrs::sqlite::Sqlite, cqrs::sqlite::Transaction<'_>, inline, [], execute_batch [], sqlite);

#[cfg(feature = "postgres")]
mod postgres {
    use cqrs::postgres::tokio_postgres::{NoTls, connect};

    use super::Place;

    pub fn place() -> Option<Place> {
        Place::postgres()
    }

    pub async fn rows(place: &Place) -> Vec<String> {
        let (server, options) = place.url().split_once('?').unwrap();
        let schema = options.trim_start_matches("schema=").split('&').next().unwrap();
        let (client, connection) = connect(server, NoTls).await.unwrap();
        tokio::spawn(connection);
        let select = format!("SELECT customer FROM {schema}.noted ORDER BY number");
        client.query(&select, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    }
}

#[cfg(feature = "postgres")]
mod on_postgres {
    use super::*;
    use cqrs::postgres::{Postgres, Transaction};

    releases!(lagging, Postgres, Transaction<'_>, async, [async], batch_execute [.await], postgres);
    releases!(inline, Postgres, Transaction<'_>, inline, [async], batch_execute [.await], postgres);
}
