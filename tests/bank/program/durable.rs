//! The program on a file: what one process has written, the next ones read.

use std::fmt::Write as _;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Result;
use cqrs::read_store::ReadStore as _;
use cqrs::sqlite::SqliteStore;

use super::*;

/// Postings of 40 accounts in turn, one in three of which is not covered.
fn postings(rows: u64) -> String {
    let mut file = format!("{}\n", header());
    for row in 1..=rows {
        let (account, day) = (row * 7 % 40 + 1, row * 28 / (rows + 1) + 1);
        let (kind, amount) =
            if row % 3 == 0 { ("VYBER", row % 50 * 30 + 1) } else { ("PRIJEM", row % 7 + 1) };
        let _ = writeln!(file, "{row},{account},1,2001-02-{day:02},{kind},,{amount}.00,,,,,");
    }
    file
}

#[test]
fn the_story_goes_on_where_it_was() -> Result<()> {
    let home = Home::new()?;
    let first = home.told::<&str>([])?;
    ensure!(!first.contains("before"), "{first}");
    let second = home.told::<&str>([])?;
    ensure!(second.matches(" accepted before").count() == 5, "{second}");
    ensure!(second.contains("account 900002 holds -200.00 CZK."), "{second}");
    ensure!(home.0.path().join("bank.db").exists());
    Ok(())
}

/// The report, and an account, in processes of their own.
#[test]
fn a_new_process_answers_from_the_read_models() -> Result<()> {
    let home = Home::new()?;
    home.file("sample.csv", SAMPLE)?;
    let import = ["import", "sample.csv", "--json", "--accounts", "--overdraft", "refuse"];
    let memory = home.told(import.into_iter().chain(["--store", "memory:"]))?;
    assert_eq!(home.told(import)?, memory);
    assert_eq!(home.told(["report", "--json", "--accounts"])?, memory);
    // Once more: nothing is doubled.
    assert_eq!(home.told(import)?, memory);
    let told = home.told(["import", "sample.csv"])?;
    ensure!(told.contains("41 postings (41 were there already)"), "{told}");

    let account: Value = serde_json::from_str(&home.told(["account", "12", "--json"])?)?;
    assert_eq!(account, json!({ "id": 12, "postings": 7, "balance_czk": "1700.20", "lowest_czk": "0.00" }));
    ensure!(home.told(["account", "12"])?.starts_with("Account 12: 7 postings, balance 1,700.20 CZK."));
    let run = home.bank(["account", "13"])?;
    assert_eq!((run.code, run.out.as_str()), (Some(1), ""));
    assert_eq!(run.err, "error: the bank in sqlite:bank.db has no account 13\n");

    let verified = home.told(["verify"])?;
    for words in ["log: ", "account-summary: 6 documents are as a fresh fold makes them, up to position"] {
        ensure!(verified.contains(words), "{verified}");
    }
    Ok(())
}

/// An import that is killed again and again is finished by the one that is not, and nothing is
/// doubled. Whenever it dies, the read models are what the log makes them.
#[test]
fn an_import_that_is_killed_goes_on() -> Result<()> {
    const ROWS: u64 = 4_000;
    let home = Home::new()?;
    home.file("postings.csv", postings(ROWS))?;
    let import = ["import", "postings.csv", "--json", "--accounts", "--overdraft", "refuse"];
    let expected = home.told(import.into_iter().chain(["--store", "memory:"]))?;
    // The time of a start depends on the machine: each kill that came too early makes the next one later.
    let mut delay = Duration::from_millis(20);
    let mut seen = vec![0];
    let mut within = 0;
    for _ in 0..40 {
        let mut child = home.command(import)?.stdout(Stdio::null()).spawn()?;
        std::thread::sleep(delay);
        child.kill()?;
        child.wait()?;
        home.told(["verify"])?;
        let report: Value = serde_json::from_str(&home.told(["report", "--json"])?)?;
        let commands = report["commands"].as_u64().context("a report counts commands")?;
        if seen.last() == Some(&commands) {
            delay = delay * 5 / 4;
        } else if commands < ROWS {
            within += 1;
        }
        seen.push(commands);
        if within == 8 || commands == ROWS {
            break;
        }
    }
    ensure!(seen.is_sorted() && seen.iter().all(|commands| *commands <= ROWS), "{seen:?}");
    ensure!(within > 0, "no kill fell into the import: {seen:?}");
    let people = home.told(&import[..2])?;
    ensure!(people.contains("4,000 postings (") && people.contains("were there already)"), "{people}");
    assert_eq!(home.told(["report", "--json", "--accounts"])?, expected);
    home.told(["verify"])?;
    Ok(())
}

/// A program that only reads takes no read model over, so the next claim follows the last one.
#[tokio::test]
async fn reading_does_not_disturb_who_writes() -> Result<()> {
    let home = Home::new()?;
    home.file("sample.csv", SAMPLE)?;
    home.told(["import", "sample.csv"])?;
    let claim = async || -> Result<u64> {
        let store = SqliteStore::open(home.0.path().join("bank.db")).await?;
        let epoch = store.claim("account-summary").await?.epoch;
        store.close().await?;
        Ok(epoch)
    };
    let before = claim().await?;
    for _ in 0..2 {
        home.told(["report"])?;
        home.told(["account", "7"])?;
        home.told(["verify"])?;
    }
    assert_eq!(claim().await?, before + 1);
    Ok(())
}

/// A read model that is not what the log makes it: the control of all `verify`s above.
#[tokio::test]
async fn a_wrong_read_model_is_found() -> Result<()> {
    use cqrs::Partition;
    use cqrs::read_store::{Batch, Collection, EntryWrite};

    let home = Home::new()?;
    home.file("sample.csv", SAMPLE)?;
    home.told(["import", "sample.csv"])?;
    let store = SqliteStore::open(home.0.path().join("bank.db")).await?;
    let consumer = "account-summary";
    let claim = store.claim(consumer).await?;
    let to = claim.checkpoints.get(&Partition::ONLY).copied().context("it was followed")?;
    let wrong = r#"{"balance":"1.00","lowest":"0.00","postings":7}"#;
    let writes = vec![EntryWrite::put(Collection::DOCUMENTS, "12", wrong)];
    store.commit(Batch::new(consumer, &claim, to).with_writes(writes)).await?;

    let run = home.bank(["verify"])?;
    assert_eq!(run.code, Some(1));
    ensure!(
        run.out.contains("account-summary: 1 of 6 documents are not as a fresh fold"),
        "{}{}",
        run.out,
        run.err
    );
    ensure!(run.out.contains("\"12\" is {\"balance\":\"1.00\""), "{}", run.out);
    assert_eq!(run.err, "error: the read models in sqlite:bank.db are not what the log makes them\n");
    Ok(())
}

#[test]
fn what_is_no_bank_is_refused_by_name() -> Result<()> {
    let home = Home::new()?;
    home.file("notes.txt", "not a database")?;
    for (store, words) in [
        ("sqlite:.", "the path is a directory"),
        ("sqlite:notes.txt", "the file is not an SQLite database"),
        ("sqlite:no/bank.db", "the directory no does not exist"),
        ("sqlite:", "write `sqlite:PATH`"),
    ] {
        for command in [&["report"][..], &["verify"], &["account", "7"], &[]] {
            let run = home.bank(command.iter().chain(&["--store", store]))?;
            assert_eq!((run.code, run.out.as_str()), (Some(1), ""), "{store}");
            ensure!(run.err.contains(words), "{store}: {}", run.err);
        }
    }
    Ok(())
}
