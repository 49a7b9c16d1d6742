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

/// A decimal number without a sign.
pub fn number(word: &Word) -> Option<u64> {
    let text = std::str::from_utf8(word.bytes()).ok()?;
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) { None } else { text.parse().ok() }
}

/// A size in bytes: `512`, `8k`, `1m`, `2g`.
pub fn size(word: &Word) -> Option<u64> {
    let (digits, factor) = match word.bytes().split_last()? {
        (b'k' | b'K', digits) => (digits, 1 << 10),
        (b'm' | b'M', digits) => (digits, 1 << 20),
        (b'g' | b'G', digits) => (digits, 1 << 30),
        _ => (word.bytes(), 1),
    };
    number(&Word::new(digits, word.at().clone()))?.checked_mul(factor)
}

/// A time: `30` (seconds), `500ms`, `1h 30m` (as one word), `1d12h`; units must go from large to small.
pub fn time(word: &Word) -> Option<Duration> {
    const UNITS: [(&[u8], u64); 8] = [
        (b"y", 31_536_000_000),
        (b"M", 2_592_000_000),
        (b"w", 604_800_000),
        (b"d", 86_400_000),
        (b"h", 3_600_000),
        (b"m", 60_000),
        (b"s", 1_000),
        (b"ms", 1),
    ];
    let mut rest = word.bytes();
    let mut total: u64 = 0;
    let mut finest = 0;
    let mut any = false;
    while !rest.is_empty() {
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (value, tail) = rest.split_at_checked(digits)?;
        let value: u64 = std::str::from_utf8(value).ok()?.parse().ok()?;
        let unit = tail.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
        let (unit, tail) = tail.split_at_checked(unit)?;
        // A number without a unit is seconds, and can only come last.
        let index = if unit.is_empty() { 6 } else { UNITS.iter().position(|(name, _)| *name == unit)? };
        if index < finest || (any && index == finest) || (unit.is_empty() && !tail.is_empty()) {
            return None;
        }
        finest = index;
        any = true;
        total = total.checked_add(value.checked_mul(UNITS.get(index)?.1)?)?;
        rest = tail.iter().position(|byte| *byte != b' ').map_or(&[][..], |at| tail.get(at..).unwrap_or_default());
    }
    any.then(|| Duration::from_millis(total))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conf::Place;

    fn word(text: &str) -> Word {
        Word::new(text.as_bytes(), Place { file: "f".into(), line: 1, column: 1 })
    }

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("0", Some(0)),
            ("10", Some(10)),
            ("8k", Some(8192)),
            ("1M", Some(1 << 20)),
            ("2g", Some(2 << 30)),
            ("", None),
            ("k", None),
            ("-1", None),
            ("1kb", None),
            ("99999999999999999999", None),
            ("18446744073709551615k", None),
        ] {
            assert_eq!(size(&word(text)), expected, "{text}");
        }
    }

    #[test]
    fn times() {
        for (text, expected) in [
            ("30", Some(30_000)),
            ("500ms", Some(500)),
            ("1h30m", Some(5_400_000)),
            ("1h 30m", Some(5_400_000)),
            ("1m30", Some(90_000)),
            ("1d", Some(86_400_000)),
            ("0", Some(0)),
            ("", None),
            ("s", None),
            ("30m1h", None),
            ("1s2s", None),
            ("1x", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(time(&word(text)), expected.map(Duration::from_millis), "{text}");
        }
    }
}
