//! What the compiler says to each mistake, and what it must accept.
//!
//! After a change of a message, run `TRYBUILD=overwrite cargo test --test ui` and read the
//! difference as a user would.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

const TOPICS: [&str; 4] = ["event", "command", "aggregate", "projection"];

/// Where more than one error is right, or not for us to say.
const MORE: [(&str, usize); 13] = [
    ("event/three_mistakes", 3),
    ("command/three_mistakes", 3),
    ("aggregate/three_mistakes", 3),
    ("projection/three_mistakes", 3),
    ("event/arguments_without_values", 4),
    ("aggregate/arguments_without_values", 2),
    // The compiler repeats a missing trait at each type that needs it.
    ("aggregate/id_is_not_an_id", 3),
    ("command/id_without_display", 2),
    ("projection/sql_on_what_is_no_database", 3),
    ("command/nobody_handles_but_executed", 2),
    // `serde` reports what the compiler has reported.
    ("event/half_typed_field", 2),
    // The compiler reports it for the call, and for what the call returns.
    ("projection/get_of_an_aggregate", 2),
    ("projection/list_of_a_projection_with_sql", 2),
];

#[test]
fn messages() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/ui/pass/*.rs");
    for topic in TOPICS {
        cases.compile_fail(format!("tests/ui/{topic}/*.rs"));
    }
}

#[test]
fn one_mistake_shows_one_error() {
    for topic in TOPICS {
        for entry in fs::read_dir(Path::new("tests/ui").join(topic)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "stderr") {
                continue;
            }
            let case = format!("{topic}/{}", path.file_stem().unwrap().display());
            let expected = MORE.iter().find(|(name, _)| *name == case).map_or(1, |(_, count)| *count);
            let text = fs::read_to_string(&path).unwrap();
            let starts = |word: &str| text.lines().filter(|line| line.starts_with(word)).count();
            assert_eq!((starts("error"), starts("warning")), (expected, 0), "errors and warnings of {case}");
        }
    }
}
