//! The heads of requests and replies, whichever version of HTTP carried them.

use bytes::Bytes;

use crate::fields::Fields;
use crate::framing::Framing;
use crate::host::Host;
use crate::method::Method;
use crate::span::Span;
use crate::uri::Target;

/// A version of HTTP as it matters to meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// A request line without version; the reply has no head.
    Http09,
    /// HTTP/1.0: closes unless asked not to, knows no chunks.
    Http10,
    /// HTTP/1.1, and any later 1.x.
    Http11,
    /// HTTP/2.
    Http2,
    /// HTTP/3.
    Http3,
}

impl Version {
    /// As `$server_protocol` gives it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http09 => "HTTP/0.9",
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2.0",
            Self::Http3 => "HTTP/3.0",
        }
    }
}

/// Everything of a request before its body.
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// What is asked for, parsed and normalised.
    pub target: Target,
    /// The version of the protocol.
    pub version: Version,
    /// The header fields in order.
    pub fields: Fields,
    /// Whom the request is for: the authority of an absolute target, else `Host`. None only before HTTP/1.1.
    pub host: Option<Host>,
    /// How the end of the body is found.
    pub framing: Framing,
    pub(crate) line: Span,
    pub(crate) protocol: Span,
    pub(crate) ignored: Vec<Span>,
}

impl RequestHead {
    /// A head that no HTTP/1 parser made: HTTP/2 and 3, and tests.
    #[inline]
    #[must_use]
    pub fn new(method: Method, target: Target, version: Version, fields: Fields) -> Self {
        Self {
            method,
            target,
            version,
            fields,
            host: None,
            framing: Framing::None,
            line: Span::default(),
            protocol: Span::default(),
            ignored: Vec::new(),
        }
    }

    /// What stands for a head of which nothing is known yet.
    #[inline]
    pub(crate) fn unknown() -> Self {
        Self::new(Method::Get, Target::unknown(), Version::Http11, Fields::new())
    }

    /// Gives the buffer that a head was received in, from the request line on.
    pub(crate) fn set_base(&mut self, base: Bytes) {
        self.target.set_base(base.clone());
        self.fields.set_lines(base);
    }

    /// The request line as received, without its line end (`$request`); empty for a head no HTTP/1 parser made.
    #[must_use]
    pub fn line(&self) -> &[u8] {
        self.line.of(self.fields.base())
    }

    /// The protocol as the client spelled it (`$server_protocol`): nothing for HTTP/0.9.
    #[must_use]
    pub fn protocol(&self) -> &[u8] {
        let spelled = self.protocol.of(self.fields.base());
        match self.version {
            Version::Http09 => b"",
            version if spelled.is_empty() => version.as_str().as_bytes(),
            _ => spelled,
        }
    }

    /// How many bytes of input the head took, empty lines before it excepted.
    #[must_use]
    pub fn size(&self) -> usize {
        self.fields.base().len()
    }

    /// The field lines dropped for their name: nginx logs each as `client sent invalid header line`.
    pub fn ignored(&self) -> impl Iterator<Item = &[u8]> {
        self.ignored.iter().map(|span| span.of(self.fields.base()))
    }
}

/// Everything of a reply before its body.
#[derive(Clone, Debug)]
pub struct ReplyHead {
    /// The version of the protocol.
    pub version: Version,
    /// The status code, from 100 to 999.
    pub status: u16,
    /// The reason phrase as received, often empty.
    pub reason: Bytes,
    /// The header fields in order.
    pub fields: Fields,
    pub(crate) ignored: Vec<Span>,
}

impl ReplyHead {
    /// A head that no HTTP/1 parser made.
    #[inline]
    #[must_use]
    pub fn new(version: Version, status: u16, fields: Fields) -> Self {
        Self { version, status, reason: Bytes::new(), fields, ignored: Vec::new() }
    }

    /// How many bytes of input the head took.
    #[must_use]
    pub fn size(&self) -> usize {
        self.fields.base().len()
    }

    /// The repeated lines that were dropped: nginx logs each as `upstream sent duplicate header line .. ignored`.
    pub fn ignored(&self) -> impl Iterator<Item = &[u8]> {
        self.ignored.iter().map(|span| span.of(self.fields.base()))
    }
}
