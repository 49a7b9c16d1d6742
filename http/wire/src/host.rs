//! Host names as a client may send them: in `Host`, `:authority` or an absolute target.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;

/// The server a request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Lower case, without port and without a trailing dot; an IPv6 address keeps its brackets.
    pub name: Bytes,
    /// The port, if one was given.
    pub port: Option<u16>,
}

/// The text is no host: nginx answers 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadHost;

impl fmt::Display for BadHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("invalid host")
    }
}

impl std::error::Error for BadHost {}

impl Host {
    /// Checks `text` and shares its buffer where nothing had to be changed.
    pub fn parse(text: &Bytes) -> Result<Self, BadHost> {
        let (name, port) = validate_host(text)?;
        let name = match name {
            Cow::Borrowed(name) => text.slice(..name.len()),
            Cow::Owned(name) => Bytes::from(name),
        };
        Ok(Self { name, port })
    }
}

/// Checks a host as nginx does and gives its name in lower case and its port.
///
/// A name of letters, digits, `-._~`, sub-delims and `%`, or an address in brackets; two dots in a row are refused, one
/// at the end is dropped; a port of digits up to 65535, which may be empty (RFC 9110 section 4.2.3). The name borrowed
/// is always a prefix of `host`.
///
/// # Errors
/// [`BadHost`] for anything else, an empty name included.
pub fn validate_host(host: &[u8]) -> Result<(Cow<'_, [u8]>, Option<u16>), BadHost> {
    let (name, rest) = if host.first() == Some(&b'[') {
        let close = host.iter().position(|byte| *byte == b']').ok_or(BadHost)?;
        host.split_at_checked(close + 1).ok_or(BadHost)?
    } else {
        let end = host.iter().position(|byte| *byte == b':').unwrap_or(host.len());
        host.split_at_checked(end).ok_or(BadHost)?
    };
    check_name(name)?;
    let port = parse_port(rest)?;
    let name = name.strip_suffix(b".").unwrap_or(name);
    if name.is_empty() {
        return Err(BadHost);
    }
    if name.iter().any(u8::is_ascii_uppercase) {
        return Ok((Cow::Owned(name.to_ascii_lowercase()), port));
    }
    Ok((Cow::Borrowed(name), port))
}

fn check_name(name: &[u8]) -> Result<(), BadHost> {
    let literal = name.strip_prefix(b"[").and_then(|name| name.strip_suffix(b"]"));
    let inner = literal.unwrap_or(name);
    let extra = if literal.is_some() { b':' } else { b'%' };
    let mut previous = 0;
    for byte in inner {
        if (!is_name_byte(*byte) && *byte != extra) || (*byte == b'.' && previous == b'.') {
            return Err(BadHost);
        }
        previous = *byte;
    }
    Ok(())
}

/// Unreserved and sub-delims (RFC 3986 section 2).
fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(&byte)
}

/// `:port`, `:` or nothing.
fn parse_port(rest: &[u8]) -> Result<Option<u16>, BadHost> {
    let digits = match rest.split_first() {
        None => return Ok(None),
        Some((b':', digits)) => digits,
        Some(_) => return Err(BadHost),
    };
    let mut port = None;
    for digit in digits {
        let digit = digit.is_ascii_digit().then(|| u16::from(digit - b'0')).ok_or(BadHost)?;
        port = Some(port.unwrap_or(0u16).checked_mul(10).and_then(|port| port.checked_add(digit)).ok_or(BadHost)?);
    }
    Ok(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_lowered_and_stripped() {
        for (text, name, port) in [
            ("example.com", "example.com", None),
            ("Example.COM", "example.com", None),
            ("example.com.", "example.com", None),
            ("example.com.:80", "example.com", Some(80)),
            ("example.com:", "example.com", None),
            ("a_b~!$&'()*+,;=%20", "a_b~!$&'()*+,;=%20", None),
            ("[::1]", "[::1]", None),
            ("[::FF]:8080", "[::ff]", Some(8080)),
            ("x:65535", "x", Some(65535)),
            ("x:00080", "x", Some(80)),
            (".a", ".a", None),
        ] {
            let (found, found_port) = validate_host(text.as_bytes()).unwrap();
            assert_eq!((&*found, found_port), (name.as_bytes(), port), "{text}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for text in [
            "", ".", ":80", ".:80", "a..b", "a b", "a/b", "a\0b", "a\tb", "x:65536", "x:99999", "x:8a", "x:80:80",
            "[::1", "[::1]x", "[::1]:x", "a@b", "a\\b", "\u{e9}", "a\"", "<a>", "[a/b]", "[a..b]", "x:+80", "[a%b]",
        ] {
            assert_eq!(validate_host(text.as_bytes()), Err(BadHost), "{text:?}");
        }
    }

    #[test]
    fn a_plain_host_shares_its_buffer() {
        let text = Bytes::from_static(b"example.com:80");
        let host = Host::parse(&text).unwrap();
        assert_eq!(host.name.as_ptr(), text.as_ptr());
        assert_eq!(Host::parse(&Bytes::from_static(b"EX")).unwrap().name, "ex");
        assert_eq!(Host::parse(&Bytes::from_static(b"a b")), Err(BadHost));
    }
}
