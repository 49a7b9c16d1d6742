//! The head of an answer: how the body is framed, and the fields in nginx's order.

use std::cell::{Cell, RefCell};

use tidegate_core::clock;
use tidegate_core::log;
use tidegate_core::subject::Subject;
use tidegate_http_wire::h1::write::{self, BadPart};
use tidegate_http_wire::uri::{Escape, escape_uri};
use tidegate_http_wire::{Fields, Known, Version, date};

use super::framing::Framing;
use crate::answer::{Answer, Body, product};
use crate::exchange::Exchange;
use crate::settings::Tokens;

/// Decides how the body of an answer is framed.
pub fn framing_of(exchange: &Exchange, answer: &Answer, transformed: bool) -> Framing {
    let length = if transformed { None } else { answer.body.length() };
    match answer.status {
        101 => Framing::Switched,
        100..=199 | 204 | 304 => Framing::Empty,
        _ => match (length, exchange.head.version) {
            (_, Version::Http09) => Framing::Close,
            // nginx: nothing is said of a body that does not come.
            (None, _) if exchange.is_head() => Framing::Empty,
            (Some(length), _) => Framing::Length(length),
            (None, Version::Http2) => Framing::Stream,
            (None, Version::Http10) => Framing::Close,
            (None, _) if exchange.plan().settings.chunked_transfer_encoding => Framing::Chunked,
            (None, _) => Framing::Close,
        },
    }
}

/// How most answers of a second begin.
struct Opening {
    second: i64,
    tokens: Tokens,
    /// The status line of 200, `Server` and `Date`.
    text: Vec<u8>,
}

/// The status line of most answers.
const OK: &[u8] = b"HTTP/1.1 200 OK\r\n";

impl Opening {
    /// Makes the text anew where it is no longer true.
    fn at(&mut self, second: i64, tokens: Tokens) -> &[u8] {
        if self.second != second || self.tokens != tokens {
            (self.second, self.tokens) = (second, tokens);
            self.text.clear();
            self.text.extend_from_slice(OK);
            constant(b"Server: ", product(tokens).as_bytes(), &mut self.text);
            constant(b"Date: ", &date::format(second), &mut self.text);
        }
        &self.text
    }
}

thread_local! {
    static OPENING: RefCell<Opening> =
        const { RefCell::new(Opening { second: i64::MIN, tokens: Tokens::Off, text: Vec::new() }) };
    /// The last time written in `Last-Modified`: most files of a site are asked for more than once.
    static MODIFIED: Cell<(i64, [u8; 29])> = const { Cell::new((i64::MIN, [0; 29])) };
}

/// A line whose value is our own, and needs no check.
fn constant(beginning: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(beginning);
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Writes the head. What would break out of its line is put in line first.
///
/// # Errors
/// Something of it could not be put in line.
pub fn write(exchange: &Exchange, answer: &mut Answer, framing: Framing, keep: bool) -> Result<Vec<u8>, BadPart> {
    try_write(exchange, answer, framing, keep).or_else(|BadPart| {
        log!(exchange.logger(), Warn, "a response field contains a line break or a zero byte, which is escaped");
        put_in_line(answer);
        try_write(exchange, answer, framing, keep)
    })
}

/// Escapes in URLs what would end their line, and puts spaces elsewhere; fields whose name is none are left out.
pub fn put_in_line(answer: &mut Answer) {
    let mut fields = Fields::new();
    for field in answer.fields.iter() {
        let is_name =
            !field.name.is_empty() && field.name.iter().all(|byte| (b'!'..0x7f).contains(byte) && *byte != b':');
        if !is_name {
            continue;
        }
        if matches!(field.known, Known::Location | Known::Refresh) {
            let mut url = Vec::with_capacity(field.value.len());
            escape_uri(field.value, Escape::Breaks, &mut url);
            fields.push(field.name, &url);
        } else {
            fields.push(field.name, &write::in_one_line(field.value.to_vec()));
        }
    }
    answer.fields = fields;
    answer.reason = None;
}

fn try_write(exchange: &Exchange, answer: &Answer, framing: Framing, keep: bool) -> Result<Vec<u8>, BadPart> {
    let small_body = if let Body::Bytes(bytes) = &answer.body { bytes.len().min(4096) } else { 0 };
    let mut out = Vec::with_capacity(448 + small_body);
    if exchange.head.version == Version::Http09 {
        return Ok(out);
    }
    let plan = exchange.plan();
    let settings = &plan.settings;
    let fields = &answer.fields;
    write_opening(answer, settings.server_tokens, &mut out)?;
    let mut content_type_written = false;
    if let Some(content_type) = fields.get(Known::ContentType) {
        write::known(Known::ContentType, content_type, &mut out)?;
    }
    match framing {
        Framing::Length(length) => write::number(Known::ContentLength, length, &mut out),
        Framing::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        _ => {}
    }
    // nginx: what an upstream says of it stays a field like any other.
    if let Some(modified) = answer.last_modified.filter(|_| !fields.has(Known::LastModified)) {
        constant(b"Last-Modified: ", &date_of(modified), &mut out);
    }
    out.extend_from_slice(match framing {
        Framing::Switched => b"Connection: upgrade\r\n",
        _ if keep => b"Connection: keep-alive\r\n",
        _ => b"Connection: close\r\n",
    });
    if let (true, Some(told)) = (keep, settings.keepalive_header) {
        constant(b"Keep-Alive: timeout=", itoa::Buffer::new().format(told.as_secs()).as_bytes(), &mut out);
    }
    for field in fields.iter() {
        // nginx: another type that `add_header` adds follows as a field like any other.
        let written = field.known == Known::ContentType && !std::mem::replace(&mut content_type_written, true);
        let switches = field.known == Known::Upgrade && (answer.passed_on || framing == Framing::Switched);
        if !written && (switches || !write::is_hop_by_hop(field.known)) {
            write::copy(field, &mut out)?;
        }
    }
    write::end(&mut out);
    Ok(out)
}

/// The status line, and what every answer says of the server and of the time unless its fields do.
fn write_opening(answer: &Answer, tokens: Tokens, out: &mut Vec<u8>) -> Result<(), BadPart> {
    let is_ok = answer.status == 200 && answer.reason.as_ref().is_none_or(|reason| reason == "OK");
    let has_server = answer.fields.has(Known::Server);
    let has_date = answer.fields.has(Known::Date);
    OPENING.with_borrow_mut(|opening| {
        let usual = opening.at(clock::seconds(), tokens);
        if is_ok && !has_server && !has_date {
            out.extend_from_slice(usual);
            return Ok(());
        }
        match &answer.reason {
            Some(reason) => write::status_line_with(answer.status, reason, out)?,
            None => write::status_line(answer.status, out),
        }
        let lines = usual.get(OK.len()..).unwrap_or_default();
        let (server, date) = lines.split_at_checked(lines.len().saturating_sub(DATE_LINE)).unwrap_or_default();
        if !has_server {
            out.extend_from_slice(server);
        }
        if !has_date {
            out.extend_from_slice(date);
        }
        Ok(())
    })
}

/// How long the line of a date is.
const DATE_LINE: usize = b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n".len();

fn date_of(modified: i64) -> [u8; 29] {
    let (second, text) = MODIFIED.get();
    if second == modified {
        return text;
    }
    let text = date::format(modified);
    MODIFIED.set((modified, text));
    text
}

/// What nginx does to an answer of its own behind all filters.
pub fn finish(exchange: &Exchange, answer: &mut Answer) {
    if answer.passed_on {
        return;
    }
    if !matches!(answer.status, 200 | 206 | 304) {
        answer.last_modified = None;
    }
    if matches!(answer.status, 301..=303 | 307 | 308)
        && let Some(absolute) = answer.fields.get(Known::Location).and_then(|path| absolute(exchange, path))
    {
        answer.fields.set(Known::Location, &absolute);
    }
}

/// nginx: redirects of our own name scheme, host and port, unless told not to.
/// `None` leaves a location as it is.
pub fn absolute(exchange: &Exchange, path: &[u8]) -> Option<Vec<u8>> {
    let settings = &exchange.plan().settings;
    if !settings.absolute_redirect || path.first() != Some(&b'/') {
        return None;
    }
    let host = if settings.server_name_in_redirect && !exchange.server.name.is_empty() {
        exchange.server.name.as_bytes().to_vec()
    } else {
        match &exchange.head.host {
            Some(host) => host.name.to_vec(),
            None => exchange.peer.local.accepting(),
        }
    };
    let mut absolute = format!("{}://", exchange.scheme()).into_bytes();
    absolute.extend_from_slice(&host);
    let usual = if exchange.scheme() == "https" { 443 } else { 80 };
    if let Some(port) = exchange.peer.local.port().filter(|port| settings.port_in_redirect && *port != usual) {
        absolute.extend_from_slice(format!(":{port}").as_bytes());
    }
    absolute.extend_from_slice(path);
    Some(absolute)
}
