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
#[inline]
pub(crate) fn read(input: &[u8], start: usize, underscores: bool) -> Line {
    match input.get(start..).unwrap_or_default() {
        [b'\n', ..] => return Line::End(start),
        [b'\r', b'\n', ..] => return Line::End(start + 1),
        [] | [b'\r'] => return Line::Incomplete,
        [b'\r' | b':', ..] => return Line::Bad(start),
        _ => {}
    }
    let name_end = scan::colon_or_blank(input, start);
    let (known, valid) = match judge_name(input.get(start..name_end).unwrap_or_default(), underscores) {
        Ok(judged) => judged,
        Err(at) => return Line::Bad(start + at),
    };
    let colon = input.get(name_end) == Some(&b':');
    let value_start = if colon { scan::other_than_space(input, name_end + 1) } else { name_end };
    let value_end = if colon { end_of_value(input, value_start) } else { name_end };
    match end_of_line(input, value_end) {
        Ok(end) => {
            let name = Span::between(start, name_end);
            let value = Span::between(value_start, without_spaces(input, value_start, value_end));
            Line::Field(FieldLine { name, value, known, valid, colon, end })
        }
        Err(stop) => stop,
    }
}

/// Recognises a name and says whether it is a valid one. The error is the place of a byte that no name may have.
#[inline]
fn judge_name(name: &[u8], underscores: bool) -> Result<(Known, bool), usize> {
    match Known::of(name) {
        Known::Other => judge_bytes(name, underscores).map(|valid| (Known::Other, valid)),
        // No known name has anything but letters, digits and dashes.
        known => Ok((known, true)),
    }
}

fn judge_bytes(name: &[u8], underscores: bool) -> Result<bool, usize> {
    let mut valid = true;
    for (at, byte) in name.iter().enumerate() {
        match CLASSES.get(usize::from(*byte)).copied().unwrap_or(Class::Bad) {
            Class::Plain => {}
            Class::Underscore => valid &= underscores,
            Class::Odd => valid = false,
            Class::Bad => return Err(at),
        }
    }
    Ok(valid)
}

/// Where the first control character other than a tab is.
#[inline]
fn end_of_value(input: &[u8], start: usize) -> usize {
    let mut end = scan::control(input, start);
    while input.get(end) == Some(&b'\t') {
        end = scan::control(input, end + 1);
    }
    end
}

/// Where the LF is, given where the text of the line ends; only CRs may stand between them.
#[inline]
fn end_of_line(input: &[u8], text_end: usize) -> Result<usize, Line> {
    let rest = input.get(text_end..).unwrap_or_default();
    match rest {
        [b'\r', b'\n', ..] => return Ok(text_end + 1),
        [b'\n', ..] => return Ok(text_end),
        _ => {}
    }
    let returns = rest.iter().take_while(|byte| **byte == b'\r').count();
    match rest.get(returns) {
        Some(b'\n') => Ok(text_end + returns),
        Some(_) => Err(Line::Bad(text_end)),
        None => Err(Line::Incomplete),
    }
}

/// The end of a value without the spaces before `end`.
#[inline]
fn without_spaces(input: &[u8], start: usize, end: usize) -> usize {
    let value = input.get(start..end).unwrap_or_default();
    end - value.iter().rev().take_while(|byte| **byte == b' ').count()
}

/// Whether a text has a control character other than a tab.
pub(crate) fn has_control(text: &[u8]) -> bool {
    end_of_value(text, 0) < text.len()
}

/// What one byte means in a name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Plain,
    Underscore,
    Odd,
    Bad,
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
