//! The head of a request to an upstream: written anew, never copied.

use std::rc::Rc;

use tidegate_http_wire::framing::Framing;
use tidegate_http_wire::h1::write::{self, BadPart};
use tidegate_http_wire::{Field, Known, KnownSet, Version};

use super::module::Settings;
use super::pass::Destination;
use crate::exchange::Exchange;

/// How the body goes to the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFraming {
    /// There is none.
    None,
    /// Its length is known.
    Length(u64),
    /// In chunks.
    Chunked,
}

/// Decides the framing: what is held whole has a length, whatever the client used.
pub fn body_framing(client: Framing, held: u64, complete: bool) -> BodyFraming {
    match client {
        Framing::None => BodyFraming::None,
        _ if complete => BodyFraming::Length(held),
        Framing::Length(length) => BodyFraming::Length(length),
        Framing::Chunked => BodyFraming::Chunked,
    }
}

/// What a head says that matters for the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Says {
    /// Its connection may be used again. One that the upstream was asked to close is not, whatever the reply says of it.
    pub keep: bool,
    /// The method is HEAD, whatever the client's is: no body follows the reply.
    pub is_head: bool,
}

/// Writes the head.
///
/// # Errors
/// A value that would break out of its line; variables can hold anything.
pub fn write_head(
    exchange: &Exchange,
    settings: &Settings,
    destination: &Destination,
    framing: BodyFraming,
    out: &mut Vec<u8>,
) -> Result<Says, BadPart> {
    let method = exchange.method();
    let own_method = settings.method.as_ref().map(|method| method.value(exchange));
    let method = own_method.as_deref().unwrap_or(method.as_bytes());
    let is_head = method == b"HEAD";
    out.extend_from_slice(method);
    out.push(b' ');
    destination.write_target(exchange, out);
    out.extend_from_slice(if settings.http_version == Version::Http11 { b" HTTP/1.1\r\n" } else { b" HTTP/1.0\r\n" });
    // nginx: first, and HTTP/1.1 never without.
    let has_host = match &settings.host {
        Some(host) => write::field_with(b"Host", out, |out| host.write(exchange, out))?,
        None => false,
    };
    if settings.host.is_none() || (!has_host && settings.http_version == Version::Http11) {
        write::known(Known::Host, &destination.host, out)?;
    }
    let sets_connection = settings.sets_known(Known::Connection);
    let mut keep = settings.http_version != Version::Http10 || sets_connection;
    for (name, template) in &settings.set_headers {
        let start = out.len();
        // An empty value removes a field.
        write::field_with(name, out, |out| template.write(exchange, out))?;
        if sets_connection && name.eq_ignore_ascii_case(b"Connection") {
            keep &= !closes(out.get(start..).unwrap_or_default());
        }
    }
    if settings.http_version == Version::Http10 && !sets_connection {
        out.extend_from_slice(b"Connection: close\r\n");
    }
    match framing {
        BodyFraming::None => {}
        BodyFraming::Length(length) => write::number(Known::ContentLength, length, out),
        BodyFraming::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
    }
    if settings.pass_request_headers {
        for field in exchange.head.fields.iter() {
            if !is_withheld(field.known) && !settings.sets(field) {
                write::copy(field, out)?;
            }
        }
    }
    write::end(out);
    Ok(Says { keep, is_head })
}

/// True when a line `Connection` says that the connection is not kept.
fn closes(line: &[u8]) -> bool {
    let tokens = line.split(|byte| matches!(byte, b':' | b',')).skip(1);
    tokens.map(<[u8]>::trim_ascii).any(|token| token.eq_ignore_ascii_case(b"close"))
}

/// Fields of the client that concern its own connection, or that we write ourselves.
fn is_withheld(known: Known) -> bool {
    matches!(
        known,
        Known::Host
            | Known::Expect
            | Known::Upgrade
            | Known::Te
            | Known::ProxyConnection
            | Known::KeepAlive
            | Known::Http2Settings
    ) || write::is_hop_by_hop(known)
}

/// A set of names, for a quick look at each field.
#[derive(Debug, Default)]
pub struct NameSet {
    known: KnownSet,
    /// The names that are not known.
    others: Vec<Rc<[u8]>>,
}

impl NameSet {
    /// Adds a name.
    pub fn add(&mut self, name: &[u8]) {
        match Known::of(name) {
            Known::Other => self.others.push(name.into()),
            known => self.known.insert(known),
        }
    }

    /// True when the name of a field is in the set, whatever its case.
    pub fn has(&self, field: Field<'_>) -> bool {
        match field.known {
            Known::Other => self.others.iter().any(|own| own.eq_ignore_ascii_case(field.name)),
            known => self.known.contains(known),
        }
    }

    /// True when a known name is in the set.
    pub fn has_known(&self, known: Known) -> bool {
        self.known.contains(known)
    }

    /// Removes a name, whatever its case.
    pub fn remove(&mut self, name: &[u8]) {
        match Known::of(name) {
            Known::Other => self.others.retain(|own| !own.eq_ignore_ascii_case(name)),
            known => self.known.remove(known),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_http_wire::Fields;

    #[test]
    fn a_held_body_has_a_length() {
        for (client, held, complete, expected) in [
            (Framing::None, 0, true, BodyFraming::None),
            (Framing::Length(5), 5, true, BodyFraming::Length(5)),
            (Framing::Chunked, 7, true, BodyFraming::Length(7)),
            (Framing::Length(50), 5, false, BodyFraming::Length(50)),
            (Framing::Chunked, 7, false, BodyFraming::Chunked),
        ] {
            assert_eq!(body_framing(client, held, complete), expected);
        }
    }

    #[test]
    fn a_line_may_say_that_the_connection_is_not_kept() {
        for (line, expected) in [
            ("", false),
            ("Connection: close\r\n", true),
            ("connection:CLOSE\r\n", true),
            ("Connection: upgrade, close\r\n", true),
            ("Connection: keep-alive\r\n", false),
            ("Connection: closed\r\n", false),
            ("close: no\r\n", false),
        ] {
            assert_eq!(closes(line.as_bytes()), expected, "{line}");
        }
    }

    #[test]
    fn a_set_has_the_names_that_were_added_and_not_removed() {
        let mut set = NameSet::default();
        for name in ["X-Own", "date", "SERVER", "x-other", "Content-Type"] {
            set.add(name.as_bytes());
        }
        set.remove(b"X-OTHER");
        set.remove(b"content-type");
        for (name, inside) in [
            ("x-own", true),
            ("X-OWN", true),
            ("X-Ow", false),
            ("Date", true),
            ("server", true),
            ("X-Other", false),
            ("Content-Type", false),
            ("Host", false),
        ] {
            let fields: Fields = [(name.as_bytes(), &b"a"[..])].into_iter().collect();
            assert!(fields.iter().all(|field| set.has(field) == inside), "{name}");
            let known = Known::of(name.as_bytes());
            assert_eq!(set.has_known(known), inside && known != Known::Other, "{name}");
        }
    }
}
