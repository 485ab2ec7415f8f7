//! The output of a failing test: a title, the steps so far, expected and actual side by side, and the likely cause.

pub(crate) mod align;
pub(crate) mod compare;
pub(crate) mod leaves;
pub(crate) mod style;
pub(crate) mod table;

use std::fmt::Write as _;
use std::panic::Location;

use style::Style;
use table::Table;

/// The reason why a test fails. Checks return it. The public method that the test called raises it, so that the panic
/// points to the line of the test.
#[derive(Clone, Debug)]
pub(crate) struct Failure(Box<Parts>);

#[derive(Clone, Debug, Default)]
struct Parts {
    title: String,
    story: Vec<Chapter>,
    table: Option<Table>,
    causes: Vec<String>,
    notes: Vec<String>,
}

/// The result of a check.
pub(crate) type Checked = Result<(), Failure>;

/// One part of the story: `given` or `when`, with its lines.
#[derive(Clone, Debug)]
pub(crate) struct Chapter {
    pub(crate) label: &'static str,
    pub(crate) lines: Vec<String>,
}

/// Maximum number of lines in a part of the story. Further lines in the middle are omitted.
const CHAPTER_LINES: usize = 12;

impl Failure {
    pub(crate) fn new(title: impl Into<String>) -> Self {
        Self(Box::new(Parts { title: title.into(), ..Parts::default() }))
    }

    pub(crate) fn story(mut self, story: Vec<Chapter>) -> Self {
        self.0.story = story;
        self
    }

    pub(crate) fn table(mut self, table: Table) -> Self {
        self.0.table = Some(table);
        self
    }

    pub(crate) fn cause(mut self, cause: impl Into<String>) -> Self {
        self.0.causes.push(cause.into());
        self
    }

    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.0.notes.push(note.into());
        self
    }

    pub(crate) fn notes(mut self, notes: impl IntoIterator<Item = String>) -> Self {
        self.0.notes.extend(notes);
        self
    }

    /// Adds the line of the setup, because the panic points to a later line.
    pub(crate) fn given_at(self, location: &Location<'_>) -> Self {
        self.note(format!("given at {}:{}", location.file(), location.line()))
    }

    /// Fails the test.
    #[track_caller]
    pub(crate) fn raise(&self) -> ! {
        fail_test(&self.0.render(Style::of_stderr()))
    }
}

impl Parts {
    fn render(&self, style: Style) -> String {
        let mut text = format!("{}\n", style.bold(&self.title));
        self.write_story(&mut text);
        if let Some(table) = &self.table {
            text.push('\n');
            table.write(&mut text, style);
        }
        if !self.causes.is_empty() || !self.notes.is_empty() {
            text.push('\n');
        }
        for cause in &self.causes {
            write_remark(&mut text, &style.bold("cause"), cause);
        }
        for note in &self.notes {
            write_remark(&mut text, "note", note);
        }
        text
    }

    fn write_story(&self, text: &mut String) {
        let width = self.story.iter().map(|chapter| chapter.label.len()).max().unwrap_or(0);
        if width > 0 {
            text.push('\n');
        }
        for Chapter { label, lines } in &self.story {
            for (at, line) in shortened(lines).iter().enumerate() {
                let label = if at == 0 { label } else { "" };
                push_line(text, &format!("  {label:<width$}  {line}"));
            }
        }
    }
}

/// Fails the test with this text, at the line that called the public method.
#[track_caller]
pub(crate) fn fail_test(text: &str) -> ! {
    #[expect(clippy::panic, reason = "a panic is how a test fails")]
    {
        panic!("{text}")
    }
}

/// Writes `cause: …`, with further lines indented.
fn write_remark(text: &mut String, label: &str, remark: &str) {
    // Writing to a `String` does not fail.
    let _ = writeln!(text, "{label}: {}", remark.replace('\n', "\n       "));
}

fn push_line(text: &mut String, line: &str) {
    text.push_str(line.trim_end());
    text.push('\n');
}

fn shortened(lines: &[String]) -> Vec<String> {
    if lines.len() <= CHAPTER_LINES {
        return lines.to_vec();
    }
    let head = CHAPTER_LINES / 2;
    let left_out = lines.len() - 2 * head;
    let mut short = lines[..head].to_vec();
    short.push(format!("… {left_out} more …"));
    short.extend_from_slice(&lines[lines.len() - head..]);
    short
}

/// Formats a count with its noun: `1 event`, `3 events`.
pub(crate) fn count(n: usize, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

/// Spells out a small number.
pub(crate) fn number(n: usize) -> String {
    const WORDS: [&str; 10] = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];
    WORDS.get(n).map_or_else(|| n.to_string(), |word| (*word).to_owned())
}

/// Joins names: `a, b and c`.
pub(crate) fn listed<T: AsRef<str>>(names: &[T]) -> String {
    match names {
        [] => String::new(),
        [one] => one.as_ref().to_owned(),
        [first @ .., last] => {
            let first: Vec<&str> = first.iter().map(AsRef::as_ref).collect();
            format!("{} and {}", first.join(", "), last.as_ref())
        }
    }
}

/// Formats an error with all its causes on one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let _ = write!(text, ": {cause}");
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::table::Mark;
    use super::*;

    fn failure() -> Failure {
        let mut table = Table::new("expected", "actual");
        table.row(Mark::Same, "same", "same");
        table.row(Mark::Differs, "left", "right");
        table.row(Mark::Ignored, "", "ignored");
        let story = vec![Chapter { label: "given", lines: vec!["nothing".to_owned()] }];
        Failure::new("title").story(story).table(table).cause("one\ntwo").note("three")
    }

    #[test]
    fn color_only_adds() {
        let plain = failure().0.render(Style::plain());
        let colored = failure().0.render(Style::colored());
        assert!(!plain.contains('\u{1b}') && colored.contains("\u{1b}[32mleft"));
        let codes = ["\u{1b}[0m", "\u{1b}[1m", "\u{1b}[2m", "\u{1b}[31m", "\u{1b}[32m"];
        let stripped = codes.iter().fold(colored, |text, code| text.replace(code, ""));
        assert_eq!(stripped, plain);
    }

    #[test]
    fn counts_and_lists_read_well() {
        assert_eq!((count(1, "event").as_str(), count(2, "event").as_str()), ("1 event", "2 events"));
        assert_eq!((listed(&["a"]).as_str(), listed(&["a", "b", "c"]).as_str()), ("a", "a, b and c"));
        assert_eq!((number(2).as_str(), number(10).as_str()), ("two", "10"));
    }
}
