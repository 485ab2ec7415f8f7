//! What the README shows is what is compiled and run.

/// The README's program with its test, as they would stand in one file.
#[allow(
    clippy::panic,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a program as a newcomer writes it"
)]
#[allow(unreachable_pub, missing_debug_implementations, dead_code, reason = "its `main` is run elsewhere")]
#[allow(clippy::needless_pass_by_value, reason = "a handler owns its command")]
mod program {
    include!("readme/program.rs");
    include!("readme/test.rs");

    #[test]
    fn it_runs() -> Result<(), Box<dyn std::error::Error>> {
        main()
    }
}

#[track_caller]
fn is_quoted(file: &str, code: &str) {
    let readme = include_str!("../README.md");
    let quoted = readme.contains(&format!("\n{}\n```", code.trim()));
    assert!(
        quoted,
        "README.md does not quote {file} as it is: copy the whole file into its code block there"
    );
}

#[test]
fn the_program_is_quoted() {
    is_quoted("tests/readme/program.rs", include_str!("readme/program.rs"));
}

#[test]
fn the_test_is_quoted() {
    is_quoted("tests/readme/test.rs", include_str!("readme/test.rs"));
}

#[test]
fn the_domain_of_the_bank_is_quoted() {
    is_quoted("examples/bank/domain.rs", include_str!("../examples/bank/domain.rs"));
}
