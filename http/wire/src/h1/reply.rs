//! Heads of replies, read incrementally. The peer is an upstream, and not trusted.

use std::fmt;

use bytes::{Buf, Bytes, BytesMut};

use super::line::{self, FieldLine, Line};
use crate::fields::Fields;
use crate::framing::BadFraming;
use crate::head::{ReplyHead, Version};
use crate::known::{Known, KnownSet};
use crate::span::Span;
use crate::status;

/// What an upstream did wrong in the head of a reply: 502 all of it, or the next peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplyError {
    /// The first line is no status line. nginx would pass it on as HTTP/0.9.
    NoValidHeader,
    /// The head is longer than the buffer (`proxy_buffer_size`).
    TooBigHeader,
    /// A malformed field line: the part before the offending byte, and that byte.
    BadHeader(Vec<u8>, u8),
    /// The length of the body is doubtful.
    Framing(BadFraming),
    /// The upstream closed before the head was complete.
    Closed,
}

impl fmt::Display for ReplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoValidHeader => f.write_str("upstream sent no valid HTTP/1.0 header"),
            Self::TooBigHeader => f.write_str("upstream sent too big header"),
            Self::BadHeader(line, byte) => {
                write!(f, "upstream sent invalid header: \"{}\\x{byte:02x}...\"", line.escape_ascii())
            }
            Self::Framing(bad) => write!(f, "upstream sent {bad}"),
            Self::Closed => f.write_str("upstream prematurely closed connection"),
        }
    }
}

impl std::error::Error for ReplyError {}

impl From<BadFraming> for ReplyError {
    fn from(bad: BadFraming) -> Self {
        Self::Framing(bad)
    }
}

/// Reads one reply head after another out of a growing buffer.
///
/// A head with a status below 200 is given out like any other: whether one is welcome is the caller's to know.
/// [`crate::framing::reply`] decides about the body.
#[derive(Debug)]
pub struct ReplyParser {
    limit: usize,
    /// Where the line to be read next begins.
    line_start: usize,
    /// How far the LF of that line has been looked for in vain.
    scanned: usize,
    /// The head as far as it has been understood; it still lies in the input.
    begun: Option<Box<ReplyHead>>,
}

impl ReplyParser {
    /// A parser for heads of up to `limit` bytes (`proxy_buffer_size`).
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit, line_start: 0, scanned: 0, begun: None }
    }

    /// Takes one complete head out of `input`, or `None` if more has to be read. The body stays in the input.
    ///
    /// # Errors
    /// The first thing wrong with the head; then the connection is of no further use.
    pub fn parse(&mut self, input: &mut BytesMut) -> Result<Option<ReplyHead>, ReplyError> {
        if self.scanned > 0 && self.end_of_line(input)?.is_none() {
            return Ok(None);
        }
        let mut head = ReplyHead::new(Version::Http11, 0, Fields::new());
        match self.begun.take() {
            Some(begun) => head = *begun,
            None if self.status_line(&mut head, input)? => {}
            None => return Ok(None),
        }
        let Some(end) = self.field_lines(&mut head, input)? else {
            self.begun = Some(Box::new(head));
            return Ok(None);
        };
        (self.line_start, self.scanned) = (0, 0);
        // A copy, since heads are short: so the buffer stays with its owner, whoever keeps the fields.
        let end = end.min(input.len());
        head.fields.set_lines(Bytes::copy_from_slice(input.get(..end).unwrap_or_default()));
        input.advance(end);
        Ok(Some(head))
    }

    /// The upstream will send no more: an error always, since a reply is owed.
    #[must_use]
    pub fn end(&self) -> ReplyError {
        ReplyError::Closed
    }

    /// Understands the status line; false if not all of it has come.
    #[inline]
    fn status_line(&mut self, head: &mut ReplyHead, input: &[u8]) -> Result<bool, ReplyError> {
        let Some(end) = self.end_of_line(input)? else { return Ok(false) };
        if status_line(input.get(..end).unwrap_or_default(), head).is_none() {
            return Err(ReplyError::NoValidHeader);
        }
        self.line_start = end + 1;
        Ok(true)
    }

    /// Understands all field lines that have come, and gives where the head ends once it has.
    fn field_lines(&mut self, head: &mut ReplyHead, input: &[u8]) -> Result<Option<usize>, ReplyError> {
        loop {
            match line::read(input, self.line_start, true) {
                Line::Field(field) => {
                    self.check_size(field.end)?;
                    self.take_field(head, input, field);
                    self.line_start = field.end + 1;
                }
                Line::End(end) => {
                    self.check_size(end)?;
                    return Ok(Some(end + 1));
                }
                Line::Incomplete => return self.end_of_line(input).map(|_| None),
                Line::Bad(at) => match self.end_of_line(input)? {
                    Some(end) if self.is_second_status_line(input) => self.line_start = end + 1,
                    Some(_) => return Err(self.bad_header(input, at)),
                    None => return Ok(None),
                },
            }
        }
    }

    /// Adds a field to the head, unless it came before and counts once only.
    #[inline]
    fn take_field(&self, head: &mut ReplyHead, input: &[u8], field: FieldLine) {
        if !field.valid && self.is_second_status_line(input) {
            return;
        }
        if FIRST_ONLY.contains(field.known) && head.fields.may_have(field.known) {
            let line = input.get(self.line_start..field.end).unwrap_or_default();
            let text = line.strip_suffix(b"\r").unwrap_or(line);
            head.ignored.push(Span::between(self.line_start, self.line_start + text.len()));
            return;
        }
        head.fields.push_parsed(field.name, field.value, field.known);
    }

    /// nginx: IIS may repeat its status line. No valid name begins so.
    fn is_second_status_line(&self, input: &[u8]) -> bool {
        input.get(self.line_start..).unwrap_or_default().starts_with(b"HTTP/")
    }

    #[cold]
    fn bad_header(&self, input: &[u8], at: usize) -> ReplyError {
        let before = input.get(self.line_start..at).unwrap_or_default().to_vec();
        ReplyError::BadHeader(before, input.get(at).copied().unwrap_or(b'\n'))
    }

    /// Where the LF of the line is, or `None` if it has not come. Either way the head is within the limit so far, and
    /// begins as a reply does. Looks at nothing twice, however slowly the line arrives.
    fn end_of_line(&mut self, input: &[u8]) -> Result<Option<usize>, ReplyError> {
        let from = self.scanned.max(self.line_start);
        let found = memchr::memchr(b'\n', input.get(from..).unwrap_or_default()).map(|at| from + at);
        if self.line_start == 0 && !input.starts_with(b"HTTP/") && !b"HTTP/".starts_with(input) {
            return Err(ReplyError::NoValidHeader);
        }
        self.check_size(found.unwrap_or(input.len()))?;
        if found.is_none() {
            self.scanned = input.len();
        }
        Ok(found)
    }

    /// Refuses a head that reaches to `end` and further.
    #[inline]
    fn check_size(&self, end: usize) -> Result<(), ReplyError> {
        if end < self.limit { Ok(()) } else { Err(ReplyError::TooBigHeader) }
    }
}

/// The fields of which nginx keeps the first and drops the rest, with a warning. `Content-Length` and
/// `Transfer-Encoding` are not among them: to repeat those is an error.
const FIRST_ONLY: KnownSet = KnownSet::of(&[
    Known::Status,
    Known::ContentType,
    Known::Date,
    Known::LastModified,
    Known::ETag,
    Known::Server,
    Known::Location,
    Known::Refresh,
    Known::Expires,
    Known::XAccelExpires,
    Known::XAccelRedirect,
    Known::XAccelLimitRate,
]);

/// `HTTP/x.y NNN[ reason]`, given without its LF; a `.` may follow the status instead of a space, as IIS sends it.
/// Stricter than nginx in two points: no status below 100, no control character in the reason.
fn status_line(line: &[u8], head: &mut ReplyHead) -> Option<()> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let rest = line.strip_prefix(b"HTTP/")?;
    let (major, rest) = number(rest)?;
    let (minor, rest) = number(rest.strip_prefix(b".")?)?;
    let blanks = rest.iter().take_while(|byte| **byte == b' ').count();
    let (digits, reason) = rest.get(blanks..)?.split_at_checked(3)?;
    let (status, none) = number(digits)?;
    if major == 0 || blanks == 0 || !none.is_empty() || status < 100 {
        return None;
    }
    head.version = if (major, minor) >= (1, 1) { Version::Http11 } else { Version::Http10 };
    head.status = status;
    head.reason = phrase(status, reason)?;
    Some(())
}

/// A phrase to keep, without the space before it; the usual one is there already.
fn phrase(status: u16, reason: &[u8]) -> Option<Bytes> {
    let usual = status::reason(status).as_bytes();
    match reason {
        [b' ', phrase @ ..] if phrase == usual => Some(Bytes::from_static(usual)),
        _ if line::has_control(reason) => None,
        [b' ', phrase @ ..] => Some(Bytes::copy_from_slice(phrase)),
        [] | [b'.', ..] => Some(Bytes::copy_from_slice(reason)),
        _ => None,
    }
}

/// One to three digits.
fn number(text: &[u8]) -> Option<(u16, &[u8])> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if !(1..=3).contains(&digits) {
        return None;
    }
    let (digits, rest) = text.split_at_checked(digits)?;
    Some((digits.iter().fold(0, |number, digit| number * 10 + u16::from(digit - b'0')), rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_core_wire::testing::every_split;

    /// The heads in an input and how the reading ended, whatever the pieces it came in.
    fn run(limit: usize, input: &[u8]) -> (Vec<String>, Option<ReplyError>, Vec<u8>) {
        every_split(input, |pieces| {
            let (mut parser, mut buffer, mut heads) = (ReplyParser::new(limit), BytesMut::new(), Vec::new());
            let mut reading = true;
            for piece in pieces {
                buffer.extend_from_slice(piece);
                while reading {
                    match parser.parse(&mut buffer) {
                        Ok(Some(head)) => {
                            reading = head.status < 200;
                            heads.push(format!(
                                "{:?} {} {:?} {:?} -{}",
                                head.version,
                                head.status,
                                head.reason,
                                head.fields,
                                head.ignored().count()
                            ));
                        }
                        Ok(None) => break,
                        Err(error) => return (heads, Some(error), Vec::new()),
                    }
                }
            }
            (heads, None, buffer.to_vec())
        })
    }

    #[test]
    fn heads_are_read_under_every_split() {
        for (input, heads, rest) in [
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX_y: z\r\n\r\nok",
                &["Http11 200 b\"OK\" [Content-Length: 2, X_y: z] -0"][..],
                "ok",
            ),
            ("HTTP/1.0 404\n\n", &["Http10 404 b\"\" [] -0"], ""),
            ("HTTP/1.1 403.1 Nope\r\n\r\n", &["Http11 403 b\".1 Nope\" [] -0"], ""),
            ("HTTP/1.1   204 \r\n\r\n", &["Http11 204 b\"\" [] -0"], ""),
            ("HTTP/2.0 200 \u{e9}\r\n\r\n", &["Http11 200 b\"\\xc3\\xa9\" [] -0"], ""),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\n\r\nHTTP",
                &["Http11 100 b\"Continue\" [] -0", "Http11 103 b\"\" [Link: a] -0", "Http11 200 b\"OK\" [] -0"],
                "HTTP",
            ),
            (
                "HTTP/1.1 200 OK\r\nHTTP/1.1 200 OK\r\nA: b\r\nServer: 1\r\nserver: 2\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\n",
                &["Http11 200 b\"OK\" [A: b, Server: 1, Set-Cookie: a, Set-Cookie: b] -1"],
                "",
            ),
        ] {
            let (found, error, left) = run(4096, input.as_bytes());
            assert_eq!(error, None, "{input:?}");
            assert_eq!(found, heads, "{input:?}");
            assert_eq!(left, rest.as_bytes(), "{input:?}");
        }
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        for input in [
            "hello\r\n\r\n",
            "\r\nHTTP/1.1 200 OK\r\n\r\n",
            "http/1.1 200 OK\r\n\r\n",
            "HTTP/1.1\r\n\r\n",
            "HTTP/1.1 20\r\n\r\n",
            "HTTP/1.1 2000\r\n\r\n",
            "HTTP/1.1 099 x\r\n\r\n",
            "HTTP/1.1 2x0 OK\r\n\r\n",
            "HTTP/1.1 200OK\r\n\r\n",
            "HTTP/1.1200 OK\r\n\r\n",
            "HTTP/0.9 200 OK\r\n\r\n",
            "HTTP/.1 200 OK\r\n\r\n",
            "HTTP/1. 200 OK\r\n\r\n",
            "HTTP/1.1 200 O\0K\r\n\r\n",
            "HTTP/1.1 200 O\rK\r\n\r\n",
            "HTTP/1111.1 200 OK\r\n\r\n",
            "SSH-2.0-x",
        ] {
            assert_eq!(run(4096, input.as_bytes()).1, Some(ReplyError::NoValidHeader), "{input:?}");
        }
    }

    #[test]
    fn bad_lines_are_refused() {
        for (line, before, byte) in [
            ("A b: c", "A", b' '),
            (" folded", "", b' '),
            (": x", "", b':'),
            ("A: \0", "A: ", 0),
            ("A: b\rc", "A: b", 13),
        ] {
            let input = format!("HTTP/1.1 200 OK\r\n{line}\r\n\r\n");
            let error = ReplyError::BadHeader(before.into(), byte);
            assert_eq!(run(4096, input.as_bytes()).1, Some(error), "{line:?}");
        }
    }

    /// However slowly a head arrives: the next look at a line begins where the last one ended, and the lines before it
    /// are kept.
    #[test]
    fn what_has_arrived_is_not_looked_at_again() {
        let long = "a".repeat(300);
        for (input, kept) in [
            (format!("HTTP/1.1 200 {long}"), 0),
            (format!("HTTP/1.1 200 OK\r\n{long}"), 0),
            (format!("HTTP/1.1 200 OK\r\nA: b\r\nB: {long}"), 1),
            (format!("HTTP/1.1 200 OK\r\nA: b\r\nB: {long}\r\n C: {long}"), 2),
        ] {
            let (mut parser, mut buffer) = (ReplyParser::new(4096), BytesMut::new());
            for byte in input.bytes() {
                buffer.extend_from_slice(&[byte]);
                assert_eq!(parser.parse(&mut buffer).unwrap().map(|head| head.size()), None, "{input:?}");
                assert_eq!(parser.scanned, buffer.len(), "{input:?}");
            }
            assert_eq!(parser.line_start, input.rfind('\n').map_or(0, |end| end + 1), "{input:?}");
            assert_eq!(parser.begun.map_or(0, |head| head.fields.len()), kept, "{input:?}");
        }
    }

    #[test]
    fn the_limit_holds_to_the_byte_and_before_the_end() {
        let head = b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n";
        assert_eq!(run(head.len(), head).0.len(), 1);
        assert_eq!(run(head.len() - 1, head).1, Some(ReplyError::TooBigHeader));
        let endless = [b"HTTP/1.1 200 ", &[b'a'; 100][..]].concat();
        assert_eq!(run(64, &endless).1, Some(ReplyError::TooBigHeader));
    }

    #[test]
    fn errors_speak_as_nginx() {
        assert_eq!(ReplyError::BadHeader(b"A".to_vec(), 0).to_string(), "upstream sent invalid header: \"A\\x00...\"");
        let error = ReplyError::from(BadFraming::ContentLength(b"x".to_vec()));
        assert_eq!(error.to_string(), "upstream sent invalid \"Content-Length\" header");
        assert_eq!(ReplyParser::new(1).end().to_string(), "upstream prematurely closed connection");
    }
}
