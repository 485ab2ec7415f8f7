//! Commits whose outcome nobody hears, and races for one version.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use cqrs::Registry;
use cqrs::engine::Failure;
use cqrs::prelude::*;
use cqrs_core::error::StoreErrorKind;
use cqrs_core::id::Version;
use cqrs_core::store::{Append, AppendError, EventStore as _, Expected, Guard};
use cqrs_postgres::PostgresStore;
use cqrs_testkit::adversary::{Adversary, appends};
use tokio_postgres::NoTls;

use crate::support::{connect, event, payload, read_stream, schema, stream, with};
use crate::wire::{Cut, Wire};
use crate::{child, role, whole};

#[derive(Event, Serialize, Deserialize)]
pub(crate) struct Counted {
    by: u64,
}

#[derive(Command)]
pub(crate) struct Count {
    #[id]
    pub(crate) counter: u64,
    pub(crate) by: u64,
}

#[derive(Default)]
pub(crate) struct Counter {
    pub(crate) total: u64,
}

#[aggregate(id = u64, error = Infallible)]
impl Counter {
    #[handle]
    fn count(&self, cmd: Count) -> Counted {
        Counted { by: cmd.by }
    }

    #[apply]
    fn counted(&mut self, event: &Counted) {
        self.total += event.by;
    }
}

const COMMANDS: u64 = 60;

/// Has a counter count, and gives what it comes to at least and at most. With a key, a command is sent until
/// it is accepted, and so comes to one. Without, only `Unknown` leaves it open; any other error says that
/// nothing was written.
async fn count(engine: Engine, counter: u64, keyed: bool) -> (u64, u64) {
    let (mut accepted, mut open) = (0, 0);
    for number in 0..COMMANDS {
        let send = || engine.execute(Count { counter, by: 1 });
        if keyed {
            while send().key(number.to_string()).await.is_err() {}
            accepted += 1;
        } else {
            match send().await {
                Ok(_) => accepted += 1,
                Err(ExecuteError::Failed(Failure::Store(error)))
                    if error.kind() == StoreErrorKind::Unknown =>
                {
                    open += 1;
                }
                Err(_) => {}
            }
        }
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    (accepted, accepted + open)
}

/// Inserts a row, and does so again when there was an error: what a careless client does.
async fn insert_carelessly(wire: &Wire, table: &str) -> u64 {
    for number in 0..10 {
        wire.arm(if number % 2 == 0 { Cut::After } else { Cut::Before });
        loop {
            let Ok((client, connection)) = tokio_postgres::connect(&wire.url(), NoTls).await else {
                continue;
            };
            tokio::spawn(connection);
            let insert = format!("INSERT INTO {table} VALUES ('Counted')");
            if client.batch_execute(&insert).await.is_ok() {
                break;
            }
        }
    }
    10
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_ambiguous_commit_is_neither_doubled_nor_lost() {
    let Some(cluster) = pg_cluster::made() else { return };
    let server = cluster.server();
    let wire = Arc::new(Wire::to(server.port(), b"Counted").await);
    let name = schema();
    let store = PostgresStore::open(&with(&wire.url(), &format!("schema={name}"))).await.unwrap();
    let registry = Registry::new().with::<Counter>();
    let engine = Engine::builder().registry(registry).build(store).await.unwrap();
    let cutting = tokio::spawn(Arc::clone(&wire).cut_over_and_over(Duration::from_millis(25)));
    let counting = (0..6).map(|counter| tokio::spawn(count(engine.clone(), counter, counter % 2 == 0)));
    let counting: Vec<_> = counting.collect();
    let mut totals = Vec::new();
    for counted in counting {
        totals.push(counted.await.unwrap());
    }
    cutting.abort();
    let cuts = [Cut::Before, Cut::After, Cut::Late].map(|cut| wire.cuts(cut));
    println!("cut before, after, and before a late commit: {cuts:?} times");
    assert!(!cuts.contains(&0));

    let direct = Engine::open(&with(cluster.url(), &format!("schema={name}"))).await.unwrap();
    for (counter, (least, most)) in (0..).zip(&totals) {
        let loaded = direct.load::<Counter>(&counter).await.unwrap().state.unwrap().total;
        println!("counter {counter}: {loaded} of {COMMANDS}, known to be {least} to {most}");
        assert!((*least..=*most).contains(&loaded), "counter {counter}: {loaded}, not {least} to {most}");
        // The engine has looked, and so knows what was written; but for a look that failed in turn.
        assert!(loaded - least <= COMMANDS / 10, "counter {counter}: only {least} of {loaded} are known");
    }
    assert!(totals.iter().step_by(2).all(|total| *total == (COMMANDS, COMMANDS)));

    // Whoever just tries again doubles some.
    let client = connect(cluster.url()).await;
    client.batch_execute(&format!("CREATE TABLE {name}.careless (what text)")).await.unwrap();
    let sent = insert_carelessly(&wire, &format!("{name}.careless")).await;
    let row = client.query_one(&format!("SELECT count(*) FROM {name}.careless"), &[]).await.unwrap();
    assert!(row.get::<_, i64>(0).cast_unsigned() > sent, "the wire was never cut behind a commit");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_over_a_wire_that_breaks() {
    let Some(cluster) = pg_cluster::made() else { return };
    let server = cluster.server();
    // What stands in the tags of each of the adversary's events.
    let wire = Arc::new(Wire::to(server.port(), b"third:").await);
    let option = format!("schema={}", schema());
    let open = async |url: &str| Arc::new(PostgresStore::open(&with(url, &option)).await.unwrap());
    let (good, bad) = (open(cluster.url()).await, open(&wire.url()).await);
    let report = Adversary::new(appends(1_500))
        .on("good wire", good)
        .on("bad wire", bad)
        .trouble(Arc::clone(&wire).cut_over_and_over(Duration::from_millis(15)))
        .run()
        .await;
    whole(&report);
    // The store finds out by itself what became of each, so none is told as unknown.
    let cuts = [Cut::Before, Cut::After].map(|cut| wire.cuts(cut));
    assert!(
        !cuts.contains(&0),
        "the wire was cut {cuts:?} times before and after a commit, so nothing is proven"
    );
    assert_eq!(report.unknown, 0, "{report}");
}

const VERSIONS: u64 = 300;

/// Expects the version that it has read, as all others do, and gives how often it won.
async fn race(store: PostgresStore, who: String) -> u64 {
    let mut won = 0;
    loop {
        let version = store.read_stream(last("Race/1")).await.unwrap().version;
        if version.get() >= VERSIONS {
            return won;
        }
        let guard = Guard::stream(stream("Race/1"), Expected::Version(version));
        match store.append(Append::new(vec![event("Race/1", who.clone())], guard)).await {
            Ok(appended) => {
                assert_eq!(appended.version_of(&stream("Race/1")), Some(version.next()));
                won += 1;
            }
            Err(AppendError::Conflict(_)) => {}
            Err(error) => unreachable!("{error}"),
        }
    }
}

fn last(name: &str) -> cqrs_core::store::StreamRead {
    use cqrs_core::store::{Direction, StreamRead};
    let (from, direction) = (Version::new(u64::MAX), Direction::Backward);
    StreamRead { stream: stream(name), from, direction, limit: 1 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_version_has_one_winner() {
    let (who, url) = match role() {
        Some(url) => ("child", url),
        None => {
            let Some(cluster) = pg_cluster::shared() else { return };
            ("parent", with(cluster.url(), &format!("schema={}", schema())))
        }
    };
    let stores = [PostgresStore::open(&url).await.unwrap(), PostgresStore::open(&url).await.unwrap()];
    let other = (who == "parent").then(|| child("commits::each_version_has_one_winner", &url));
    let racers =
        stores.iter().cycle().take(16).map(|store| tokio::spawn(race(store.clone(), who.to_owned())));
    let mut won = 0;
    for racer in racers.collect::<Vec<_>>() {
        won += racer.await.unwrap();
    }
    // All versions are there, and each of them is of whoever was told so.
    let events = read_stream(&stores[0], "Race/1").await;
    assert_eq!(events.len() as u64, VERSIONS);
    assert_eq!(events.iter().filter(|event| payload(event) == who).count() as u64, won);
    println!("of {VERSIONS} versions the {who} won {won}");
    if let Some(mut other) = other {
        assert!(other.wait().unwrap().success());
    }
}
