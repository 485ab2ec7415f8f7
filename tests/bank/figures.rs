//! The report against figures that were computed by other means: see `figures.py`.

use std::collections::HashMap;
use std::io::Read as _;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::domain::Overdraft;
use crate::files::{SAMPLE, bank, full, header, import};
use crate::reports::Report;
use crate::values::{AccountId, Czk};

async fn check(file: &[u8], overdraft: Overdraft, expected: &str) -> Result<String> {
    let report = import(&bank().await?, file, overdraft).await?;
    assert_eq!(serde_json::to_value(&report)?, serde_json::from_str::<Value>(expected)?);
    Ok(serde_json::to_string(&report)?)
}

/// On a file, the report is the same to the byte.
#[cfg(feature = "sqlite")]
async fn check_durable(file: &[u8], overdraft: Overdraft, expected: &str) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let url = format!("sqlite:{}", dir.path().join("bank.db").display());
    let durable = cqrs::Engine::builder().without_background().open(&url).await?;
    let durable = serde_json::to_string(&import(&durable, file, overdraft).await?)?;
    assert_eq!(durable, check(file, overdraft, expected).await?);
    Ok(())
}

#[tokio::test]
async fn the_sample_with_overdrafts() -> Result<()> {
    check(SAMPLE, Overdraft::Allowed, include_str!("sample-allow.json")).await.map(drop)
}

#[tokio::test]
async fn the_sample_without_overdrafts() -> Result<()> {
    check(SAMPLE, Overdraft::Refused, include_str!("sample-refuse.json")).await.map(drop)
}

#[tokio::test]
async fn the_real_postings_with_overdrafts() -> Result<()> {
    let Some(file) = full()? else { return Ok(()) };
    check(&file, Overdraft::Allowed, include_str!("full-allow.json")).await.map(drop)
}

#[tokio::test]
async fn the_real_postings_without_overdrafts() -> Result<()> {
    let Some(file) = full()? else { return Ok(()) };
    check(&file, Overdraft::Refused, include_str!("full-refuse.json")).await.map(drop)
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn on_a_file_the_report_is_the_same() -> Result<()> {
    check_durable(SAMPLE, Overdraft::Allowed, include_str!("sample-allow.json")).await?;
    check_durable(SAMPLE, Overdraft::Refused, include_str!("sample-refuse.json")).await?;
    let Some(file) = full()? else { return Ok(()) };
    check_durable(&file, Overdraft::Refused, include_str!("full-refuse.json")).await
}

/// The bank's own balances were rounded on the way, ours are sums: they may drift apart by some
/// tenths of a crown, and by no more.
#[tokio::test]
async fn balances_are_near_those_that_the_real_bank_recorded() -> Result<()> {
    let Some(file) = full()? else { return Ok(()) };
    let mut text = String::new();
    flate2::read::GzDecoder::new(&file[..]).read_to_string(&mut text)?;
    let mut recorded: HashMap<AccountId, (u64, Czk)> = HashMap::new();
    for row in text.lines().skip(1) {
        // No field of this file is quoted.
        let fields: Vec<_> = row.split(',').collect();
        let account = recorded.entry(fields[1].parse()?).or_default();
        *account = (account.0 + 1, fields[7].parse()?);
    }

    let bank = bank().await?;
    import(&bank, &file, Overdraft::Allowed).await?;
    let accounts = Report::of(&bank, true).await?.account.context("the accounts were asked for")?;

    assert_eq!(accounts.len(), recorded.len());
    assert!(accounts.is_sorted_by_key(|account| account.id));
    let near = Czk::crowns(1);
    for account in accounts {
        let (postings, balance) = recorded[&account.id];
        let drift = account.balance_czk - balance;
        ensure!(account.postings == postings, "account {}: {} postings", account.id, account.postings);
        ensure!(
            drift < near && balance - account.balance_czk < near,
            "account {} drifts by {drift}",
            account.id
        );
    }
    Ok(())
}

#[tokio::test]
async fn accounts_come_in_the_order_of_their_numbers() -> Result<()> {
    let bank = bank().await?;
    import(&bank, SAMPLE, Overdraft::Refused).await?;
    let report = serde_json::to_value(Report::of(&bank, true).await?)?;
    let expected = json!([
        { "id": 7, "postings": 9, "balance_czk": "0.00" },
        { "id": 9, "postings": 6, "balance_czk": "9894.20" },
        { "id": 12, "postings": 7, "balance_czk": "1700.20" },
        { "id": 31, "postings": 9, "balance_czk": "24991.10" },
        { "id": 58, "postings": 2, "balance_czk": "0.10" },
        { "id": 104, "postings": 4, "balance_czk": "0.00" },
    ]);
    assert_eq!(report["account"], expected);
    Ok(())
}

/// A posting that comes again is neither carried out twice nor decided on another balance: account
/// 12 could cover in the end what it was refused on 2001-01-10.
#[tokio::test]
async fn the_same_file_twice_changes_nothing() -> Result<()> {
    for overdraft in [Overdraft::Allowed, Overdraft::Refused] {
        let bank = bank().await?;
        let once = serde_json::to_value(import(&bank, SAMPLE, overdraft).await?)?;
        let twice = serde_json::to_value(import(&bank, SAMPLE, overdraft).await?)?;
        assert_eq!(once, twice);
    }
    Ok(())
}

#[tokio::test]
async fn what_was_refused_may_be_all_there_is() -> Result<()> {
    let file = format!("{}\n1,1,1,2001-01-02,VYBER,,5.00,,,,,\n", header());
    let report = import(&bank().await?, file.as_bytes(), Overdraft::Refused).await?;
    let expected = json!({
        "commands": 1, "accepted": 0, "refused": 1, "refused_czk": "5.00",
        "accounts": 1, "postings": 0, "balance_czk": "0.00",
        "by_type": {},
        "by_month": { "2001-01": { "postings": 0, "credits_czk": "0.00", "debits_czk": "0.00", "opened": 1 } },
        "ever_negative": [],
    });
    assert_eq!(serde_json::to_value(report)?, expected);
    Ok(())
}

#[tokio::test]
async fn a_file_without_postings_makes_an_empty_report() -> Result<()> {
    let report = import(&bank().await?, header().as_bytes(), Overdraft::Allowed).await?;
    assert_eq!(
        serde_json::to_string(&report)?,
        r#"{"commands":0,"accepted":0,"refused":0,"refused_czk":"0.00","accounts":0,"postings":0,"balance_czk":"0.00","by_type":{},"by_month":{},"ever_negative":[]}"#
    );
    Ok(())
}
