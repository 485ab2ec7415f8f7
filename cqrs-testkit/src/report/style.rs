//! Colors for terminals.

use std::env;
use std::io::{IsTerminal as _, stderr};

/// Decides whether output is colored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    color: bool,
}

impl Style {
    /// Enables color if standard error is a terminal, unless `NO_COLOR` or `TERM=dumb` is set.
    pub(crate) fn of_stderr() -> Self {
        let refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { color: stderr().is_terminal() && !refused && !dumb }
    }

    #[cfg(test)]
    pub(crate) fn plain() -> Self {
        Self { color: false }
    }

    #[cfg(test)]
    pub(crate) fn colored() -> Self {
        Self { color: true }
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    pub(crate) fn expected(self, text: &str) -> String {
        self.paint("32", text)
    }

    pub(crate) fn actual(self, text: &str) -> String {
        self.paint("31", text)
    }

    pub(crate) fn faint(self, text: &str) -> String {
        self.paint("2", text)
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.color && !text.trim().is_empty() {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }
}
