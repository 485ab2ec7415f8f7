//! Postings into commands: those of one account in the order of the file, several accounts at once.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cqrs::prelude::*;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::domain::{AccountError, Decline, Deposit, Open, Overdraft, Withdraw};
use crate::postings::{Fault, Kind, Posting};
use crate::values::AccountId;

/// How many postings wait for their turn in one lane, so that reading the file runs ahead of the bank
/// by so much and no more.
const WAITING: usize = 16;

/// Turns postings into commands for a bank.
pub struct Import {
    bank: Engine,
    /// What the accounts that it opens may do.
    overdraft: Overdraft,
    /// How many commands are on their way at once; a durable store commits them together.
    in_flight: NonZeroUsize,
    tally: Arc<Tally>,
}

/// What an import has done so far.
#[derive(Debug, Default)]
pub struct Tally {
    carried_out: AtomicU64,
    repeated: AtomicU64,
}

/// Why an import stopped. What came before stays.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Something is wrong with the file.
    #[error(transparent)]
    File(#[from] Fault),
    /// The bank could not answer.
    #[error("the posting on line {line} could not be carried out")]
    Bank { line: u64, source: ExecuteError<AccountError> },
    /// Some of it has panicked.
    #[error("the import came to an end that was not meant")]
    Died(#[from] tokio::task::JoinError),
}

impl Tally {
    /// Postings that were carried out, or found to have been before.
    pub fn carried_out(&self) -> u64 {
        self.carried_out.load(Ordering::Relaxed)
    }

    /// Those of them that were in the bank already.
    pub fn repeated(&self) -> u64 {
        self.repeated.load(Ordering::Relaxed)
    }

    fn count(&self, receipt: Receipt) {
        self.carried_out.fetch_add(1, Ordering::Relaxed);
        self.repeated.fetch_add(u64::from(receipt.is_repeated()), Ordering::Relaxed);
    }
}

impl Import {
    pub fn new(bank: &Engine, overdraft: Overdraft, in_flight: NonZeroUsize) -> Self {
        Self { bank: bank.clone(), overdraft, in_flight, tally: Arc::default() }
    }

    /// Counts along while the import runs.
    pub fn tally(&self) -> Arc<Tally> {
        Arc::clone(&self.tally)
    }

    /// Carries out posting after posting, until they end. An account keeps to one lane, so its
    /// postings keep their order.
    ///
    /// An import that was cut off, wherever that was, is run again to be finished.
    ///
    /// # Errors
    /// [`ImportError`] with the first fault. All postings before a malformed row are carried out.
    pub async fn run(
        self,
        postings: impl Iterator<Item = Result<Posting, Fault>>,
    ) -> Result<(), ImportError> {
        let mut running = JoinSet::new();
        let mut lanes = Vec::new();
        for _ in 0..self.in_flight.get() {
            let (lane, from) = mpsc::channel(WAITING);
            running.spawn(self.lane().run(from));
            lanes.push(lane);
        }
        let read = hand_out(postings, &lanes).await;
        drop(lanes);
        let mut failed = None;
        while let Some(end) = running.join_next().await {
            failed = earlier(failed, end?.err());
        }
        // A lane has only postings from before the malformed row.
        failed.map_or(Ok(()), Err)?;
        Ok(read?)
    }

    fn lane(&self) -> Lane {
        let (bank, tally) = (self.bank.clone(), self.tally());
        Lane { bank, overdraft: self.overdraft, opened: HashSet::new(), tally }
    }
}

/// Gives each posting to the lane of its account; until one of them has failed, which it will tell.
async fn hand_out(
    postings: impl Iterator<Item = Result<Posting, Fault>>,
    lanes: &[mpsc::Sender<Posting>],
) -> Result<(), Fault> {
    for posting in postings {
        let posting = posting?;
        let lane = posting.account.0 as usize % lanes.len();
        if lanes[lane].send(posting).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// The one of two faults that stands further up in the file.
fn earlier(one: Option<ImportError>, other: Option<ImportError>) -> Option<ImportError> {
    let line = |error: &ImportError| match error {
        ImportError::Bank { line, .. } => *line,
        ImportError::File(_) | ImportError::Died(_) => u64::MAX,
    };
    one.into_iter().chain(other).min_by_key(line)
}

/// Some accounts of an import, one command at a time.
struct Lane {
    bank: Engine,
    overdraft: Overdraft,
    opened: HashSet<AccountId>,
    tally: Arc<Tally>,
}

impl Lane {
    async fn run(mut self, mut postings: mpsc::Receiver<Posting>) -> Result<(), ImportError> {
        while let Some(posting) = postings.recv().await {
            let failed = |source| ImportError::Bank { line: posting.line, source };
            let receipt = self.post(posting).await.map_err(failed)?;
            self.tally.count(receipt);
        }
        Ok(())
    }

    /// Carries a posting out, or has its refusal put on record. The account is opened with its first
    /// posting.
    ///
    /// A posting that is imported again changes nothing: its number is the idempotency key of its request.
    async fn post(&mut self, posting: Posting) -> Result<Receipt, ExecuteError<AccountError>> {
        let Posting { account, on, amount, .. } = posting;
        if self.opened.insert(account) {
            self.open(account, posting).await?;
        }
        let request = self.bank.request(format!("posting-{}", posting.id));
        match posting.kind {
            Kind::Credit => request.execute(Deposit { account, on, amount }).await,
            Kind::Debit(kind) => {
                match request.execute(Withdraw { account, on, amount, kind }).await {
                    // Part of the same request, so a rejected withdrawal is not tried again when the
                    // posting is imported again and the balance has grown.
                    Err(ExecuteError::Refused(AccountError::Overdraft { .. })) => {
                        request.execute(Decline { account, on, amount, kind }).await
                    }
                    answer => answer,
                }
            }
        }
    }

    async fn open(&self, account: AccountId, first: Posting) -> Result<(), ExecuteError<AccountError>> {
        let open = Open { account, on: first.on, overdraft: self.overdraft };
        match self.bank.execute(open).await {
            // An earlier import has opened it.
            Ok(_) | Err(ExecuteError::Exists { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
