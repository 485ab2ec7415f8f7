//! The report for people.

use std::io::{self, Write};

use comfy_table::{CellAlignment, Table, presets::UTF8_BORDERS_ONLY};

use crate::reports::{ByAccount, Report, Statement};
use crate::values::{AccountId, Czk, group};

/// The whole report; with the accounts, if it has them.
pub fn report(out: &mut impl Write, report: &Report) -> io::Result<()> {
    let mut by_type = table(["type", "postings", "CZK"]);
    for (code, totals) in &report.by_type {
        by_type.add_row([code.clone(), count(totals.count), totals.czk.grouped()]);
    }
    let mut by_month = table(["month", "opened", "postings", "credits, CZK", "debits, CZK"]);
    for (month, totals) in &report.by_month {
        by_month.add_row([
            month.clone(),
            count(totals.opened),
            count(totals.postings),
            totals.credits_czk.grouped(),
            totals.debits_czk.grouped(),
        ]);
    }
    writeln!(out, "{by_type}\n\n{by_month}\n")?;
    let (accepted, refused) = (count(report.accepted), count(report.refused));
    writeln!(
        out,
        "Accepted {accepted}, refused {refused} ({} CZK not covered).",
        report.refused_czk.grouped()
    )?;
    let (number, postings) = (count(report.accounts), count(report.postings));
    writeln!(out, "Accounts {number}, postings {postings}, balance {} CZK.", report.balance_czk.grouped())?;
    match report.ever_negative.as_slice() {
        [] => writeln!(out, "No account was ever overdrawn.")?,
        ids => writeln!(out, "Overdrawn at some time: {}.", list(ids))?,
    }
    if let Some(all) = &report.account {
        writeln!(out)?;
        accounts(out, all)?;
    }
    Ok(())
}

/// Some accounts.
pub fn accounts<'a>(
    out: &mut impl Write,
    accounts: impl IntoIterator<Item = &'a ByAccount>,
) -> io::Result<()> {
    let mut all = table(["account", "postings", "balance, CZK"]);
    for account in accounts {
        all.add_row([account.id.to_string(), count(account.postings), account.balance_czk.grouped()]);
    }
    writeln!(out, "{all}")
}

/// One account.
pub fn statement(out: &mut impl Write, Statement { account, lowest_czk }: &Statement) -> io::Result<()> {
    let (postings, balance) = (count(account.postings), account.balance_czk.grouped());
    writeln!(out, "Account {}: {postings} postings, balance {balance} CZK.", account.id)?;
    match lowest_czk {
        lowest if *lowest < Czk::ZERO => writeln!(out, "It was overdrawn down to {} CZK.", lowest.grouped()),
        _ => writeln!(out, "It was never overdrawn."),
    }
}

/// A table whose columns are figures, but for the first.
fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY).set_header(header);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// A number with its thousands set apart.
pub fn count(number: u64) -> String {
    group(&number.to_string())
}

fn list(ids: &[AccountId]) -> String {
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
