//! Where a mistake is in a JSON text.

/// The path of the value at a place that `serde_json` reports (both from 1), such as `lines[2].price`; `None`
/// if that is the whole text, or the place is unknown.
pub(crate) fn path_at(text: &[u8], line: usize, column: usize) -> Option<String> {
    let end = place(text, line, column)?;
    let mut path: Vec<Level<'_>> = Vec::new();
    let mut at = 0;
    while at < end {
        match text[at] {
            b'{' => path.push(Level::Object { key: None, in_value: false }),
            b'[' => path.push(Level::Array(0)),
            b'}' | b']' => drop(path.pop()),
            b':' => {
                if let Some(Level::Object { in_value, .. }) = path.last_mut() {
                    *in_value = true;
                }
            }
            b',' => match path.last_mut() {
                Some(Level::Array(index)) => *index += 1,
                Some(object) => *object = Level::Object { key: None, in_value: false },
                None => {}
            },
            b'"' => {
                let text_end = string_end(text, at + 1);
                if let Some(Level::Object { key, in_value: false }) = path.last_mut() {
                    *key = text.get(at + 1..text_end);
                }
                at = text_end;
            }
            _ => {}
        }
        at += 1;
    }
    let mut words = String::new();
    for level in &path {
        match level {
            Level::Object { key: Some(key), .. } => {
                if !words.is_empty() {
                    words.push('.');
                }
                words.push_str(&String::from_utf8_lossy(key));
            }
            Level::Object { key: None, .. } => {}
            Level::Array(index) => words.push_str(&format!("[{index}]")),
        }
    }
    (!words.is_empty()).then_some(words)
}

enum Level<'t> {
    Object { key: Option<&'t [u8]>, in_value: bool },
    Array(usize),
}

/// How many bytes of the text lie before the place. `None` if there is no such place.
fn place(text: &[u8], line: usize, column: usize) -> Option<usize> {
    let mut start = 0;
    for _ in 1..line.max(1) {
        start += text[start..].iter().position(|byte| *byte == b'\n')? + 1;
    }
    let end = start + column;
    (line > 0 && end <= text.len()).then_some(end)
}

/// Where the string ends that begins here: the place of its last quote.
pub(crate) fn string_end(text: &[u8], from: usize) -> usize {
    let mut at = from;
    while at < text.len() && text[at] != b'"' {
        at += if text[at] == b'\\' { 2 } else { 1 };
    }
    at.min(text.len())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::de::DeserializeOwned;

    use super::path_at;

    fn path<T: DeserializeOwned>(text: &str) -> Option<String> {
        let error = serde_json::from_str::<T>(text).err()?;
        path_at(text.as_bytes(), error.line(), error.column())
    }

    #[test]
    fn an_error_is_traced_to_its_field() {
        type Lists = BTreeMap<String, Vec<u32>>;
        type Nested = BTreeMap<String, BTreeMap<String, u32>>;
        let some = |path: &str| Some(path.to_owned());
        assert_eq!(path::<Lists>(r#"{"a":[1],"b":[1,2,"x"]}"#), some("b[2]"));
        assert_eq!(path::<Lists>("{\"a\":[1],\n \"b\": [-1]}"), some("b[0]"));
        assert_eq!(path::<Nested>(r#"{"a":{"x":1,"y":[]},"b":{}}"#), some("a.y"));
        assert_eq!(path::<Nested>(r#"{"q\"{":{"x":null}}"#), some("q\\\"{.x"));
        assert_eq!(path::<(u32, String)>(r#"["a", "b"]"#), some("[0]"));
        assert_eq!(path::<u32>("true"), None);
    }

    #[test]
    fn no_text_and_no_place_is_out_of_bounds() {
        for text in ["", "{", "\"", "\"\\", "]]", "{\"a", ",", "\n"] {
            for line in 0..3 {
                for column in 0..5 {
                    let _ = path_at(text.as_bytes(), line, column);
                }
            }
        }
    }
}
