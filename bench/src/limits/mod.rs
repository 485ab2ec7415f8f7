//! What is possible without a framework.

pub mod postgres;
pub mod sqlite;
