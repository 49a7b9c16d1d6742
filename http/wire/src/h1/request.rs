//! Heads of requests, read incrementally.
//!
//! A head that is all there is read in one pass, field by field into its list. Of one that arrives piece by piece, the
//! lines understood are kept; of the last line only its LF is looked for until it comes, where the last look ended. The
//! input is taken out of the buffer, without a copy, when the head is complete. Limits hold for incomplete lines too.

use std::fmt;

use bytes::{Buf, Bytes, BytesMut};

use super::line::{self, FieldLine, Line};
use crate::fields::Fields;
use crate::framing::{self, BadFraming, Framing};
use crate::head::{RequestHead, Version};
use crate::host::Host;
use crate::known::{Known, KnownSet};
use crate::method::{self, Method};
use crate::scan;
use crate::span::Span;
use crate::uri::Form;

/// What a client may send, named after nginx's directives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// The longest line in bytes, its end included: the size of `large_client_header_buffers`.
    pub line: usize,
    /// The whole head in bytes: `client_header_buffer_size` plus number times size of `large_client_header_buffers`.
    pub total: usize,
    /// The most field lines: `max_headers`.
    pub fields: usize,
    /// `ignore_invalid_headers`: drop lines whose name has another byte than a letter, a digit or a dash.
    pub ignore_invalid: bool,
    /// `underscores_in_headers`: take `_` for a letter of a name.
    pub underscores: bool,
    /// `merge_slashes`.
    pub merge_slashes: bool,
    /// Take `OPTIONS *` (RFC 9110 section 9.3.7). nginx answers 400.
    pub asterisk: bool,
}

impl Default for HeadLimits {
    /// nginx's defaults.
    fn default() -> Self {
        Self {
            line: 8 * 1024,
            total: 33 * 1024,
            fields: 1000,
            ignore_invalid: true,
            underscores: false,
            merge_slashes: true,
            asterisk: false,
        }
    }
}

/// What a client did wrong in the head of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// The method has another byte than `[A-Z_-]`.
    BadMethod,
    /// The request line or its target is malformed.
    BadRequestLine,
    /// A major version above 1.
    BadVersion,
    /// A request line without version, and the method is not GET.
    BadHttp09Method,
    /// The request line is longer than `large_client_header_buffers` allows.
    RequestLineTooLong,
    /// A field line is; the first bytes of it.
    HeaderLineTooLong(Vec<u8>),
    /// The head as a whole is.
    HeaderTooLarge,
    /// More field lines than `max_headers`.
    TooManyHeaders,
    /// A malformed field line: the part before the offending byte, and that byte.
    BadHeader(Vec<u8>, u8),
    /// A field that may come only once came again: the line, and the line before.
    DuplicateHeader(Box<(Vec<u8>, Vec<u8>)>),
    /// The authority in the request line is no host.
    BadHostInLine,
    /// `Host` is no host.
    BadHost,
    /// HTTP/1.1 without `Host`.
    NoHost,
    /// The length of the body is doubtful.
    Framing(BadFraming),
    /// TRACE, which nginx refuses always.
    Trace,
    /// CONNECT with a body.
    ConnectWithBody,
    /// CONNECT before HTTP/1.1; whether it is allowed in 1.1 is the server's configuration.
    Connect,
    /// The client closed in the middle of the head.
    Closed,
}

impl RequestError {
    /// nginx's status. 494 is its own: it selects the error page and reaches the client as 400.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::BadVersion => 505,
            Self::RequestLineTooLong => 414,
            Self::HeaderLineTooLong(_) | Self::HeaderTooLarge | Self::TooManyHeaders => 494,
            Self::Framing(bad) => bad.status(),
            Self::Trace | Self::Connect => 405,
            _ => 400,
        }
    }

    /// What nginx was doing when it noticed: follows ` while ` in the log.
    #[must_use]
    pub fn action(&self) -> &'static str {
        match self {
            Self::BadMethod
            | Self::BadRequestLine
            | Self::BadVersion
            | Self::BadHttp09Method
            | Self::RequestLineTooLong
            | Self::BadHostInLine => "reading client request line",
            _ => "reading client request headers",
        }
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BadMethod => "client sent invalid method",
            Self::BadRequestLine => "client sent invalid request",
            Self::BadVersion => "client sent invalid version",
            Self::BadHttp09Method => "client sent invalid method in HTTP/0.9 request",
            Self::RequestLineTooLong => "client sent too long URI",
            Self::HeaderTooLarge => "client sent too large request",
            Self::TooManyHeaders => "client sent too many header lines",
            Self::BadHostInLine => "client sent invalid host in request line",
            Self::BadHost => "client sent invalid host header",
            Self::NoHost => "client sent HTTP/1.1 request without \"Host\" header",
            Self::Trace => "client sent TRACE method",
            Self::Connect => "client sent CONNECT method",
            Self::ConnectWithBody => "client sent CONNECT request with body",
            Self::Closed => "client prematurely closed connection",
            Self::HeaderLineTooLong(line) => {
                return write!(f, "client sent too long header line: \"{}...\"", line.escape_ascii());
            }
            Self::BadHeader(line, byte) => {
                return write!(f, "client sent invalid header line: \"{}\\x{byte:02x}...\"", line.escape_ascii());
            }
            Self::DuplicateHeader(lines) => {
                let (line, previous) = &**lines;
                let host = line.get(..4).is_some_and(|name| name.eq_ignore_ascii_case(b"host"));
                let what = if host { "host header" } else { "header line" };
                let (line, previous) = (line.escape_ascii(), previous.escape_ascii());
                return write!(f, "client sent duplicate {what}: \"{line}\", previous value: \"{previous}\"");
            }
            Self::Framing(bad) => return write!(f, "client sent {bad}"),
        })
    }
}

impl std::error::Error for RequestError {}

/// Reads one request head after another out of a growing buffer.
#[derive(Debug)]
pub struct RequestParser {
    limits: HeadLimits,
    /// Where the line to be read next begins.
    line_start: usize,
    /// How far the LF of that line has been looked for in vain.
    scanned: usize,
    /// How many letters of a method begin the input.
    letters: usize,
    /// The head as far as it has been understood; it still lies in the input.
    begun: Option<Box<RequestHead>>,
    refused: Option<Box<RequestHead>>,
}

impl RequestParser {
    /// A parser at the start of a connection.
    #[must_use]
    pub fn new(limits: HeadLimits) -> Self {
        Self { limits, line_start: 0, scanned: 0, letters: 0, begun: None, refused: None }
    }

    /// Takes one complete head out of `input`, or `None` if more has to be read. Bytes after the head stay: they are
    /// the body, or the next request. Empty lines before the request line are dropped (RFC 9112 section 2.2).
    ///
    /// # Errors
    /// The first thing wrong with the head. Then the connection is of no further use; [`refused`](Self::refused) gives
    /// what had been understood.
    pub fn parse(&mut self, input: &mut BytesMut) -> Result<Option<Box<RequestHead>>, RequestError> {
        if self.scanned == 0 {
            drop_empty_lines(input);
        } else if self.end_of_line(input)?.is_none() {
            return Ok(None);
        }
        // It is large, and stays where it is from here on.
        let mut head = match self.begun.take() {
            Some(begun) => begun,
            None => {
                let mut head = Box::new(RequestHead::unknown());
                if !self.request_line(&mut head, input)? {
                    return Ok(None);
                }
                head
            }
        };
        let read = self.field_lines(&mut head, input);
        let Ok(Some(end)) = read else {
            self.begun = Some(head);
            return read.map(|_| None);
        };
        self.start_over();
        head.set_base(input.split_to(end.min(input.len())).freeze());
        if let Err(error) = judge(&mut head) {
            self.refused = Some(head);
            return Err(error);
        }
        Ok(Some(head))
    }

    /// The client will send no more: fine between requests.
    ///
    /// # Errors
    /// [`RequestError::Closed`] in the middle of a head.
    pub fn end(&self, input: &BytesMut) -> Result<(), RequestError> {
        if self.is_idle(input) { Ok(()) } else { Err(RequestError::Closed) }
    }

    /// Whether nothing of a next request has arrived yet, empty lines excepted.
    #[must_use]
    pub fn is_idle(&self, input: &BytesMut) -> bool {
        self.scanned == 0 && input.iter().all(|byte| matches!(byte, b'\r' | b'\n'))
    }

    /// The request line in the input, or what there is of it: nginx's `$request` for a request it could not read.
    #[must_use]
    pub fn partial_line<'a>(&self, input: &'a BytesMut) -> &'a [u8] {
        match &self.begun {
            Some(begun) => begun.line.of(input),
            None => {
                let all: &[u8] = input;
                all.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default()
            }
        }
    }

    /// After an error: the head as far as it was understood, to choose a server, an error page and a log line by; if not
    /// even its first line was, that line as it came. Takes the rest of the input.
    pub fn refused(&mut self, input: &mut BytesMut) -> Box<RequestHead> {
        if let Some(refused) = self.refused.take() {
            return refused;
        }
        let line = Span::between(0, self.partial_line(input).len());
        let all = input.split().freeze();
        self.start_over();
        match self.begun.take() {
            Some(mut head) => {
                head.set_base(all);
                head.host = host_of(&head).ok().flatten();
                head
            }
            None => {
                let mut fields = Fields::new();
                fields.set_base(all);
                Box::new(RequestHead { line, fields, ..RequestHead::unknown() })
            }
        }
    }

    fn start_over(&mut self) {
        (self.line_start, self.scanned, self.letters) = (0, 0, 0);
    }

    /// Understands the request line; false if not all of it has come.
    #[inline]
    fn request_line(&mut self, head: &mut RequestHead, input: &[u8]) -> Result<bool, RequestError> {
        let Some(end) = self.end_of_line(input)? else { return Ok(false) };
        request_line(input.get(..end).unwrap_or_default(), self.letters, &self.limits, head)?;
        self.line_start = end + 1;
        Ok(true)
    }

    /// Understands all field lines that have come, and gives where the head ends once it has. A request without a
    /// version has none.
    fn field_lines(&mut self, head: &mut RequestHead, input: &[u8]) -> Result<Option<usize>, RequestError> {
        if head.version == Version::Http09 {
            return Ok(Some(self.line_start));
        }
        loop {
            match line::read(input, self.line_start, self.limits.underscores) {
                Line::Field(field) => {
                    self.check_length(input, field.end)?;
                    self.take_field(head, input, field)?;
                    self.line_start = field.end + 1;
                }
                Line::End(end) => {
                    self.check_length(input, end)?;
                    return Ok(Some(end + 1));
                }
                Line::Incomplete => return self.refuse_or_wait(input, None),
                Line::Bad(at) => return self.refuse_or_wait(input, Some(at)),
            }
        }
    }

    /// Adds a field to the head, if the configuration lets it be one.
    #[inline]
    fn take_field(&self, head: &mut RequestHead, input: &[u8], field: FieldLine) -> Result<(), RequestError> {
        if !field.valid && self.limits.ignore_invalid {
            let line = input.get(self.line_start..field.end).unwrap_or_default();
            let text = line.strip_suffix(b"\r").unwrap_or(line);
            head.ignored.push(Span::between(self.line_start, self.line_start + text.len()));
            return Ok(());
        }
        if head.fields.len() >= self.limits.fields {
            return Err(RequestError::TooManyHeaders);
        }
        let again = UNIQUE.contains(field.known) && head.fields.may_have(field.known);
        head.fields.push_parsed(field.name, field.value, field.known);
        if again { Err(duplicate(&head.fields, input, field.known)) } else { Ok(()) }
    }

    /// What to do about a line with a bad byte at `bad`, or whose end has not come: it may also be too long, which counts
    /// for more; and nothing is said of a bad byte before the whole line is there.
    #[cold]
    fn refuse_or_wait(&mut self, input: &[u8], bad: Option<usize>) -> Result<Option<usize>, RequestError> {
        match (self.end_of_line(input)?, bad) {
            (Some(end), Some(at)) => {
                Err(bad_header(input.get(self.line_start..end).unwrap_or_default(), at - self.line_start))
            }
            _ => Ok(None),
        }
    }

    /// Where the LF of the line is, or `None` if it has not come. Either way the line is within the limits, and if it is
    /// the first, it begins with a method. Looks at nothing twice, however slowly the line arrives.
    fn end_of_line(&mut self, input: &[u8]) -> Result<Option<usize>, RequestError> {
        let from = self.scanned.max(self.line_start);
        let found = memchr::memchr(b'\n', input.get(from..).unwrap_or_default()).map(|at| from + at);
        let end = found.unwrap_or(input.len());
        if self.line_start == 0 {
            self.check_method(input.get(..end).unwrap_or_default(), found.is_some())?;
        }
        self.check_length(input, end)?;
        if found.is_none() {
            self.scanned = input.len();
        }
        Ok(found)
    }

    /// Refuses what cannot become a method before its line is complete: TLS on a plain port, or noise.
    fn check_method(&mut self, line: &[u8], complete: bool) -> Result<(), RequestError> {
        let line = line.get(..self.limits.line).unwrap_or(line);
        let rest = line.get(self.letters..).unwrap_or_default();
        self.letters += rest.iter().take_while(|byte| method::is_letter(**byte)).count();
        match line.get(self.letters) {
            Some(b' ') if self.letters > 0 => Ok(()),
            None if !complete => Ok(()),
            _ => Err(RequestError::BadMethod),
        }
    }

    /// Refuses a line that reaches to `end` and is too long, alone or with those before it.
    #[inline]
    fn check_length(&self, input: &[u8], end: usize) -> Result<(), RequestError> {
        let longest = self.limits.line.min(self.limits.total.saturating_sub(self.line_start));
        if end - self.line_start < longest { Ok(()) } else { Err(self.too_long(input, end, longest)) }
    }

    #[cold]
    fn too_long(&self, input: &[u8], end: usize, longest: usize) -> RequestError {
        if self.line_start == 0 {
            RequestError::RequestLineTooLong
        } else if longest == self.limits.line {
            let line = input.get(self.line_start..end).unwrap_or_default();
            RequestError::HeaderLineTooLong(line.get(..longest.min(LOGGED)).unwrap_or(line).to_vec())
        } else {
            RequestError::HeaderTooLarge
        }
    }
}

/// Empty lines before a request.
fn drop_empty_lines(input: &mut BytesMut) {
    let empty = input.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    if empty > 0 {
        input.advance(empty);
    }
}

#[cold]
fn duplicate(fields: &Fields, input: &[u8], known: Known) -> RequestError {
    let mut fields = fields.clone();
    fields.set_base(Bytes::copy_from_slice(input));
    let mut lines =
        fields.iter().filter(|field| field.known == known).map(|field| [field.name, b": ", field.value].concat());
    let (first, last) = (lines.next().unwrap_or_default(), lines.last().unwrap_or_default());
    RequestError::DuplicateHeader(Box::new((last, first)))
}

/// How much of a bad line is kept for the log.
const LOGGED: usize = 1024;

/// The fields that nginx takes only once; `Transfer-Encoding` and `Content-Length` among them.
const UNIQUE: KnownSet = KnownSet::of(&[
    Known::Host,
    Known::ContentLength,
    Known::TransferEncoding,
    Known::IfModifiedSince,
    Known::IfUnmodifiedSince,
    Known::IfMatch,
    Known::IfNoneMatch,
    Known::IfRange,
    Known::ContentRange,
    Known::Expect,
    Known::Authorization,
    Known::ProxyAuthorization,
]);

/// The first known field that came more than once and must not, as for HTTP/1 heads: for HTTP/2 and 3.
#[must_use]
pub fn first_duplicate(fields: &Fields) -> Option<Known> {
    fields.iter().map(|field| field.known).find(|known| UNIQUE.contains(*known) && fields.count(*known) > 1)
}

/// Whom the request is for: the authority of the target, else `Host`. Both are checked if both are there.
fn host_of(head: &RequestHead) -> Result<Option<Host>, RequestError> {
    let in_line = match head.target.authority() {
        Some(authority) => Some(Host::parse(authority).map_err(|_| RequestError::BadHostInLine)?),
        None => None,
    };
    let Some(value) = head.fields.share(Known::Host) else { return Ok(in_line) };
    let in_field = Host::parse(value).map_err(|_| RequestError::BadHost)?;
    Ok(in_line.or(Some(in_field)))
}

/// What can only be said of a whole head.
fn judge(head: &mut RequestHead) -> Result<(), RequestError> {
    head.host = host_of(head)?;
    if head.version == Version::Http09 {
        return Ok(());
    }
    if head.version >= Version::Http11 && !head.fields.has(Known::Host) {
        return Err(RequestError::NoHost);
    }
    head.framing = framing::request(head.version, &head.fields).map_err(RequestError::Framing)?;
    match head.method {
        Method::Trace => Err(RequestError::Trace),
        Method::Connect if head.version < Version::Http11 => Err(RequestError::Connect),
        Method::Connect if !matches!(head.framing, Framing::None | Framing::Length(0)) => {
            Err(RequestError::ConnectWithBody)
        }
        _ => Ok(()),
    }
}

fn bad_header(line: &[u8], at: usize) -> RequestError {
    let before = line.get(..at.min(LOGGED)).unwrap_or_default().to_vec();
    RequestError::BadHeader(before, line.get(at).copied().unwrap_or(b'\n'))
}

/// Understands a request line, given without its LF and with the length of its method, as nginx does: any number of
/// spaces between the parts and at the end.
fn request_line(
    line: &[u8],
    method_end: usize,
    limits: &HeadLimits,
    head: &mut RequestHead,
) -> Result<(), RequestError> {
    let bad = || RequestError::BadRequestLine;
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let Some(method) = Method::parse(line.get(..method_end).unwrap_or_default()) else {
        return Err(RequestError::BadMethod);
    };
    head.method = method;
    let start = skip_spaces(line, method_end);
    let connect = head.method == Method::Connect;
    let end = head.target.read(line, start, connect, limits.merge_slashes).map_err(|_| bad())?;
    if head.target.form == Form::Asterisk && !(limits.asterisk && head.method == Method::Options) {
        return Err(bad());
    }
    let protocol_start = skip_spaces(line, end);
    let rest = line.get(protocol_start..).unwrap_or_default();
    let protocol_end = protocol_start + rest.iter().take_while(|byte| **byte != b' ').count();
    if skip_spaces(line, protocol_end) != line.len() {
        return Err(bad());
    }
    head.version = version(line.get(protocol_start..protocol_end).unwrap_or_default())?;
    if head.version == Version::Http09 {
        check_simple(&head.method, line.get(start..end).unwrap_or_default())?;
    }
    head.line = Span::between(0, line.len());
    head.protocol = Span::between(protocol_start, protocol_end);
    Ok(())
}

/// The first place from `at` on that has no space.
fn skip_spaces(line: &[u8], at: usize) -> usize {
    at + scan::spaces(line.get(at..).unwrap_or_default())
}

/// A request without version: only GET may be one. nginx: what has no version must have a path.
fn check_simple(method: &Method, raw: &[u8]) -> Result<(), RequestError> {
    if *method != Method::Get {
        return Err(RequestError::BadHttp09Method);
    }
    if raw.starts_with(b"/") || raw.splitn(4, |byte| *byte == b'/').count() == 4 {
        Ok(())
    } else {
        Err(RequestError::BadRequestLine)
    }
}

/// `HTTP/1.x`, with up to three digits of x; nothing is HTTP/0.9.
fn version(text: &[u8]) -> Result<Version, RequestError> {
    match text {
        b"HTTP/1.1" => return Ok(Version::Http11),
        b"HTTP/1.0" => return Ok(Version::Http10),
        b"" => return Ok(Version::Http09),
        _ => {}
    }
    let rest = text.strip_prefix(b"HTTP/").ok_or(RequestError::BadRequestLine)?;
    match rest {
        [b'2'..=b'9', ..] | [b'1', b'0'..=b'9', ..] => Err(RequestError::BadVersion),
        [b'1', b'.', minor @ ..] => {
            let digits = matches!(minor.len(), 1..=3) && minor.iter().all(u8::is_ascii_digit);
            let zero = minor.iter().all(|digit| *digit == b'0');
            match (digits, zero) {
                (false, _) => Err(RequestError::BadRequestLine),
                (true, true) => Ok(Version::Http10),
                (true, false) => Ok(Version::Http11),
            }
        }
        _ => Err(RequestError::BadRequestLine),
    }
}

#[cfg(test)]
mod tests;
