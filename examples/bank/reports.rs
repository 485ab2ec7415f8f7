//! Two more read models, and the report that is made of the read models alone.

use std::collections::BTreeMap;

use cqrs::Projection;
use cqrs::engine::ReadError;
use cqrs::prelude::*;

use crate::domain::{Declined, Deposited, Opened, Summary, Withdrawn};
use crate::values::{AccountId, Czk, Month};

/// The code of a deposit; that of a withdrawal is on its event.
const CREDIT: &str = "PRIJEM";

/// All postings of one type code.
#[derive(Default, Serialize, Deserialize)]
pub struct TypeTotals {
    pub count: u64,
    pub czk: Czk,
    pub declined: u64,
    pub declined_czk: Czk,
}

#[projection(name = "totals-by-type", key = String)]
impl TypeTotals {
    #[on(key = CREDIT.to_owned())]
    fn deposited(&mut self, e: &Deposited) {
        self.count += 1;
        self.czk += e.amount;
    }

    #[on(key = e.kind.to_string())]
    fn withdrawn(&mut self, e: &Withdrawn) {
        self.count += 1;
        self.czk += e.amount;
    }

    #[on(key = e.kind.to_string())]
    fn declined(&mut self, e: &Declined) {
        self.declined += 1;
        self.declined_czk += e.amount;
    }
}

/// All that happened in one month.
#[derive(Default, Serialize, Deserialize)]
pub struct MonthTotals {
    pub postings: u64,
    pub credits_czk: Czk,
    pub debits_czk: Czk,
    pub opened: u64,
}

#[projection(name = "totals-by-month", key = Month)]
impl MonthTotals {
    #[on(key = e.on.month())]
    fn opened(&mut self, e: &Opened) {
        self.opened += 1;
    }

    #[on(key = e.on.month())]
    fn deposited(&mut self, e: &Deposited) {
        self.postings += 1;
        self.credits_czk += e.amount;
    }

    #[on(key = e.on.month())]
    fn withdrawn(&mut self, e: &Withdrawn) {
        self.postings += 1;
        self.debits_czk += e.amount;
    }
}

/// What the bank holds, in the shape in which `--json` prints it.
///
/// A posting is one command, and was accepted or refused. Opening an account is no posting and not
/// counted as a command. A refused command leaves nothing in the log; that there was one is known
/// because the import then asks the account to [`Decline`](crate::domain::Decline) the withdrawal,
/// which is an event like others. All but the first four figures count accepted postings only.
#[derive(Serialize)]
pub struct Report {
    pub commands: u64,
    pub accepted: u64,
    pub refused: u64,
    pub refused_czk: Czk,
    pub accounts: u64,
    pub postings: u64,
    pub balance_czk: Czk,
    pub by_type: BTreeMap<String, ByType>,
    pub by_month: BTreeMap<String, MonthTotals>,
    /// Accounts whose balance was below zero after some posting, in ascending order.
    pub ever_negative: Vec<AccountId>,
    /// In ascending order; only if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<Vec<ByAccount>>,
}

/// The accepted postings of one type.
#[derive(Serialize)]
pub struct ByType {
    pub count: u64,
    pub czk: Czk,
}

/// One account.
#[derive(Serialize)]
pub struct ByAccount {
    pub id: AccountId,
    pub postings: u64,
    pub balance_czk: Czk,
}

/// One account, in the shape in which `account --json` prints it.
#[derive(Serialize)]
pub struct Statement {
    #[serde(flatten)]
    pub account: ByAccount,
    /// The lowest balance after any posting; 0 at most.
    pub lowest_czk: Czk,
}

impl Statement {
    /// Reads it off the account's read model; `None` if there is no such account.
    ///
    /// # Errors
    /// As [`Report::of`].
    pub async fn of(bank: &Engine, id: AccountId) -> Result<Option<Self>, ReadError> {
        let summary = bank.get::<Summary>(&id).await?;
        Ok(summary.map(|summary| Self { lowest_czk: summary.lowest, account: by_account(&(id, summary)) }))
    }
}

impl Report {
    /// Reads it off the read models as they are now, with or without the figures per account.
    ///
    /// # Errors
    /// [`ReadError`] if the store fails, or a document does not fit its type.
    pub async fn of(bank: &Engine, with_accounts: bool) -> Result<Self, ReadError> {
        // Pages come in the order of the keys' text, in which 10 stands before 9.
        let mut accounts = all::<Summary>(bank).await?;
        accounts.sort_by_key(|(id, _)| *id);
        let types = all::<TypeTotals>(bank).await?;
        let months = all::<MonthTotals>(bank).await?;

        let accepted = types.iter().map(|(_, totals)| totals.count).sum();
        let refused = types.iter().map(|(_, totals)| totals.declined).sum();
        Ok(Self {
            commands: accepted + refused,
            accepted,
            refused,
            refused_czk: types.iter().map(|(_, totals)| totals.declined_czk).sum(),
            accounts: accounts.len() as u64,
            postings: accounts.iter().map(|(_, summary)| summary.postings).sum(),
            balance_czk: accounts.iter().map(|(_, summary)| summary.balance).sum(),
            by_type: types.into_iter().filter_map(by_type).collect(),
            by_month: months.into_iter().map(|(month, totals)| (month.to_string(), totals)).collect(),
            ever_negative: accounts
                .iter()
                .filter(|(_, summary)| summary.lowest < Czk::ZERO)
                .map(|(id, _)| *id)
                .collect(),
            account: with_accounts.then(|| accounts.iter().map(by_account).collect()),
        })
    }
}

/// A type of which all was refused has no accepted postings to show.
fn by_type((code, TypeTotals { count, czk, .. }): (String, TypeTotals)) -> Option<(String, ByType)> {
    (count > 0).then_some((code, ByType { count, czk }))
}

fn by_account((id, summary): &(AccountId, Summary)) -> ByAccount {
    ByAccount { id: *id, postings: summary.postings, balance_czk: summary.balance }
}

/// All documents of a read model, page by page.
async fn all<P: Projection>(bank: &Engine) -> Result<Vec<(P::Key, P)>, ReadError> {
    let mut page = bank.list::<P>().limit(1_000).await?;
    let mut all = std::mem::take(&mut page.documents);
    while let Some(cursor) = page.next {
        page = bank.list::<P>().limit(1_000).from(cursor).await?;
        all.append(&mut page.documents);
    }
    Ok(all)
}
