//! How the end of a body is found: decided here once, for requests and for replies, and nowhere else.
//!
//! Whoever disagrees with a neighbour about the length of a message can be made to smuggle one, so whatever two
//! readers could read differently is refused (RFC 9112 section 6).

use std::fmt;

use crate::fields::Fields;
use crate::head::Version;
use crate::known::Known;

/// The body of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    None,
    /// Exactly so many bytes follow; 0 if the client said so.
    Length(u64),
    /// Chunks follow; on HTTP/2, DATA up to the end of the stream: either way the length is not known beforehand.
    Chunked,
}

/// The body of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyFraming {
    /// There is no body, whatever the fields say: 1xx, 204, 304, and replies to HEAD.
    Empty,
    /// Exactly so many bytes follow.
    Length(u64),
    /// Chunks follow.
    Chunked,
    /// Everything until the connection closes.
    Close,
    /// 101, or 2xx to CONNECT: from here on the connection speaks another protocol.
    Switch,
}

/// Why the length of a body cannot be trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadFraming {
    /// `Content-Length` is not a plain number below 2^63.
    ContentLength(Vec<u8>),
    /// `Content-Length` came more than once, equal values included.
    SeveralContentLengths,
    /// `Transfer-Encoding` came more than once.
    SeveralTransferEncodings,
    /// Both ways to frame in one message.
    Both,
    /// `Transfer-Encoding` in a message of HTTP/1.0.
    ChunkedBefore11,
    /// A `Transfer-Encoding` other than exactly `chunked`.
    UnknownTransferEncoding(Vec<u8>),
}

impl BadFraming {
    /// The status a client gets for it: 501 for an unknown encoding, else 400.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::UnknownTransferEncoding(_) => 501,
            _ => 400,
        }
    }
}

impl fmt::Display for BadFraming {
    /// nginx's wording after `client sent ` or `upstream sent `.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ContentLength(_) => f.write_str("invalid \"Content-Length\" header"),
            Self::SeveralContentLengths => f.write_str("duplicate header line: \"Content-Length\""),
            Self::SeveralTransferEncodings => f.write_str("duplicate header line: \"Transfer-Encoding\""),
            Self::Both => f.write_str("\"Content-Length\" and \"Transfer-Encoding\" headers at the same time"),
            Self::ChunkedBefore11 => f.write_str("HTTP/1.0 request with \"Transfer-Encoding\" header"),
            Self::UnknownTransferEncoding(value) => {
                write!(f, "unknown \"Transfer-Encoding\": \"{}\"", value.escape_ascii())
            }
        }
    }
}

impl std::error::Error for BadFraming {}

/// Decides for a request (RFC 9112 section 6.3, as strict as nginx and in its order).
///
/// # Errors
/// Both fields, either one twice, a length that is no plain number, any encoding but `chunked`, any encoding at all
/// before HTTP/1.1.
pub fn request(version: Version, fields: &Fields) -> Result<Framing, BadFraming> {
    let claims = claims(fields)?;
    let length = claims.length.map(content_length).transpose()?;
    let Some(encoding) = claims.encoding else {
        return Ok(length.map_or(Framing::None, Framing::Length));
    };
    if version < Version::Http11 {
        return Err(BadFraming::ChunkedBefore11);
    }
    chunked(encoding)?;
    if length.is_some() { Err(BadFraming::Both) } else { Ok(Framing::Chunked) }
}

/// Decides for a reply (RFC 9112 section 6.3, as strict as nginx 1.31).
///
/// `to_head` says that the request was HEAD. The fields are checked even where the status rules out a body: a peer that
/// contradicts itself is not to be trusted with the next reply. 101 is [`ReplyFraming::Switch`]; whether anybody asked
/// for it, and what a 2xx to CONNECT means, is the caller's to know.
///
/// # Errors
/// As for a request, except that nginx takes chunks from an upstream of any version.
pub fn reply(to_head: bool, status: u16, fields: &Fields) -> Result<ReplyFraming, BadFraming> {
    let framing = match claims(fields)? {
        Claims { length: Some(_), encoding: Some(_) } => return Err(BadFraming::Both),
        Claims { encoding: Some(encoding), .. } => chunked(encoding).map(|()| ReplyFraming::Chunked)?,
        Claims { length: Some(length), .. } => content_length(length).map(ReplyFraming::Length)?,
        Claims { .. } => ReplyFraming::Close,
    };
    Ok(match status {
        101 => ReplyFraming::Switch,
        100..=199 | 204 | 304 => ReplyFraming::Empty,
        _ if to_head => ReplyFraming::Empty,
        _ => framing,
    })
}

/// Reads the value of `Content-Length`: digits only, below 2^63 (nginx's `off_t`).
///
/// # Errors
/// Anything else, the empty value and a sign included.
pub fn content_length(value: &[u8]) -> Result<u64, BadFraming> {
    let bad = || BadFraming::ContentLength(value.to_vec());
    if value.is_empty() {
        return Err(bad());
    }
    let mut length: i64 = 0;
    for byte in value {
        let digit = byte.is_ascii_digit().then(|| i64::from(byte - b'0')).ok_or_else(bad)?;
        length = length.checked_mul(10).and_then(|length| length.checked_add(digit)).ok_or_else(bad)?;
    }
    u64::try_from(length).map_err(|_| bad())
}

/// What the fields claim, each at most once.
struct Claims<'a> {
    length: Option<&'a [u8]>,
    encoding: Option<&'a [u8]>,
}

fn claims(fields: &Fields) -> Result<Claims<'_>, BadFraming> {
    Ok(Claims {
        length: single(fields, Known::ContentLength, BadFraming::SeveralContentLengths)?,
        encoding: single(fields, Known::TransferEncoding, BadFraming::SeveralTransferEncodings)?,
    })
}

fn single(fields: &Fields, known: Known, several: BadFraming) -> Result<Option<&[u8]>, BadFraming> {
    let mut values = fields.all(known);
    let first = values.next();
    if values.next().is_some() { Err(several) } else { Ok(first) }
}

fn chunked(encoding: &[u8]) -> Result<(), BadFraming> {
    if encoding.eq_ignore_ascii_case(b"chunked") {
        Ok(())
    } else {
        Err(BadFraming::UnknownTransferEncoding(encoding.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(lines: &[(&str, &str)]) -> Fields {
        lines.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect()
    }

    const CL: &str = "Content-Length";
    const TE: &str = "transfer-encoding";

    #[test]
    fn requests_are_framed() {
        for (lines, framing) in [
            (&[][..], Framing::None),
            (&[(CL, "0")], Framing::Length(0)),
            (&[(CL, "0012")], Framing::Length(12)),
            (&[(CL, "9223372036854775807")], Framing::Length(9_223_372_036_854_775_807)),
            (&[(TE, "chunked")], Framing::Chunked),
            (&[(TE, "ChUnKeD")], Framing::Chunked),
        ] {
            assert_eq!(request(Version::Http11, &fields(lines)), Ok(framing), "{lines:?}");
        }
    }

    #[test]
    fn doubtful_requests_are_refused() {
        for (version, lines, status) in [
            (Version::Http11, &[(CL, "5"), (TE, "chunked")][..], 400),
            (Version::Http11, &[(TE, "chunked"), (CL, "5")], 400),
            (Version::Http11, &[(TE, "identity"), (CL, "5")], 501),
            (Version::Http11, &[(TE, "chunked"), (CL, "x")], 400),
            (Version::Http11, &[(CL, "5"), (CL, "5")], 400),
            (Version::Http11, &[(CL, "5"), (CL, "6")], 400),
            (Version::Http11, &[(TE, "chunked"), (TE, "chunked")], 400),
            (Version::Http11, &[(TE, "chunked"), (TE, "identity")], 400),
            (Version::Http10, &[(TE, "chunked")], 400),
            (Version::Http10, &[(TE, "gzip")], 400),
            (Version::Http11, &[(TE, "gzip, chunked")], 501),
            (Version::Http11, &[(TE, "chunked,")], 501),
            (Version::Http11, &[(TE, "chunked;q=1")], 501),
            (Version::Http11, &[(TE, "\tchunked")], 501),
            (Version::Http11, &[(TE, "identity")], 501),
            (Version::Http11, &[(TE, "xchunked")], 501),
            (Version::Http11, &[(TE, "")], 501),
            (Version::Http11, &[(CL, "")], 400),
            (Version::Http11, &[(CL, "+5")], 400),
            (Version::Http11, &[(CL, "-5")], 400),
            (Version::Http11, &[(CL, "5 ")], 400),
            (Version::Http11, &[(CL, "5, 5")], 400),
            (Version::Http11, &[(CL, "0x5")], 400),
            (Version::Http11, &[(CL, "5.0")], 400),
            (Version::Http11, &[(CL, "9223372036854775808")], 400),
            (Version::Http11, &[(CL, "18446744073709551621")], 400),
            (Version::Http11, &[(CL, "\u{661}")], 400),
        ] {
            let refused = request(version, &fields(lines)).map_err(|error| error.status());
            assert_eq!(refused, Err(status), "{version:?} {lines:?}");
        }
    }

    #[test]
    fn replies_are_framed() {
        for (to_head, status, lines, framing) in [
            (false, 200, &[][..], ReplyFraming::Close),
            (false, 200, &[(CL, "7")], ReplyFraming::Length(7)),
            (false, 200, &[(TE, "chunked")], ReplyFraming::Chunked),
            (true, 200, &[(CL, "7")], ReplyFraming::Empty),
            (true, 200, &[(TE, "chunked")], ReplyFraming::Empty),
            (false, 204, &[(CL, "7")], ReplyFraming::Empty),
            (false, 304, &[(CL, "7")], ReplyFraming::Empty),
            (false, 103, &[], ReplyFraming::Empty),
            (false, 100, &[], ReplyFraming::Empty),
            (false, 101, &[], ReplyFraming::Switch),
            (false, 205, &[(CL, "0")], ReplyFraming::Length(0)),
        ] {
            assert_eq!(reply(to_head, status, &fields(lines)), Ok(framing), "{to_head} {status} {lines:?}");
        }
    }

    #[test]
    fn doubtful_replies_are_refused_even_without_a_body() {
        for (status, lines, error) in [
            (200, &[(CL, "5"), (TE, "chunked")][..], BadFraming::Both),
            (304, &[(CL, "5"), (CL, "5")], BadFraming::SeveralContentLengths),
            (204, &[(CL, "x")], BadFraming::ContentLength(b"x".to_vec())),
            (200, &[(TE, "gzip")], BadFraming::UnknownTransferEncoding(b"gzip".to_vec())),
            (200, &[(TE, "chunked"), (TE, "chunked")], BadFraming::SeveralTransferEncodings),
        ] {
            assert_eq!(reply(false, status, &fields(lines)), Err(error), "{lines:?}");
        }
    }

    #[test]
    fn the_wording_is_nginxs() {
        assert_eq!(
            BadFraming::Both.to_string(),
            "\"Content-Length\" and \"Transfer-Encoding\" headers at the same time"
        );
        assert_eq!(
            BadFraming::UnknownTransferEncoding(b"a\0".to_vec()).to_string(),
            "unknown \"Transfer-Encoding\": \"a\\x00\""
        );
    }
}
