//! Numbers as a reader wants them: three digits that count.

/// With commas between thousands.
pub fn number(value: f64) -> String {
    let rounded = three_digits(value);
    if rounded >= 100.0 || rounded == 0.0 {
        return thousands(rounded as u64);
    }
    let digits = if rounded >= 10.0 { 1 } else { 2 };
    format!("{rounded:.digits$}")
}

pub fn thousands(value: u64) -> String {
    let digits = value.to_string();
    let mut words = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            words.push(',');
        }
        words.push(digit);
    }
    words
}

/// A time from microseconds.
pub fn micros(value: f64) -> String {
    match value {
        ..1.0 => format!("{:.0} ns", value * 1e3),
        ..1e3 => format!("{} µs", number(value)),
        ..1e6 => format!("{} ms", number(value / 1e3)),
        _ => format!("{} s", number(value / 1e6)),
    }
}

fn three_digits(value: f64) -> f64 {
    if value < 1.0 {
        return value;
    }
    let scale = 10_f64.powf(value.log10().floor() - 2.0);
    (value / scale).round() * scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_count() {
        let numbers = [0.0, 0.123, 1.0, 1.234, 12.34, 123.4, 1_234.0, 1_234_567.0, 999_999.0];
        let words = ["0", "0.12", "1.00", "1.23", "12.3", "123", "1,230", "1,230,000", "1,000,000"];
        assert_eq!(numbers.map(number), words);
        assert_eq!([0.5, 12.0, 2_345.0, 3e6].map(micros), ["500 ns", "12.0 µs", "2.35 ms", "3.00 s"]);
    }
}
