//! A short story on built-in data: what a newcomer sees first.

use std::io::Write;

use cqrs::prelude::*;

use crate::domain::{AccountError, Deposit, Open, Overdraft, Summary, Withdraw};
use crate::reports::Report;
use crate::show;
use crate::values::{AccountId, Czk, Day, Debit};

/// Plays it, and tells it to `out`.
///
/// # Errors
/// Whatever keeps the bank from answering, or `out` from taking it.
pub async fn play(out: &mut impl Write) -> anyhow::Result<()> {
    let bank = Engine::open("memory:").await?;
    let [one, two, three] = [1, 2, 3].map(AccountId);
    let on: Day = "1993-01-04".parse()?;
    let [payment, cash] = [Debit::Vydaj, Debit::Vyber];
    let crowns = Czk::crowns;
    writeln!(out, "A small bank. Its log is in memory and ends with this program.\n")?;

    let answer = bank.execute(Open { account: one, on, overdraft: Overdraft::Refused }).await;
    tell(out, "account 1 is opened", answer)?;
    let answer = bank.execute(Open { account: two, on, overdraft: Overdraft::Allowed }).await;
    tell(out, "account 2 is opened, and may be overdrawn", answer)?;
    let answer = bank.execute(Deposit { account: one, on, amount: crowns(1_000) }).await;
    tell(out, "account 1 gets 1,000.00 CZK", answer)?;
    let answer = bank.execute(Withdraw { account: one, on, amount: crowns(350), kind: payment }).await;
    tell(out, "account 1 pays 350.00 CZK", answer)?;
    let answer = bank.execute(Withdraw { account: one, on, amount: crowns(900), kind: cash }).await;
    tell(out, "account 1 asks for 900.00 CZK in cash", answer)?;
    let answer = bank.execute(Open { account: one, on, overdraft: Overdraft::Allowed }).await;
    tell(out, "account 1 is opened once more", answer)?;
    let answer = bank.execute(Deposit { account: three, on, amount: crowns(10) }).await;
    tell(out, "account 3 gets 10.00 CZK", answer)?;

    let receipt = bank.execute(Withdraw { account: two, on, amount: crowns(200), kind: cash }).await?;
    tell(out, "account 2 asks for 200.00 CZK in cash", Ok(receipt))?;
    let summary = bank.get::<Summary>(&two).after(&receipt).await?;
    let balance = summary.map(|summary| summary.balance).unwrap_or_default();
    writeln!(out, "\nRead after its receipt {receipt}, account 2 holds {balance} CZK.")?;

    bank.catch_up().await?;
    writeln!(out, "\nThe accounts, from their read model:\n")?;
    show::accounts(out, &Report::of(&bank, true).await?)?;
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
        Ok(_) => "accepted".to_owned(),
        Err(no @ (Refused(_) | Exists { .. } | Missing { .. })) => format!("refused: {no}"),
        Err(fault) => return Err(fault.into()),
    };
    Ok(writeln!(out, "  {asked:<42} {answer}")?)
}
