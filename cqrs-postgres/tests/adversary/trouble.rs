//! What others do to a cluster while the store works on it.

use std::time::Duration;

use tokio::time::sleep;
use tokio_postgres::{Client, NoTls};

/// Runs statements one after the other, for ever, with so many milliseconds behind each; also when the
/// connection is lost.
pub(crate) async fn over_and_over(url: String, steps: Vec<(String, u64)>) {
    let mut client: Option<Client> = None;
    loop {
        let Some(open) = client.take().filter(|client| !client.is_closed()) else {
            client = try_connect(&url).await;
            sleep(Duration::from_millis(20)).await;
            continue;
        };
        for (statement, millis) in &steps {
            // What fails here, because it was stopped in turn, is tried again.
            let _ = open.batch_execute(statement).await;
            sleep(Duration::from_millis(*millis)).await;
        }
        client = Some(open);
    }
}

async fn try_connect(url: &str) -> Option<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.ok()?;
    tokio::spawn(connection);
    Some(client)
}

fn steps(steps: &[(&str, u64)]) -> Vec<(String, u64)> {
    steps.iter().map(|(statement, millis)| ((*statement).to_owned(), *millis)).collect()
}

/// A transaction with an old snapshot, so that nothing newer is forgotten.
pub(crate) fn old_snapshot() -> Vec<(String, u64)> {
    steps(&[("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_current_xact_id()", 900), ("ROLLBACK", 20)])
}

/// Transactions that write, and are held open, committed and rolled back.
pub(crate) fn writes() -> Vec<(String, u64)> {
    let insert = "CREATE TABLE IF NOT EXISTS others (n integer); BEGIN; INSERT INTO others VALUES (1)";
    steps(&[(insert, 150), ("COMMIT", 10), (insert, 150), ("ROLLBACK", 10)])
}

/// Transactions that are prepared, so that nobody's session holds them.
pub(crate) fn prepared() -> Vec<(String, u64)> {
    let prepare = "CREATE TABLE IF NOT EXISTS prepared (n integer); BEGIN; INSERT INTO prepared VALUES (1);
        PREPARE TRANSACTION 'trouble'";
    steps(&[
        (prepare, 200),
        ("COMMIT PREPARED 'trouble'", 10),
        (prepare, 200),
        ("ROLLBACK PREPARED 'trouble'", 10),
    ])
}

/// Somebody who locks the table of events for a while.
pub(crate) fn locks(schema: &str) -> Vec<(String, u64)> {
    steps(&[(&format!("BEGIN; LOCK TABLE {schema}.events IN SHARE MODE"), 40), ("ROLLBACK", 700)])
}

/// An administrator who ends one of the store's connections, whatever it is doing.
pub(crate) fn terminates() -> Vec<(String, u64)> {
    let terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE application_name LIKE 'cqrs%' ORDER BY random() LIMIT 1";
    steps(&[(terminate, 170)])
}

/// Has each append pause now and then inside of its transaction, when its events are numbered and written,
/// and has some of them rolled back at their commit.
pub(crate) fn pauses(schema: &str) -> String {
    format!(
        "CREATE FUNCTION {schema}.pause() RETURNS trigger LANGUAGE plpgsql AS $f$
         BEGIN
            IF random() < 0.05 THEN PERFORM pg_sleep(random() / 100); END IF;
            RETURN NULL;
         END $f$;
         CREATE FUNCTION {schema}.fail() RETURNS trigger LANGUAGE plpgsql AS $f$
         BEGIN
            IF random() < 0.005 THEN RAISE 'rolled back on purpose' USING ERRCODE = '40001'; END IF;
            RETURN NULL;
         END $f$;
         CREATE TRIGGER pause AFTER INSERT ON {schema}.events
            FOR EACH STATEMENT EXECUTE FUNCTION {schema}.pause();
         CREATE CONSTRAINT TRIGGER fail AFTER INSERT ON {schema}.events DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION {schema}.fail()"
    )
}

/// Ends a server process in the hardest way, a few times. The cluster takes that for damaged memory, ends
/// all other processes and recovers.
pub(crate) async fn kills_a_process(url: String) {
    for _ in 0..3 {
        sleep(Duration::from_millis(1_500)).await;
        let Some(client) = try_connect(&url).await else { continue };
        let find =
            "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'cqrs%' ORDER BY random() LIMIT 1";
        let Ok(Some(row)) = client.query_opt(find, &[]).await else { continue };
        let pid: i32 = row.get(0);
        let _ = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status();
    }
}
