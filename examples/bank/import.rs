//! Postings into commands, in the order of the file.

use std::collections::HashSet;

use cqrs::prelude::*;

use crate::domain::{AccountError, Decline, Deposit, Open, Overdraft, Withdraw};
use crate::postings::{Fault, Kind, Posting};
use crate::values::AccountId;

/// Turns postings into commands for a bank.
pub struct Import<'a> {
    bank: &'a Engine,
    /// What the accounts that it opens may do.
    overdraft: Overdraft,
    opened: HashSet<AccountId>,
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
}

impl<'a> Import<'a> {
    pub fn new(bank: &'a Engine, overdraft: Overdraft) -> Self {
        Self { bank, overdraft, opened: HashSet::new() }
    }

    /// Carries out posting after posting, until they end.
    ///
    /// # Errors
    /// [`ImportError`] with the first fault.
    pub async fn run(
        mut self,
        postings: impl Iterator<Item = Result<Posting, Fault>>,
    ) -> Result<(), ImportError> {
        for posting in postings {
            let posting = posting?;
            let failed = |source| ImportError::Bank { line: posting.line, source };
            self.post(posting).await.map_err(failed)?;
        }
        Ok(())
    }

    /// Carries a posting out, or has its refusal put on record. The account is opened with its first
    /// posting.
    ///
    /// A posting that comes again changes nothing: its number is the key of its command.
    async fn post(&mut self, posting: Posting) -> Result<(), ExecuteError<AccountError>> {
        let Posting { account, on, amount, .. } = posting;
        if self.opened.insert(account) {
            self.open(account, posting).await?;
        }
        let key = format!("posting-{}", posting.id);
        match posting.kind {
            Kind::Credit => {
                self.bank.execute(Deposit { account, on, amount }).key(key).await?;
            }
            Kind::Debit(kind) => {
                match self.bank.execute(Withdraw { account, on, amount, kind }).key(key.as_str()).await {
                    // The key is the refused command's, so that the posting is not tried again
                    // when it comes again and the account has more to give.
                    Err(ExecuteError::Refused(AccountError::Overdraft { .. })) => {
                        self.bank.execute(Decline { account, on, amount, kind }).key(key).await?;
                    }
                    answer => drop(answer?),
                }
            }
        }
        Ok(())
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
