//! One line of a text protocol, taken from the front of a buffer: CRLF or a bare LF ends it.
//!
//! It knows nothing of what lines mean and copies nothing; a line that would not fit its limit is refused, never cut.

use std::fmt;
use std::ops::Deref;

use bytes::{Bytes, BytesMut};

/// A line as received; dereferences to its content without the line end.
#[derive(Clone, PartialEq, Eq)]
pub struct Line {
    raw: Bytes,
    content: usize,
}

impl Line {
    /// All octets of the line, its CRLF or LF included.
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// The content alone, sharing memory with the buffer it came from.
    pub fn into_content(self) -> Bytes {
        let mut content = self.raw;
        content.truncate(self.content);
        content
    }
}

impl Deref for Line {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.raw.get(..self.content).unwrap_or_default()
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Line(\"{}\")", self.escape_ascii())
    }
}

/// There is no line end within the limit: the peer sent a line that nobody is willing to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong;

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the line is too long")
    }
}

impl std::error::Error for TooLong {}

/// Takes the first line from `input`. `Ok(None)` asks for more input.
///
/// `limit` is in octets and counts the line end, as nginx's command buffers do: a line that fills its limit exactly
/// is accepted. The answer depends on the first `limit` octets only, however they were segmented. On `TooLong` nothing
/// is taken, so that the caller may still look at what was sent.
pub fn take_line(input: &mut BytesMut, limit: usize) -> Result<Option<Line>, TooLong> {
    let window = input.get(..limit).unwrap_or(input);
    let Some(end) = memchr::memchr(b'\n', window) else {
        return if input.len() >= limit { Err(TooLong) } else { Ok(None) };
    };
    let content = match window.get(..end) {
        Some([content @ .., b'\r']) => content.len(),
        _ => end,
    };
    Ok(Some(Line { raw: input.split_to(end + 1).freeze(), content }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::every_split;

    /// The lines of `input` under `limit`, then how it ended: nothing left, a partial line, or too long.
    fn lines(pieces: &[&[u8]], limit: usize) -> (Vec<String>, String) {
        let mut input = BytesMut::new();
        let mut lines = Vec::new();
        for piece in pieces {
            input.extend_from_slice(piece);
            loop {
                match take_line(&mut input, limit) {
                    Ok(Some(line)) => lines.push(String::from_utf8_lossy(&line).into_owned()),
                    Ok(None) => break,
                    Err(TooLong) => return (lines, "too long".to_owned()),
                }
            }
        }
        (lines, String::from_utf8_lossy(&input).into_owned())
    }

    #[test]
    fn crlf_and_lf_end_a_line() {
        let (found, left) = every_split(b"one\r\ntwo\n\r\n\nrest", |pieces| lines(pieces, 64));
        assert_eq!(found, ["one", "two", "", ""]);
        assert_eq!(left, "rest");
    }

    #[test]
    fn a_lone_cr_is_content() {
        let (found, _) = every_split(b"a\rb\r\r\n", |pieces| lines(pieces, 64));
        assert_eq!(found, ["a\rb\r"]);
    }

    #[test]
    fn a_line_may_fill_its_limit_but_not_exceed_it() {
        for (text, fits) in
            [(&b"123456\r\n"[..], true), (b"1234567\n", true), (b"1234567\r\n", false), (b"12345678", false)]
        {
            let (found, end) = every_split(text, |pieces| lines(pieces, 8));
            assert_eq!(found.len() == 1, fits, "{}", text.escape_ascii());
            assert_eq!(end == "too long", !fits, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn the_limit_counts_from_each_line() {
        let (found, end) = every_split(b"1234\r\n5678\r\n123456789\r\n", |pieces| lines(pieces, 8));
        assert_eq!(found, ["1234", "5678"]);
        assert_eq!(end, "too long");
    }

    #[test]
    fn too_long_takes_nothing() {
        let mut input = BytesMut::from(&b"12345678\r\n"[..]);
        assert_eq!(take_line(&mut input, 4), Err(TooLong));
        assert_eq!(&input[..], b"12345678\r\n");
    }

    #[test]
    fn no_room_at_all_is_too_long() {
        assert_eq!(take_line(&mut BytesMut::new(), 0), Err(TooLong));
        assert_eq!(take_line(&mut BytesMut::from(&b"\n"[..]), 0), Err(TooLong));
    }

    #[test]
    fn a_line_remembers_how_it_ended() {
        let mut input = BytesMut::from(&b"a\r\nb\n"[..]);
        let first = take_line(&mut input, 8).unwrap().unwrap();
        let second = take_line(&mut input, 8).unwrap().unwrap();
        assert_eq!((first.raw(), &first[..]), (&b"a\r\n"[..], &b"a"[..]));
        assert_eq!(second.raw(), b"b\n");
        assert_eq!(second.into_content(), Bytes::from_static(b"b"));
    }
}
