//! Projections with their own SQL.

use cqrs::Registry;
use cqrs::engine::ConsumerState;
use cqrs::prelude::*;

use crate::shop::{Customer, Moved, Noted, Place, moves, note, status};

macro_rules! releases {
    ($module:ident, $sql:ty, $transaction:ty, $mode:ident, $execute:expr) => {
        mod $module {
            use cqrs::error::BoxError;

            use super::*;

            pub struct Old;
            #[projection(name = "moves", sql = $sql, mode = $mode)]
            impl Old {
                #[setup]
                fn set_up(tx: &$transaction) -> Result<(), BoxError> {
                    $execute(tx, "CREATE TABLE noted (customer text)")
                }
                #[on]
                fn noted(tx: &$transaction, _: &Noted) -> Result<(), BoxError> {
                    $execute(tx, "INSERT INTO noted VALUES ('noted')")
                }
            }

            pub struct New;
            #[projection(name = "moves", sql = $sql, mode = $mode)]
            impl New {
                #[setup]
                fn set_up(tx: &$transaction) -> Result<(), BoxError> {
                    $execute(tx, "CREATE TABLE noted (customer text)")
                }
                #[on]
                fn noted(tx: &$transaction, _: &Noted) -> Result<(), BoxError> {
                    $execute(tx, "INSERT INTO noted VALUES ('noted')")
                }
                #[on]
                fn moved(tx: &$transaction, _: &Moved) -> Result<(), BoxError> {
                    $execute(tx, "INSERT INTO noted VALUES ('moved')")
                }
            }

            #[tokio::test]
            async fn an_old_release_does_not_pass_what_only_a_new_one_reads() {
                let place = Place::sqlite();
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
                assert_eq!(rows(&place), ["noted", "moved", "noted"]);
            }
        }
    };
}

fn execute(tx: &cqrs::sqlite::Transaction<'_>, sql: &str) -> Result<(), cqrs::error::BoxError> {
    tx.execute_batch(sql)?;
    Ok(())
}

releases!(lagging, cqrs::sqlite::Sqlite, cqrs::sqlite::Transaction<'_>, async, execute);
releases!(inline, cqrs::sqlite::Sqlite, cqrs::sqlite::Transaction<'_>, inline, execute);

fn rows(place: &Place) -> Vec<String> {
    let conn = cqrs::sqlite::rusqlite::Connection::open(place.file()).unwrap();
    let mut select = conn.prepare("SELECT customer FROM noted ORDER BY rowid").unwrap();
    let rows = select.query_map((), |row| row.get(0)).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}
