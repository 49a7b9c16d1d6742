//! nginx's value syntaxes: flags, numbers, sizes and times.

use std::time::Duration;

use super::tree::Word;

/// `on` or `off`.
pub fn flag(word: &Word) -> Option<bool> {
    if word.bytes().eq_ignore_ascii_case(b"on") {
        Some(true)
    } else if word.bytes().eq_ignore_ascii_case(b"off") {
        Some(false)
    } else {
        None
    }
}

/// A decimal number without a sign, as large as a signed word of the machine holds: nginx keeps them so.
pub fn number(word: &Word) -> Option<u64> {
    number_in(word.bytes())
}

fn number_in(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    let number = if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse::<i64>().ok()? } else { return None };
    u64::try_from(number).ok()
}

/// A size in bytes that memory can have: `512`, `8k`, `1m`. nginx: `g` is no unit of these.
pub fn size(word: &Word) -> Option<u64> {
    size_in(word.bytes())
}

/// The same of a text that is no word of a configuration: what a variable gives.
pub fn size_in(text: &[u8]) -> Option<u64> {
    match text.split_last()? {
        (b'g' | b'G', _) => None,
        _ => offset_in(text),
    }
}

/// A size in bytes that a file can have: `512`, `8k`, `1m`, `2g`.
pub fn offset(word: &Word) -> Option<u64> {
    offset_in(word.bytes())
}

fn offset_in(text: &[u8]) -> Option<u64> {
    let (digits, factor) = match text.split_last()? {
        (b'k' | b'K', digits) => (digits, 1 << 10),
        (b'm' | b'M', digits) => (digits, 1 << 20),
        (b'g' | b'G', digits) => (digits, 1 << 30),
        _ => (text, 1),
    };
    let bytes = number_in(digits)?.checked_mul(factor)?;
    i64::try_from(bytes).is_ok().then_some(bytes)
}

/// A time to the millisecond: `30` (seconds), `500ms`, `1h 30m` (as one word), `1d12h`; units must go from large to
/// small. nginx: the largest is the week.
pub fn time(word: &Word) -> Option<Duration> {
    const UNITS: [(&[u8], u64); 6] =
        [(b"w", 604_800_000), (b"d", 86_400_000), (b"h", 3_600_000), (b"m", 60_000), (b"s", 1_000), (b"ms", 1)];
    sum(word.bytes(), &UNITS, 1_000).map(Duration::from_millis)
}

/// A time in whole seconds: as [`time`], with years and months (`M`) and without milliseconds.
pub fn seconds(word: &Word) -> Option<u64> {
    const UNITS: [(&[u8], u64); 7] =
        [(b"y", 31_536_000), (b"M", 2_592_000), (b"w", 604_800), (b"d", 86_400), (b"h", 3_600), (b"m", 60), (b"s", 1)];
    sum(word.bytes(), &UNITS, 1)
}

/// The sum of a time's parts. What has no unit is seconds: in front of a blank, where minutes or larger units went
/// before, and at the end wherever that is.
fn sum(text: &[u8], units: &[(&[u8], u64)], second: u64) -> Option<u64> {
    let seconds = units.iter().position(|(name, _)| *name == b"s")?;
    // The first of the units that may still come.
    let mut next = 0;
    let (mut total, mut any) = (0_u64, false);
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (value, tail) = rest.split_at_checked(digits)?;
        any |= digits > 0;
        // nginx: a unit without a number counts nothing, if there is a number elsewhere.
        let value = if digits == 0 { 0 } else { std::str::from_utf8(value).ok()?.parse::<u64>().ok()? };
        let unit = if tail.starts_with(b"ms") { 2 } else { tail.len().min(1) };
        let (unit, tail) = tail.split_at_checked(unit)?;
        let scale = match unit {
            b"" => second,
            b" " if next <= seconds => {
                next = units.len();
                second
            }
            _ => {
                let index = units.iter().position(|(name, _)| *name == unit).filter(|index| *index >= next)?;
                next = index + 1;
                units.get(index)?.1
            }
        };
        total = total.checked_add(value.checked_mul(scale)?)?;
        rest = tail.trim_ascii_start();
    }
    (any && i64::try_from(total).is_ok()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conf::Place;

    fn word(text: &str) -> Word {
        Word::new(text.as_bytes(), Place { file: "f".into(), line: 1, column: 1 })
    }

    #[test]
    fn numbers() {
        for (text, expected) in [
            ("0", Some(0)),
            ("007", Some(7)),
            ("9223372036854775807", Some(i64::MAX.unsigned_abs())),
            ("9223372036854775808", None),
            ("", None),
            ("-1", None),
            ("+1", None),
            ("0x10", None),
            ("1 ", None),
        ] {
            assert_eq!(number(&word(text)), expected, "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, expected, of_a_file) in [
            ("0", Some(0), Some(0)),
            ("10", Some(10), Some(10)),
            ("8k", Some(8192), Some(8192)),
            ("1M", Some(1 << 20), Some(1 << 20)),
            ("2g", None, Some(2 << 30)),
            ("", None, None),
            ("k", None, None),
            ("-1", None, None),
            ("1kb", None, None),
            ("99999999999999999999", None, None),
            ("9223372036854775807k", None, None),
            ("9223372036854775808", None, None),
        ] {
            assert_eq!(size(&word(text)), expected, "{text}");
            assert_eq!(offset(&word(text)), of_a_file, "{text}");
        }
    }

    #[test]
    fn times() {
        for (text, expected, in_seconds) in [
            ("30", Some(30_000), Some(30)),
            ("500ms", Some(500), None),
            ("1h30m", Some(5_400_000), Some(5400)),
            ("1h 30m", Some(5_400_000), Some(5400)),
            ("1m30", Some(90_000), Some(90)),
            ("1m 30", Some(90_000), Some(90)),
            ("1d", Some(86_400_000), Some(86_400)),
            ("1s10ms", Some(1010), None),
            ("0", Some(0), Some(0)),
            (" 1", Some(1000), Some(1)),
            ("1 ", Some(1000), Some(1)),
            ("1y", None, Some(31_536_000)),
            ("1y2M", None, Some(36_720_000)),
            ("1M1y", None, None),
            ("", None, None),
            (" ", None, None),
            ("s", None, None),
            ("30m1h", None, None),
            ("1s2s", None, None),
            ("1x", None, None),
            ("-1", None, None),
            ("99999999999999999999", None, None),
            ("1s1", Some(2000), Some(2)),
            ("1 1", Some(2000), Some(2)),
            ("1 1s", None, None),
            ("1hm", Some(3_600_000), Some(3600)),
            ("9223372036854775807", None, Some(i64::MAX.unsigned_abs())),
        ] {
            assert_eq!(time(&word(text)), expected.map(Duration::from_millis), "{text}");
            assert_eq!(seconds(&word(text)), in_seconds, "{text}");
        }
    }
}
