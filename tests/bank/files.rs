//! Reading postings: what a file may look like, and what is said about one that may not.

use std::io::{Cursor, Write as _};
use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::{Result, bail};
use cqrs::prelude::*;
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::domain::Overdraft;
use crate::import::Import;
use crate::postings::{Kind, Postings};
use crate::reports::Report;

/// Postings of our own making, of all kinds, some of them not covered.
pub const SAMPLE: &[u8] = include_bytes!("../../examples/bank/sample.csv");

/// The header row of the sample.
pub fn header() -> &'static str {
    let text = std::str::from_utf8(SAMPLE).unwrap_or_default();
    text.lines().next().unwrap_or_default()
}

/// The real postings, which are not part of the project: `None` where they are missing.
pub fn full() -> Result<Option<Vec<u8>>> {
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    let data = std::env::var_os("CQRS_DATA").map_or_else(beside, PathBuf::from);
    let file = data.join("bank/transactions.csv.gz");
    match std::fs::read(&file) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) => {
            pg_cluster::skip_without_data(&format!("{}: {error}", file.display()));
            Ok(None)
        }
    }
}

/// Accounts share lanes, in the sample too.
const IN_FLIGHT: NonZeroUsize = NonZeroUsize::new(50).unwrap();

/// An empty bank whose read models move when they are told to.
pub async fn bank() -> Result<Engine> {
    Ok(Engine::builder().without_background().open("memory:").await?)
}

/// Imports a file into a bank, and reports.
pub async fn import(bank: &Engine, file: &[u8], overdraft: Overdraft) -> Result<Report> {
    let postings = Postings::read("postings.csv", Cursor::new(file.to_vec()))?;
    Import::new(bank, overdraft, IN_FLIGHT).run(postings).await?;
    bank.catch_up().await?;
    Ok(Report::of(bank, false).await?)
}

/// What a file says: how many postings it has, and what is wrong behind them.
fn read(file: impl AsRef<[u8]>) -> (usize, Option<String>) {
    match Postings::read("f.csv", Cursor::new(file.as_ref().to_vec())) {
        Err(fault) => (0, Some(fault.to_string())),
        Ok(postings) => {
            let mut good = 0;
            for posting in postings {
                match posting {
                    Ok(_) => good += 1,
                    Err(fault) => return (good, Some(fault.to_string())),
                }
            }
            (good, None)
        }
    }
}

/// Two good rows, and between them this one, on line 3.
#[track_caller]
fn refuses_row(row: &str, fault: &str) {
    let file = format!("{}\n{}\n{row}\n{}\n", header(), good(1), good(2));
    assert_eq!(read(file), (1, Some(format!("f.csv, line 3{fault}"))));
}

fn good(id: u32) -> String {
    format!("{id},7,{id},2001-01-02,PRIJEM,VKLAD,1500.00,1500.00,,,,{id}")
}

#[track_caller]
fn refuses_file(file: impl AsRef<[u8]>, good: usize, fault: &str) {
    assert_eq!(read(file), (good, Some(fault.to_owned())));
}

#[track_caller]
fn takes(file: impl AsRef<[u8]>, good: usize) {
    assert_eq!(read(file), (good, None));
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = GzEncoder::new(Vec::new(), Compression::default());
    // Writing to a vector does not fail.
    let _ = out.write_all(bytes);
    out.finish().unwrap_or_default()
}

#[test]
fn a_row_becomes_a_posting() -> Result<()> {
    let mut postings = Postings::read("f.csv", SAMPLE)?;
    let Some(first) = postings.next() else { bail!("the sample has postings") };
    let first = first?;
    assert_eq!((first.line, first.id, first.account.0), (2, 5185, 7));
    assert_eq!((first.on.to_string(), first.kind), ("2001-01-02".to_owned(), Kind::Credit));
    assert_eq!(first.amount.to_string(), "1500.00");
    assert_eq!(postings.count(), 40);
    Ok(())
}

#[test]
fn line_ends_blank_lines_and_quotes_do_not_matter() {
    let (header, one, two) = (header(), good(1), good(2));
    takes(format!("{header}\n{one}\n{two}"), 2);
    takes(format!("{header}\r\n{one}\r\n{two}\r\n"), 2);
    takes(format!("\n{header}\n\n{one}\n\r\n\n{two}\n\n"), 2);
    takes(format!("\u{feff}{header}\n{one}\n"), 1);
    takes(format!("{header}\n\"1\",\"7\",1,2001-01-02,\"PRIJEM\",\"a \"\"b\"\", c\",\"10.5\",,,,,\n"), 1);
}

#[test]
fn columns_are_found_by_name() {
    takes("amount,type,note,date,account_id,trans_id\n5.00,VYBER,ěšč,2001-01-02,7,1\n", 1);
}

#[test]
fn gzip_is_told_by_its_first_bytes() {
    takes(gzip(SAMPLE), 41);
    let (first, rest) = SAMPLE.split_at(SAMPLE.len() / 2);
    takes([gzip(first), gzip(rest)].concat(), 41);
}

#[test]
fn fields_that_do_not_read_are_named() {
    refuses_row("x,7,2,2001-01-02,PRIJEM,,5.00,,,,,", ", column `trans_id`: \"x\" is not a whole number");
    refuses_row(
        ",7,2,2001-01-02,PRIJEM,,5.00,,,,,",
        ", column `trans_id`: the empty text is not a whole number",
    );
    refuses_row("2,-7,2,2001-01-02,PRIJEM,,5.00,,,,,", ", column `account_id`: \"-7\" is not a whole number");
    refuses_row(
        "2,4294967296,2,2001-01-02,PRIJEM,,5.00,,,,,",
        ", column `account_id`: \"4294967296\" is a number too large for its place",
    );
    refuses_row(
        "2,7,two,2001-01-02,PRIJEM,,5.00,,,,,",
        ", column `posting_seq`: \"two\" is not a whole number",
    );
    refuses_row(
        "2,7,2,2001-02-30,PRIJEM,,5.00,,,,,",
        ", column `date`: \"2001-02-30\" is not a day of the calendar",
    );
    refuses_row(
        "2,7,2,02.01.2001,PRIJEM,,5.00,,,,,",
        ", column `date`: \"02.01.2001\" is not a date such as 1993-01-31",
    );
    refuses_row(
        "2,7,2,2001-01-02,prijem,,5.00,,,,,",
        ", column `type`: \"prijem\" is none of the codes PRIJEM, VYDAJ, VYBER",
    );
    refuses_row(
        "2,7,2,2001-01-02,PRIJEM,,5.00,1e3,,,,",
        ", column `balance`: \"1e3\" is not a decimal number such as 1234.50",
    );
}

#[test]
fn amounts_that_do_not_read_are_named() {
    let refuses = |amount: &str, reason: &str| {
        refuses_row(
            &format!("2,7,2,2001-01-02,PRIJEM,,{amount},,,,,"),
            &format!(", column `amount`: {reason}"),
        );
    };
    refuses("5.0.0", "\"5.0.0\" is not a decimal number such as 1234.50");
    refuses("5.005", "\"5.005\" is an amount with more than two decimals");
    refuses("", "the empty text is not a decimal number such as 1234.50");
    refuses("0.00", "\"0.00\" is not above zero: the sign of a posting follows from its type");
    refuses("-5.00", "\"-5.00\" is not above zero: the sign of a posting follows from its type");
    refuses("1000000000000.01", "\"1000000000000.01\" is more than 1000000000000.00");
}

#[test]
fn rows_of_another_width_are_named() {
    refuses_row(
        "2,7,2,2001-01-02,PRIJEM",
        ", column `operation`: the row ends before it: it has 5 of 12 fields",
    );
    refuses_row(
        "2,7,2,2001-01-02,PRIJEM,,5.00,,,,",
        ", column `source_row`: the row ends before it: it has 11 of 12 fields",
    );
    refuses_row(
        "2,7,2,2001-01-02,PRIJEM,,5.00,,,,,,",
        ", column `number 13`: the row has 13 fields, the header row names 12",
    );
    refuses_row("2,7,2,2001-01-02,PRIJEM,\"VKLAD,5.00,,,,,", ": a quote is left open");
    refuses_row(&",".repeat(100), ": far too many fields");
    refuses_row(&"x".repeat(70_000), ": longer than 65536 bytes");
}

#[test]
fn a_posting_stands_in_a_file_once() {
    refuses_row(&good(1), ", column `trans_id`: posting 1 stands on line 2 already");
}

#[test]
fn lines_are_counted_as_an_editor_does() {
    let file = format!("{}\r\n\r\n{}\r\n\n\nx\r\n", header(), good(1));
    refuses_file(
        file,
        1,
        "f.csv, line 6, column `account_id`: the row ends before it: it has 1 of 12 fields",
    );
}

#[test]
fn headers_that_do_not_fit_are_named() {
    refuses_file("", 0, "f.csv, line 1: the file is empty: it has no header row");
    refuses_file("\n\n", 0, "f.csv, line 3: the file is empty: it has no header row");
    refuses_file(
        "trans_id,account,date,type,amount\n",
        0,
        "f.csv, line 1, column `account_id`: the header row has no such column, only: trans_id, account, date, type, amount",
    );
    refuses_file(
        "trans_id;account_id;date;type;amount\n",
        0,
        "f.csv, line 1, column `trans_id`: the header row has no such column, only: trans_id;account_id;date;type;amount",
    );
    refuses_file(
        "trans_id,account_id,date,type,amount,type\n",
        0,
        "f.csv, line 1, column `type`: the header row names it twice",
    );
    refuses_file(b"trans_id,\xff\n", 0, "f.csv, line 1, column `number 2`: not UTF-8");
}

#[test]
fn bytes_that_are_no_text_are_named() {
    let mut file = format!("{}\n{}\n2,7,2,2001-01-02,PRIJEM,", header(), good(1)).into_bytes();
    file.extend_from_slice(b"p\xf8evod,5.00,,,,,\n");
    refuses_file(file, 1, "f.csv, line 3, column `operation`: not UTF-8");
}

#[test]
fn gzip_that_breaks_off_keeps_what_came_before() {
    // Stored, not compressed, so that the cut is known to lie behind the first rows.
    let mut out = GzEncoder::new(Vec::new(), Compression::none());
    let _ = out.write_all(SAMPLE);
    let whole = out.finish().unwrap_or_default();
    let cut = whole.len() - 400;
    let (good, fault) = read(&whole[..cut]);
    let fault = fault.unwrap_or_default();
    assert!(good > 20, "{good} postings were read");
    assert_eq!(fault, format!("f.csv, line {}: the gzip data breaks off here", good + 2));

    refuses_file(&whole[..5], 0, "f.csv, line 1: the gzip data breaks off here");
}

#[test]
fn gzip_that_is_damaged_is_told() {
    let mut file = gzip(SAMPLE);
    let check_sum = file.len() - 8;
    file[check_sum] ^= 0xff;
    let (good, fault) = read(file);
    let fault = fault.unwrap_or_default();
    assert_eq!(good, 41, "the check sum stands at the end");
    assert!(fault.starts_with("f.csv, line 43: the file cannot be read: "), "{fault}");
}
