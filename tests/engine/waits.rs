//! Every wait has a limit, and nothing waits for a future that nobody polls.

use std::future::IntoFuture;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use cqrs::Registry;
use cqrs::engine::{ConsumerState, Failure, Stores, Timeouts};
use cqrs::error::StoreErrorKind;
use cqrs::memory::MemoryStore;
use cqrs::prelude::*;
use cqrs_testkit::faults::{Call, Fault};

use crate::bank::{AccountError, Collect, Deposit, Summary, balance, faulty, open, running};

/// What handlers call, and what it does.
struct Outside {
    engine: OnceLock<Engine>,
    calls: AtomicU32,
}

impl Service for Outside {}

#[derive(Clone, Debug)]
enum What {
    /// Answers after so many milliseconds.
    Answer(u64),
    Hang,
    /// Executes a command on this desk, which does the last thing.
    Execute(u64, Box<What>),
    /// The same, in a task of its own.
    Spawn(u64, Box<What>),
}

impl Outside {
    fn call(&self, what: What) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + '_>> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let execute = |desk, what: Box<What>| {
            let engine = self.engine.get().unwrap().clone();
            async move {
                // So that it can be kept before it executes anything.
                tokio::task::yield_now().await;
                engine.execute(Ask { desk, what: *what }).await.map_err(|error| error.to_string()).map(drop)
            }
        };
        match what {
            What::Answer(0) => Box::pin(async { Ok(()) }),
            What::Answer(millis) => Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(millis)).await;
                Ok(())
            }),
            What::Hang => Box::pin(std::future::pending()),
            What::Execute(desk, what) => Box::pin(execute(desk, what)),
            What::Spawn(desk, what) => {
                let task = tokio::spawn(execute(desk, what));
                Box::pin(async move { task.await.unwrap() })
            }
        }
    }
}

#[derive(Event, Serialize, Deserialize)]
struct Asked {}

#[derive(Command)]
struct Ask {
    #[id]
    desk: u64,
    what: What,
}

/// Decides at once.
#[derive(Command)]
struct Note {
    #[id]
    desk: u64,
}

/// Blocks its thread in the handler, from the first barrier to the second.
#[derive(Command)]
struct Block {
    #[id]
    desk: u64,
    entered: Arc<Barrier>,
    leave: Arc<Barrier>,
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct No(String);

#[derive(Default)]
struct Desk {
    asked: u32,
}

#[aggregate(id = u64, error = No)]
impl Desk {
    #[handle]
    async fn ask(&self, cmd: Ask, outside: &Outside) -> Result<Asked, No> {
        outside.call(cmd.what).await.map_err(No)?;
        Ok(Asked {})
    }
    #[handle]
    fn block(&self, cmd: Block) -> Asked {
        cmd.entered.wait();
        cmd.leave.wait();
        Asked {}
    }
    #[handle]
    fn note(&self, _: Note) -> Asked {
        Asked {}
    }
    #[apply]
    fn asked(&mut self, _: &Asked) {
        self.asked += 1;
    }
}

fn short() -> Timeouts {
    Timeouts {
        turn: Duration::from_millis(200),
        service: Duration::from_secs(20),
        shutdown: Duration::from_millis(300),
        ..Timeouts::default()
    }
}

/// An engine, and what its handlers call.
async fn desk(stores: impl Into<Stores>, timeouts: Timeouts) -> (Engine, Arc<Outside>) {
    let outside = Arc::new(Outside { engine: OnceLock::new(), calls: AtomicU32::new(0) });
    let builder = Engine::builder().registry(Registry::new().with::<Desk>()).service(outside.clone());
    let engine = builder.timeouts(timeouts).build(stores).await.unwrap();
    outside.engine.set(engine.clone()).ok();
    (engine, outside)
}

/// All stores: those whose appends end in the first poll, and later.
pub async fn stores() -> Vec<(&'static str, Stores, tempfile::TempDir)> {
    #[cfg_attr(not(feature = "postgres"), expect(unused_mut, reason = "only the feature adds a store"))]
    let mut all = local_stores().await;
    #[cfg(feature = "postgres")]
    if let Some(url) = postgres_url() {
        let store = cqrs::postgres::PostgresStore::open(&url).await.unwrap();
        all.push(("postgres", Arc::new(store).into(), tempfile::tempdir().unwrap()));
    }
    all
}

/// A schema of its own in the tests' server.
#[cfg(feature = "postgres")]
pub fn postgres_url() -> Option<String> {
    Some(pg_cluster::shared()?.schema_url("engine"))
}

/// Those that need no server.
async fn local_stores() -> Vec<(&'static str, Stores, tempfile::TempDir)> {
    let directory = || tempfile::tempdir().unwrap();
    let file = directory();
    let url = format!("sqlite:{}", file.path().join("desk.db").display());
    // Not an engine's own way, so that the test has the engine's settings.
    let sqlite = cqrs::sqlite::SqliteStore::open(url.trim_start_matches("sqlite:")).await.unwrap();
    vec![("memory", MemoryStore::new().into(), directory()), ("sqlite", Arc::new(sqlite).into(), file)]
}

async fn asked(engine: &Engine, desk: u64) -> u32 {
    engine.load::<Desk>(&desk).await.unwrap().state.map_or(0, |state| state.asked)
}

fn poll_once<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Ends the test if something waits for longer than it may.
async fn soon<T>(future: impl IntoFuture<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future.into_future()).await.expect("it hangs")
}

#[tokio::test]
async fn a_command_that_is_not_polled_keeps_nobody_waiting() {
    for (store, stores, _files) in stores().await {
        for what in [What::Answer(5), What::Hang] {
            let (engine, _) = desk(stores.clone(), short()).await;
            let before = asked(&engine, 1).await;
            // One is kept in its handler, and several in the queue; the last one was only appending.
            let mut first = Box::pin(engine.execute(Ask { desk: 1, what: what.clone() }));
            assert!(poll_once(first.as_mut()).is_pending());
            let mut queued: Vec<_> = (0..5).map(|_| Box::pin(engine.execute(Note { desk: 1 }))).collect();
            for queued in &mut queued {
                assert!(poll_once(queued.as_mut()).is_pending());
            }
            let since = Instant::now();
            soon(engine.execute(Note { desk: 1 })).await.unwrap();
            assert!(since.elapsed() < Duration::from_secs(2), "{store}: {:?}", since.elapsed());
            // The others go on when they are polled, and none of it is lost or written twice.
            for queued in queued {
                soon(queued).await.unwrap();
            }
            let mut accepted = 6;
            if let What::Answer(_) = what {
                soon(first).await.unwrap();
                accepted += 1;
            }
            assert_eq!(asked(&engine, 1).await, before + accepted, "{store}, {what:?}");
        }
    }
}

#[tokio::test]
async fn an_append_that_is_not_polled_keeps_nobody_waiting() {
    for (store, stores, _files) in stores().await {
        let (engine, _) = desk(stores, short()).await;
        for round in 0..5 {
            let mut kept = Box::pin(engine.execute(Note { desk: 1 }));
            let _ = poll_once(kept.as_mut());
            // One whose handler reaches outside waits for what the state rests on.
            soon(engine.execute(Ask { desk: 1, what: What::Answer(0) })).await.unwrap();
            soon(engine.execute(Note { desk: 1 })).await.unwrap();
            let asked = asked(&engine, 1).await;
            assert!((round * 2 + 2..=round * 3 + 3).contains(&asked), "{store}: {asked} in round {round}");
        }
    }
}

/// The negative control: a command that is polled keeps its turn, however slow its service is.
#[tokio::test]
async fn a_slow_service_keeps_its_turn() {
    for (store, stores, _files) in stores().await {
        let timeouts = Timeouts { turn: Duration::from_millis(60), ..short() };
        let (engine, outside) = desk(stores, timeouts).await;
        let slow = tokio::spawn({
            let engine = engine.clone();
            async move { engine.execute(Ask { desk: 1, what: What::Answer(400) }).await }
        });
        while outside.calls.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        let others = (0..4).map(|_| {
            let engine = engine.clone();
            tokio::spawn(async move { engine.execute(Note { desk: 1 }).await })
        });
        for other in others.collect::<Vec<_>>() {
            assert!(other.await.unwrap().unwrap().version().get() > 1, "{store}");
        }
        assert_eq!(slow.await.unwrap().unwrap().version().get(), 1, "{store}");
        assert_eq!(outside.calls.load(Ordering::SeqCst), 1, "{store}: its service was called once");
    }
}

#[tokio::test]
async fn a_service_that_never_answers_is_given_up() {
    for (store, stores, _files) in stores().await {
        let timeouts = Timeouts { service: Duration::from_millis(100), ..short() };
        let (engine, _) = desk(stores, timeouts).await;
        let error = soon(engine.execute(Ask { desk: 1, what: What::Hang })).await.unwrap_err();
        let ExecuteError::Failed(Failure::ServiceTimeout { command, stream, limit }) = &error else {
            panic!("{store}: {error:?}")
        };
        assert_eq!((*command, stream.as_str(), *limit), ("Ask", "Desk/1", Duration::from_millis(100)));
        soon(engine.execute(Note { desk: 1 })).await.unwrap();
        assert_eq!(asked(&engine, 1).await, 1);
    }
}

#[tokio::test]
async fn a_queue_that_does_not_move_is_named() {
    let timeouts = Timeouts { queue: Duration::from_millis(150), ..short() };
    let (engine, outside) = desk(MemoryStore::new(), timeouts).await;
    let slow = tokio::spawn({
        let engine = engine.clone();
        async move { engine.execute(Ask { desk: 1, what: What::Answer(600) }).await }
    });
    while outside.calls.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    let error = soon(engine.execute(Note { desk: 1 })).await.unwrap_err();
    assert!(matches!(error, ExecuteError::Failed(Failure::QueueTimeout { .. })), "{error:?}");
    assert!(
        error.to_string().starts_with("`Note` waited 150ms for its turn in the queue of Desk/1"),
        "{error}"
    );
    slow.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_shutdown_ends_and_names_what_it_abandoned() {
    for (store, stores, _files) in stores().await {
        for what in [What::Answer(1), What::Hang] {
            let (engine, _) = desk(stores.clone(), short()).await;
            let before = asked(&engine, 7).await;
            let mut kept = Box::pin(engine.execute(Ask { desk: 7, what }));
            assert!(poll_once(kept.as_mut()).is_pending());
            let abandoned = soon(engine.shutdown()).await;
            assert!(!abandoned.is_complete());
            assert_eq!(abandoned.to_string(), "abandoned the command `Ask` on Desk/7", "{store}");
            // It writes nothing any more, even if it is polled.
            if let Ok(end) = tokio::time::timeout(Duration::from_millis(300), kept).await {
                assert!(matches!(end, Err(ExecuteError::Failed(Failure::ShutDown))), "{end:?}");
            }
            assert_eq!(asked(&engine, 7).await, before);
            assert!(soon(engine.shutdown()).await.is_complete());
        }
    }
}

/// The limit of the shutdown is longer than this test runs.
#[tokio::test]
async fn a_shutdown_abandons_commands_that_nobody_polls_before_its_limit() {
    let patient = Timeouts { shutdown: Duration::from_secs(3_600), ..short() };
    for (store, stores, _files) in stores().await {
        let (engine, outside) = desk(stores, patient).await;
        let ask = |desk| -> cqrs::store::BoxFuture<'_, _> {
            Box::pin(engine.execute(Ask { desk, what: What::Hang }))
        };
        let mut kept: Vec<_> = (0..3).map(ask).collect();
        kept.push(Box::pin(engine.execute(Note { desk: 0 })));
        for kept in &mut kept {
            assert!(poll_once(kept.as_mut()).is_pending());
        }
        // Others are waited for, even if they take several times as long as an unpolled one keeps its turn.
        let calls = outside.calls.load(Ordering::SeqCst);
        let slow = tokio::spawn({
            let engine = engine.clone();
            async move { engine.execute(Ask { desk: 7, what: What::Answer(1_000) }).await }
        });
        while outside.calls.load(Ordering::SeqCst) == calls {
            tokio::task::yield_now().await;
        }
        let abandoned = soon(engine.shutdown()).await;
        let streams: Vec<_> = abandoned.commands.iter().map(|command| command.stream.as_str()).collect();
        assert_eq!(streams, ["Desk/0", "Desk/0", "Desk/1", "Desk/2"], "{store}");
        assert_eq!(soon(slow).await.unwrap().unwrap().version().get(), 1, "{store}");
    }
}

#[tokio::test]
async fn a_shutdown_that_is_not_polled_keeps_no_other_waiting() {
    let patient = Timeouts { shutdown: Duration::from_secs(3_600), ..short() };
    let outside = Arc::new(Outside { engine: OnceLock::new(), calls: AtomicU32::new(0) });
    let registry = Registry::new().with::<Desk>().with::<Summary>();
    let builder = Engine::builder().registry(registry).service(outside).timeouts(patient);
    let engine = builder.build(MemoryStore::new()).await.unwrap();
    let mut kept = Box::pin(engine.shutdown());
    assert!(poll_once(kept.as_mut()).is_pending(), "a follower ends in its own task");
    assert!(soon(engine.shutdown()).await.is_complete());
    assert!(soon(kept).await.is_complete());
}

/// A command is listed by name when it first waits; one that blocks its thread before that is counted.
#[tokio::test]
async fn a_shutdown_counts_a_command_in_its_first_poll() {
    let (engine, _) = desk(MemoryStore::new(), short()).await;
    let (entered, leave) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let block = Block { desk: 1, entered: entered.clone(), leave: leave.clone() };
    let blocked = std::thread::spawn({
        let engine = engine.clone();
        move || poll_once(Box::pin(engine.execute(block)).as_mut())
    });
    entered.wait();
    let abandoned = soon(engine.shutdown()).await;
    // One that comes later is rejected and not counted.
    assert!(soon(engine.execute(Note { desk: 1 })).await.is_err());
    leave.wait();
    assert!(!abandoned.is_complete());
    assert_eq!((abandoned.commands.len(), abandoned.unnamed_commands), (0, 1));
    assert_eq!(abandoned.to_string(), "abandoned 1 command in its first poll, which blocks its thread");
    let end = blocked.join().unwrap();
    assert!(matches!(end, Poll::Ready(Err(ExecuteError::Failed(Failure::ShutDown)))), "{end:?}");
    assert_eq!(asked(&engine, 1).await, 0);
    assert!(soon(engine.shutdown()).await.is_complete());
}

#[tokio::test]
async fn a_handler_that_executes_on_its_own_stream_is_told_at_once() {
    for (store, stores, _files) in stores().await {
        let (engine, _) = desk(stores, short()).await;
        let nested = |desk, what| What::Execute(desk, Box::new(what));
        let since = Instant::now();
        for what in [nested(1, What::Answer(0)), nested(2, nested(1, What::Answer(0)))] {
            let error = soon(engine.execute(Ask { desk: 1, what })).await.unwrap_err();
            assert!(error.is_refusal(), "{store}: {error:?}");
            let words = "`Ask` on Desk/1 would wait forever: it was executed while the handler of `Ask` on Desk/1 is deciding";
            assert!(error.to_string().contains(words), "{store}: {error}");
        }
        assert!(since.elapsed() < Duration::from_secs(5));
        assert_eq!((asked(&engine, 1).await, asked(&engine, 2).await), (0, 0));
        // Another stream is no fault.
        soon(engine.execute(Ask { desk: 1, what: nested(2, nested(3, What::Answer(1))) })).await.unwrap();
        assert_eq!((asked(&engine, 1).await, asked(&engine, 3).await), (1, 1));
    }
}

#[tokio::test]
async fn handlers_that_wait_for_each_other_are_told_at_once() {
    for (store, stores, _files) in stores().await {
        let (engine, outside) = desk(stores, short()).await;
        // Both have their turns before either executes on the other's stream, in rings of two and three.
        for ring in [vec![1, 2], vec![3, 4, 5]] {
            let calls = outside.calls.load(Ordering::SeqCst);
            let before = asked(&engine, ring[0]).await;
            let mut all = Vec::new();
            for (at, desk) in ring.iter().enumerate() {
                let other = ring[(at + 1) % ring.len()];
                let what = What::Execute(other, Box::new(What::Answer(0)));
                all.push(Box::pin(engine.execute(Ask { desk: *desk, what })));
            }
            for future in &mut all {
                assert!(poll_once(future.as_mut()).is_pending());
            }
            let since = Instant::now();
            let tasks = all.into_iter().map(|future| async move { soon(future).await });
            let mut errors = Vec::new();
            for end in join(tasks.collect()).await {
                errors.extend(end.err().map(|error| error.to_string()));
            }
            assert!(since.elapsed() < Duration::from_secs(5), "{store}");
            assert!(outside.calls.load(Ordering::SeqCst) > calls);
            assert!(errors.len() <= 1, "{store}: {errors:?}");
            assert!(errors.iter().all(|error| error.contains("would wait forever")), "{store}: {errors:?}");
            assert!(asked(&engine, ring[0]).await > before);
        }
    }
}

/// The engines' services hold each other, and the streams are those of one store.
#[tokio::test]
async fn handlers_of_two_engines_that_wait_for_each_other_are_told_at_once() {
    for (store, stores, _files) in stores().await {
        let (one, outside) = pair(stores, short()).await;
        let mut all = [
            Box::pin(one.0.execute(Ask { desk: 1, what: What::Execute(2, Box::new(What::Answer(0))) })),
            Box::pin(one.1.execute(Ask { desk: 2, what: What::Execute(1, Box::new(What::Answer(0))) })),
        ];
        for future in &mut all {
            assert!(poll_once(future.as_mut()).is_pending());
        }
        let tasks = all.into_iter().map(|future| async move { soon(future).await });
        let ends = join(tasks.collect()).await;
        let errors: Vec<_> =
            ends.into_iter().filter_map(Result::err).map(|error| error.to_string()).collect();
        assert_eq!(errors.len(), 1, "{store}: {errors:?}");
        for words in ["would wait forever", "`Ask` on Desk/1", "`Ask` on Desk/2"] {
            assert!(errors[0].contains(words), "{store}: {errors:?}");
        }
        assert!(outside.calls.load(Ordering::SeqCst) >= 1);
        // The same streams in the other order, without a ring, are no deadlock.
        soon(one.0.execute(Ask { desk: 1, what: What::Execute(2, Box::new(What::Answer(1))) }))
            .await
            .unwrap();
    }
}

/// The engine does not know that a task of its own belongs to a handler, as in a service that calls another process.
#[tokio::test]
async fn handlers_of_two_engines_that_spawn_what_waits_end_by_a_limit() {
    let ask = |desk, other| Ask { desk, what: What::Spawn(other, Box::new(What::Answer(0))) };
    let short_queue = Timeouts { queue: Duration::from_millis(200), ..short() };
    let short_service = Timeouts { service: Duration::from_millis(200), ..short() };
    for (timeouts, words) in [
        (short_queue, "waited 200ms for its turn in the queue of Desk/"),
        (short_service, "did not decide within 200ms"),
    ] {
        for (store, stores, _files) in stores().await {
            let (engines, _) = pair(stores, timeouts).await;
            let mut all = [Box::pin(engines.0.execute(ask(1, 2))), Box::pin(engines.1.execute(ask(2, 1)))];
            for future in &mut all {
                assert!(poll_once(future.as_mut()).is_pending());
            }
            let tasks = all.into_iter().map(|future| async move { soon(future).await });
            let ends = join(tasks.collect()).await;
            let errors: Vec<_> =
                ends.into_iter().filter_map(Result::err).map(|error| error.to_string()).collect();
            assert!(!errors.is_empty(), "{store}, {words}");
            assert!(errors.iter().all(|error| error.contains(words)), "{store}: {errors:?}");
        }
    }
}

/// Two engines on one store, and what the handlers of the first call: each engine's services hold the other.
async fn pair(stores: Stores, timeouts: Timeouts) -> ((Engine, Engine), Arc<Outside>) {
    let outside = || Arc::new(Outside { engine: OnceLock::new(), calls: AtomicU32::new(0) });
    let (first, second) = (outside(), outside());
    let builder = |outside: &Arc<Outside>| {
        let registry = Registry::new().with::<Desk>();
        Engine::builder().registry(registry).service(outside.clone()).timeouts(timeouts)
    };
    let one = builder(&first).build(stores.clone()).await.unwrap();
    let two = builder(&second).build(stores).await.unwrap();
    first.engine.set(two.clone()).ok();
    second.engine.set(one.clone()).ok();
    ((one, two), first)
}

/// Runs all of them at once in this task.
async fn join<T>(futures: Vec<impl Future<Output = T>>) -> Vec<T> {
    let mut futures: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|cx| {
        for (future, end) in futures.iter_mut().filter(|(_, end)| end.is_none()) {
            if let Poll::Ready(done) = future.as_mut().poll(cx) {
                *end = Some(done);
            }
        }
        if futures.iter().all(|(_, end)| end.is_some()) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    futures.into_iter().filter_map(|(_, end)| end).collect()
}

/// A task of its own is not known to be part of the handler, so a limit ends the wait.
#[tokio::test]
async fn a_handler_that_spawns_what_waits_for_it_ends_by_a_limit() {
    let timeouts = Timeouts { service: Duration::from_millis(300), ..short() };
    let (engine, _) = desk(MemoryStore::new(), timeouts).await;
    let what = What::Spawn(1, Box::new(What::Answer(0)));
    let error = soon(engine.execute(Ask { desk: 1, what })).await.unwrap_err();
    assert!(matches!(error, ExecuteError::Failed(Failure::ServiceTimeout { .. })), "{error:?}");
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_named() {
    let timeouts = Timeouts { store: Duration::from_millis(100), ..short() };
    let (store, stores) = faulty();
    let bank = Engine::builder().registry(crate::bank::registry()).timeouts(timeouts).without_background();
    let bank = bank.build(stores).await.unwrap();
    open(&bank, 1, 5).await;
    let deposit = || bank.execute(Deposit { account: 2, cents: 1 });
    // A command, at each call that it makes.
    for (call, kind, words) in [
        (Call::ReadStream, StoreErrorKind::Unavailable, "while reading Account/2"),
        (Call::Append, StoreErrorKind::Unknown, "while appending to Account/1"),
    ] {
        store.fail_next(call, Fault::Hang);
        let end = match call {
            Call::Append => soon(bank.execute(Deposit { account: 1, cents: 1 })).await,
            _ => soon(deposit()).await,
        };
        let Err(ExecuteError::Failed(Failure::Store(error))) = end else { panic!("{call:?}: {end:?}") };
        assert_eq!(error.kind(), kind, "{call:?}");
        assert!(
            error.to_string().contains("did not answer within 100ms") && error.to_string().contains(words),
            "{error}"
        );
    }
    // What was written is found.
    store.fail_next(Call::Append, Fault::HangAfter);
    let receipt = soon(bank.execute(Deposit { account: 1, cents: 10 })).await.unwrap();
    assert_eq!((receipt.version().get(), balance(&bank, 1).await), (3, 15));
    store.fail_next(Call::FindKey, Fault::Hang);
    let end = soon(bank.execute(Collect { account: 1, cents: 1 }).key("k")).await;
    assert!(matches!(end, Err(ExecuteError::Failed(Failure::Store(_)))), "{end:?}");
    // Reads and projections.
    for call in [Call::ReadLog, Call::Claim, Call::Commit, Call::Get] {
        store.fail_next(call, Fault::Hang);
        let end = soon(bank.catch_up()).await;
        let error = end.expect_err("it did not answer");
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("did not answer within 100ms"), "{call:?}: {source}");
    }
    store.fail_next(Call::Get, Fault::Hang);
    let error = soon(bank.get::<Summary>(&1)).await.unwrap_err();
    assert!(error.to_string().contains("while reading documents of `summary`"), "{error}");
    soon(bank.catch_up()).await.unwrap();
    assert_eq!(soon(bank.get::<Summary>(&1)).await.unwrap().unwrap().balance, 15);
}

/// "Not there" is final, so the outcome is known: nothing was written, and the command can be sent again.
#[tokio::test]
async fn an_outcome_that_can_be_looked_up_is_never_unknown() {
    let (store, stores) = faulty();
    let bank = crate::bank::quiet(stores).await;
    open(&bank, 1, 5).await;
    for key in [None, Some("k")] {
        let deposit = || {
            let deposit = bank.execute(Deposit { account: 1, cents: 1 });
            if let Some(key) = key { deposit.key(key) } else { deposit }
        };
        store.fail_next(Call::Append, Fault::Before(StoreErrorKind::Unknown));
        let Err(ExecuteError::Failed(Failure::Store(error))) = deposit().await else { panic!("it failed") };
        assert_eq!(error.kind(), StoreErrorKind::Unavailable);
        assert!(error.to_string().contains("the append to Account/1 was not written"), "{error}");
        bank.execute(Deposit { account: 1, cents: 1 }).await.unwrap();
        // The negative control: if it cannot be looked up, it is unknown.
        store.fail_next(Call::Append, Fault::After(StoreErrorKind::Unknown));
        store.fail_next(Call::ReadStream, Fault::Before(StoreErrorKind::Unavailable));
        let Err(ExecuteError::Failed(Failure::Store(error))) = deposit().await else { panic!("it failed") };
        assert_eq!(error.kind(), StoreErrorKind::Unknown);
        store.fail_next(Call::Append, Fault::After(StoreErrorKind::Unknown));
        deposit().await.unwrap();
    }
}

#[test]
fn a_follower_whose_runtime_has_ended_says_so() {
    let new = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let first = new();
    let bank = first.block_on(running(MemoryStore::new()));
    first.block_on(open(&bank, 1, 5));
    drop(first);
    new().block_on(async {
        let receipt = bank.execute(Deposit { account: 1, cents: 1 }).await.unwrap();
        for status in bank.status().await.unwrap() {
            assert!(matches!(status.state, ConsumerState::Ended), "{status:?}");
        }
        let error =
            bank.get::<Summary>(&1).after(&receipt).timeout(Duration::from_millis(100)).await.unwrap_err();
        assert!(error.to_string().contains("its follower here has ended"), "{error}");
        bank.catch_up().await.unwrap();
        assert_eq!(bank.get::<Summary>(&1).after(&receipt).await.unwrap().unwrap().balance, 6);
    });
}

/// The work of a store does not stop with the clock of a test.
#[tokio::test(start_paused = true)]
async fn limits_go_by_the_real_clock() {
    for (store, stores, _files) in stores().await {
        let bank = running(stores).await;
        let mut receipt = open(&bank, 1, 0).await;
        for cents in 1..=10 {
            receipt = bank.execute(Deposit { account: 1, cents }).await.unwrap();
            let summary = bank.get::<Summary>(&1).after(&receipt).await;
            assert_eq!(summary.expect(store).unwrap().postings, cents as u32 + 1);
        }
        bank.execute(Collect { account: 1, cents: 1 }).await.unwrap();
        assert!(bank.shutdown().await.is_complete(), "{store}");
        let _ = receipt;
    }
}

/// Neither a runtime without a time driver nor none at all is in the way of limits.
#[test]
fn limits_need_no_runtime() {
    let bare = tokio::runtime::Builder::new_current_thread().build().unwrap();
    bare.block_on(async {
        #[cfg(feature = "postgres")]
        if let Some(url) = postgres_url() {
            let error = Engine::open(&url).await.unwrap_err();
            assert!(error.to_string().contains("neither time nor IO driver; build it with `enable_all()`"));
        }
        for (store, stores, _files) in local_stores().await {
            let bank = running(stores).await;
            let receipt = open(&bank, 1, 3).await;
            assert_eq!(bank.get::<Summary>(&1).after(&receipt).await.expect(store).unwrap().balance, 3);
            assert!(bank.shutdown().await.is_complete());
        }
    });
    let waker = Waker::noop();
    let mut all = pin!(async {
        let bank = crate::bank::quiet(MemoryStore::new()).await;
        let receipt = open(&bank, 1, 3).await;
        assert_eq!(bank.get::<Summary>(&1).after(&receipt).await.unwrap().unwrap().balance, 3);
        let refused = bank.execute(crate::bank::Withdraw { account: 1, cents: 9 }).await.unwrap_err();
        assert!(matches!(refused, ExecuteError::Refused(AccountError::Overdraft { balance: 3 })));
    });
    while all.as_mut().poll(&mut Context::from_waker(waker)).is_pending() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Takes its time with each event.
#[derive(Serialize, Deserialize, Default)]
struct Slow {
    events: u64,
}

#[projection(name = "slow", key = String)]
impl Slow {
    #[on(key = String::from("all"))]
    fn deposited(&mut self, _: &crate::bank::Deposited) {
        std::thread::sleep(Duration::from_micros(400));
        self.events += 1;
    }
}

/// The same, folded when it is read.
#[derive(Serialize, Deserialize, Default)]
struct SlowLive {
    events: u64,
}

#[projection(name = "slow-live", key = String, mode = live)]
impl SlowLive {
    #[on(key = String::from("all"))]
    fn deposited(&mut self, _: &crate::bank::Deposited) {
        std::thread::sleep(Duration::from_micros(400));
        self.events += 1;
    }
}

/// A state whose events take their time.
#[derive(Default)]
struct Ledger;

#[derive(Event, Serialize, Deserialize)]
struct Entered {}

#[derive(Command)]
struct Enter {
    #[id]
    ledger: u64,
    count: usize,
}

#[aggregate(id = u64)]
impl Ledger {
    #[handle]
    fn enter(&self, cmd: Enter) -> Vec<Entered> {
        (0..cmd.count).map(|_| Entered {}).collect()
    }
    #[apply]
    fn entered(&mut self, _: &Entered) {
        if SLOWLY.with(std::cell::Cell::get) {
            std::thread::sleep(Duration::from_micros(400));
        }
    }
}

thread_local! {
    static SLOWLY: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// On one thread, whatever folds many events lets the others run.
#[tokio::test]
async fn a_long_fold_lets_other_tasks_run() {
    for (store, stores, _files) in stores().await {
        let registry = Registry::new().with::<crate::bank::Account>().with::<Ledger>();
        let registry = registry.with::<Slow>().with::<SlowLive>();
        let engine = Engine::builder().registry(registry).without_background().build(stores).await.unwrap();
        open(&engine, 1, 0).await;
        for _ in 0..300 {
            engine.execute(Deposit { account: 1, cents: 1 }).await.unwrap();
        }
        engine.execute(Enter { ledger: 1, count: 300 }).await.unwrap();
        SLOWLY.set(true);
        let all = String::from("all");
        let work: [(&str, cqrs::store::BoxFuture<'_, ()>); 4] = [
            ("catch_up", Box::pin(async { engine.catch_up().await.unwrap() })),
            ("get", Box::pin(async { assert!(engine.get::<SlowLive>(&all).await.unwrap().is_some()) })),
            ("load", Box::pin(async { assert!(engine.load::<Ledger>(&1).await.unwrap().state.is_some()) })),
            ("verify", Box::pin(async { assert!(engine.verify().await.unwrap().is_sound()) })),
        ];
        for (what, mut work) in work {
            let (mut longest, mut turns, since) = (Duration::ZERO, 0, Instant::now());
            std::future::poll_fn(|cx| {
                let begun = Instant::now();
                let end = work.as_mut().poll(cx);
                longest = longest.max(begun.elapsed());
                turns += 1;
                end
            })
            .await;
            let took = since.elapsed();
            assert!(took > Duration::from_millis(100), "{store}, {what}: {took:?}");
            // In one go it would take all of that. A busy machine takes part of its time elsewhere.
            assert!(
                longest < took / 3 && turns > 10,
                "{store}, {what}: {longest:?} of {took:?}, {turns} turns"
            );
        }
        SLOWLY.set(false);
    }
}

/// The first that fails, and the order of a status, are those of the names.
#[tokio::test]
async fn projections_have_a_defined_order() {
    let registry = || crate::bank::registry().with::<Slow>();
    for _ in 0..4 {
        let (store, stores) = faulty();
        let engine = Engine::builder().registry(registry()).without_background().build(stores).await.unwrap();
        open(&engine, 1, 1).await;
        for _ in 0..2 {
            store.fail_next(Call::ReadLog, Fault::Before(StoreErrorKind::Failed));
        }
        let error = engine.catch_up().await.unwrap_err();
        assert_eq!(error.to_string(), "the projection `since` could not catch up");
        let names: Vec<_> = engine.status().await.unwrap().iter().map(|status| status.name).collect();
        assert_eq!(names, ["since", "slow", "summary", "total"]);
    }
}

/// A reservation that its command keeps without being polled ends, too.
#[tokio::test]
async fn a_reservation_that_is_kept_is_taken_back() {
    use cqrs::store::{Append, Guard};
    for (store, stores, _files) in stores().await {
        let engine = crate::bank::quiet(stores.clone()).await;
        let receipt = open(&engine, 1, 1).await;
        let stream: cqrs::StreamId = "Account/1".parse().unwrap();
        let kept = stores.log.reserve(&stream).await.unwrap().expect("both have reservations");
        let since = Instant::now();
        soon(engine.execute(Deposit { account: 1, cents: 1 })).await.unwrap();
        assert!(since.elapsed() >= Duration::from_millis(300), "{store}: {:?}", since.elapsed());
        // Its append is one among others then.
        let guard = Guard::stream(stream, cqrs::store::Expected::Version(receipt.version()));
        let late = soon(kept.append(Append::new(Vec::new(), guard))).await;
        assert!(late.is_err(), "{store}");
        soon(engine.execute(Deposit { account: 1, cents: 1 })).await.unwrap();
    }
}

/// A reservation is taken back by the real clock, which does not run ahead while the store works.
#[tokio::test(start_paused = true)]
async fn a_paused_clock_takes_no_reservation_back() {
    use cqrs::store::{Append, Expected, Guard};
    for (store, stores, _files) in stores().await {
        let engine = crate::bank::quiet(stores.clone()).await;
        let receipt = open(&engine, 1, 1).await;
        let stream: cqrs::StreamId = "Account/1".parse().unwrap();
        let kept = stores.log.reserve(&stream).await.unwrap().expect("all have reservations");
        // It waits for its turn, behind the reservation.
        let other = engine.clone();
        let other = tokio::spawn(async move { other.execute(Deposit { account: 1, cents: 1 }).await });
        tokio::time::advance(Duration::from_secs(1)).await;
        stores.log.head(cqrs::Partition::ONLY).await.unwrap();
        let guard = Guard::stream(stream, Expected::Version(receipt.version()));
        kept.append(Append::new(Vec::new(), guard)).await.expect(store);
        assert_eq!(other.await.unwrap().unwrap().version().get(), receipt.version().get() + 1, "{store}");
    }
}
