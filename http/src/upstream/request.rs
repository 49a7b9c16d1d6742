//! The head of a request to an upstream: written anew, never copied.

use std::rc::Rc;

use tidegate_http_wire::framing::Framing;
use tidegate_http_wire::h1::write::{self, BadPart};
use tidegate_http_wire::{Known, Version};

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
) -> Result<(), BadPart> {
    let method = exchange.method();
    let own_method = settings.method.as_ref().map(|method| method.value(exchange));
    out.extend_from_slice(own_method.as_deref().unwrap_or(method.as_bytes()));
    out.push(b' ');
    destination.write_target(exchange, out);
    out.extend_from_slice(if settings.http_version == Version::Http11 { b" HTTP/1.1\r\n" } else { b" HTTP/1.0\r\n" });
    // nginx: first, and HTTP/1.1 never without.
    let mut value = Vec::new();
    if let Some(host) = &settings.host {
        host.write(exchange, &mut value);
    }
    if settings.host.is_none() || (value.is_empty() && settings.http_version == Version::Http11) {
        write::known(Known::Host, &destination.host, out)?;
    } else if !value.is_empty() {
        write::known(Known::Host, &value, out)?;
    }
    for (name, template) in &settings.set_headers {
        value.clear();
        template.write(exchange, &mut value);
        // The framing is ours to say, and an empty value removes a field.
        let framing = matches!(Known::of(name), Known::ContentLength | Known::TransferEncoding);
        if !value.is_empty() && !framing {
            write::field(name, &value, out)?;
        }
    }
    if settings.http_version == Version::Http10 && !settings.sets(b"connection") {
        write::known(Known::Connection, b"close", out)?;
    }
    match framing {
        BodyFraming::None => {}
        BodyFraming::Length(length) => write::number(Known::ContentLength, length, out),
        BodyFraming::Chunked => write::known(Known::TransferEncoding, b"chunked", out)?,
    }
    if settings.pass_request_headers {
        for field in exchange.head.fields.iter() {
            if !is_withheld(field.known) && !settings.sets(field.name) {
                write::field(field.name, field.value, out)?;
            }
        }
    }
    write::end(out);
    Ok(())
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

/// A set of names in lower case, for a quick look at each field.
#[derive(Debug, Default)]
pub struct NameSet {
    names: Vec<Rc<[u8]>>,
}

impl NameSet {
    /// Adds a name.
    pub fn add(&mut self, name: &[u8]) {
        self.names.push(name.to_ascii_lowercase().into());
    }

    /// True when the name is in the set, whatever its case.
    pub fn contains(&self, name: &[u8]) -> bool {
        self.names.iter().any(|own| own.len() == name.len() && own.eq_ignore_ascii_case(name))
    }

    /// Removes a name.
    pub fn remove(&mut self, name: &[u8]) {
        self.names.retain(|own| !own.eq_ignore_ascii_case(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
