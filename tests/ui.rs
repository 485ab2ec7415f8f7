//! What the compiler says to each mistake, and what it must accept.
//!
//! After a change of a message, run `TRYBUILD=overwrite cargo test --test ui` and read the
//! difference as a user would.

#[test]
fn messages() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/ui/pass/*.rs");
    cases.compile_fail("tests/ui/event/*.rs");
    cases.compile_fail("tests/ui/command/*.rs");
    cases.compile_fail("tests/ui/aggregate/*.rs");
    cases.compile_fail("tests/ui/projection/*.rs");
}
