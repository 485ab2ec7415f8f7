//! Given-when-then tests for domains written with `cqrs`.
//!
//! ```ignore
//! use cqrs_testkit::prelude::*;
//! ```
#![forbid(unsafe_code)]

pub mod aggregate;
pub mod faults;
pub mod fixed;
pub mod history;
pub mod projection;

mod id;
mod report;
mod step;
mod stored;
mod verdict;

pub use verdict::Verdict;

/// All that a test file needs beside the domain itself.
pub mod prelude {
    pub use crate::aggregate::AggregateTest as _;
    pub use crate::fixed::nth_id;
    pub use crate::history::{AggregateHistory as _, History};
    pub use crate::projection::ProjectionTest as _;
}
