//! Amounts and days: each has one text, and what is not exact is refused.

use std::fmt::Display;
use std::str::FromStr;

use crate::values::{Czk, Day, Malformed, Month};

#[track_caller]
fn reads<T: FromStr<Err = Malformed> + Display>(text: &str, printed: &str) {
    assert_eq!(text.parse::<T>().map(|value| value.to_string()).as_deref(), Ok(printed));
}

#[track_caller]
fn refuses<T: FromStr<Err = Malformed> + Display>(text: &str, reason: &str) {
    let read = text.parse::<T>().map(|value| value.to_string()).map_err(|error| error.to_string());
    assert_eq!(read.as_deref(), Err(&reason.to_owned()));
}

#[test]
fn amounts_are_exact() {
    for same in ["0.00", "0.01", "0.10", "900.00", "123456789012345678.99", "-0.05", "-12.30"] {
        reads::<Czk>(same, same);
    }
    reads::<Czk>("7", "7.00");
    reads::<Czk>("7.5", "7.50");
    reads::<Czk>("007.5", "7.50");
    reads::<Czk>("-0", "0.00");
}

#[test]
fn what_is_no_amount_is_refused() {
    for wrong in
        ["", "-", ".", "1.", ".5", "+1", " 1", "1 ", "1,5", "1e3", "0x1", "1.-5", "--1", "NaN", "1.2.3", "١"]
    {
        let shown = if wrong.is_empty() { "the empty text".to_owned() } else { format!("{wrong:?}") };
        refuses::<Czk>(wrong, &format!("{shown} is not a decimal number such as 1234.50"));
    }
    refuses::<Czk>("12.345", "\"12.345\" is an amount with more than two decimals");
    refuses::<Czk>("12.000", "\"12.000\" is an amount with more than two decimals");
    refuses::<Czk>(&"9".repeat(60), &format!("\"{}\"… is an amount too large to be counted", "9".repeat(40)));
}

#[test]
fn amounts_for_people_have_their_thousands_apart() {
    let shown = |text: &str| text.parse::<Czk>().map(Czk::grouped);
    for (text, grouped) in [
        ("0.05", "0.05"),
        ("999.00", "999.00"),
        ("1000.00", "1,000.00"),
        ("-1234567.89", "-1,234,567.89"),
        ("-123.00", "-123.00"),
    ] {
        assert_eq!(shown(text), Ok(grouped.to_owned()));
    }
}

#[test]
fn amounts_stay_exact_in_json() -> anyhow::Result<()> {
    let amount: Czk = serde_json::from_str("\"-0.07\"")?;
    assert_eq!(serde_json::to_string(&(amount + amount))?, "\"-0.14\"");
    assert!(serde_json::from_str::<Czk>("0.07").is_err(), "a binary number is not an amount");
    assert!(serde_json::from_str::<Czk>("\"0.070\"").is_err());
    Ok(())
}

#[test]
fn days_are_those_of_the_calendar() {
    for same in ["1993-01-01", "1993-12-31", "1996-02-29", "2000-02-29", "9999-12-31"] {
        reads::<Day>(same, same);
    }
    for missing in ["1993-02-29", "1900-02-29", "1993-04-31", "1993-01-00", "1993-01-32"] {
        refuses::<Day>(missing, &format!("{missing:?} is not a day of the calendar"));
    }
    for wrong in [
        "1993-1-1",
        "93-01-01",
        "19930101",
        "1993-13-01",
        "1993-00-10",
        "1993/01/01",
        "01-01-1993",
        "1993-01-01T00:00",
        "-993-01-01",
        "1993-01-+1",
    ] {
        refuses::<Day>(wrong, &format!("{wrong:?} is not a date such as 1993-01-31"));
    }
    reads::<Month>("1993-01", "1993-01");
    refuses::<Month>("1993-1", "\"1993-1\" is not a month such as 1993-01");
}
