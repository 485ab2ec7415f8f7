//! A short story on built-in data: what a newcomer sees first.

use std::io::Write;

use cqrs::prelude::*;

use crate::domain::{AccountError, Deposit, Open, Overdraft, Summary, Withdraw};
use crate::reports::Statement;
use crate::show;
use crate::values::{AccountId, Czk, Day, Debit};

/// Accounts that no file of postings has.
const ACCOUNTS: [AccountId; 3] = [AccountId(900_001), AccountId(900_002), AccountId(900_003)];

/// Plays it in the bank that is kept in `store`, and tells it to `out`.
///
/// Each request has a key, so that a second play finds the accounts as the first has left them.
///
/// # Errors
/// Whatever keeps the bank from answering, or `out` from taking it.
pub async fn play(out: &mut impl Write, store: &str) -> anyhow::Result<()> {
    let bank = Engine::open(store).await?;
    let [one, two, three] = ACCOUNTS;
    let on: Day = "1993-01-04".parse()?;
    let [payment, cash] = [Debit::Vydaj, Debit::Vyber];
    let crowns = Czk::crowns;
    writeln!(out, "A small bank, kept in {store}\n")?;

    let answer = bank.execute(Open { account: one, on, overdraft: Overdraft::Refused }).key("story-1").await;
    tell(out, "account 900001 is opened", answer)?;
    let answer = bank.execute(Open { account: two, on, overdraft: Overdraft::Allowed }).key("story-2").await;
    tell(out, "account 900002 is opened, may be overdrawn", answer)?;
    let answer = bank.execute(Deposit { account: one, on, amount: crowns(1_000) }).key("story-3").await;
    tell(out, "account 900001 gets 1,000.00 CZK", answer)?;
    let pay = Withdraw { account: one, on, amount: crowns(350), kind: payment };
    tell(out, "account 900001 pays 350.00 CZK", bank.execute(pay).key("story-4").await)?;
    let ask = Withdraw { account: one, on, amount: crowns(900), kind: cash };
    tell(out, "account 900001 asks for 900.00 CZK in cash", bank.execute(ask).key("story-5").await)?;
    let answer = bank.execute(Open { account: one, on, overdraft: Overdraft::Allowed }).key("story-6").await;
    tell(out, "account 900001 is opened once more", answer)?;
    let answer = bank.execute(Deposit { account: three, on, amount: crowns(10) }).key("story-7").await;
    tell(out, "account 900003 gets 10.00 CZK", answer)?;

    let ask = Withdraw { account: two, on, amount: crowns(200), kind: cash };
    let receipt = bank.execute(ask).key("story-8").await?;
    tell(out, "account 900002 asks for 200.00 CZK in cash", Ok(receipt))?;
    let summary = bank.get::<Summary>(&two).after(&receipt).await?;
    let balance = summary.map(|summary| summary.balance).unwrap_or_default();
    writeln!(out, "\nRead after its receipt {receipt}, account 900002 holds {balance} CZK.")?;

    bank.catch_up().await?;
    writeln!(out, "\nThe accounts, from their read model:\n")?;
    let mut accounts = Vec::new();
    for id in ACCOUNTS {
        accounts.extend(Statement::of(&bank, id).await?.map(|statement| statement.account));
    }
    show::accounts(out, &accounts)?;
    if receipt.is_repeated() {
        writeln!(out, "\nThey were there already. A request that comes again, by its key, changes nothing.")?;
    }
    writeln!(out, "\nNext: cargo run --release --example bank -- import examples/bank/sample.csv")?;
    bank.shutdown().await;
    Ok(())
}

/// Tells what was asked for and what the bank said; a bank that cannot answer ends the story.
fn tell(
    out: &mut impl Write,
    asked: &str,
    answer: Result<Receipt, ExecuteError<AccountError>>,
) -> anyhow::Result<()> {
    use ExecuteError::{Exists, Missing, Refused};
    let answer = match answer {
        Ok(receipt) if receipt.is_repeated() => "accepted before".to_owned(),
        Ok(_) => "accepted".to_owned(),
        Err(no @ (Refused(_) | Exists { .. } | Missing { .. })) => format!("refused: {no}"),
        Err(fault) => return Err(fault.into()),
    };
    Ok(writeln!(out, "  {asked:<44} {answer}")?)
}
