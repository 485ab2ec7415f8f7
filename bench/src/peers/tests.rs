//! Whether each peer keeps its word, so that its figures are figures of a bank: what was accepted is
//! stored once, what was refused is not, and the read model tells what the events tell.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Result, bail, ensure};
use fmodel_rust::aggregate::EventRepository as _;
use fmodel_rust::decider::EventComputation as _;

use super::fmodel;
use crate::contender::{About, Contender, Outcome, Place};

const ACCOUNTS: u64 = 20;
const TASKS: u64 = 8;
const COMMANDS: u64 = 50;

/// What a peer does otherwise than the rest, for a reason of its own.
#[derive(Clone, Copy, Default)]
struct Otherwise {
    /// It does not notice that somebody else wrote first, so each account gets its commands from one task.
    unguarded: bool,
    /// It tells a balance also before its read model was built, from the events.
    answers_unbuilt: bool,
}

/// Opens the accounts, posts to them from all tasks at once, and holds what the peer then says against a
/// model of balances.
async fn holds<C: Contender>(place: &Place, otherwise: Otherwise) -> Result<()> {
    let bank = Arc::new(C::open(place).await?);
    ensure!(bank.stored().await? == 0, "events are stored before the first command");
    for account in 0..ACCOUNTS {
        bank.open_account(account).await?;
    }
    ensure!(bank.open_account(0).await.is_err(), "an account is opened twice");
    ensure!(bank.deposit(ACCOUNTS, 1).await.is_err(), "money goes to an account that is not there");

    let model: Arc<Vec<AtomicI64>> = Arc::new((0..ACCOUNTS).map(|_| AtomicI64::new(0)).collect());
    let mut stored = ACCOUNTS;
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| tokio::spawn(post(Arc::clone(&bank), Arc::clone(&model), task, otherwise)))
        .collect();
    for task in tasks {
        stored += task.await??;
    }
    agree(bank.as_ref(), &model, stored).await?;

    // What the tasks leave to chance: all that is there goes out, and not one cent more.
    for account in 0..ACCOUNTS {
        let balance = model[account as usize].load(Ordering::SeqCst).cast_unsigned();
        ensure!(bank.withdraw(account, balance + 1).await? == Outcome::Refused, "an overdraft is accepted");
        if account % 2 == 0 && balance > 0 {
            ensure!(bank.withdraw(account, balance).await? == Outcome::Accepted, "money is held back");
            model[account as usize].store(0, Ordering::SeqCst);
            stored += 1;
        }
    }
    agree(bank.as_ref(), &model, stored).await?;

    let unbuilt = bank.projected(1).await?.is_some();
    ensure!(unbuilt == otherwise.answers_unbuilt, "before its read model is built: {unbuilt}");
    // The second time it is built anew, from what has come since.
    for _ in 0..2 {
        ensure!(bank.project().await?.is_some(), "there is no read model");
        for account in 0..ACCOUNTS {
            let balance = model[account as usize].load(Ordering::SeqCst).cast_unsigned();
            let projected = bank.projected(account).await?;
            ensure!(projected == Some(balance), "{projected:?} is projected for {account}, not {balance}");
        }
        ensure!(bank.projected(ACCOUNTS).await?.is_none(), "an account is projected that is not there");
        ensure!(bank.deposit(3, 7).await? == Outcome::Accepted, "a deposit is refused");
        model[3].fetch_add(7, Ordering::SeqCst);
        stored += 1;
    }
    agree(bank.as_ref(), &model, stored).await?;
    let Some(bank) = Arc::into_inner(bank) else { bail!("a task has kept the bank") };
    bank.close().await
}

/// Posts from one task, and says how many commands were accepted.
async fn post<C: Contender>(
    bank: Arc<C>,
    model: Arc<Vec<AtomicI64>>,
    task: u64,
    otherwise: Otherwise,
) -> Result<u64> {
    let mut random = fastrand::Rng::with_seed(task);
    let mut accepted = 0;
    for _ in 0..COMMANDS {
        let account = random.u64(0..ACCOUNTS);
        let account = if otherwise.unguarded { account / TASKS * TASKS + task } else { account };
        let account = if account < ACCOUNTS { account } else { task };
        let cents = random.u64(1..500);
        let (outcome, change) = if random.u8(0..4) == 0 {
            (bank.withdraw(account, cents).await?, -cents.cast_signed())
        } else {
            (bank.deposit(account, cents).await?, cents.cast_signed())
        };
        if outcome == Outcome::Accepted {
            accepted += 1;
            model[account as usize].fetch_add(change, Ordering::SeqCst);
        } else {
            ensure!(change < 0, "a deposit is refused");
        }
    }
    Ok(accepted)
}

/// Whether what is stored is what was accepted.
async fn agree<C: Contender>(bank: &C, model: &[AtomicI64], stored: u64) -> Result<()> {
    let found = bank.stored().await?;
    ensure!(found == stored, "{found} events are stored, not {stored}");
    for (account, balance) in model.iter().enumerate() {
        let balance = balance.load(Ordering::SeqCst);
        let found = bank.rehydrate(account as u64).await?;
        ensure!(found.cast_signed() == balance, "the events of {account} tell {found}, not {balance}");
    }
    Ok(())
}

/// Runs the test in an empty database of the peer's own.
async fn on_postgres<C: Contender>(otherwise: Otherwise) -> Result<()> {
    let database = C::about().name.replace('-', "_");
    let Some(cluster) = pg_cluster::made() else { return Ok(()) };
    let server = cluster.server();
    server.psql("postgres", &format!("CREATE DATABASE {database}")).map_err(anyhow::Error::msg)?;
    let dir = tempfile::tempdir()?;
    let place = Place {
        postgres: server.url(pg_cluster::USER, pg_cluster::PASSWORD, &database),
        dir: dir.path().to_owned(),
        connections: 8,
    };
    holds::<C>(&place, otherwise).await
}

#[tokio::test(flavor = "multi_thread")]
async fn cqrs_es_keeps_its_word() -> Result<()> {
    on_postgres::<super::cqrs_es::CqrsEs>(Otherwise::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn disintegrate_keeps_its_word() -> Result<()> {
    on_postgres::<super::disintegrate::Disintegrate>(Otherwise::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn esrs_keeps_its_word() -> Result<()> {
    on_postgres::<super::esrs::Esrs>(Otherwise::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn evento_keeps_its_word() -> Result<()> {
    on_postgres::<super::evento::Evento>(Otherwise { answers_unbuilt: true, ..Otherwise::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn eventually_keeps_its_word() -> Result<()> {
    on_postgres::<super::eventually::Eventually>(Otherwise::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn fmodel_keeps_its_word_to_one_task_per_account() -> Result<()> {
    holds::<fmodel::Fmodel>(&nowhere(), Otherwise { unguarded: true, ..Otherwise::default() }).await
}

/// The reason why fmodel-rust gets its commands from one task per account: its aggregate reads, decides
/// and saves, and nothing tells the last step what the first one has seen.
#[tokio::test]
async fn fmodel_spends_the_same_money_twice() -> Result<()> {
    use fmodel::Command;
    let bank = fmodel::Fmodel::open(&nowhere()).await?;
    bank.open_account(1).await?;
    bank.deposit(1, 100).await?;
    let mut decided = Vec::new();
    for _ in 0..2 {
        let seen = bank.aggregate.fetch_events(&Command::Withdraw(1, 100)).await?;
        let seen: Vec<_> = seen.into_iter().map(|(event, _)| event).collect();
        decided.push(bank.aggregate.compute_new_events(&seen, &Command::Withdraw(1, 100))?);
    }
    for events in decided {
        bank.aggregate.save(&events).await?;
    }
    ensure!(bank.stored().await? == 4, "the second withdrawal is not stored");
    ensure!(bank.rehydrate(1).await.is_err(), "the account is not overdrawn");
    Ok(())
}

fn nowhere() -> Place {
    Place { postgres: String::new(), dir: std::path::PathBuf::new(), connections: 1 }
}

/// What a bank in memory does wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    Forgets,
    StoresTwice,
    Overdraws,
    LosesAnUpdate,
    ProjectsTooMuch,
    ProjectsTwice,
}

/// A bank in memory, with a fault.
struct Faulty<const FAULT: u8> {
    accounts: Mutex<HashMap<u64, Vec<i64>>>,
    balances: Mutex<HashMap<u64, i64>>,
}

impl<const FAULT: u8> Faulty<FAULT> {
    const FAULT: Fault = [
        Fault::None,
        Fault::Forgets,
        Fault::StoresTwice,
        Fault::Overdraws,
        Fault::LosesAnUpdate,
        Fault::ProjectsTooMuch,
        Fault::ProjectsTwice,
    ][FAULT as usize];

    async fn post(&self, account: u64, change: i64) -> Result<Outcome> {
        let Some(seen) = self.accounts.lock().unwrap().get(&account).cloned() else {
            bail!("there is no such account");
        };
        if Self::overdraws(change, &seen) {
            return Ok(Outcome::Refused);
        }
        let unlucky = seen.len() % 7 == 3;
        if Self::FAULT == Fault::LosesAnUpdate {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        let mut accounts = self.accounts.lock().unwrap();
        let events = accounts.entry(account).or_default();
        match Self::FAULT {
            Fault::Forgets if unlucky => {}
            Fault::StoresTwice if unlucky && change > 0 => events.extend([change, change]),
            Fault::LosesAnUpdate => *events = seen.into_iter().chain([change]).collect(),
            // Decided once more, as nothing was held in between.
            _ if Self::overdraws(change, events) => return Ok(Outcome::Refused),
            _ => events.push(change),
        }
        Ok(Outcome::Accepted)
    }

    /// Whether what takes money finds too little, for who looks.
    fn overdraws(change: i64, events: &[i64]) -> bool {
        Self::FAULT != Fault::Overdraws && change + events.iter().sum::<i64>() < 0
    }
}

impl<const FAULT: u8> Contender for Faulty<FAULT> {
    fn about() -> About {
        About { name: "faulty", store: "memory", packages: &[], less: &[] }
    }

    async fn open(_: &Place) -> Result<Self> {
        Ok(Self { accounts: Mutex::default(), balances: Mutex::default() })
    }

    async fn open_account(&self, account: u64) -> Result<()> {
        let before = self.accounts.lock().unwrap().insert(account, vec![0]);
        ensure!(before.is_none(), "the account is open already");
        Ok(())
    }

    async fn deposit(&self, account: u64, cents: u64) -> Result<Outcome> {
        self.post(account, cents.cast_signed()).await
    }

    async fn withdraw(&self, account: u64, cents: u64) -> Result<Outcome> {
        self.post(account, -cents.cast_signed()).await
    }

    async fn rehydrate(&self, account: u64) -> Result<u64> {
        Ok(u64::try_from(self.accounts.lock().unwrap()[&account].iter().sum::<i64>())?)
    }

    async fn stored(&self) -> Result<u64> {
        Ok(self.accounts.lock().unwrap().values().map(|events| events.len() as u64).sum())
    }

    async fn project(&self) -> Result<Option<()>> {
        let accounts = self.accounts.lock().unwrap();
        let mut balances = self.balances.lock().unwrap();
        if Self::FAULT != Fault::ProjectsTwice {
            balances.clear();
        }
        for (account, events) in accounts.iter() {
            *balances.entry(*account).or_default() += events.iter().sum::<i64>();
        }
        if Self::FAULT == Fault::ProjectsTooMuch {
            balances.insert(ACCOUNTS, 0);
        }
        Ok(Some(()))
    }

    async fn projected(&self, account: u64) -> Result<Option<u64>> {
        Ok(self.balances.lock().unwrap().get(&account).copied().map(u64::try_from).transpose()?)
    }

    async fn close(self) -> Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_faulty_bank_is_found_out() {
    async fn words<const FAULT: u8>() -> String {
        holds::<Faulty<FAULT>>(&nowhere(), Otherwise::default()).await.unwrap_err().to_string()
    }
    assert!(holds::<Faulty<0>>(&nowhere(), Otherwise::default()).await.is_ok());
    assert!(words::<1>().await.contains("events are stored, not"));
    assert!(words::<2>().await.contains("events are stored, not"));
    let overdrawn = words::<3>().await;
    assert!(overdrawn.contains("overdraft") || overdrawn.contains("integral"), "{overdrawn}");
    assert!(words::<4>().await.contains("events are stored, not"));
    assert!(words::<5>().await.contains("an account is projected that is not there"));
    assert!(words::<6>().await.contains("is projected for"));
}
