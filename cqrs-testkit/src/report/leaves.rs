//! Stored values as lists of leaves, for comparison and output.

use std::fmt;

use serde_json::Value;

/// The path of a leaf, such as `address.lines[0]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Path(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Field(String),
    Item(usize),
    /// Bytes that are not JSON, by their offset.
    Bytes(usize),
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, part) in self.0.iter().enumerate() {
            match part {
                Part::Field(name) if at == 0 => f.write_str(name)?,
                Part::Field(name) => write!(f, ".{name}")?,
                Part::Item(index) => write!(f, "[{index}]")?,
                Part::Bytes(offset) => write!(f, "{offset:04x}")?,
            }
        }
        Ok(())
    }
}

impl Path {
    fn with(&self, part: Part) -> Self {
        let mut parts = self.0.clone();
        parts.push(part);
        Self(parts)
    }

    /// Describes the path: ``field `owner` ``.
    pub(crate) fn describe(&self) -> String {
        match self.0.first() {
            None => "its value".to_owned(),
            Some(Part::Bytes(_)) => format!("the bytes from offset {self}"),
            Some(_) => format!("field `{self}`"),
        }
    }

    /// Puts the path before a value. Without a path, returns the value alone.
    pub(crate) fn before(&self, text: &str) -> String {
        if self.0.is_empty() { text.to_owned() } else { format!("{self}: {text}") }
    }
}

/// A scalar or empty value, and its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leaf {
    pub(crate) path: Path,
    pub(crate) text: String,
}

/// All leaves of a value, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leaves(pub(crate) Vec<Leaf>);

impl Leaves {
    /// Returns the leaves of JSON, or rows of bytes for anything else.
    pub(crate) fn of_bytes(bytes: &[u8]) -> Self {
        match serde_json::from_slice(bytes) {
            Ok(json) => Self::of_json(&json),
            Err(_) => Self(bytes.chunks(BYTES).enumerate().map(dump).collect()),
        }
    }

    /// Returns the leaves of JSON. A payload without content (`null`, `{}`) has none.
    pub(crate) fn of_json(json: &Value) -> Self {
        let mut leaves = Vec::new();
        let empty = json.is_null() || json.as_object().is_some_and(serde_json::Map::is_empty);
        if !empty {
            collect(json, &Path(Vec::new()), &mut leaves);
        }
        Self(leaves)
    }

    /// Returns whether both contain the same values, in any order and at any path.
    pub(crate) fn same_values(&self, other: &Self) -> bool {
        let sorted = |leaves: &Self| {
            let mut texts: Vec<String> = leaves.0.iter().map(|leaf| leaf.text.clone()).collect();
            texts.sort_unstable();
            texts
        };
        sorted(self) == sorted(other)
    }

    /// Returns the value on one line: ` { cents: 5 }`, or an empty string if it has no content.
    pub(crate) fn inline(&self, limit: usize) -> String {
        if self.0.is_empty() {
            return String::new();
        }
        let leaves: Vec<String> =
            self.0.iter().map(|leaf| leaf.path.before(&clip(&leaf.text, limit))).collect();
        format!(" {{ {} }}", clip(&leaves.join(", "), limit))
    }
}

/// Number of bytes in a row.
const BYTES: usize = 8;

fn dump((row, bytes): (usize, &[u8])) -> Leaf {
    let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Leaf { path: Path(vec![Part::Bytes(row * BYTES)]), text: hex.join(" ") }
}

fn collect(json: &Value, path: &Path, leaves: &mut Vec<Leaf>) {
    match json {
        Value::Object(fields) if !fields.is_empty() => {
            // Sort by name: with the feature `preserve_order` of `serde_json`, the order of a `HashMap` would change
            // from run to run.
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_unstable_by_key(|(name, _)| *name);
            for (name, value) in fields {
                collect(value, &path.with(Part::Field(name.clone())), leaves);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (index, value) in items.iter().enumerate() {
                collect(value, &path.with(Part::Item(index)), leaves);
            }
        }
        leaf => leaves.push(Leaf { path: path.clone(), text: leaf.to_string() }),
    }
}

/// The fields that a test excludes from comparison.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ignored(Vec<Pattern>);

/// `name`, `outer.name` (at any depth), or `/outer/name` (from the top); `*` matches any one part.
#[derive(Clone, Debug)]
struct Pattern {
    text: String,
    from_top: bool,
    parts: Vec<String>,
}

impl Ignored {
    pub(crate) fn add(&mut self, text: &str) {
        let pattern = match text.strip_prefix('/') {
            Some(pointer) => Pattern {
                text: text.to_owned(),
                from_top: true,
                // The two escapes of a JSON pointer, in the order that RFC 6901 requires.
                parts: pointer.split('/').map(|part| part.replace("~1", "/").replace("~0", "~")).collect(),
            },
            None => Pattern {
                text: text.to_owned(),
                from_top: false,
                parts: text.split('.').map(str::to_owned).collect(),
            },
        };
        self.0.push(pattern);
    }

    pub(crate) fn covers(&self, path: &Path) -> bool {
        self.0.iter().any(|pattern| pattern.covers(path))
    }

    /// Returns the patterns that match no leaf. They are probably mistyped.
    pub(crate) fn unused<'a>(&'a self, leaves: &[&Leaves]) -> Vec<&'a str> {
        let matches = |pattern: &Pattern| {
            leaves.iter().flat_map(|leaves| &leaves.0).any(|leaf| pattern.covers(&leaf.path))
        };
        self.0.iter().filter(|pattern| !matches(pattern)).map(|pattern| pattern.text.as_str()).collect()
    }
}

impl Pattern {
    /// Returns whether it matches the leaf or a value that contains it. A pattern may omit the indices of items:
    /// `lines.price` matches the price of every line.
    fn covers(&self, path: &Path) -> bool {
        let all: Vec<String> = path.0.iter().map(Part::text).collect();
        let fields: Vec<String> =
            path.0.iter().filter(|part| matches!(part, Part::Field(_))).map(Part::text).collect();
        self.covers_parts(&all) || self.covers_parts(&fields)
    }

    fn covers_parts(&self, parts: &[String]) -> bool {
        let fits = |window: &[String]| {
            window.iter().zip(&self.parts).all(|(part, wanted)| wanted == "*" || part == wanted)
        };
        let mut windows = parts.windows(self.parts.len());
        if self.from_top { windows.next().is_some_and(fits) } else { windows.any(fits) }
    }
}

impl Part {
    fn text(&self) -> String {
        match self {
            Self::Field(name) => name.clone(),
            Self::Item(index) | Self::Bytes(index) => index.to_string(),
        }
    }
}

/// Cuts a text to at most `limit` characters.
pub(crate) fn clip(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_owned();
    }
    let head: String = text.chars().take(limit).collect();
    format!("{head}…")
}

/// Cuts two different texts to about `limit` characters around their first difference.
pub(crate) fn focus(left: &str, right: &str, limit: usize) -> (String, String) {
    let parting = left.chars().zip(right.chars()).take_while(|(l, r)| l == r).count();
    let start = parting.saturating_sub(limit / 2);
    let cut = |text: &str| {
        if text.chars().count() <= limit {
            return text.to_owned();
        }
        let rest: String = text.chars().skip(start).collect();
        format!("{}{}", if start > 0 { "…" } else { "" }, clip(&rest, limit))
    };
    (cut(left), cut(right))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(json: &str) -> Leaves {
        Leaves::of_bytes(json.as_bytes())
    }

    #[test]
    fn leaves_have_paths() {
        let all = leaves(r#"{"a":{"b":[1,{"c":null}],"d":{}},"e":"x"}"#);
        let shown: Vec<String> = all.0.iter().map(|leaf| leaf.path.before(&leaf.text)).collect();
        assert_eq!(shown, ["a.b[0]: 1", "a.b[1].c: null", "a.d: {}", "e: \"x\""]);
        assert_eq!(leaves("5").inline(20), " { 5 }");
        assert_eq!(leaves("null").inline(20), "");
        assert_eq!(Leaves::of_bytes(&[0xff, 0x00]).inline(20), " { 0000: ff 00 }");
    }

    #[track_caller]
    fn check_ignored(pattern: &str, expected: &[&str]) {
        let all = leaves(r#"{"at":1,"by":{"at":2,"id":3},"lines":[{"at":4,"a/b":5}]}"#);
        let mut ignored = Ignored::default();
        ignored.add(pattern);
        let met = all.0.iter().filter(|leaf| ignored.covers(&leaf.path));
        assert_eq!(met.map(|leaf| leaf.path.to_string()).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn ignores_by_name_path_and_pointer() {
        check_ignored("at", &["at", "by.at", "lines[0].at"]);
        check_ignored("/at", &["at"]);
        check_ignored("by", &["by.at", "by.id"]);
        check_ignored("by.at", &["by.at"]);
        check_ignored("lines.at", &["lines[0].at"]);
        check_ignored("/lines/0/at", &["lines[0].at"]);
        check_ignored("/lines/*/at", &["lines[0].at"]);
        check_ignored("/lines/0/a~1b", &["lines[0].a/b"]);
        check_ignored("aT", &[]);
        check_ignored("", &[]);
    }

    #[test]
    fn long_texts_are_cut_where_they_differ() {
        let (left, right) = focus(&format!("{}x", "a".repeat(50)), &format!("{}y", "a".repeat(50)), 8);
        assert_eq!((left.as_str(), right.as_str()), ("…aaaax", "…aaaay"));
        assert_eq!(focus("ab", "ac", 8), ("ab".to_owned(), "ac".to_owned()));
    }
}
