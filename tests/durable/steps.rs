//! A crash, or a fault, at every step between read, decide, fold, write, checkpoint and commit: each
//! call of a store in its turn, before it is carried out and after.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use cqrs::Engine;
use cqrs::engine::Stores;
use cqrs::error::StoreErrorKind;
use cqrs::memory::MemoryStore;
use cqrs::read_store::ReadStore;
use cqrs::sqlite::SqliteStore;
use cqrs::store::EventStore;
use cqrs_testkit::faults::{Call, Fault, Faulty};

use crate::check::{Told, check};
use crate::domain::{Request, quiet};
use crate::wrong::{Flaw, Flawed};

const CALLS: [Call; 9] = [
    Call::Append,
    Call::FindKey,
    Call::ReadStream,
    Call::Snapshot,
    Call::ReadLog,
    Call::Head,
    Call::Claim,
    Call::Get,
    Call::Commit,
];
const CRASHES: [Fault; 2] = [Fault::Hang, Fault::HangAfter];
const FAULTS: [Fault; 3] = [
    Fault::Before(StoreErrorKind::Unavailable),
    Fault::Before(StoreErrorKind::Failed),
    Fault::After(StoreErrorKind::Unknown),
];

/// Two accounts are opened, and ten more requests accepted and two refused.
const EVENTS: usize = 12;

fn requests() -> impl Iterator<Item = Request> {
    (0..7).flat_map(|number| [1, 2].map(|account| Request::new("script", account, number)))
}

/// Sends all requests, and has the projections follow now and then.
async fn script(bank: &Engine, told: &Mutex<Told>) {
    for request in requests() {
        told.lock().unwrap().sent(request.clone());
        if let Ok(answer) = request.send(bank).await {
            told.lock().unwrap().answered(request.clone(), answer);
        }
        if request.account == 2 && request.number % 3 == 2 {
            // What fails now is done later.
            let _ = bank.catch_up().await;
        }
    }
    let _ = bank.catch_up().await;
}

/// What the engine is given of a store that fails.
type Given<S> = fn(Faulty<S>) -> Stores;

fn right<S: EventStore + ReadStore>(store: Faulty<S>) -> Stores {
    Arc::new(store).into()
}

/// Runs the script on a store that fails once, and looks at what is there then, with fresh eyes. Then
/// all is sent again. Gives whether the fault came, or what does not hold.
async fn fail<S>(store: S, given: Given<S>, call: Call, fault: Fault, turn: usize) -> Result<bool, String>
where
    S: EventStore + ReadStore + Clone,
{
    let faulty = Faulty::new(store.clone());
    faulty.skip(call, turn);
    faulty.fail_next(call, fault);
    let told = Arc::new(Mutex::new(Told::default()));
    let stores = given(faulty.clone());
    let (heard, crashes) = (Arc::clone(&told), CRASHES.contains(&fault));
    let running = tokio::spawn(async move {
        let bank = Engine::builder().without_background().build(stores).await;
        if let Ok(bank) = bank {
            script(&bank, &heard).await;
        }
    });
    // A crash ends the engine where it hangs; after a fault it goes on.
    let is_over = || running.is_finished() || (crashes && faulty.pending_faults() == 0);
    while !is_over() {
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    running.abort();
    let _ = running.await;
    let came = faulty.pending_faults() == 0;

    let stores = Stores::from(Arc::new(store));
    let mut told = told.lock().unwrap().clone();
    check(&stores, &told).await?;
    let bank = quiet(stores.clone()).await;
    for request in requests() {
        let answer = request.send(&bank).await.map_err(|error| error.to_string())?;
        told.answered(request, answer);
    }
    match check(&stores, &told).await? {
        EVENTS => Ok(came),
        other => Err(format!("{other} events")),
    }
}

/// At each turn of each call, as long as there are such turns; gives how many there were.
async fn everywhere<S>(
    store: impl AsyncFn() -> S,
    given: Given<S>,
    calls: &[Call],
    faults: &[Fault],
) -> Result<usize, String>
where
    S: EventStore + ReadStore + Clone,
{
    let mut came = 0;
    for (&call, &fault) in calls.iter().flat_map(|call| faults.iter().map(move |fault| (call, fault))) {
        for turn in 0.. {
            let end = fail(store().await, given, call, fault, turn).await;
            if !end.map_err(|found| format!("{call:?}, {fault:?}, turn {turn}: {found}"))? {
                assert!(turn > 0, "{call:?} is never called");
                break;
            }
            came += 1;
        }
    }
    Ok(came)
}

async fn in_memory() -> MemoryStore {
    MemoryStore::new()
}

/// A new file in a folder for each.
fn on_file(dir: &tempfile::TempDir) -> impl AsyncFn() -> SqliteStore {
    let (dir, number) = (dir.path().to_owned(), std::sync::atomic::AtomicUsize::new(0));
    async move || {
        let number = number.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        SqliteStore::open(dir.join(format!("{number}.db"))).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_at_every_step_in_memory() {
    let came = everywhere(in_memory, right, &CALLS, &CRASHES).await.unwrap();
    println!("{came} crashes");
    assert!(came > 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_at_every_step_on_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let came = everywhere(on_file(&dir), right, &CALLS, &CRASHES).await.unwrap();
    println!("{came} crashes");
    assert!(came > 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_at_every_step_in_memory() {
    let came = everywhere(in_memory, right, &CALLS, &FAULTS).await.unwrap();
    println!("{came} faults");
    assert!(came > 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_at_every_step_on_a_file() {
    let dir = tempfile::tempdir().unwrap();
    // What kind it is makes no difference below the engine.
    let came = everywhere(on_file(&dir), right, &CALLS, &FAULTS[1..]).await.unwrap();
    println!("{came} faults");
    assert!(came > 100);
}

/// The controls: each flaw is caught by the same steps.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_apart_is_caught() {
    let apart: Given<_> = |store| Arc::new(Flawed(store, Flaw::CheckpointApart)).into();
    let found = everywhere(in_memory, apart, &[Call::Commit], &CRASHES).await.unwrap_err();
    assert!(found.contains("read models, as they were found: "), "{found}");
    let dir = tempfile::tempdir().unwrap();
    let apart: Given<_> = |store| Arc::new(Flawed(store, Flaw::CheckpointApart)).into();
    let found = everywhere(on_file(&dir), apart, &[Call::Commit], &CRASHES).await.unwrap_err();
    assert!(found.contains("read models, as they were found: "), "{found}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn skipping_what_fails_is_caught() {
    let skip: Given<_> = |store| Arc::new(Flawed(store, Flaw::SkipOnError)).into();
    let found = everywhere(in_memory, skip, &[Call::Commit], &FAULTS[..1]).await.unwrap_err();
    assert!(found.contains("read models, as they were found: "), "{found}");
}
