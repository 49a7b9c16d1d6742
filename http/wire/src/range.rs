//! Byte ranges (RFC 9110 section 14), by nginx's reading.

use std::ops::Range;

use smallvec::SmallVec;

/// What a `Range` field asks for of a body of known length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ranges {
    /// Nothing that is granted: send the whole body.
    Ignored,
    /// One part: 206 with `Content-Range`.
    One(Range<u64>),
    /// Several parts in the order asked for: 206 with `multipart/byteranges`.
    Many(SmallVec<[Range<u64>; 4]>),
    /// 416.
    Unsatisfiable,
}

/// Reads the value of `Range` for a body of `length` bytes, which must be below 2^63. `max` is `max_ranges`, `None`
/// without the directive.
///
/// nginx: a malformed set is unsatisfiable; more than `max` parts, or together more than the body, or without `max`
/// parts so many that their headers outweigh the body, and it is ignored.
#[must_use]
pub fn parse(value: &[u8], length: u64, max: Option<usize>) -> Ranges {
    let unit = value.get(..6).is_some_and(|unit| unit.eq_ignore_ascii_case(b"bytes="));
    if !unit || value.len() < 7 || max == Some(0) {
        return Ranges::Ignored;
    }
    let mut parts: SmallVec<[Range<u64>; 4]> = SmallVec::new();
    let mut total: u64 = 0;
    for spec in value.get(6..).unwrap_or_default().split(|byte| *byte == b',') {
        let Some(part) = part(spec, length) else { return Ranges::Unsatisfiable };
        if part.start < part.end {
            total = total.saturating_add(part.end - part.start);
            parts.push(part);
            if max.is_some_and(|max| parts.len() > max) {
                return Ranges::Ignored;
            }
        } else if part.start == 0 {
            return Ranges::Ignored;
        }
        if total > MAX {
            return Ranges::Unsatisfiable;
        }
    }
    match &parts[..] {
        [] => Ranges::Unsatisfiable,
        [part] => Ranges::One(part.clone()),
        _ if total > length => Ranges::Ignored,
        _ if max.is_none() && outweighs(parts.len(), total, length) => Ranges::Ignored,
        _ => Ranges::Many(parts),
    }
}

/// nginx: `off_t`.
const MAX: u64 = i64::MAX.unsigned_abs();

/// nginx: 256 bytes for the header of each part, against a body with 4096 bytes more.
fn outweighs(parts: usize, total: u64, length: u64) -> bool {
    let headers = u64::try_from(parts).unwrap_or(u64::MAX).saturating_mul(256);
    total.saturating_add(headers) > length.saturating_add(4096)
}

/// `first-last`, `first-` or `-count`; spaces may stand around the numbers. May be empty or backwards.
fn part(spec: &[u8], length: u64) -> Option<Range<u64>> {
    let (first, rest) = number(spec)?;
    let suffix = first.is_none();
    let rest = rest.strip_prefix(b"-")?;
    // nginx takes no space between the dash of a suffix and its number
    if suffix && rest.first() == Some(&b' ') {
        return None;
    }
    let (last, rest) = number(rest)?;
    if !rest.is_empty() {
        return None;
    }
    match (first, last) {
        (Some(first), Some(last)) => Some(first..last.saturating_add(1).min(length)),
        (Some(first), None) => Some(first..length),
        (None, Some(count)) => Some(length.saturating_sub(count)..length),
        (None, None) => None,
    }
}

/// Digits with spaces around, if there are any, and what follows. `None` for a number of 2^63 or more.
fn number(text: &[u8]) -> Option<(Option<u64>, &[u8])> {
    let text = skip_spaces(text);
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, rest) = text.split_at_checked(digits)?;
    if digits.is_empty() {
        return Some((None, rest));
    }
    let number = digits.iter().try_fold(0u64, |number, digit| {
        number.checked_mul(10)?.checked_add(u64::from(digit - b'0')).filter(|number| *number <= MAX)
    })?;
    Some((Some(number), skip_spaces(rest)))
}

fn skip_spaces(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|byte| *byte != b' ').unwrap_or(text.len());
    text.get(start..).unwrap_or_default()
}

/// The value of `Content-Range` for a part: `bytes first-last/length`.
#[must_use]
pub fn content_range(part: &Range<u64>, length: u64) -> String {
    format!("bytes {}-{}/{length}", part.start, part.end.saturating_sub(1))
}

/// The value of `Content-Range` with 416: `bytes */length`.
#[must_use]
pub fn unsatisfied_range(length: u64) -> String {
    format!("bytes */{length}")
}

/// What stands between the parts of a `multipart/byteranges` body, as nginx writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Multipart {
    boundary: String,
    opening: Vec<u8>,
    length: u64,
}

impl Multipart {
    /// `number` becomes the boundary, in 20 digits; nginx counts them up. `content_type` is of the whole body, charset
    /// included; empty for none. `length` is the length of the whole body.
    #[must_use]
    pub fn new(number: u64, content_type: &[u8], length: u64) -> Self {
        let boundary = format!("{number:020}");
        let mut opening = format!("\r\n--{boundary}\r\n").into_bytes();
        if !content_type.is_empty() {
            opening.extend_from_slice(b"Content-Type: ");
            opening.extend_from_slice(content_type);
            opening.extend_from_slice(b"\r\n");
        }
        opening.extend_from_slice(b"Content-Range: ");
        Self { boundary, opening, length }
    }

    /// The value of `Content-Type`.
    #[must_use]
    pub fn content_type(&self) -> String {
        format!("multipart/byteranges; boundary={}", self.boundary)
    }

    /// What precedes a part.
    #[must_use]
    pub fn before(&self, part: &Range<u64>) -> Vec<u8> {
        [&self.opening[..], content_range(part, self.length).as_bytes(), b"\r\n\r\n"].concat()
    }

    /// What follows the last part.
    #[must_use]
    pub fn after(&self) -> Vec<u8> {
        format!("\r\n--{}--\r\n", self.boundary).into_bytes()
    }

    /// The length of the whole answer.
    #[must_use]
    pub fn total(&self, parts: &[Range<u64>]) -> u64 {
        let size = |bytes: &[u8]| u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        parts.iter().fold(size(&self.after()), |total, part| {
            total.saturating_add(size(&self.before(part))).saturating_add(part.end.saturating_sub(part.start))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn many(parts: &[Range<u64>]) -> Ranges {
        Ranges::Many(parts.iter().cloned().collect())
    }

    #[test]
    fn ranges_are_read_as_nginx_reads_them() {
        for (value, length, expected) in [
            ("bytes=0-0", 10, Ranges::One(0..1)),
            ("bytes=0-9", 10, Ranges::One(0..10)),
            ("bytes=0-99", 10, Ranges::One(0..10)),
            ("bytes=3-", 10, Ranges::One(3..10)),
            ("bytes=-3", 10, Ranges::One(7..10)),
            ("bytes=-30", 10, Ranges::One(0..10)),
            ("BYTES= 3 - 4 ", 10, Ranges::One(3..5)),
            ("bytes=9223372036854775807-", 10, Ranges::Unsatisfiable),
            ("bytes=0-9223372036854775807", 10, Ranges::One(0..10)),
            ("bytes=0-9223372036854775808", 10, Ranges::Unsatisfiable),
            ("bytes=10-", 10, Ranges::Unsatisfiable),
            ("bytes=-0", 10, Ranges::Unsatisfiable),
            ("bytes=5-3", 10, Ranges::Unsatisfiable),
            ("bytes=a", 10, Ranges::Unsatisfiable),
            ("bytes=-", 10, Ranges::Unsatisfiable),
            ("bytes=- 3", 10, Ranges::Unsatisfiable),
            ("bytes=1", 10, Ranges::Unsatisfiable),
            ("bytes=1-2x", 10, Ranges::Unsatisfiable),
            ("bytes=1-2,", 10, Ranges::Unsatisfiable),
            ("bytes=1-2,,3-4", 10, Ranges::Unsatisfiable),
            ("bytes=+1-2", 10, Ranges::Unsatisfiable),
            ("bytes=0-", 0, Ranges::Ignored),
            ("bytes=-5", 0, Ranges::Ignored),
            ("bytes=", 10, Ranges::Ignored),
            ("items=0-1", 10, Ranges::Ignored),
            ("", 10, Ranges::Ignored),
            ("bytes=0-1,3-4", 10, many(&[0..2, 3..5])),
            ("bytes=3-4, 0-1", 10, many(&[3..5, 0..2])),
            ("bytes=0-1,20-30", 10, Ranges::One(0..2)),
            ("bytes=20-30,0-1", 10, Ranges::One(0..2)),
            ("bytes=0-5,3-9", 10, Ranges::Ignored),
            ("bytes=0-,0-,0-", 10, Ranges::Ignored),
            ("bytes=-3,0-1", 10, many(&[7..10, 0..2])),
        ] {
            assert_eq!(parse(value.as_bytes(), length, None), expected, "{value} of {length}");
        }
    }

    #[test]
    fn parts_are_limited() {
        for (max, expected) in [
            (Some(0), Ranges::Ignored),
            (Some(1), Ranges::Ignored),
            (Some(2), many(&[0..1, 2..3])),
            (None, many(&[0..1, 2..3])),
        ] {
            assert_eq!(parse(b"bytes=0-0,2-2", 10, max), expected, "{max:?}");
        }
        let lots = |n: usize| format!("bytes={}", vec!["0-0"; n].join(","));
        assert!(matches!(parse(lots(20).as_bytes(), 5000, None), Ranges::Many(_)));
        assert_eq!(parse(lots(36).as_bytes(), 5000, None), Ranges::Ignored, "headers outweigh the body");
        assert!(matches!(parse(lots(36).as_bytes(), 5000, Some(100)), Ranges::Many(_)));
    }

    /// Whatever is granted lies within the body and is not longer than it.
    #[test]
    fn what_is_granted_exists() {
        let numbers = ["", "0", "1", "4", "5", "9"];
        for length in 0..6 {
            for a in numbers {
                for b in numbers {
                    for c in numbers {
                        let granted = match parse(format!("bytes={a}-{b},{c}-{a}").as_bytes(), length, None) {
                            Ranges::One(part) => vec![part],
                            Ranges::Many(parts) => parts.to_vec(),
                            _ => continue,
                        };
                        assert!(granted.iter().all(|part| part.start < part.end && part.end <= length));
                        assert!(granted.iter().map(|part| part.end - part.start).sum::<u64>() <= length);
                    }
                }
            }
        }
    }

    #[test]
    fn parts_are_framed() {
        assert_eq!(content_range(&(2..5), 10), "bytes 2-4/10");
        assert_eq!(unsatisfied_range(10), "bytes */10");
        let multipart = Multipart::new(7, b"text/plain", 10);
        assert_eq!(multipart.content_type(), "multipart/byteranges; boundary=00000000000000000007");
        let before = "\r\n--00000000000000000007\r\nContent-Type: text/plain\r\nContent-Range: bytes 2-4/10\r\n\r\n";
        assert_eq!(multipart.before(&(2..5)), before.as_bytes());
        assert_eq!(multipart.after(), b"\r\n--00000000000000000007--\r\n");
        let total = before.len() + 3 + multipart.after().len();
        assert_eq!(multipart.total(&[Range { start: 2, end: 5 }]), u64::try_from(total).unwrap());
        assert!(Multipart::new(1, b"", 1).before(&(0..1)).starts_with(b"\r\n--00000000000000000001\r\nContent-Range"));
    }
}
