//! The program as its user meets it: output, messages, exit codes.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::files::{SAMPLE, header};

/// Runs the example as it was built beside this test.
fn bank<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Result<Run> {
    let test = std::env::current_exe()?;
    let profile =
        test.parent().and_then(Path::parent).context("tests are built in a folder of their profile")?;
    let program = profile.join("examples/bank").with_extension(std::env::consts::EXE_EXTENSION);
    ensure!(
        program.exists(),
        "{} was not built: `cargo test` alone builds it, or `cargo build --example bank`",
        program.display()
    );
    let done = Command::new(program).args(args).output()?;
    let run = Run {
        code: done.status.code(),
        out: String::from_utf8(done.stdout)?,
        err: String::from_utf8(done.stderr)?,
    };
    ensure!(!run.err.contains("panicked"), "{}", run.err);
    Ok(run)
}

struct Run {
    code: Option<i32>,
    out: String,
    err: String,
}

/// A file of this content, for one test.
fn file(name: &str, content: impl AsRef<[u8]>) -> Result<PathBuf> {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, content)?;
    Ok(path)
}

#[test]
fn without_arguments_it_plays_a_story() -> Result<()> {
    let run = bank::<&str>([])?;
    assert_eq!((run.code, run.err.as_str()), (Some(0), ""));
    for told in [
        "refused: a balance of 650.00 CZK does not cover 900.00 CZK",
        "refused: `Open` creates Account/1, which exists already",
        "account 2 holds -200.00 CZK.",
    ] {
        ensure!(run.out.contains(told), "{told:?} is not in:\n{}", run.out);
    }
    Ok(())
}

#[test]
fn it_imports_and_reports_to_machines() -> Result<()> {
    let sample = file("sample.csv", SAMPLE)?;
    let run =
        bank([OsStr::new("import"), sample.as_os_str(), "--json".as_ref(), "--overdraft=refuse".as_ref()])?;
    assert_eq!((run.code, run.err.as_str()), (Some(0), ""));
    let expected: Value = serde_json::from_str(include_str!("sample-refuse.json"))?;
    assert_eq!(serde_json::from_str::<Value>(&run.out)?, expected);
    Ok(())
}

#[test]
fn it_imports_and_reports_to_people() -> Result<()> {
    let sample = file("people.csv", SAMPLE)?;
    let run = bank([OsStr::new("import"), sample.as_os_str(), "--accounts".as_ref()])?;
    assert_eq!((run.code, run.err.as_str()), (Some(0), ""));
    for told in [
        "41 accepted, 0 refused",
        "VYBER",
        "20,670.00",
        "2001-02",
        "22,402.20",
        "Accounts 6, postings 41, balance 20,750.60 CZK.",
        "Overdrawn at some time: 12, 31, 58, 104.",
        "9,894.20",
    ] {
        ensure!(run.out.contains(told), "{told:?} is not in:\n{}", run.out);
    }
    Ok(())
}

#[test]
fn a_malformed_row_stops_it_and_what_came_before_stays() -> Result<()> {
    let text = format!(
        "{}\n1,7,1,2001-01-02,PRIJEM,,10.00,,,,,\n2,7,2,2001-01-03,VYDAJ,,2.5,,,,,\n3,7,3,2001-01-04,VYDAJ,,1.999,,,,,\n4,7,4,2001-01-05,VYDAJ,,1.00,,,,,\n",
        header()
    );
    let path = file("malformed.csv", text)?;
    let run = bank([OsStr::new("import"), path.as_os_str(), "--json".as_ref(), "--accounts".as_ref()])?;

    assert_eq!(run.code, Some(1));
    let reason = "\"1.999\" is an amount with more than two decimals";
    assert_eq!(run.err, format!("error: {}, line 4, column `amount`: {reason}\n", path.display()));
    let report: Value = serde_json::from_str(&run.out)?;
    assert_eq!((&report["commands"], &report["balance_czk"]), (&json!(2), &json!("7.50")));
    assert_eq!(report["account"], json!([{ "id": 7, "postings": 2, "balance_czk": "7.50" }]));

    let run = bank([OsStr::new("import"), path.as_os_str()])?;
    assert_eq!(run.code, Some(1));
    ensure!(run.out.contains("Accounts 1, postings 2, balance 7.50 CZK."), "{}", run.out);
    Ok(())
}

#[test]
fn a_file_that_cannot_be_had_is_told() -> Result<()> {
    for (name, content) in [("empty.csv", ""), ("headless.csv", "1,2,3\n")] {
        let path = file(name, content)?;
        let run = bank([OsStr::new("import"), path.as_os_str(), "--json".as_ref()])?;
        assert_eq!((run.code, run.out.as_str()), (Some(1), ""));
        ensure!(run.err.starts_with(&format!("error: {}, line 1", path.display())), "{}", run.err);
    }
    let run = bank(["import", "no-such-file.csv"])?;
    assert_eq!((run.code, run.out.as_str()), (Some(1), ""));
    ensure!(run.err.starts_with("error: no-such-file.csv: "), "{}", run.err);

    let folder = bank(["import", env!("CARGO_TARGET_TMPDIR")])?;
    assert_eq!((folder.code, folder.out.as_str()), (Some(1), ""));
    Ok(())
}

#[test]
fn a_wrong_call_is_told_apart_from_a_wrong_file() -> Result<()> {
    for wrong in [vec!["import"], vec!["import", "x", "--overdraft", "maybe"], vec!["export"]] {
        let run = bank(wrong)?;
        assert_eq!((run.code, run.out.as_str()), (Some(2), ""));
    }
    Ok(())
}
