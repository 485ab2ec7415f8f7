//! The work that is measured, the same for every contender, and a model that knows what has to come of it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use fastrand::Rng;
use serde::{Deserialize, Serialize};

use crate::contender::{Contender, Outcome};
use crate::retries;

/// The account that all tasks share. The others are numbered from 1 on, and each belongs to one task.
pub const HOT: u64 = 0;
/// What is put into each account when it is opened.
const FIRST: u64 = 1_000_000;
/// What nobody has.
const TOO_MUCH: u64 = 1_000_000_000_000_000;
/// Of how many accounts the balance is looked at in the end, if there are more.
const SAMPLE: u64 = 1_000;

/// What the accounts have to hold, by what the contender answered.
#[derive(Debug)]
pub struct Model {
    balances: Vec<AtomicU64>,
    events: AtomicU64,
    wrong: Mutex<Option<String>>,
}

impl Model {
    /// For the hot account and so many others.
    pub fn new(accounts: u64) -> Self {
        let balances = (0..=accounts).map(|_| AtomicU64::new(0)).collect();
        Self { balances, events: AtomicU64::new(0), wrong: Mutex::default() }
    }

    /// Besides the hot one.
    pub fn accounts(&self) -> u64 {
        self.balances.len() as u64 - 1
    }

    pub fn events(&self) -> u64 {
        self.events.load(Ordering::Relaxed)
    }

    pub fn balance(&self, account: u64) -> u64 {
        self.balances[account as usize].load(Ordering::Relaxed)
    }

    fn opened(&self) {
        self.events.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes in what a command came to. `alone` is whether nobody else is at this account, so that there is
    /// just one right answer.
    fn answered(&self, command: Command, outcome: Outcome, alone: bool) {
        let balance = &self.balances[command.account as usize];
        if alone {
            let right = match command.posting {
                Posting::Withdraw if command.cents > self.balance(command.account) => Outcome::Refused,
                _ => Outcome::Accepted,
            };
            if outcome != right {
                let had = self.balance(command.account);
                self.wrong(format!("{command:?} was {outcome:?} with a balance of {had}"));
            }
        }
        if outcome == Outcome::Accepted {
            self.events.fetch_add(1, Ordering::Relaxed);
            match command.posting {
                Posting::Deposit => balance.fetch_add(command.cents, Ordering::Relaxed),
                Posting::Withdraw => balance.fetch_sub(command.cents, Ordering::Relaxed),
            };
        }
    }

    /// Keeps the first fault.
    fn wrong(&self, what: String) {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(what);
    }

    fn first_wrong(&self) -> Option<String> {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Posting {
    Deposit,
    Withdraw,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Command {
    account: u64,
    posting: Posting,
    cents: u64,
}

/// When a load ends.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Stop {
    After(Duration),
    /// After so many commands of all tasks together.
    Commands(u64),
    /// When so many events are stored, or after the time.
    Events(u64, Duration),
}

/// Commands of several tasks at once.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Load {
    pub tasks: u64,
    /// All tasks on the hot account; or else each on accounts of its own.
    pub hot: bool,
    pub stop: Stop,
    pub seed: u64,
}

/// What a load came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sample {
    pub commands: u64,
    pub refused: u64,
    pub retried: u64,
    pub seconds: f64,
    /// Of the times that single commands took, in microseconds.
    pub p50: f64,
    pub p99: f64,
}

/// The commands of one task: three deposits to one withdrawal, and every tenth withdrawal asks for what
/// nobody has.
struct Commands {
    rng: Rng,
    number: u64,
    load: Load,
    task: u64,
    /// How many accounts belong to the task.
    own: u64,
}

impl Commands {
    fn new(load: Load, task: u64, accounts: u64) -> Self {
        let rng = Rng::with_seed(load.seed ^ (task + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        // Account 1 and every `tasks`-th after it belong to task 0, and so on.
        let own = (accounts + load.tasks - 1 - task) / load.tasks;
        Self { rng, number: 0, load, task, own }
    }

    fn next(&mut self) -> Command {
        self.number += 1;
        let account =
            if self.load.hot { HOT } else { 1 + self.task + self.load.tasks * self.rng.u64(0..self.own) };
        let (posting, cents) = match self.number % 4 {
            0 if self.number.is_multiple_of(40) => (Posting::Withdraw, TOO_MUCH),
            0 => (Posting::Withdraw, self.rng.u64(1..=2_000)),
            _ => (Posting::Deposit, self.rng.u64(1..=2_000)),
        };
        Command { account, posting, cents }
    }
}

/// Opens the hot account and so many others and puts something into each; gives up on more when the time
/// is over, and says how many there are, as the model then has.
pub async fn open_accounts<C: Contender>(
    contender: &Arc<C>,
    accounts: u64,
    tasks: u64,
    time: Duration,
) -> anyhow::Result<Model> {
    let begun = Instant::now();
    let next = Arc::new(AtomicU64::new(0));
    let open = |_| {
        let (contender, next) = (Arc::clone(contender), Arc::clone(&next));
        tokio::spawn(async move {
            let mut opened = Vec::new();
            loop {
                let account = next.fetch_add(1, Ordering::Relaxed);
                // Each task has to have an account.
                if account > accounts || (account > 64 && begun.elapsed() > time) {
                    return anyhow::Ok(opened);
                }
                contender.open_account(account).await?;
                opened.push(account);
            }
        })
    };
    let mut shares = Vec::new();
    for task in (0..tasks).map(open).collect::<Vec<_>>() {
        shares.push(task.await??);
    }
    // Not before all are open: a contender may need a moment to see what it has stored while others write.
    let deposit = |share: Vec<u64>| {
        let contender = Arc::clone(contender);
        tokio::spawn(async move {
            for &account in &share {
                let outcome = contender.deposit(account, FIRST).await?;
                anyhow::ensure!(outcome == Outcome::Accepted, "a deposit was {outcome:?}");
            }
            anyhow::Ok(share)
        })
    };
    let mut opened = Vec::new();
    for task in shares.into_iter().map(deposit).collect::<Vec<_>>() {
        opened.extend(task.await??);
    }
    // The numbers are handed out one by one and each is finished, so there are no gaps.
    let model = Model::new(opened.len() as u64 - 1);
    for account in opened {
        model.opened();
        let deposit = Command { account, posting: Posting::Deposit, cents: FIRST };
        model.answered(deposit, Outcome::Accepted, true);
    }
    Ok(model)
}

/// Carries a load out.
pub async fn carry_out<C: Contender>(
    contender: &Arc<C>,
    model: &Arc<Model>,
    load: Load,
) -> anyhow::Result<Sample> {
    let accounts = model.accounts();
    anyhow::ensure!(load.hot || accounts >= load.tasks, "{accounts} accounts are too few for each task");
    let (started, failed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let (begun, retried) = (Instant::now(), retries::count());
    let task = |task: u64| {
        let (contender, model) = (Arc::clone(contender), Arc::clone(model));
        let (started, failed) = (Arc::clone(&started), Arc::clone(&failed));
        tokio::spawn(async move {
            let mut commands = Commands::new(load, task, accounts);
            let (mut times, mut refused) = (Vec::new(), 0);
            let go_on = || match load.stop {
                Stop::After(time) => begun.elapsed() < time,
                Stop::Commands(most) => started.fetch_add(1, Ordering::Relaxed) < most,
                Stop::Events(most, time) => model.events() < most && begun.elapsed() < time,
            };
            // However short the time is, each task has its turn.
            let mut first = matches!(load.stop, Stop::After(_));
            while !failed.load(Ordering::Relaxed) && (std::mem::take(&mut first) || go_on()) {
                let command = commands.next();
                let start = Instant::now();
                let outcome = carry_out_one(&*contender, command).await;
                times.push(start.elapsed());
                let outcome = outcome.inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
                refused += u64::from(outcome == Outcome::Refused);
                model.answered(command, outcome, !load.hot || load.tasks == 1);
                // Where nothing ever waits, the other tasks get their turn, too.
                tokio::task::coop::consume_budget().await;
            }
            anyhow::Ok((times, refused))
        })
    };
    let (mut times, mut refused) = (Vec::new(), 0);
    for task in (0..load.tasks).map(task).collect::<Vec<_>>() {
        let (more, refusals) = task.await??;
        times.extend(more);
        refused += refusals;
    }
    let seconds = begun.elapsed().as_secs_f64();
    times.sort_unstable();
    let part = |part: usize| {
        let last = times.len().checked_sub(1)?;
        times.get(last * part / 100).map(|time| time.as_secs_f64() * 1e6)
    };
    Ok(Sample {
        commands: times.len() as u64,
        refused,
        retried: retries::count() - retried,
        seconds,
        p50: part(50).context("no command was carried out in time")?,
        p99: part(99).context("no command was carried out in time")?,
    })
}

async fn carry_out_one<C: Contender>(contender: &C, command: Command) -> anyhow::Result<Outcome> {
    let Command { account, posting, cents } = command;
    match posting {
        Posting::Deposit => contender.deposit(account, cents).await,
        Posting::Withdraw => contender.withdraw(account, cents).await,
    }
    .with_context(|| format!("{command:?}"))
}

/// What is wrong with what the contender has stored; nothing, if all is as it has to be. With `projected`,
/// its read model is looked at, too.
pub async fn check<C: Contender>(
    contender: &C,
    model: &Model,
    projected: bool,
    seed: u64,
) -> anyhow::Result<Option<String>> {
    if let Some(wrong) = model.first_wrong() {
        return Ok(Some(wrong));
    }
    let (stored, expected) = (contender.stored().await?, model.events());
    if stored != expected {
        return Ok(Some(format!("{stored} events are stored, and {expected} were acknowledged")));
    }
    let accounts = model.balances.len() as u64;
    let mut rng = Rng::with_seed(seed);
    let all = accounts <= SAMPLE;
    for number in 0..accounts.min(SAMPLE) {
        let account = if all || number == HOT { number } else { rng.u64(0..accounts) };
        let expected = model.balance(account);
        let balance = contender.rehydrate(account).await?;
        if balance != expected {
            return Ok(Some(format!("the events of account {account} tell {balance} and not {expected}")));
        }
        if projected {
            let shown = contender.projected(account).await?;
            if shown != Some(expected) {
                return Ok(Some(format!(
                    "the read model shows {shown:?} for account {account} and not {expected}"
                )));
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contender::{About, Place};
    use crate::limits::memory::Memory;

    /// Does what the contender inside does, but for one kind of mistake.
    struct Faulty {
        inner: Memory<false>,
        mistake: Mistake,
        count: AtomicU64,
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Mistake {
        None,
        /// Acknowledges a deposit that it does not store.
        LosesDeposit,
        /// Stores a deposit twice.
        Doubles,
        /// Refuses a withdrawal that is covered.
        Refuses,
        /// Acknowledges a withdrawal that is not covered.
        Overdraws,
        /// Books a deposit to the next account.
        WrongAccount,
        /// Its read model misses one account's last event.
        StaleReadModel,
    }

    impl Faulty {
        fn new(mistake: Mistake) -> Arc<Self> {
            Arc::new(Self { inner: Memory::default(), mistake, count: AtomicU64::new(0) })
        }

        /// One command among the later ones.
        fn now(&self, mistake: Mistake) -> bool {
            self.mistake == mistake && self.count.fetch_add(1, Ordering::Relaxed) == 700
        }
    }

    impl Contender for Faulty {
        fn about() -> About {
            About { name: "faulty", store: "memory", packages: &[], less: &[] }
        }
        async fn open(_: &Place) -> anyhow::Result<Self> {
            unreachable!()
        }
        async fn open_account(&self, account: u64) -> anyhow::Result<()> {
            self.inner.open_account(account).await
        }
        async fn deposit(&self, account: u64, cents: u64) -> anyhow::Result<Outcome> {
            if self.now(Mistake::LosesDeposit) {
                return Ok(Outcome::Accepted);
            }
            if self.now(Mistake::Doubles) {
                self.inner.deposit(account, cents).await?;
            }
            let account = if self.now(Mistake::WrongAccount) { account % 10 + 1 } else { account };
            self.inner.deposit(account, cents).await
        }
        async fn withdraw(&self, account: u64, cents: u64) -> anyhow::Result<Outcome> {
            match cents == TOO_MUCH {
                false if self.now(Mistake::Refuses) => Ok(Outcome::Refused),
                true if self.mistake == Mistake::Overdraws => Ok(Outcome::Accepted),
                _ => self.inner.withdraw(account, cents).await,
            }
        }
        async fn rehydrate(&self, account: u64) -> anyhow::Result<u64> {
            self.inner.rehydrate(account).await
        }
        async fn stored(&self) -> anyhow::Result<u64> {
            self.inner.stored().await
        }
        async fn project(&self) -> anyhow::Result<Option<()>> {
            self.inner.project().await
        }
        async fn projected(&self, account: u64) -> anyhow::Result<Option<u64>> {
            let balance = self.inner.projected(account).await?;
            let stale = self.mistake == Mistake::StaleReadModel && account == 3;
            Ok(balance.map(|balance| balance - u64::from(stale)))
        }
        async fn close(self) -> anyhow::Result<()> {
            Ok(())
        }
    }

    async fn found(mistake: Mistake) -> Option<String> {
        let contender = Faulty::new(mistake);
        let model = open_accounts(&contender, 10, 4, Duration::from_secs(60)).await.unwrap();
        let model = Arc::new(model);
        for (tasks, hot) in [(1, false), (4, false), (8, true)] {
            let load = Load { tasks, hot, stop: Stop::Commands(4_000), seed: 7 };
            carry_out(&contender, &model, load).await.unwrap();
        }
        contender.project().await.unwrap();
        check(&*contender, &model, true, 7).await.unwrap()
    }

    #[tokio::test]
    async fn a_contender_that_is_right_is_not_blamed() {
        assert_eq!(found(Mistake::None).await, None);
    }

    #[tokio::test]
    async fn each_mistake_is_found() {
        let of = [
            (Mistake::LosesDeposit, "events are stored"),
            (Mistake::Doubles, "events are stored"),
            (Mistake::Refuses, "was Refused with a balance of"),
            (Mistake::Overdraws, "was Accepted with a balance of"),
            (Mistake::WrongAccount, "the events of account"),
            (Mistake::StaleReadModel, "the read model shows"),
        ];
        for (mistake, words) in of {
            let found = found(mistake).await;
            assert!(found.as_ref().is_some_and(|found| found.contains(words)), "{mistake:?}: {found:?}");
        }
    }

    #[test]
    fn commands_are_the_same_for_a_seed_and_go_to_accounts_of_their_task() {
        let load = |seed| Load { tasks: 3, hot: false, stop: Stop::Commands(0), seed };
        let some = |seed, task| {
            let mut commands = Commands::new(load(seed), task, 10);
            (0..400).map(|_| commands.next()).collect::<Vec<_>>()
        };
        assert_eq!(some(1, 0), some(1, 0));
        assert_ne!(some(1, 0), some(2, 0));
        for task in 0..3 {
            let commands = some(1, task);
            assert!(commands.iter().all(|one| (one.account - 1) % 3 == task && one.account <= 10));
            let withdrawn = commands.iter().filter(|one| one.posting == Posting::Withdraw);
            assert_eq!(withdrawn.clone().count(), 100);
            assert_eq!(withdrawn.filter(|one| one.cents == TOO_MUCH).count(), 10);
        }
    }
}
