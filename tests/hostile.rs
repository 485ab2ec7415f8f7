//! The macros in crates that are not kind to generated code.
//!
//! Each module is a small domain; that it compiles is most of the test.
#![deny(warnings, missing_docs, missing_debug_implementations, unused_qualifications, unreachable_pub)]
#![deny(
    rust_2018_idioms,
    single_use_lifetimes,
    unused_lifetimes,
    unused_results,
    unit_bindings,
    redundant_lifetimes
)]
#![deny(clippy::all, clippy::pedantic)]

#[path = "hostile/bare.rs"]
mod bare;
#[path = "hostile/captured.rs"]
#[allow(dead_code, unused_parens, reason = "that it compiles is the test")]
mod captured;
#[path = "hostile/deprecated.rs"]
mod deprecated;
#[path = "hostile/local.rs"]
mod local;
#[path = "hostile/raw.rs"]
mod raw;
#[path = "hostile/renamed.rs"]
mod renamed;
#[path = "hostile/shadowed.rs"]
mod shadowed;
#[path = "hostile/visible.rs"]
pub mod visible;
