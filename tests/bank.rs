//! The example `bank`: its rules, its reading of files, its figures, and the program as a whole.
#![allow(dead_code, unreachable_pub, reason = "the example's modules, as they stand there")]

#[rustfmt::skip]
#[path = "../examples/bank/domain.rs"]
mod domain;
#[path = "../examples/bank/import.rs"]
mod import;
#[path = "../examples/bank/postings.rs"]
mod postings;
#[path = "../examples/bank/reports.rs"]
mod reports;
#[path = "../examples/bank/values.rs"]
mod values;

#[path = "bank/figures.rs"]
mod figures;
#[path = "bank/files.rs"]
mod files;
#[path = "bank/program.rs"]
mod program;
#[path = "bank/rules.rs"]
mod rules;
#[path = "bank/texts.rs"]
mod texts;
