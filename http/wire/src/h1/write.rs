//! Heads of HTTP/1, written. What would break out of its line is refused, whoever asks for it.

use std::fmt;

use crate::fields::{Field, Fields};
use crate::head::Version;
use crate::known::Known;
use crate::scan;
use crate::status;

/// A part of a head holds CR, LF or NUL, or a name is no name: nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadPart;

impl fmt::Display for BadPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("line end in a header")
    }
}

impl std::error::Error for BadPart {}

/// Appends `METHOD target HTTP/1.x` and CRLF.
///
/// # Errors
/// [`BadPart`] if the method or the target would break the line; a method may have no space either, and none may be
/// empty.
pub fn request_line(method: &[u8], target: &[u8], version: Version, out: &mut Vec<u8>) -> Result<(), BadPart> {
    if method.is_empty() || target.is_empty() || method.contains(&b' ') || breaks(method) || breaks(target) {
        return Err(BadPart);
    }
    out.extend_from_slice(method);
    out.push(b' ');
    out.extend_from_slice(target);
    out.extend_from_slice(if version == Version::Http10 { b" HTTP/1.0\r\n" } else { b" HTTP/1.1\r\n" });
    Ok(())
}

/// Appends `HTTP/1.1 NNN Reason` and CRLF, with nginx's phrase; without one the number and a space, as nginx. Like
/// nginx it says HTTP/1.1 to any client.
pub fn status_line(status: u16, out: &mut Vec<u8>) {
    match status {
        200 => out.extend_from_slice(b"HTTP/1.1 200 OK\r\n"),
        _ => write_status(status, status::reason(status).as_bytes(), out),
    }
}

/// As [`status_line`], with the phrase an upstream gave.
///
/// # Errors
/// [`BadPart`] if the phrase would break the line.
pub fn status_line_with(status: u16, reason: &[u8], out: &mut Vec<u8>) -> Result<(), BadPart> {
    if status == 200 && reason == b"OK" {
        status_line(status, out);
        return Ok(());
    }
    if breaks(reason) {
        return Err(BadPart);
    }
    write_status(status, reason, out);
    Ok(())
}

fn write_status(status: u16, reason: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    if status < 100 {
        out.extend_from_slice(if status < 10 { b"00" } else { b"0" });
    }
    out.extend_from_slice(itoa::Buffer::new().format(status).as_bytes());
    out.push(b' ');
    out.extend_from_slice(reason);
    out.extend_from_slice(b"\r\n");
}

/// Appends `name: value` and CRLF.
///
/// # Errors
/// [`BadPart`] if the value would break the line, or if the name is empty or has a colon, a space or a control
/// character.
pub fn field(name: &[u8], value: &[u8], out: &mut Vec<u8>) -> Result<(), BadPart> {
    check(name, value)?;
    line(name, value, out);
    Ok(())
}

/// Whether a field can be written.
///
/// # Errors
/// As for [`field`].
#[inline]
pub(crate) fn check(name: &[u8], value: &[u8]) -> Result<(), BadPart> {
    if is_bad_name(name) || breaks(value) { Err(BadPart) } else { Ok(()) }
}

/// As [`field`], with the value that `append` appends: it is checked where it lies. A field without a value is left out,
/// and false.
///
/// # Errors
/// As for [`field`].
pub fn field_with(name: &[u8], out: &mut Vec<u8>, append: impl FnOnce(&mut Vec<u8>)) -> Result<bool, BadPart> {
    let start = out.len();
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    let value_start = out.len();
    append(out);
    if out.len() <= value_start {
        out.truncate(start);
        return Ok(false);
    }
    if is_bad_name(name) || out.get(value_start..).is_none_or(breaks) {
        out.truncate(start);
        return Err(BadPart);
    }
    out.extend_from_slice(b"\r\n");
    Ok(true)
}

/// As [`field`], for a field of a head: one that was received as it is has been checked before.
///
/// # Errors
/// As for [`field`].
#[inline]
pub fn copy(entry: Field<'_>, out: &mut Vec<u8>) -> Result<(), BadPart> {
    match entry.received() {
        Some([]) => line(entry.name, entry.value, out),
        Some(whole) => {
            out.reserve(whole.len() + 2);
            out.extend_from_slice(whole);
            out.extend_from_slice(b"\r\n");
        }
        None => return field(entry.name, entry.value, out),
    }
    Ok(())
}

/// As [`field`], with a known name in its usual spelling.
///
/// # Errors
/// [`BadPart`] if the value would break the line, or for [`Known::Other`].
pub fn known(known: Known, value: &[u8], out: &mut Vec<u8>) -> Result<(), BadPart> {
    if known == Known::Other || breaks(value) {
        return Err(BadPart);
    }
    known_line(known, value, out);
    Ok(())
}

/// Appends a field whose value is a number; nothing for [`Known::Other`].
pub fn number(known: Known, value: u64, out: &mut Vec<u8>) {
    if known != Known::Other {
        known_line(known, itoa::Buffer::new().format(value).as_bytes(), out);
    }
}

/// Appends all fields but those that say how the body is framed and what concerns the connection alone: who writes a
/// head decides those (RFC 9110 section 7.6.1). `Connection` options are not looked into.
///
/// # Errors
/// [`BadPart`] at the first field that [`field`] refuses; those before it are written.
pub fn fields(fields: &Fields, out: &mut Vec<u8>) -> Result<(), BadPart> {
    fields.iter().filter(|field| !is_hop_by_hop(field.known)).try_for_each(|entry| copy(entry, out))
}

/// Appends the empty line that ends a head.
pub fn end(out: &mut Vec<u8>) {
    out.extend_from_slice(b"\r\n");
}

/// Whether a field concerns one connection only, framing included.
#[must_use]
pub fn is_hop_by_hop(known: Known) -> bool {
    matches!(
        known,
        Known::Connection
            | Known::ContentLength
            | Known::TransferEncoding
            | Known::KeepAlive
            | Known::ProxyConnection
            | Known::Te
            | Known::Trailer
            | Known::Upgrade
            | Known::Http2Settings
    )
}

fn line(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn known_line(known: Known, value: &[u8], out: &mut Vec<u8>) {
    let beginning = known.beginning();
    out.reserve(beginning.len() + value.len() + 2);
    out.extend_from_slice(beginning);
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn is_bad_name(name: &[u8]) -> bool {
    name.is_empty() || scan::colon_or_blank(name) < name.len() || name.contains(&0x7f)
}

/// Whether a text would end its line early. Most texts have no control character at all, and no more is looked for.
#[inline]
fn breaks(text: &[u8]) -> bool {
    let rest = text.get(scan::control(text)..).unwrap_or_default();
    rest.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0))
}

/// What may stand in a field: text over several lines in the configuration, or a break that a client has slipped into a
/// variable, becomes spaces, as RFC 9110 section 5.5 has it. nginx sends them as they are.
#[must_use]
pub fn in_one_line(mut value: Vec<u8>) -> Vec<u8> {
    value.iter_mut().filter(|byte| matches!(byte, b'\r' | b'\n' | 0)).for_each(|byte| *byte = b' ');
    value.truncate(value.trim_ascii_end().len());
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::h1::ReplyParser;
    use bytes::BytesMut;

    fn written(write: impl FnOnce(&mut Vec<u8>) -> Result<(), BadPart>) -> Result<String, BadPart> {
        let mut out = Vec::new();
        write(&mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn heads_are_written() {
        assert_eq!(
            written(|out| {
                request_line(b"GET", b"/a b", Version::Http10, out)?;
                field(b"X-a", b"", out)?;
                known(Known::Host, b"h", out)?;
                number(Known::ContentLength, 17, out);
                number(Known::Other, 17, out);
                end(out);
                Ok(())
            }),
            Ok("GET /a b HTTP/1.0\r\nX-a: \r\nHost: h\r\nContent-Length: 17\r\n\r\n".into())
        );
        for (status, line) in [
            (200, "HTTP/1.1 200 OK\r\n"),
            (302, "HTTP/1.1 302 Moved Temporarily\r\n"),
            (299, "HTTP/1.1 299 \r\n"),
            (9, "HTTP/1.1 009 \r\n"),
            (99, "HTTP/1.1 099 \r\n"),
        ] {
            let found = written(|out| {
                status_line(status, out);
                Ok(())
            });
            assert_eq!(found, Ok(line.into()));
        }
        assert_eq!(written(|out| status_line_with(200, b"Fine", out)), Ok("HTTP/1.1 200 Fine\r\n".into()));
    }

    #[test]
    fn what_breaks_a_line_is_refused() {
        for bad in ["a\r\nb", "a\rb", "a\nb", "a\0b", "\n"] {
            let bad = bad.as_bytes();
            assert_eq!(written(|out| field(b"A", bad, out)), Err(BadPart));
            assert_eq!(written(|out| field(bad, b"a", out)), Err(BadPart));
            assert_eq!(written(|out| known(Known::Host, bad, out)), Err(BadPart));
            assert_eq!(written(|out| request_line(bad, b"/", Version::Http11, out)), Err(BadPart));
            assert_eq!(written(|out| request_line(b"GET", bad, Version::Http11, out)), Err(BadPart));
            assert_eq!(written(|out| status_line_with(200, bad, out)), Err(BadPart));
        }
        for name in ["", "a b", "a:", "a\t", "\x7f"] {
            assert_eq!(written(|out| field(name.as_bytes(), b"v", out)), Err(BadPart), "{name:?}");
        }
        assert_eq!(written(|out| known(Known::Other, b"v", out)), Err(BadPart));
        assert_eq!(written(|out| request_line(b"", b"/", Version::Http11, out)), Err(BadPart));
        assert_eq!(written(|out| request_line(b"GE T", b"/", Version::Http11, out)), Err(BadPart));
        assert_eq!(written(|out| request_line(b"GET", b"", Version::Http11, out)), Err(BadPart));
    }

    #[test]
    fn appended_values_are_checked_and_empty_ones_left_out() {
        for (name, value, expected) in [
            ("A", "b", Ok("before A: b\r\n")),
            ("A", "", Ok("before ")),
            ("A b", "", Ok("before ")),
            ("A", "b\r\nC: d", Err(BadPart)),
            ("A", "\n", Err(BadPart)),
            ("A", "\0", Err(BadPart)),
            ("A b", "c", Err(BadPart)),
            ("", "c", Err(BadPart)),
        ] {
            let mut out = b"before ".to_vec();
            let found = field_with(name.as_bytes(), &mut out, |out| out.extend_from_slice(value.as_bytes()));
            assert_eq!(found, expected.map(|_| !value.is_empty()), "{name:?} {value:?}");
            assert_eq!(out, expected.unwrap_or("before ").as_bytes(), "{name:?} {value:?}");
        }
    }

    /// A field is written as it was received only while it is as it was received.
    #[test]
    fn received_fields_are_copied_and_others_checked() {
        for (received, written_as) in [
            ("X-A: b", "X-A: b"),
            ("x-a:b", "x-a: b"),
            ("X-A:   b  ", "X-A: b"),
            ("X-A:\tb", "X-A: \tb"),
            ("X-A:", "X-A: "),
            ("X-A: ", "X-A: "),
            ("X-A", "X-A: "),
            ("Server: a \t b", "Server: a \t b"),
        ] {
            for end in ["\r\n", "\n", "\r\r\n"] {
                let input = format!("HTTP/1.1 200 OK\r\n{received}{end}\r\n");
                let head = ReplyParser::new(4096).parse(&mut BytesMut::from(input.as_str())).unwrap().unwrap();
                let copied = written(|out| head.fields.iter().try_for_each(|field| copy(field, out)));
                assert_eq!(copied, Ok(format!("{written_as}\r\n")), "{input:?}");
            }
        }
        let mut input = BytesMut::from("HTTP/1.1 200 OK\r\nServer: a\r\nDate: b\r\n\r\n");
        let mut fields = ReplyParser::new(4096).parse(&mut input).unwrap().unwrap().fields;
        let copied = |fields: &Fields| written(|out| fields.iter().try_for_each(|field| copy(field, out)));
        fields.set(Known::Server, b"c");
        assert_eq!(copied(&fields), Ok("Server: c\r\nDate: b\r\n".into()));
        fields.set(Known::Server, b"a\r\nX: y");
        assert_eq!(copied(&fields), Err(BadPart));
        fields.remove(Known::Server);
        for (name, value) in [("a b", "c"), ("a", "c\n"), ("", "c"), ("a\r", "c")] {
            let mut fields = fields.clone();
            fields.push(name.as_bytes(), value.as_bytes());
            assert_eq!(copied(&fields), Err(BadPart), "{name:?} {value:?}");
        }
        fields.push_known(Known::Via, b"\0");
        assert_eq!(copied(&fields), Err(BadPart));
    }

    #[test]
    fn framing_and_connection_are_never_copied() {
        let lines =
            ["Host", "content-length", "Transfer-Encoding", "Connection", "Upgrade", "X-A", "TE", "HTTP2-Settings"];
        let all: Fields = lines.iter().map(|name| (name.as_bytes(), &b"1"[..])).collect();
        assert_eq!(written(|out| fields(&all, out)), Ok("Host: 1\r\nX-A: 1\r\n".into()));
    }
}
