//! One field line, by nginx's rules: the only place that says what a name and a value may contain.
//!
//! A line is walked once from its first byte on: over its name to the colon, over its value to the first control
//! character, which is the end of the line unless the line is bad. Nothing looks for the LF beforehand.

use crate::known::Known;
use crate::scan;
use crate::span::Span;

/// What begins at a place in the input; all positions count from the start of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// A field line.
    Field(FieldLine),
    /// The empty line that ends a head, and where its LF is.
    End(usize),
    /// A line whose LF has not come yet.
    Incomplete,
    /// A line with a byte that must not be where it is, at this position. Whether the LF has come is not known.
    Bad(usize),
}

/// A field line taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FieldLine {
    /// The name. Without a colon the whole line is one; nginx lets that pass.
    pub(crate) name: Span,
    /// The value without surrounding spaces.
    pub(crate) value: Span,
    /// Which name it is.
    pub(crate) known: Known,
    /// The name has only letters, digits, dashes and, if allowed, underscores. nginx drops other lines or not,
    /// as `ignore_invalid_headers` says.
    pub(crate) valid: bool,
    /// There is a colon.
    pub(crate) colon: bool,
    /// Where the LF is.
    pub(crate) end: usize,
}

/// Reads the line that begins at `start`.
///
/// Refuses a name with a control character or a space, thus folded lines and a space before the colon; a value with a
/// control character other than a tab (nginx: only NUL and a bare CR). Only spaces are stripped around a value: a tab
/// stays, as in nginx, and makes `Content-Length` or `Transfer-Encoding` invalid rather than ambiguous. More than one CR
/// may stand before the LF.
pub(crate) fn read(input: &[u8], start: usize, underscores: bool) -> Line {
    let text = input.get(start..).unwrap_or_default();
    let (name, rest) = text.split_at_checked(scan::colon_or_blank(text)).unwrap_or_default();
    if name.is_empty() {
        return without_name(rest, start);
    }
    let (known, valid) = match judge_name(name, underscores) {
        Ok(judged) => judged,
        Err(at) => return Line::Bad(start + at),
    };
    let colon = rest.first() == Some(&b':');
    let (before_value, value, rest) = if colon { value(rest) } else { (0, &[][..], rest) };
    let value_start = start + name.len() + before_value;
    let value_end = value_start + value.len();
    match end_of_line(rest) {
        LineEnd::After(returns) => Line::Field(FieldLine {
            name: Span::new(start, name.len()),
            value: Span::new(value_start, without_spaces(value).len()),
            known,
            valid,
            colon,
            end: value_end + returns,
        }),
        LineEnd::NotYet => Line::Incomplete,
        LineEnd::None => Line::Bad(value_end),
    }
}

/// What a line is that begins with a colon, a space or a control character, or has not begun.
fn without_name(text: &[u8], start: usize) -> Line {
    match text {
        [b'\n', ..] => Line::End(start),
        [b'\r', b'\n', ..] => Line::End(start + 1),
        [] | [b'\r'] => Line::Incomplete,
        _ => Line::Bad(start),
    }
}

/// Recognises a name and says whether it is a valid one. The error is the place of a byte that no name may have.
#[inline]
fn judge_name(name: &[u8], underscores: bool) -> Result<(Known, bool), usize> {
    match Known::recognised(name) {
        Known::Other if is_plain(name) => Ok((Known::Other, true)),
        Known::Other => judge_bytes(name, underscores).map(|valid| (Known::Other, valid)),
        // No known name has anything but letters, digits and dashes.
        known => Ok((known, true)),
    }
}

/// Whether a name has nothing but letters, digits and dashes. Without an early exit: hardly any name has anything else.
fn is_plain(name: &[u8]) -> bool {
    name.iter().fold(true, |plain, byte| plain & (class(*byte) == Class::Plain))
}

#[cold]
fn judge_bytes(name: &[u8], underscores: bool) -> Result<bool, usize> {
    let mut valid = true;
    for (at, byte) in name.iter().enumerate() {
        match class(*byte) {
            Class::Plain => {}
            Class::Underscore => valid &= underscores,
            Class::Odd => valid = false,
            Class::Bad => return Err(at),
        }
    }
    Ok(valid)
}

/// How many bytes the colon and the spaces before a value are; the value, still with the spaces after it; and what follows.
#[inline(always)]
fn value(from_colon: &[u8]) -> (usize, &[u8], &[u8]) {
    let before = match from_colon {
        [b':', b' ', first, ..] if *first != b' ' => 2,
        _ => 1 + scan::spaces(from_colon.get(1..).unwrap_or_default()),
    };
    let text = from_colon.get(before..).unwrap_or_default();
    let (value, rest) = text.split_at_checked(value_len(text)).unwrap_or_default();
    (before, value, rest)
}

/// Where the first control character other than a tab is.
#[inline(always)]
fn value_len(text: &[u8]) -> usize {
    let mut len = scan::control(text);
    while text.get(len) == Some(&b'\t') {
        len += 1 + scan::control(text.get(len + 1..).unwrap_or_default());
    }
    len
}

/// What follows the text of a line.
enum LineEnd {
    /// The LF, after so many CRs.
    After(usize),
    /// Nothing but CRs, so far.
    NotYet,
    /// Something else.
    None,
}

#[inline]
fn end_of_line(rest: &[u8]) -> LineEnd {
    match rest {
        [b'\r', b'\n', ..] => return LineEnd::After(1),
        [b'\n', ..] => return LineEnd::After(0),
        _ => {}
    }
    let returns = rest.iter().take_while(|byte| **byte == b'\r').count();
    match rest.get(returns) {
        Some(b'\n') => LineEnd::After(returns),
        Some(_) => LineEnd::None,
        None => LineEnd::NotYet,
    }
}

#[inline]
fn without_spaces(mut value: &[u8]) -> &[u8] {
    while let [shorter @ .., b' '] = value {
        value = shorter;
    }
    value
}

/// Whether a text has a control character other than a tab.
pub(crate) fn has_control(text: &[u8]) -> bool {
    value_len(text) < text.len()
}

/// What one byte means in a name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Plain,
    Underscore,
    Odd,
    Bad,
}

#[inline]
fn class(byte: u8) -> Class {
    CLASSES.get(usize::from(byte)).copied().unwrap_or(Class::Bad)
}

static CLASSES: [Class; 256] = classes();

/// Runs at compile time only.
#[allow(clippy::indexing_slicing)]
const fn classes() -> [Class; 256] {
    let mut table = [Class::Odd; 256];
    let mut byte = 0u8;
    while byte < 0x80 {
        table[byte as usize] = match byte {
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'-' => Class::Plain,
            b'_' => Class::Underscore,
            0..=b' ' | b':' | 0x7f => Class::Bad,
            _ => Class::Odd,
        };
        byte += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_apart() {
        for (line, name, value, valid) in [
            ("Host: a", "Host", "a", true),
            ("Host:a\r", "Host", "a", true),
            ("Host:   a  \r\r", "Host", "a", true),
            ("Host:", "Host", "", true),
            ("Host:  \r", "Host", "", true),
            ("A: b c", "A", "b c", true),
            ("A:\tb\t", "A", "\tb\t", true),
            ("A::b", "A", ":b", true),
            ("A_b: c", "A_b", "c", false),
            ("_: c", "_", "c", false),
            ("A(b: c", "A(b", "c", false),
            ("\u{e9}: \u{e9}", "\u{e9}", "\u{e9}", false),
            ("NoColon\r", "NoColon", "", true),
            (
                "A-name-of-several-words:   a value \t of several words, too   \r",
                "A-name-of-several-words",
                "a value \t of several words, too",
                true,
            ),
        ] {
            let input = format!("before\n{line}\nafter");
            let input = input.as_bytes();
            let Line::Field(found) = read(input, 7, false) else { panic!("{line:?}") };
            assert_eq!(found.name.of(input), name.as_bytes(), "{line:?}");
            assert_eq!(found.value.of(input), value.as_bytes(), "{line:?}");
            assert_eq!(found.known, Known::of(name.as_bytes()), "{line:?}");
            assert_eq!((found.valid, found.colon), (valid, line.contains(':')), "{line:?}");
            assert_eq!(found.end, 7 + line.len(), "{line:?}");
            for cut in 7..7 + line.len() + 1 {
                assert_eq!(read(&input[..cut], 7, false), Line::Incomplete, "{line:?} before {cut}");
            }
        }
        let Line::Field(found) = read(b"A_b: c\n", 0, true) else { panic!() };
        assert!(found.valid);
    }

    #[test]
    fn an_empty_line_ends_a_head() {
        for (line, found) in [
            ("\n", Line::End(0)),
            ("\r\n", Line::End(1)),
            ("", Line::Incomplete),
            ("\r", Line::Incomplete),
            ("\r\r\n", Line::Bad(0)),
        ] {
            assert_eq!(read(line.as_bytes(), 0, false), found, "{line:?}");
        }
    }

    #[test]
    fn bad_lines_are_refused_where_they_are_bad() {
        for (line, at) in [
            ("\r\r", 0),
            (": a", 0),
            (" A: b", 0),
            ("\tA: b", 0),
            ("A : b", 1),
            ("A b: c", 1),
            ("A\0: c", 1),
            ("A\r: c", 1),
            ("A\x7f: c", 1),
            ("A(\x7f : c", 2),
            ("A: b\0", 4),
            ("A: b\rc", 4),
            ("A: b\r c\r", 4),
            ("A: \x01", 3),
            ("A: b\x7f", 4),
            ("A: \x1b[0m", 3),
            ("A: a longer value\t with a \0 in it\r", 26),
        ] {
            assert_eq!(read(format!("{line}\n").as_bytes(), 0, false), Line::Bad(at), "{line:?}");
        }
    }
}
