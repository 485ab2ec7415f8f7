//! Numbers of any size through a `serde_json::Value`, which holds 64-bit integers and floats.
//!
//! A step of `#[event(upcast(…))]` takes a `Value`. A number that a `Value` would round is in it as a text that
//! stands for it, and is put back as it was written when the steps are done. So a step can move it, rename its
//! field or leave it alone. A step that takes such a number apart or drops it is an error that names the number:
//! nothing is rounded, and nothing is lost without a word.

use std::collections::HashMap;

use serde_json::Value;
use uuid::Uuid;

use crate::codec::CodecError;
use crate::json::string_end;

/// The numbers of one payload that a `Value` does not hold as they are written.
pub(crate) struct Numbers {
    /// What all texts have in them that stand for a number.
    mark: String,
    /// Each with whether it was put back, by the text that stands for it, in quotes.
    replaced: HashMap<String, (String, bool)>,
    /// Numbers that keep their value in a `Value` and not their digits (`1.50`), by the digits that they have there.
    respelled: HashMap<String, String>,
}

/// Reads a payload, to be [closed](Numbers::close) after the steps.
pub(crate) fn open(payload: &[u8]) -> Result<(Value, Numbers), CodecError> {
    let text = std::str::from_utf8(payload).map_err(CodecError::new)?;
    let mut numbers = Numbers { mark: String::new(), replaced: HashMap::new(), respelled: HashMap::new() };
    // The ways in which one float is written here. A respelled one can be told from it only if that is its one way.
    let mut spellings: HashMap<String, (&str, bool)> = HashMap::new();
    let mut held = Vec::new();
    for number in Tokens::new(text).filter(|token| !token.is_string) {
        let digits = hold(number.text);
        if let Some(Held::Float(digits)) = &digits {
            let (spelled, unique) = spellings.entry(digits.clone()).or_insert((number.text, true));
            *unique &= *spelled == number.text;
        }
        held.extend(digits.map(|digits| (number, digits)));
    }
    let mut carried = String::new();
    let mut from = 0;
    for (number, held) in held {
        if let Held::Float(digits) = held {
            let unique = spellings.get(&digits).is_some_and(|(_, unique)| *unique);
            if digits == number.text {
                continue;
            }
            if unique {
                numbers.respelled.insert(digits, number.text.to_owned());
                continue;
            }
        }
        if numbers.mark.is_empty() {
            numbers.mark = Uuid::new_v4().to_string();
        }
        let stands = format!("\"number {} {}\"", numbers.replaced.len(), numbers.mark);
        carried.push_str(&text[from..number.start]);
        carried.push_str(&stands);
        from = number.start + number.text.len();
        numbers.replaced.insert(stands, (number.text.to_owned(), false));
    }
    carried.push_str(&text[from..]);
    Ok((serde_json::from_str(&carried).map_err(CodecError::new)?, numbers))
}

impl Numbers {
    /// Writes what the steps made of the payload, with every number as it was.
    pub(crate) fn close(mut self, value: &Value) -> Result<Vec<u8>, CodecError> {
        let text = value.to_string();
        if self.replaced.is_empty() && self.respelled.is_empty() {
            return Ok(text.into_bytes());
        }
        let mut closed = String::with_capacity(text.len());
        let mut from = 0;
        for token in Tokens::new(&text) {
            let end = token.start + token.text.len();
            let number = if token.is_string {
                let is_name = text[end..].starts_with(':');
                match self.replaced.get_mut(token.text).filter(|_| !is_name) {
                    Some((number, is_back)) => {
                        *is_back = true;
                        Some(&*number)
                    }
                    None => None,
                }
            } else {
                self.respelled.get(token.text)
            };
            if let Some(number) = number {
                closed.push_str(&text[from..token.start]);
                closed.push_str(number);
                from = end;
            }
        }
        closed.push_str(&text[from..]);
        // A part of another text, or the name of a field, is not a number any more.
        let changed = |stands: &str| closed.contains(stands.trim_matches('"'));
        let lost = self.replaced.iter().find(|(_, (_, is_back))| !is_back);
        let lost = lost.or_else(|| {
            let any = !self.mark.is_empty() && closed.contains(&self.mark);
            self.replaced.iter().find(|(stands, _)| any && changed(stands))
        });
        match lost {
            None => Ok(closed.into_bytes()),
            Some((_, (number, _))) => Err(CodecError::new(format!(
                "an `upcast` function drops or changes the number {number}, which a `serde_json::Value` cannot hold; use `upcast_bytes` instead"
            ))),
        }
    }
}

/// How a `Value` holds a number that is not a 64-bit integer.
enum Held {
    /// As a float of the same value, in these digits.
    Float(String),
    Not,
}

/// `None` for what needs no care.
fn hold(number: &str) -> Option<Held> {
    if number.parse::<u64>().is_ok() || (number.parse::<i64>().is_ok() && number != "-0") {
        return None;
    }
    // Not through a `Value` of this build, which may be one of `arbitrary_precision`.
    let float = number.parse::<f64>().ok()?;
    let digits = serde_json::to_string(&float).ok()?;
    let same = digits == number || decimal(&digits).is_some_and(|value| decimal(number) == Some(value));
    Some(if same { Held::Float(digits) } else { Held::Not })
}

/// The value of a number: whether it is negative, its digits without zeros at either end, and the power of ten.
fn decimal(number: &str) -> Option<(bool, String, i64)> {
    let (negative, number) = match number.strip_prefix('-') {
        Some(number) => (true, number),
        None => (false, number),
    };
    let (digits, exponent) = match number.split_once(['e', 'E']) {
        Some((digits, exponent)) => (digits, exponent.parse::<i64>().ok()?),
        None => (number, 0),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all = format!("{whole}{fraction}");
    let significant = all.trim_end_matches('0');
    let power = exponent
        .checked_sub(i64::try_from(fraction.len()).ok()?)?
        .checked_add(i64::try_from(all.len() - significant.len()).ok()?)?;
    let significant = significant.trim_start_matches('0');
    let power = if significant.is_empty() { 0 } else { power };
    Some((negative, significant.to_owned(), power))
}

/// The numbers and texts in a JSON text.
struct Tokens<'t> {
    text: &'t str,
    at: usize,
}

/// A number, or a text with its quotes.
#[derive(Clone, Copy)]
struct Token<'t> {
    is_string: bool,
    start: usize,
    text: &'t str,
}

impl<'t> Tokens<'t> {
    fn new(text: &'t str) -> Self {
        Self { text, at: 0 }
    }
}

impl<'t> Iterator for Tokens<'t> {
    type Item = Token<'t>;

    fn next(&mut self) -> Option<Token<'t>> {
        let text = self.text.as_bytes();
        let starts = |byte: &u8| matches!(byte, b'"' | b'-' | b'0'..=b'9');
        let start = self.at + text.get(self.at..)?.iter().position(starts)?;
        let is_string = text[start] == b'"';
        let end = if is_string {
            (string_end(text, start + 1) + 1).min(text.len())
        } else {
            let ends = |byte: &u8| !matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9');
            text[start..].iter().position(ends).map_or(text.len(), |length| start + length)
        };
        self.at = end;
        Some(Token { is_string, start, text: self.text.get(start..end)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(payload: &str, step: fn(Value) -> Value) -> Result<String, String> {
        let (value, numbers) = open(payload.as_bytes()).map_err(|error| error.to_string())?;
        let bytes = numbers.close(&step(value)).map_err(|error| error.to_string())?;
        String::from_utf8(bytes).map_err(|error| error.to_string())
    }

    #[test]
    fn every_number_comes_through_as_it_was_written() {
        for number in [
            "0",
            "-0",
            "7",
            "-7",
            "0.1",
            "1.50",
            "1e2",
            "-0.0",
            "1E+2",
            "100000000000000000001",
            "340282366920938463463374607431768211455",
            "-170141183460469231731687303715884105728",
            "18446744073709551615",
            "18446744073709551616",
            "-9223372036854775809",
            "0.30000000000000000001",
            "1e400",
            "1e-400",
            "123456789.123456789123456789",
            "0.10",
            "0.00",
        ] {
            for payload in [
                format!(r#"{{"a":{number}}}"#),
                format!(r#"[{number},{number},"{number}"]"#),
                format!(r#"[1.5,{number},2,100.0,"-0.0"]"#),
                number.to_owned(),
            ] {
                assert_eq!(through(&payload, |value| value), Ok(payload.clone()));
            }
        }
    }

    #[test]
    fn a_number_can_be_moved_and_computed_with() {
        let moved = |mut value: Value| {
            let wei = value["wei"].take();
            serde_json::json!({ "amount": [wei], "half": value["rate"].as_f64().map(|rate| rate / 2.0) })
        };
        let big = r#"{"rate":1.50,"wei":100000000000000000001}"#;
        let became = through(big, moved).unwrap_or_else(|error| error);
        assert_eq!(became, r#"{"amount":[100000000000000000001],"half":0.75}"#);
    }

    #[test]
    fn a_number_that_is_lost_or_changed_is_named() {
        let steps: [fn(Value) -> Value; 4] = [
            |_| Value::Null,
            |value| serde_json::json!({ "cents": value["wei"].as_u64().unwrap_or_default() }),
            |value| serde_json::json!({ "text": format!("{} wei", value["wei"]) }),
            |value| {
                let name = value["wei"].as_str().unwrap_or_default();
                serde_json::json!({ name: 1 })
            },
        ];
        for step in steps {
            let error = through(r#"{"wei":100000000000000000001}"#, step).err().unwrap_or_default();
            assert!(error.contains("the number 100000000000000000001"), "{error}");
            assert!(error.contains("`upcast_bytes`"), "{error}");
        }
    }

    #[test]
    fn what_is_no_json_is_an_error() {
        for text in ["", "{", "-", "1.2.3", "\"", "{\"a\":1e}", "[1e999999999999999999999,]"] {
            assert!(through(text, |value| value).is_err(), "{text}");
        }
        assert!(open(b"\xff").is_err());
    }
}
