//! What a client did wrong in a request of HTTP/2, what it gets for it, and how the log puts it.

use std::fmt;

use super::limits::Code;
use crate::h1::RequestError;
use crate::known::Known;

/// A pseudo-field of requests (RFC 9113 section 8.3.1, RFC 8441 section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pseudo {
    /// `:method`
    Method,
    /// `:scheme`
    Scheme,
    /// `:authority`
    Authority,
    /// `:path`
    Path,
    /// `:protocol`
    Protocol,
}

impl Pseudo {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Method => ":method",
            Self::Scheme => ":scheme",
            Self::Authority => ":authority",
            Self::Path => ":path",
            Self::Protocol => ":protocol",
        }
    }
}

/// What a client did wrong in the head of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestFault {
    /// A field without a name.
    EmptyName,
    /// All names and values together are larger than `large_client_header_buffers`.
    TooLarge,
    /// `Cookie` came in too many pieces.
    TooManyCrumbs,
    /// A name has an upper-case letter or a byte that no name may have.
    BadName(Vec<u8>),
    /// The value of this field has a control character, or blanks around it.
    BadValue(Vec<u8>, Vec<u8>),
    /// A pseudo-field behind a regular field, or in trailers.
    PseudoOutOfOrder,
    /// A pseudo-field that requests do not have.
    UnknownPseudo(Vec<u8>),
    /// A pseudo-field came twice.
    DuplicatePseudo(Pseudo),
    /// It has no value.
    EmptyPseudo(Pseudo),
    /// It is not there.
    MissingPseudo(Pseudo),
    /// Its value is not what it must be.
    BadPseudo(Pseudo, Vec<u8>),
    /// CONNECT with a pseudo-field that only other methods have.
    PseudoInConnect(Pseudo),
    /// `:protocol` with another method than CONNECT.
    ProtocolWithoutConnect,
    /// A field that concerns a connection of HTTP/1 (RFC 9113 section 8.2.2).
    ConnectionField(Known),
    /// `TE` with another value than `trailers`.
    BadTe,
    /// Trailers have a field that belongs into a head.
    InTrailers(Vec<u8>),
    /// Neither `:authority` nor `Host`.
    NoHost,
    /// `:authority` and `Host` differ.
    HostDiffers,
    /// `Content-Length` promises a body, and there is none.
    EndedEarly,
    /// What a request of HTTP/1 can have wrong too.
    Shared(RequestError),
}

impl From<RequestError> for RequestFault {
    fn from(error: RequestError) -> Self {
        Self::Shared(error)
    }
}

/// What the client gets for a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// An answer with this status; 494 is nginx's own, and reaches the client as 400.
    Status(u16),
    /// The end of the connection, with a GOAWAY of this code.
    GoAway(Code),
}

impl RequestFault {
    /// What nginx does: a status for a malformed request, which RFC 9113 section 8.1.1 allows before the stream is
    /// reset; the connection ends where the head was too large to be looked at.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::EmptyName => Remedy::GoAway(Code::ProtocolError),
            Self::TooLarge => Remedy::GoAway(Code::EnhanceYourCalm),
            Self::TooManyCrumbs => Remedy::Status(494),
            Self::Shared(error) => Remedy::Status(error.status()),
            _ => Remedy::Status(400),
        }
    }

    /// The code to reset the stream with, where no status can be sent any more: faults in trailers.
    #[must_use]
    pub fn reset(&self) -> Code {
        match self.remedy() {
            Remedy::GoAway(code) => code,
            Remedy::Status(_) => Code::ProtocolError,
        }
    }

    /// What nginx was doing when it noticed: follows ` while ` in the log.
    #[must_use]
    pub fn action(&self) -> &'static str {
        "reading client request headers"
    }
}

impl fmt::Display for RequestFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EmptyName => f.write_str("client sent zero header name length"),
            Self::TooLarge => f.write_str("client sent too large header"),
            Self::TooManyCrumbs => f.write_str("client sent too many cookie header lines"),
            Self::BadName(name) => write!(f, "client sent invalid header name: \"{}\"", name.escape_ascii()),
            Self::BadValue(name, value) => {
                let (name, value) = (name.escape_ascii(), value.escape_ascii());
                write!(f, "client sent header \"{name}\" with invalid value: \"{value}\"")
            }
            Self::PseudoOutOfOrder => f.write_str("client sent out of order pseudo-headers"),
            Self::UnknownPseudo(name) => {
                write!(f, "client sent unknown pseudo-header \":{}\"", name.escape_ascii())
            }
            Self::DuplicatePseudo(pseudo) => write!(f, "client sent duplicate {} header", pseudo.name()),
            Self::EmptyPseudo(pseudo) => write!(f, "client sent empty {} header", pseudo.name()),
            Self::MissingPseudo(pseudo) => write!(f, "client sent no {} header", pseudo.name()),
            Self::BadPseudo(pseudo, value) => {
                write!(f, "client sent invalid {} header: \"{}\"", pseudo.name(), value.escape_ascii())
            }
            Self::PseudoInConnect(pseudo) => write!(f, "client sent CONNECT with {} header", pseudo.name()),
            Self::ProtocolWithoutConnect => f.write_str("client sent :protocol header without CONNECT method"),
            Self::ConnectionField(known) => write!(f, "client sent \"{}\" header", known.name()),
            Self::BadTe => f.write_str("client sent invalid \"TE\" header"),
            Self::InTrailers(name) => write!(f, "client sent \"{}\" in trailers", name.escape_ascii()),
            Self::NoHost => f.write_str("client sent neither \":authority\" nor \"Host\" header"),
            Self::HostDiffers => f.write_str("client sent \":authority\" and \"Host\" headers with different values"),
            Self::EndedEarly => f.write_str("client prematurely closed stream"),
            Self::Shared(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for RequestFault {}
