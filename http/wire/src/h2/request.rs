//! Requests of HTTP/2: the decoded fields of a head become a [`RequestHead`], or are refused (RFC 9113 section 8).
//!
//! What nginx answers is answered here, with the status and in the words of its log; where the RFC calls more malformed
//! than nginx refuses (connection fields, blanks around values, bytes beyond ASCII in names), the RFC is followed.

use bytes::Bytes;

use super::fault::{Pseudo, RequestFault};
use crate::fields::Fields;
use crate::framing::{self, Framing};
use crate::h1::RequestError;
use crate::h1::line::has_control;
use crate::h1::request::first_duplicate;
use crate::head::{RequestHead, Version};
use crate::host::Host;
use crate::known::Known;
use crate::method::Method;
use crate::span::Span;
use crate::uri::Target;

/// What a request may be, named after nginx's directives where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLimits {
    /// All names and values, decoded, in bytes: number times size of `large_client_header_buffers`. Cookies, pseudo-fields
    /// and what is ignored count, so that references of one byte to long fields cannot multiply.
    pub total: usize,
    /// The most fields, cookies excepted and ignored ones included: `max_headers`.
    pub fields: usize,
    /// The most pieces that `Cookie` may come in. Browsers send one for each cookie.
    pub crumbs: usize,
    /// `ignore_invalid_headers`: drop fields whose name has another byte than a letter, a digit or a dash.
    pub ignore_invalid: bool,
    /// `underscores_in_headers`: take `_` for a letter of a name.
    pub underscores: bool,
    /// `merge_slashes`.
    pub merge_slashes: bool,
    /// Take `OPTIONS *` (RFC 9110 section 9.3.7). nginx answers 400.
    pub asterisk: bool,
    /// Take CONNECT to a host and port. nginx answers 405.
    pub connect: bool,
    /// Take CONNECT with `:protocol` (RFC 8441): `SETTINGS_ENABLE_CONNECT_PROTOCOL` was announced.
    pub extended_connect: bool,
}

impl Default for RequestLimits {
    /// nginx's defaults.
    fn default() -> Self {
        Self {
            total: 32 * 1024,
            fields: 1000,
            crumbs: 1000,
            ignore_invalid: true,
            underscores: false,
            merge_slashes: true,
            asterisk: false,
            connect: false,
            extended_connect: false,
        }
    }
}

/// A request that was understood.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its head. The fields lie behind the request line that HTTP/1 would have; a `host` field is added if only
    /// `:authority` was there, and the pieces of `cookie` are joined at the end.
    pub head: RequestHead,
    /// What `:scheme` said; empty for CONNECT.
    pub scheme: Bytes,
    /// What `:protocol` of an extended CONNECT said: `websocket`.
    pub protocol: Option<Bytes>,
}

/// A request that was refused.
#[derive(Clone, Debug)]
pub struct Refused {
    /// Why.
    pub fault: RequestFault,
    /// The head as far as it was understood, to choose a server, an error page and a log line by.
    pub head: Box<RequestHead>,
}

/// Reads the fields of a head, pseudo-fields first, in the order in which they came. `ended` says that `END_STREAM` came
/// with it: there is no body.
///
/// A pseudo-field that did not come must not be made up: a library that gives a URI instead may have a `/` where there was
/// no `:path`.
///
/// # Errors
/// The first thing wrong; [`RequestFault::remedy`] says what the client gets for it.
pub fn read<'a>(
    lines: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    ended: bool,
    limits: &RequestLimits,
) -> Result<Request, Box<Refused>> {
    let mut reading = Reading::new(limits);
    let taken = lines.into_iter().try_for_each(|(name, value)| reading.take(name, value));
    let taken = taken.and_then(|()| reading.end_lines());
    let protocol = reading.pseudo.protocol.map(Bytes::copy_from_slice);
    let scheme = reading.pseudo.scheme.map(Bytes::copy_from_slice).unwrap_or_default();
    let mut head = reading.into_head();
    match taken.and_then(|()| judge(&mut head, ended, protocol.is_some(), limits)) {
        Ok(()) => Ok(Request { head, scheme, protocol }),
        Err(fault) => Err(Box::new(Refused { fault, head: Box::new(head) })),
    }
}

/// Reads the fields behind a body. They may be no pseudo-fields and none that frames or routes a message.
///
/// # Errors
/// The first thing wrong. An answer may have begun: reset the stream ([`RequestFault::reset`]).
pub fn read_trailers<'a>(
    lines: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    limits: &RequestLimits,
) -> Result<Fields, RequestFault> {
    let mut reading = Reading::new(limits);
    reading.begun = true;
    for (name, value) in lines {
        if matches!(Known::of(name), Known::ContentLength | Known::Host | Known::Te) {
            return Err(RequestFault::InTrailers(logged(name)));
        }
        reading.take(name, value)?;
    }
    reading.end_lines()?;
    Ok(reading.into_head().fields)
}

/// What has been understood of a head. All spans are of `base`.
struct Reading<'a, 'l> {
    limits: &'l RequestLimits,
    /// What the names and values may still take.
    left: usize,
    pseudo: PseudoFields<'a>,
    /// A regular field has come: no pseudo-field may follow.
    begun: bool,
    base: Vec<u8>,
    line: Span,
    method: Option<Method>,
    /// With where it begins.
    target: Option<(Target, usize)>,
    fields: Fields,
    ignored: Vec<Span>,
    crumbs: Vec<&'a [u8]>,
}

#[derive(Default)]
struct PseudoFields<'a> {
    method: Option<&'a [u8]>,
    scheme: Option<&'a [u8]>,
    authority: Option<&'a [u8]>,
    path: Option<&'a [u8]>,
    protocol: Option<&'a [u8]>,
}

/// Room for a usual head.
const ROOM: usize = 1024;

impl<'a, 'l> Reading<'a, 'l> {
    fn new(limits: &'l RequestLimits) -> Self {
        Self {
            limits,
            left: limits.total,
            pseudo: PseudoFields::default(),
            begun: false,
            base: Vec::with_capacity(ROOM),
            line: Span::default(),
            method: None,
            target: None,
            fields: Fields::new(),
            ignored: Vec::new(),
            crumbs: Vec::new(),
        }
    }

    fn take(&mut self, name: &'a [u8], value: &'a [u8]) -> Result<(), RequestFault> {
        let size = name.len().saturating_add(value.len());
        self.left = self.left.checked_sub(size).ok_or(RequestFault::TooLarge)?;
        match name {
            [] => Err(RequestFault::EmptyName),
            [b':', pseudo @ ..] => self.take_pseudo(pseudo, value),
            _ => {
                self.begin()?;
                self.take_field(name, value)
            }
        }
    }

    fn take_pseudo(&mut self, name: &'a [u8], value: &'a [u8]) -> Result<(), RequestFault> {
        if self.begun {
            return Err(RequestFault::PseudoOutOfOrder);
        }
        let (pseudo, place) = match name {
            b"method" => (Pseudo::Method, &mut self.pseudo.method),
            b"scheme" => (Pseudo::Scheme, &mut self.pseudo.scheme),
            b"authority" => (Pseudo::Authority, &mut self.pseudo.authority),
            b"path" => (Pseudo::Path, &mut self.pseudo.path),
            b"protocol" if self.limits.extended_connect => (Pseudo::Protocol, &mut self.pseudo.protocol),
            _ => return Err(RequestFault::UnknownPseudo(logged(name))),
        };
        if place.is_some() {
            return Err(RequestFault::DuplicatePseudo(pseudo));
        }
        if value.is_empty() && pseudo != Pseudo::Authority {
            return Err(RequestFault::EmptyPseudo(pseudo));
        }
        if !is_sound(pseudo, value) {
            return Err(RequestFault::BadPseudo(pseudo, logged(value)));
        }
        *place = Some(value);
        Ok(())
    }

    /// The pseudo-fields are complete: what they ask for is written as a request line.
    fn begin(&mut self) -> Result<(), RequestFault> {
        if std::mem::replace(&mut self.begun, true) {
            return Ok(());
        }
        let PseudoFields { method, scheme, authority, path, protocol } = self.pseudo;
        let method = method.ok_or(RequestFault::MissingPseudo(Pseudo::Method))?;
        let parsed_method =
            Method::parse(method).ok_or_else(|| RequestFault::BadPseudo(Pseudo::Method, logged(method)))?;
        let connects = parsed_method == Method::Connect;
        let options = parsed_method == Method::Options;
        self.method = Some(parsed_method);
        let (target, parsed) = match protocol {
            None if connects => self.connect_target()?,
            Some(_) if !connects => return Err(RequestFault::ProtocolWithoutConnect),
            _ => {
                scheme.ok_or(RequestFault::MissingPseudo(Pseudo::Scheme))?;
                let path = path.ok_or(RequestFault::MissingPseudo(Pseudo::Path))?;
                if protocol.is_some() && authority.is_none() {
                    return Err(RequestFault::MissingPseudo(Pseudo::Authority));
                }
                let parsed = if path == b"*" && options && self.limits.asterisk {
                    Target::whole(path, false, self.limits.merge_slashes)
                } else {
                    Target::origin(path, self.limits.merge_slashes)
                };
                (path, parsed.map_err(|_| RequestFault::BadPseudo(Pseudo::Path, logged(path)))?)
            }
        };
        self.base.extend_from_slice(method);
        self.base.push(b' ');
        self.target = Some((parsed, self.base.len()));
        self.base.extend_from_slice(target);
        self.base.push(b' ');
        self.base.extend_from_slice(Version::Http2.as_str().as_bytes());
        self.line = Span::between(0, self.base.len());
        Ok(())
    }

    /// CONNECT names a host and a port, and nothing else (RFC 9113 section 8.5).
    fn connect_target(&self) -> Result<(&'a [u8], Target), RequestFault> {
        if self.pseudo.scheme.is_some() {
            return Err(RequestFault::PseudoInConnect(Pseudo::Scheme));
        }
        if self.pseudo.path.is_some() {
            return Err(RequestFault::PseudoInConnect(Pseudo::Path));
        }
        let authority = self.pseudo.authority.ok_or(RequestFault::MissingPseudo(Pseudo::Authority))?;
        let parsed = Target::whole(authority, true, self.limits.merge_slashes);
        Ok((authority, parsed.map_err(|_| RequestFault::BadPseudo(Pseudo::Authority, logged(authority)))?))
    }

    fn take_field(&mut self, name: &'a [u8], value: &'a [u8]) -> Result<(), RequestFault> {
        let valid = is_valid_name(name, self.limits.underscores)?;
        let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
        if has_control(value) || blank(value.first()) || blank(value.last()) {
            return Err(RequestFault::BadValue(logged(name), logged(value)));
        }
        let known = Known::of(name);
        match known {
            Known::Connection
            | Known::KeepAlive
            | Known::ProxyConnection
            | Known::TransferEncoding
            | Known::Upgrade => return Err(RequestFault::ConnectionField(known)),
            Known::Te if !value.eq_ignore_ascii_case(b"trailers") || self.fields.may_have(Known::Te) => {
                return Err(RequestFault::BadTe);
            }
            Known::Cookie => return self.take_crumb(value),
            _ => {}
        }
        if self.fields.len() + self.ignored.len() >= self.limits.fields {
            return Err(RequestError::TooManyHeaders.into());
        }
        let name = self.keep(name);
        if !valid && self.limits.ignore_invalid {
            self.ignored.push(name);
            return Ok(());
        }
        let value = self.keep(value);
        self.fields.push_parsed(name, value, known);
        Ok(())
    }

    fn take_crumb(&mut self, value: &'a [u8]) -> Result<(), RequestFault> {
        if self.crumbs.len() >= self.limits.crumbs {
            return Err(RequestFault::TooManyCrumbs);
        }
        self.crumbs.push(value);
        Ok(())
    }

    /// No more fields come: the pieces of `Cookie` are joined (RFC 9113 section 8.2.3).
    fn end_lines(&mut self) -> Result<(), RequestFault> {
        self.begin()?;
        let Some((first, others)) = self.crumbs.split_first() else { return Ok(()) };
        let name_start = self.base.len();
        self.base.extend_from_slice(Known::Cookie.lower_name());
        let value_start = self.base.len();
        self.base.extend_from_slice(first);
        for crumb in others {
            self.base.extend_from_slice(b"; ");
            self.base.extend_from_slice(crumb);
        }
        let (name, value) = (Span::between(name_start, value_start), Span::between(value_start, self.base.len()));
        self.fields.push_parsed(name, value, Known::Cookie);
        Ok(())
    }

    fn keep(&mut self, bytes: &[u8]) -> Span {
        let start = self.base.len();
        self.base.extend_from_slice(bytes);
        Span::between(start, self.base.len())
    }

    /// The head as far as it was understood: after a fault, parts of it are made up.
    fn into_head(mut self) -> RequestHead {
        let authority = self.pseudo.authority.map(|authority| self.keep(authority));
        let host_name = match authority {
            Some(_) if !self.fields.may_have(Known::Host) => Some(self.keep(Known::Host.lower_name())),
            _ => None,
        };
        let base = Bytes::from(self.base);
        if let (Some(name), Some(value)) = (host_name, authority) {
            self.fields.push_parsed(name, value, Known::Host);
        }
        let mut target = match self.target {
            Some((mut target, at)) => {
                target.shift(at);
                target
            }
            None => Target::unknown(),
        };
        target.set_authority(authority);
        target.set_base(base.clone());
        self.fields.set_base(base);
        let named = target.authority().or_else(|| self.fields.share(Known::Host));
        let host = named.and_then(|text| Host::parse(text).ok());
        let method = self.method.unwrap_or(Method::Get);
        let head = RequestHead::new(method, target, Version::Http2, self.fields);
        RequestHead { host, line: self.line, ignored: self.ignored, ..head }
    }
}

/// What can only be said of a whole head, in nginx's order.
fn judge(head: &mut RequestHead, ended: bool, extended: bool, limits: &RequestLimits) -> Result<(), RequestFault> {
    if let Some(known) = first_duplicate(&head.fields) {
        return Err(duplicate(&head.fields, known));
    }
    let named = head.fields.share(Known::Host).ok_or(RequestFault::NoHost)?;
    Host::parse(named.clone()).map_err(|_| RequestError::BadHost)?;
    if head.target.authority().is_some_and(|authority| authority != named) {
        return Err(RequestFault::HostDiffers);
    }
    let declared = match head.fields.get(Known::ContentLength) {
        Some(value) => Some(framing::content_length(value).map_err(RequestError::Framing)?),
        None => None,
    };
    let connects = head.method == Method::Connect;
    head.framing = match declared {
        Some(length) if length > 0 && connects => return Err(RequestError::ConnectWithBody.into()),
        Some(length) if length > 0 && ended => return Err(RequestFault::EndedEarly),
        Some(length) => Framing::Length(length),
        None if ended || connects => Framing::None,
        None => Framing::Chunked,
    };
    match head.method {
        Method::Connect if !extended && !limits.connect => Err(RequestError::Connect.into()),
        Method::Trace => Err(RequestError::Trace.into()),
        _ => Ok(()),
    }
}

fn duplicate(fields: &Fields, known: Known) -> RequestFault {
    let mut lines = fields.iter().filter(|field| field.known == known).map(|field| {
        [field.name, b": ", field.value.get(..field.value.len().min(LOGGED)).unwrap_or_default()].concat()
    });
    let (first, second) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    RequestError::DuplicateHeader(Box::new((second, first))).into()
}

/// Whether the value of a pseudo-field is what it must be; the path is looked at when the method is known.
fn is_sound(pseudo: Pseudo, value: &[u8]) -> bool {
    match pseudo {
        Pseudo::Method => Method::parse(value).is_some(),
        Pseudo::Scheme => {
            let more = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
            value.first().is_some_and(u8::is_ascii_alphabetic) && value.iter().all(more)
        }
        Pseudo::Authority => crate::host::validate_host(value).is_ok(),
        Pseudo::Path => true,
        Pseudo::Protocol => value.iter().all(|byte| is_token(*byte)),
    }
}

/// Whether a name has nothing but lower-case letters, digits, dashes and, if allowed, underscores. nginx drops others or
/// not, as `ignore_invalid_headers` says.
///
/// # Errors
/// The name has a byte that no name may have: an upper-case letter, a space, a colon, a control or non-ASCII character.
fn is_valid_name(name: &[u8], underscores: bool) -> Result<bool, RequestFault> {
    let mut valid = true;
    for byte in name {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' => {}
            b'_' => valid &= underscores,
            0..=b' ' | b':' | b'A'..=b'Z' | 0x7f.. => return Err(RequestFault::BadName(logged(name))),
            _ => valid = false,
        }
    }
    Ok(valid)
}

/// RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// How much of a bad name or value is kept for the log.
const LOGGED: usize = 1024;

fn logged(bytes: &[u8]) -> Vec<u8> {
    bytes.get(..LOGGED).unwrap_or(bytes).to_vec()
}

#[cfg(test)]
mod tests;
