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
    /// Checks `text` and keeps its buffer where nothing had to be changed.
    pub fn parse(mut text: Bytes) -> Result<Self, BadHost> {
        let (name, port) = validate_host(&text)?;
        match name {
            Cow::Borrowed(name) => {
                let len = name.len();
                text.truncate(len);
                Ok(Self { name: text, port })
            }
            Cow::Owned(name) => Ok(Self { name: Bytes::from(name), port }),
        }
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
    let (name_end, has_upper) = if host.first() == Some(&b'[') { literal_end(host)? } else { name_end(host)? };
    let (name, rest) = host.split_at_checked(name_end).ok_or(BadHost)?;
    let port = parse_port(rest)?;
    let name = name.strip_suffix(b".").unwrap_or(name);
    if name.is_empty() {
        return Err(BadHost);
    }
    if has_upper {
        return Ok((Cow::Owned(name.to_ascii_lowercase()), port));
    }
    Ok((Cow::Borrowed(name), port))
}

/// Where a name ends: at the colon of a port or with the text; and whether it has capital letters.
fn name_end(host: &[u8]) -> Result<(usize, bool), BadHost> {
    let mut has_upper = false;
    let mut after_dot = false;
    for (at, byte) in host.iter().enumerate() {
        match CLASSES.get(usize::from(*byte)).copied().unwrap_or(Class::Bad) {
            Class::Lower | Class::Percent => after_dot = false,
            Class::Upper => (has_upper, after_dot) = (true, false),
            Class::Dot if after_dot => return Err(BadHost),
            Class::Dot => after_dot = true,
            Class::Colon => return Ok((at, has_upper)),
            Class::Bad => return Err(BadHost),
        }
    }
    Ok((host.len(), has_upper))
}

/// Where an address in brackets ends, and whether it has capital letters.
fn literal_end(host: &[u8]) -> Result<(usize, bool), BadHost> {
    let close = host.iter().position(|byte| *byte == b']').ok_or(BadHost)?;
    let inner = host.get(1..close).ok_or(BadHost)?;
    let mut has_upper = false;
    let mut previous = 0;
    for byte in inner {
        match CLASSES.get(usize::from(*byte)).copied().unwrap_or(Class::Bad) {
            Class::Lower | Class::Colon => {}
            Class::Upper => has_upper = true,
            Class::Dot if previous != b'.' => {}
            Class::Dot | Class::Percent | Class::Bad => return Err(BadHost),
        }
        previous = *byte;
    }
    Ok((close + 1, has_upper))
}

/// What one byte means in a host.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// A capital letter.
    Upper,
    /// Any other letter, digit or sign of a name: unreserved and sub-delims (RFC 3986 section 2).
    Lower,
    Dot,
    /// Not in brackets.
    Percent,
    /// In brackets, or before a port.
    Colon,
    Bad,
}

static CLASSES: [Class; 256] = classes();

/// Runs at compile time only.
#[allow(clippy::indexing_slicing)]
const fn classes() -> [Class; 256] {
    let mut table = [Class::Bad; 256];
    let mut byte = 0u8;
    while byte < 0x80 {
        table[byte as usize] = match byte {
            b'A'..=b'Z' => Class::Upper,
            b'a'..=b'z' | b'0'..=b'9' => Class::Lower,
            b'-' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' => {
                Class::Lower
            }
            b'.' => Class::Dot,
            b'%' => Class::Percent,
            b':' => Class::Colon,
            _ => Class::Bad,
        };
        byte += 1;
    }
    table
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
        let host = Host::parse(text.clone()).unwrap();
        assert_eq!(host.name.as_ptr(), text.as_ptr());
        assert_eq!(Host::parse(Bytes::from_static(b"EX")).unwrap().name, "ex");
        assert_eq!(Host::parse(Bytes::from_static(b"a b")), Err(BadHost));
    }
}
