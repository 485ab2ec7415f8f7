//! Two columns side by side, readable without color.

use std::mem;

use super::align::{Pair, align};
use super::style::Style;

/// The result of comparing the two sides of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Both sides are equal.
    Same,
    /// Both sides exist and differ.
    Differs,
    /// Only the left side exists.
    Left,
    /// Only the right side exists.
    Right,
    /// It is not compared.
    Ignored,
}

impl Mark {
    fn sign(self) -> &'static str {
        match self {
            Self::Same => " ",
            Self::Differs => "≠",
            Self::Left => "-",
            Self::Right => "+",
            Self::Ignored => "~",
        }
    }
}

#[derive(Clone, Debug)]
struct Row {
    mark: Mark,
    left: String,
    right: String,
}

/// Rows under two headings.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    headings: [&'static str; 2],
    rows: Vec<Row>,
}

/// Maximum number of characters in a line of a cell.
const WIDTH: usize = 52;
/// A longer run of equal rows is shortened to its first and last rows.
const SAME_ROWS: usize = 12;
const SAME_ENDS: usize = 4;
/// Maximum number of rows.
const ROWS: usize = 120;

impl Table {
    pub(crate) fn new(left: &'static str, right: &'static str) -> Self {
        Self { headings: [left, right], rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, mark: Mark, left: impl Into<String>, right: impl Into<String>) {
        self.rows.push(Row { mark, left: left.into(), right: right.into() });
    }

    /// Adds two unrelated lists of lines.
    pub(crate) fn opposed(mut self, left: &[String], right: &[String]) -> Self {
        for at in 0..left.len().max(right.len()) {
            let cell = |side: &[String]| side.get(at).cloned().unwrap_or_default();
            self.row(Mark::Differs, cell(left), cell(right));
        }
        self
    }

    /// Adds two texts line by line. Equal lines share a row.
    pub(crate) fn lines(mut self, left: &[String], right: &[String]) -> Self {
        let (mut l, mut r) = (Vec::new(), Vec::new());
        for pair in align(left.len(), right.len(), &|i, j| left[i] == right[j]) {
            match pair {
                Pair::Left(i) => l.push(left[i].clone()),
                Pair::Right(j) => r.push(right[j].clone()),
                Pair::Both(i, j) => {
                    self = self.opposed(&mem::take(&mut l), &mem::take(&mut r));
                    self.row(Mark::Same, left[i].clone(), right[j].clone());
                }
            }
        }
        self.opposed(&l, &r)
    }

    pub(crate) fn write(&self, text: &mut String, style: Style) {
        let rows = shortened(&self.rows);
        let longest = rows.iter().map(|row| row.left.chars().count()).max().unwrap_or(0);
        let width = longest.max(self.headings[0].len()).min(WIDTH);
        let [left, right] = self.headings;
        super::push_line(text, &format!("    {}  {right}", padded(left, width)));
        for row in &rows {
            row.write(text, width, style);
        }
    }
}

impl Row {
    fn write(&self, text: &mut String, width: usize, style: Style) {
        let (left, right) = (broken(&self.left, width), broken(&self.right, WIDTH));
        for at in 0..left.len().max(right.len()) {
            let cell = |side: &[String]| side.get(at).cloned().unwrap_or_default();
            let sign = if at == 0 { self.mark.sign() } else { " " };
            let (left, right) = self.paint(&padded(&cell(&left), width), &cell(&right), style);
            super::push_line(text, &format!("  {sign} {left}  {right}"));
        }
    }

    fn paint(&self, left: &str, right: &str, style: Style) -> (String, String) {
        match self.mark {
            Mark::Same => (left.to_owned(), right.to_owned()),
            Mark::Ignored => (style.faint(left), style.faint(right)),
            Mark::Differs | Mark::Left | Mark::Right => (style.expected(left), style.actual(right)),
        }
    }
}

/// Pads to a width in characters, which most terminals show as columns.
fn padded(text: &str, width: usize) -> String {
    let missing = width.saturating_sub(text.chars().count());
    format!("{text}{}", " ".repeat(missing))
}

/// Breaks a long text into lines. Lines after the first are indented by two more characters.
fn broken(text: &str, width: usize) -> Vec<String> {
    let all: Vec<char> = text.chars().collect();
    if all.len() <= width {
        return vec![text.to_owned()];
    }
    let inset = all.iter().take_while(|char| **char == ' ').count() + 2;
    let (first, rest) = all.split_at(width);
    let mut lines = vec![first.iter().collect()];
    for chunk in rest.chunks(width.saturating_sub(inset).max(1)) {
        lines.push(" ".repeat(inset) + &chunk.iter().collect::<String>());
    }
    lines
}

fn shortened(rows: &[Row]) -> Vec<Row> {
    let mut short: Vec<Row> = Vec::new();
    for run in rows.chunk_by(|one, next| one.mark == Mark::Same && next.mark == Mark::Same) {
        if run.len() <= SAME_ROWS {
            short.extend_from_slice(run);
            continue;
        }
        let left_out = format!("… {} equal lines …", run.len() - 2 * SAME_ENDS);
        short.extend_from_slice(&run[..SAME_ENDS]);
        short.push(Row { mark: Mark::Same, left: left_out, right: String::new() });
        short.extend_from_slice(&run[run.len() - SAME_ENDS..]);
    }
    if short.len() > ROWS {
        let left_out = format!("… {} more lines …", short.len() - ROWS);
        short.truncate(ROWS);
        short.push(Row { mark: Mark::Same, left: left_out, right: String::new() });
    }
    short
}
