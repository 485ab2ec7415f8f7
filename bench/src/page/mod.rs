//! The page that shows the results of a run.

use std::path::Path;

use crate::results::Results;

pub fn publish(_: Option<&Path>) -> anyhow::Result<()> {
    Ok(())
}

pub fn console(results: &Results) -> String {
    let mut text = String::new();
    for figure in &results.figures {
        text += &format!(
            "{:<28} {:<12} {:<22} {} {:>12.3?} {:?}\n",
            figure.contender,
            format!("{:?}", figure.measure),
            figure.case,
            figure.durable,
            figure.median(),
            figure.fault
        );
    }
    text
}
