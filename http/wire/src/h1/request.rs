//! Heads of requests, read incrementally.
//!
//! Each line is looked at once, when its LF has arrived; nothing is scanned again on the next read, and the input is
//! taken out of the buffer, without a copy, when the head is complete. Limits hold for incomplete lines too.

use std::fmt;

use bytes::{Buf, BytesMut};

use super::line;
use crate::fields::Fields;
use crate::framing::{self, BadFraming, Framing};
use crate::head::{RequestHead, Version};
use crate::host::Host;
use crate::known::Known;
use crate::method::{self, Method};
use crate::span::Span;
use crate::uri::{Form, Parsed, Target};

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
    state: State,
    refused: Option<Box<RequestHead>>,
}

/// What is known of the head that is being read; all positions count from the start of the input.
#[derive(Debug, Default)]
struct State {
    start: Option<StartLine>,
    fields: Fields,
    ignored: Vec<Span>,
    line_start: usize,
    scanned: usize,
}

#[derive(Debug)]
struct StartLine {
    method: Method,
    target: Parsed,
    target_start: usize,
    version: Version,
    line: Span,
    protocol: Span,
}

impl RequestParser {
    /// A parser at the start of a connection.
    #[must_use]
    pub fn new(limits: HeadLimits) -> Self {
        Self { limits, state: State::default(), refused: None }
    }

    /// Takes one complete head out of `input`, or `None` if more has to be read. Bytes after the head stay: they are
    /// the body, or the next request. Empty lines before the request line are dropped (RFC 9112 section 2.2).
    ///
    /// # Errors
    /// The first thing wrong with the head. Then the connection is of no further use; [`refused`](Self::refused) gives
    /// what had been understood.
    pub fn parse(&mut self, input: &mut BytesMut) -> Result<Option<RequestHead>, RequestError> {
        if self.state.scanned == 0 {
            let blank = input.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            input.advance(blank);
        }
        while let Some(end) = self.next_line(input)? {
            if self.take_line(input, end)? {
                return self.finish(input, end + 1).map(Some);
            }
            self.state.line_start = end + 1;
        }
        Ok(None)
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
        self.state.scanned == 0 && input.iter().all(|byte| matches!(byte, b'\r' | b'\n'))
    }

    /// The request line in the input, or what there is of it: nginx's `$request` for a request it could not read.
    #[must_use]
    pub fn partial_line<'a>(&self, input: &'a BytesMut) -> &'a [u8] {
        match &self.state.start {
            Some(start) => start.line.of(input),
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
        let all = input.len();
        match self.build(input, all) {
            Ok(mut head) => {
                head.host = host_of(&head).ok().flatten();
                Box::new(head)
            }
            Err(_) => {
                let mut fields = Fields::new();
                fields.set_base(input.split().freeze());
                let head = RequestHead::new(Method::Get, Target::unknown(), Version::Http11, fields);
                Box::new(RequestHead { line, ..head })
            }
        }
    }

    /// Where the next line ends, or `None` if it is incomplete. Either way within the limits.
    fn next_line(&mut self, input: &[u8]) -> Result<Option<usize>, RequestError> {
        let found = memchr::memchr(b'\n', input.get(self.state.scanned..).unwrap_or_default());
        let end = found.map_or(input.len(), |at| self.state.scanned + at);
        self.state.scanned = end + usize::from(found.is_some());
        let line = input.get(self.state.line_start..end).unwrap_or_default();
        if self.state.start.is_none() {
            check_method(line.get(..self.limits.line).unwrap_or(line), found.is_some())?;
        }
        let longest = self.limits.line.min(self.limits.total.saturating_sub(self.state.line_start));
        if line.len() < longest {
            return Ok(found.map(|_| end));
        }
        Err(self.too_long(line, longest))
    }

    fn too_long(&self, line: &[u8], longest: usize) -> RequestError {
        if self.state.start.is_none() {
            RequestError::RequestLineTooLong
        } else if longest == self.limits.line {
            RequestError::HeaderLineTooLong(line.get(..longest.min(LOGGED)).unwrap_or(line).to_vec())
        } else {
            RequestError::HeaderTooLarge
        }
    }

    /// Understands the line that ends before `end`; true if it was the last of the head.
    fn take_line(&mut self, input: &[u8], end: usize) -> Result<bool, RequestError> {
        let start = self.state.line_start;
        let line = input.get(start..end).unwrap_or_default();
        if self.state.start.is_none() {
            let parsed = start_line(line, &self.limits)?;
            let simple = parsed.version == Version::Http09;
            self.state.start = Some(parsed);
            return Ok(simple);
        }
        if matches!(line, b"" | b"\r") {
            return Ok(true);
        }
        let parsed = line::parse(line, self.limits.underscores).map_err(|at| bad_header(line, at))?;
        if !parsed.valid && self.limits.ignore_invalid {
            let text = line.strip_suffix(b"\r").unwrap_or(line);
            self.state.ignored.push(Span::between(start, start + text.len()));
            return Ok(false);
        }
        if self.state.fields.len() >= self.limits.fields {
            return Err(RequestError::TooManyHeaders);
        }
        let name = Span::between(start, start + parsed.name_end);
        let value = Span::between(start + parsed.value.0, start + parsed.value.1);
        let known = Known::of(line.get(..parsed.name_end).unwrap_or_default());
        let again = known != Known::Other && UNIQUE & known.bit() != 0 && self.state.fields.may_have(known);
        self.state.fields.push_parsed(name, value, known);
        if again { Err(self.duplicate(input, known)) } else { Ok(false) }
    }

    fn duplicate(&self, input: &[u8], known: Known) -> RequestError {
        let mut fields = self.state.fields.clone();
        fields.set_base(bytes::Bytes::copy_from_slice(input));
        let mut lines =
            fields.iter().filter(|field| field.known == known).map(|field| [field.name, b": ", field.value].concat());
        let (first, last) = (lines.next().unwrap_or_default(), lines.last().unwrap_or_default());
        RequestError::DuplicateHeader(Box::new((last, first)))
    }

    /// Takes the head out of the input and judges it as a whole.
    fn finish(&mut self, input: &mut BytesMut, end: usize) -> Result<RequestHead, RequestError> {
        let mut head = self.build(input, end)?;
        match judge(&mut head) {
            Ok(()) => Ok(head),
            Err(error) => {
                self.refused = Some(Box::new(head));
                Err(error)
            }
        }
    }

    fn build(&mut self, input: &mut BytesMut, end: usize) -> Result<RequestHead, RequestError> {
        let State { start, mut fields, ignored, .. } = std::mem::take(&mut self.state);
        let start = start.ok_or(RequestError::BadRequestLine)?;
        let base = input.split_to(end.min(input.len())).freeze();
        let target = start.target.share(&base, start.target_start);
        fields.set_base(base);
        Ok(RequestHead {
            method: start.method,
            target,
            version: start.version,
            fields,
            host: None,
            framing: Framing::None,
            line: start.line,
            protocol: start.protocol,
            ignored,
        })
    }
}

/// How much of a bad line is kept for the log.
const LOGGED: usize = 1024;

/// The fields that nginx takes only once; `Transfer-Encoding` and `Content-Length` among them.
const UNIQUE: u128 = Known::Host.bit()
    | Known::ContentLength.bit()
    | Known::TransferEncoding.bit()
    | Known::IfModifiedSince.bit()
    | Known::IfUnmodifiedSince.bit()
    | Known::IfMatch.bit()
    | Known::IfNoneMatch.bit()
    | Known::IfRange.bit()
    | Known::ContentRange.bit()
    | Known::Expect.bit()
    | Known::Authorization.bit()
    | Known::ProxyAuthorization.bit();

/// The first known field that came more than once and must not, as for HTTP/1 heads: for HTTP/2 and 3.
#[must_use]
pub fn first_duplicate(fields: &Fields) -> Option<Known> {
    fields.iter().map(|field| field.known).find(|known| UNIQUE & known.bit() != 0 && fields.count(*known) > 1)
}

/// Whom the request is for: the authority of the target, else `Host`. Both are checked if both are there.
fn host_of(head: &RequestHead) -> Result<Option<Host>, RequestError> {
    let in_line = match &head.target.authority {
        Some(authority) => Some(Host::parse(authority).map_err(|_| RequestError::BadHostInLine)?),
        None => None,
    };
    let Some(value) = head.fields.share(Known::Host) else { return Ok(in_line) };
    let in_field = Host::parse(&value).map_err(|_| RequestError::BadHost)?;
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

/// Refuses what cannot become a method before its line is complete: TLS on a plain port, or noise.
fn check_method(line: &[u8], complete: bool) -> Result<(), RequestError> {
    match line.iter().find(|byte| !method::is_letter(**byte)) {
        Some(b' ') if line.first() != Some(&b' ') => Ok(()),
        Some(_) => Err(RequestError::BadMethod),
        None if complete => Err(RequestError::BadMethod),
        None => Ok(()),
    }
}

/// Understands a request line, given without its LF, as nginx does: any number of spaces between the parts and at the
/// end.
fn start_line(line: &[u8], limits: &HeadLimits) -> Result<StartLine, RequestError> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let bad = || RequestError::BadRequestLine;
    let word_end = |from: usize| memchr::memchr(b' ', line.get(from..).unwrap_or_default()).map(|at| from + at);
    let skip =
        |from: usize| from + line.get(from..).unwrap_or_default().iter().take_while(|byte| **byte == b' ').count();
    let method_end = word_end(0).ok_or_else(bad)?;
    let method = Method::parse(line.get(..method_end).unwrap_or_default()).ok_or(RequestError::BadMethod)?;
    let target_start = skip(method_end);
    let target_end = word_end(target_start).unwrap_or(line.len());
    let raw = line.get(target_start..target_end).unwrap_or_default();
    let target = Parsed::parse(raw, method == Method::Connect, limits.merge_slashes).map_err(|_| bad())?;
    if target.form() == Form::Asterisk && !(limits.asterisk && method == Method::Options) {
        return Err(bad());
    }
    let protocol_start = skip(target_end);
    let protocol_end = word_end(protocol_start).unwrap_or(line.len());
    if skip(protocol_end) != line.len() {
        return Err(bad());
    }
    let version = version(line.get(protocol_start..protocol_end).unwrap_or_default())?;
    if version == Version::Http09 && method != Method::Get {
        return Err(RequestError::BadHttp09Method);
    }
    // nginx: what has no version must have a path.
    if version == Version::Http09 && !raw.starts_with(b"/") && raw.splitn(4, |byte| *byte == b'/').count() < 4 {
        return Err(bad());
    }
    Ok(StartLine {
        method,
        target,
        target_start,
        version,
        line: Span::between(0, line.len()),
        protocol: Span::between(protocol_start, protocol_end),
    })
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
