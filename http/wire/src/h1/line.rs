//! One field line, by nginx's rules: the only place that says what a name and a value may contain.

/// A field line taken apart; the positions count from the start of the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// The name ends here.
    pub(crate) name_end: usize,
    /// The value without surrounding spaces.
    pub(crate) value: (usize, usize),
    /// The name has only letters, digits, dashes and, if allowed, underscores. nginx drops other lines or not,
    /// as `ignore_invalid_headers` says.
    pub(crate) valid: bool,
    /// Without a colon the whole line is a name; nginx lets that pass.
    pub(crate) colon: bool,
}

/// What one byte means in a name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Plain,
    Underscore,
    Odd,
    Colon,
    Bad,
}

/// Takes a line apart, given without its LF. The error is the position of the offending byte.
///
/// Refuses a name with a control character or a space, thus folded lines and a space before the colon; a value with a
/// control character other than a tab (nginx: only NUL and a bare CR). Only spaces are stripped around a value: a tab
/// stays, as in nginx, and makes `Content-Length` or `Transfer-Encoding` invalid rather than ambiguous.
#[inline]
pub(crate) fn parse(line: &[u8], underscores: bool) -> Result<Line, usize> {
    let end = line.iter().rposition(|byte| *byte != b'\r').map_or(0, |last| last + 1);
    let text = line.get(..end).unwrap_or_default();
    let mut valid = true;
    let mut name_end = end;
    for (at, byte) in text.iter().enumerate() {
        match CLASSES.get(usize::from(*byte)).copied().unwrap_or(Class::Bad) {
            Class::Plain => {}
            Class::Underscore => valid &= underscores,
            Class::Odd => valid = false,
            Class::Colon if at > 0 => {
                name_end = at;
                break;
            }
            Class::Colon | Class::Bad => return Err(at),
        }
    }
    if end == 0 {
        return Err(0);
    }
    let colon = name_end < end;
    let after = if colon { name_end + 1 } else { end };
    let value = text.get(after..).unwrap_or_default();
    if has_control(value) {
        return Err(after + value.iter().position(|byte| is_control(*byte)).unwrap_or(0));
    }
    let Some(first) = value.iter().position(|byte| *byte != b' ') else {
        return Ok(Line { name_end, value: (end, end), valid, colon });
    };
    let last = value.iter().rposition(|byte| *byte != b' ').unwrap_or(first);
    Ok(Line { name_end, value: (after + first, after + last + 1), valid, colon })
}

/// Without an early exit, so that the compiler can look at many bytes at once.
#[inline]
pub(crate) fn has_control(text: &[u8]) -> bool {
    text.iter().fold(false, |found, byte| found | is_control(*byte))
}

/// A control character other than a tab.
#[inline]
fn is_control(byte: u8) -> bool {
    ((byte < 0x20) & (byte != b'\t')) | (byte == 0x7f)
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
            b':' => Class::Colon,
            0..=b' ' | 0x7f => Class::Bad,
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
        ] {
            let found = parse(line.as_bytes(), false).unwrap();
            assert_eq!(&line.as_bytes()[..found.name_end], name.as_bytes(), "{line:?}");
            assert_eq!(&line.as_bytes()[found.value.0..found.value.1], value.as_bytes(), "{line:?}");
            assert_eq!((found.valid, found.colon), (valid, line.contains(':')), "{line:?}");
        }
        assert!(parse(b"A_b: c", true).unwrap().valid);
    }

    #[test]
    fn bad_lines_are_refused_where_they_are_bad() {
        for (line, at) in [
            ("", 0),
            ("\r\r", 0),
            (": a", 0),
            (" A: b", 0),
            ("\tA: b", 0),
            ("A : b", 1),
            ("A b: c", 1),
            ("A\0: c", 1),
            ("A\r: c", 1),
            ("A\x7f: c", 1),
            ("A: b\0", 4),
            ("A: b\rc", 4),
            ("A: b\r c\r", 4),
            ("A: \x01", 3),
            ("A: b\x7f", 4),
            ("A: \x1b[0m", 3),
        ] {
            assert_eq!(parse(line.as_bytes(), false), Err(at), "{line:?}");
        }
    }
}
