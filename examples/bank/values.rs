//! The vocabulary of the postings: account ids, money, days, and the kinds of a debit.
//!
//! Each value has one text, and is stored, printed and used as a key in that text alone.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::str::FromStr;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The number of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AccountId(pub u32);

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for AccountId {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        whole_number(text).map(Self)
    }
}

/// An exact amount of Czech crowns, written `1234.50`.
///
/// It counts hellers, and is wide enough that no sum of postings overflows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Czk(i128);

impl Czk {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// Whole crowns.
    pub const fn crowns(crowns: i64) -> Self {
        Self(crowns as i128 * 100)
    }

    /// The amount with its thousands set apart, for people: `1,234.50`.
    pub fn grouped(self) -> String {
        let plain = self.to_string();
        let (crowns, hellers) = plain.split_once('.').unwrap_or((&plain, "00"));
        let (sign, digits) = crowns.strip_prefix('-').map_or(("", crowns), |digits| ("-", digits));
        format!("{sign}{}.{hellers}", group(digits))
    }
}

/// Digits with a comma between thousands.
pub fn group(digits: &str) -> String {
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

impl fmt::Display for Czk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let hellers = self.0.unsigned_abs();
        f.pad(&format!("{sign}{}.{:02}", hellers / 100, hellers % 100))
    }
}

impl FromStr for Czk {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let (negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (crowns, hellers) = match digits.split_once('.') {
            Some((crowns, hellers)) => (crowns, hellers),
            None => (digits, "0"),
        };
        if !is_number(crowns) || !is_number(hellers) {
            return Err(Malformed::new(text, "not a decimal number such as 1234.50"));
        }
        if hellers.len() > 2 {
            return Err(Malformed::new(text, "an amount with more than two decimals"));
        }
        let tens = if hellers.len() == 1 { 10 } else { 1 };
        let exact = |crowns: i128, hellers: i128| crowns.checked_mul(100)?.checked_add(hellers * tens);
        match (crowns.parse(), hellers.parse()) {
            (Ok(crowns), Ok(hellers)) => exact(crowns, hellers),
            _ => None,
        }
        .map(|sum| Self(if negative { -sum } else { sum }))
        .ok_or_else(|| Malformed::new(text, "an amount too large to be counted"))
    }
}

impl Add for Czk {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl Sub for Czk {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self(self.0 - other.0)
    }
}

impl AddAssign for Czk {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl SubAssign for Czk {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl Sum for Czk {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::ZERO, Add::add)
    }
}

/// A day of the Gregorian calendar, written `1993-01-31`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day {
    month: Month,
    day: u16,
}

/// A month of a year, written `1993-01`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Month {
    year: u16,
    month: u16,
}

impl Day {
    /// The month it lies in.
    pub fn month(self) -> Month {
        self.month
    }
}

impl Month {
    fn days(self) -> u16 {
        let leap =
            self.year.is_multiple_of(4) && !self.year.is_multiple_of(100) || self.year.is_multiple_of(400);
        match self.month {
            2 if leap => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        }
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:02}", self.month, self.day)
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.year, self.month)
    }
}

impl FromStr for Day {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let parts = text.rsplit_once('-');
        match parts.and_then(|(month, day)| Some((month.parse::<Month>().ok()?, digits(day, 2)?))) {
            Some((month, day)) if (1..=month.days()).contains(&day) => Ok(Self { month, day }),
            Some(_) => Err(Malformed::new(text, "not a day of the calendar")),
            None => Err(Malformed::new(text, "not a date such as 1993-01-31")),
        }
    }
}

impl FromStr for Month {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let parts =
            text.split_once('-').and_then(|(year, month)| Some((digits(year, 4)?, digits(month, 2)?)));
        match parts {
            Some((year, month @ 1..=12)) => Ok(Self { year, month }),
            _ => Err(Malformed::new(text, "not a month such as 1993-01")),
        }
    }
}

/// A number of exactly so many digits.
fn digits(text: &str, count: usize) -> Option<u16> {
    (text.len() == count && is_number(text)).then(|| text.parse().ok())?
}

/// The bank's codes for what lowers a balance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Debit {
    /// A payment.
    Vydaj,
    /// A withdrawal of cash.
    Vyber,
}

impl fmt::Display for Debit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vydaj => "VYDAJ",
            Self::Vyber => "VYBER",
        })
    }
}

/// A text that is not what its place asks for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} is {what}", excerpt(.text))]
pub struct Malformed {
    text: String,
    what: &'static str,
}

impl Malformed {
    /// `text` is `what`.
    pub fn new(text: &str, what: &'static str) -> Self {
        Self { text: text.to_owned(), what }
    }
}

/// A text in quotes, cut if it is long, with control characters escaped.
fn excerpt(text: &str) -> String {
    const LONGEST: usize = 40;
    if text.is_empty() {
        return "the empty text".to_owned();
    }
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// Digits alone: no sign, no blanks, no exponent, as `u64::from_str` would let through in part.
fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// A whole number without a sign.
pub fn whole_number<N: FromStr>(text: &str) -> Result<N, Malformed> {
    if !is_number(text) {
        return Err(Malformed::new(text, "not a whole number"));
    }
    text.parse().map_err(|_| Malformed::new(text, "a number too large for its place"))
}

/// In serde, a value is its text.
macro_rules! as_text {
    ($($value:ty: $expected:literal),*) => {$(
        impl Serialize for $value {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $value {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                struct Text;

                impl Visitor<'_> for Text {
                    type Value = $value;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expected)
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$value, E> {
                        text.parse().map_err(E::custom)
                    }
                }

                from.deserialize_str(Text)
            }
        }
    )*};
}

as_text!(Czk: "an amount such as \"1234.50\"", Day: "a date such as \"1993-01-31\"");
