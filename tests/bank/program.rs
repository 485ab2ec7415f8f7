//! The program as its user meets it: output, messages, exit codes.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::files::{SAMPLE, header};

/// A folder of its own for one test, in which the program runs and keeps its bank.
struct Home(TempDir);

impl Home {
    fn new() -> Result<Self> {
        Ok(Self(TempDir::new()?))
    }

    /// A file of this content.
    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.0.path().join(name);
        std::fs::write(&path, content)?;
        Ok(path)
    }

    /// The example as it was built beside this test.
    fn command<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Result<Command> {
        let test = std::env::current_exe()?;
        let profile =
            test.parent().and_then(Path::parent).context("tests are built in a folder of their profile")?;
        let program = profile.join("examples/bank").with_extension(std::env::consts::EXE_EXTENSION);
        ensure!(
            program.exists(),
            "{} was not built: `cargo test` alone builds it, or `cargo build --example bank`",
            program.display()
        );
        let mut command = Command::new(program);
        command.args(args).current_dir(self.0.path());
        Ok(command)
    }

    fn bank<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Result<Run> {
        let done = self.command(args)?.output()?;
        let run = Run {
            code: done.status.code(),
            out: String::from_utf8(done.stdout)?,
            err: String::from_utf8(done.stderr)?,
        };
        ensure!(!run.err.contains("panicked"), "{}", run.err);
        Ok(run)
    }

    /// What the program prints if all goes well.
    fn told<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Result<String> {
        let run = self.bank(args)?;
        ensure!((run.code, run.err.as_str()) == (Some(0), ""), "{:?}: {}{}", run.code, run.out, run.err);
        Ok(run.out)
    }
}

struct Run {
    code: Option<i32>,
    out: String,
    err: String,
}

#[test]
fn without_a_command_it_plays_a_story() -> Result<()> {
    let story = [
        "refused: a balance of 650.00 CZK does not cover 900.00 CZK",
        "refused: `Open` creates Account/900001, which exists already",
        "refused: `Deposit` needs Account/900003, which does not exist",
        "account 900002 holds -200.00 CZK.",
    ];
    let told = Home::new()?.told(["--store", "memory:"])?;
    ensure!(story.iter().all(|words| told.contains(words)), "{told}");
    Ok(())
}

#[test]
fn it_imports_and_reports_to_machines() -> Result<()> {
    let home = Home::new()?;
    home.file("sample.csv", SAMPLE)?;
    let told = home.told(["import", "sample.csv", "--store", "memory:", "--json", "--overdraft=refuse"])?;
    let expected: Value = serde_json::from_str(include_str!("sample-refuse.json"))?;
    assert_eq!(serde_json::from_str::<Value>(&told)?, expected);
    Ok(())
}

#[test]
fn it_imports_and_reports_to_people() -> Result<()> {
    let home = Home::new()?;
    home.file("sample.csv", SAMPLE)?;
    let told = home.told(["import", "sample.csv", "--store", "memory:", "--accounts"])?;
    for words in [
        "sample.csv: 41 postings in ",
        "Accepted 41, refused 0 (0.00 CZK not covered).",
        "VYBER",
        "20,670.00",
        "2001-02",
        "22,402.20",
        "Accounts 6, postings 41, balance 20,750.60 CZK.",
        "Overdrawn at some time: 12, 31, 58, 104.",
        "9,894.20",
    ] {
        ensure!(told.contains(words), "{words:?} is not in:\n{told}");
    }
    Ok(())
}

#[test]
fn a_malformed_row_stops_it_and_what_came_before_stays() -> Result<()> {
    let text = format!(
        "{}\n1,7,1,2001-01-02,PRIJEM,,10.00,,,,,\n2,7,2,2001-01-03,VYDAJ,,2.5,,,,,\n3,7,3,2001-01-04,VYDAJ,,1.999,,,,,\n4,7,4,2001-01-05,VYDAJ,,1.00,,,,,\n",
        header()
    );
    let home = Home::new()?;
    home.file("malformed.csv", text)?;
    let import = ["import", "malformed.csv", "--store", "memory:"];
    let run = home.bank(import.into_iter().chain(["--json", "--accounts"]))?;

    assert_eq!(run.code, Some(1));
    let reason = "\"1.999\" is an amount with more than two decimals";
    assert_eq!(run.err, format!("error: malformed.csv, line 4, column `amount`: {reason}\n"));
    let report: Value = serde_json::from_str(&run.out)?;
    assert_eq!((&report["commands"], &report["balance_czk"]), (&json!(2), &json!("7.50")));
    assert_eq!(report["account"], json!([{ "id": 7, "postings": 2, "balance_czk": "7.50" }]));

    let run = home.bank(import)?;
    assert_eq!(run.code, Some(1));
    ensure!(run.out.contains("Accounts 1, postings 2, balance 7.50 CZK."), "{}", run.out);
    Ok(())
}

#[test]
fn a_file_that_cannot_be_had_is_told() -> Result<()> {
    let home = Home::new()?;
    for (name, content) in [("empty.csv", ""), ("headless.csv", "1,2,3\n")] {
        home.file(name, content)?;
        let run = home.bank(["import", name, "--json"])?;
        assert_eq!((run.code, run.out.as_str()), (Some(1), ""));
        ensure!(run.err.starts_with(&format!("error: {name}, line 1")), "{}", run.err);
    }
    let run = home.bank(["import", "no-such-file.csv"])?;
    assert_eq!((run.code, run.out.as_str()), (Some(1), ""));
    ensure!(run.err.starts_with("error: no-such-file.csv: "), "{}", run.err);

    let folder = home.bank(["import", "."])?;
    assert_eq!((folder.code, folder.out.as_str()), (Some(1), ""));
    ensure!(!home.0.path().join("bank.db").exists(), "a bank was made for nothing");
    Ok(())
}

#[test]
fn a_wrong_call_is_told_apart_from_a_wrong_file() -> Result<()> {
    let wrong: [&[&str]; 6] = [
        &["import"],
        &["import", "x", "--overdraft", "maybe"],
        &["import", "x", "--in-flight", "0"],
        &["account"],
        &["account", "seven"],
        &["export"],
    ];
    for wrong in wrong {
        let run = Home::new()?.bank(wrong)?;
        assert_eq!((run.code, run.out.as_str()), (Some(2), ""));
    }
    Ok(())
}

#[test]
fn a_store_that_cannot_be_opened_is_told() -> Result<()> {
    let home = Home::new()?;
    let run = home.bank(["report", "--store", "bank.db"])?;
    assert_eq!((run.code, run.out.as_str()), (Some(1), ""));
    ensure!(
        run.err.contains("no store can be opened by a text that does not begin with the scheme of a URL"),
        "{}",
        run.err
    );
    Ok(())
}

#[cfg(feature = "sqlite")]
#[path = "program/durable.rs"]
mod durable;
