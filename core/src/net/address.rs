//! Socket addresses of both families and of the local domain, and nginx's ways to write them.

use std::ffi::OsStr;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Where something listens, or where a peer is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// IPv4 or IPv6 with a port.
    Inet(SocketAddr),
    /// A socket in the file system; an empty path for an unnamed client.
    Unix(PathBuf),
}

impl Address {
    /// The IP address, if it is one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Address::Inet(address) => Some(address.ip()),
            Address::Unix(_) => None,
        }
    }

    /// The same address with another port, where it has one.
    #[must_use]
    pub fn with_port(&self, port: u16) -> Address {
        match self {
            Address::Inet(address) => Address::Inet((address.ip(), port).into()),
            Address::Unix(path) => Address::Unix(path.clone()),
        }
    }

    /// The port, if there is one.
    pub fn port(&self) -> Option<u16> {
        match self {
            Address::Inet(address) => Some(address.port()),
            Address::Unix(_) => None,
        }
    }

    /// The address without its port, as `$remote_addr` shows it.
    pub fn host(&self) -> String {
        match self {
            Address::Inet(address) => address.ip().to_string(),
            Address::Unix(_) => "unix:".to_owned(),
        }
    }

    /// Appends the address as [`host`](Self::host) gives it, of which there is one in nearly every line of a log.
    pub fn write_host(&self, out: &mut Vec<u8>) {
        let Address::Inet(SocketAddr::V4(address)) = self else {
            return out.extend_from_slice(self.host().as_bytes());
        };
        for (index, part) in address.ip().octets().into_iter().enumerate() {
            if index > 0 {
                out.push(b'.');
            }
            out.extend_from_slice(itoa::Buffer::new().format(part).as_bytes());
        }
    }

    /// The address that accepted a client, without its port: of a local socket the whole path, as nginx shows it.
    pub fn accepting(&self) -> Vec<u8> {
        match self {
            Address::Inet(address) => address.ip().to_string().into_bytes(),
            Address::Unix(path) => [b"unix:", path.as_os_str().as_bytes()].concat(),
        }
    }

    /// The address as the socket library takes it.
    ///
    /// # Errors
    /// A path longer than the system allows.
    pub fn to_socket_address(&self) -> std::io::Result<socket2::SockAddr> {
        match self {
            Address::Inet(address) => Ok((*address).into()),
            Address::Unix(path) => socket2::SockAddr::unix(path),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Inet(address) => address.fmt(f),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// An address as a configuration names it, before names are resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// A host name or literal, and a port if one was given.
    Host(String, Option<u16>),
    /// `*:port` or a bare port.
    Any(u16),
    /// `unix:path`
    Unix(PathBuf),
}

/// Why a text names no address. Whoever asks says where it stands: `invalid port in upstream "a:b"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressError {
    /// There is nothing where a host should be.
    NoHost,
    /// The host is no text.
    InvalidHost,
    /// The brackets are not closed, or there is something else in them.
    InvalidIpv6,
    /// The port is no number of one.
    InvalidPort,
    /// There is no port, and none is the usual one.
    NoPort,
    /// Nothing follows `unix:`.
    NoPath,
    /// The path has a zero in it.
    InvalidPath,
    /// The system's resolver knows no address.
    NotFound,
}

impl fmt::Display for AddressError {
    /// nginx's words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AddressError::NoHost => "no host",
            AddressError::InvalidHost => "invalid host",
            AddressError::InvalidIpv6 => "invalid IPv6 address",
            AddressError::InvalidPort => "invalid port",
            AddressError::NoPort => "no port",
            AddressError::NoPath => "no path",
            AddressError::InvalidPath => "invalid path",
            AddressError::NotFound => "host not found",
        })
    }
}

impl Named {
    /// Reads `host`, `host:port`, `[v6]:port`, `*:port`, `port` or `unix:path`. A path may have any bytes but zero, a host
    /// is text.
    ///
    /// # Errors
    /// It is none of these.
    pub fn parse(text: impl AsRef<[u8]>) -> Result<Named, AddressError> {
        let (text, fail) = (text.as_ref(), Err);
        if let Some(path) = text.strip_prefix(b"unix:") {
            return match path {
                [] => fail(AddressError::NoPath),
                // The path would end there, or be one of another name space.
                _ if path.contains(&0) => fail(AddressError::InvalidPath),
                _ => Ok(Named::Unix(OsStr::from_bytes(path).into())),
            };
        }
        let Ok(text) = std::str::from_utf8(text) else { return fail(AddressError::InvalidHost) };
        if text.is_empty() {
            return fail(AddressError::NoHost);
        }
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            return match text.parse() {
                Ok(0) | Err(_) => fail(AddressError::InvalidPort),
                Ok(port) => Ok(Named::Any(port)),
            };
        }
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let Some((host, tail)) = rest.split_once(']') else { return fail(AddressError::InvalidIpv6) };
                if host.parse::<Ipv6Addr>().is_err() || !(tail.is_empty() || tail.starts_with(':')) {
                    return fail(AddressError::InvalidIpv6);
                }
                (host, tail.strip_prefix(':'))
            }
            None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
        };
        let port = match port.map(str::parse) {
            None => None,
            Some(Ok(0) | Err(_)) => return fail(AddressError::InvalidPort),
            Some(Ok(port)) => Some(port),
        };
        match (host, port) {
            ("", _) => fail(AddressError::NoHost),
            ("*", Some(port)) => Ok(Named::Any(port)),
            ("*", None) => Ok(Named::Host("0.0.0.0".into(), None)),
            _ => Ok(Named::Host(host.to_owned(), port)),
        }
    }

    /// All addresses behind the name; `default_port` where none was written. Asks the system's resolver, so it may
    /// block: for the master and for `-t`, never for a worker.
    ///
    /// # Errors
    /// The host is not found, or neither the text nor the caller has a port.
    pub fn resolve(&self, default_port: Option<u16>) -> Result<Vec<Address>, AddressError> {
        match self {
            Named::Unix(path) => Ok(vec![Address::Unix(path.clone())]),
            Named::Any(port) => Ok(vec![Address::Inet((Ipv4Addr::UNSPECIFIED, *port).into())]),
            Named::Host(host, port) => {
                let port = port.or(default_port).ok_or(AddressError::NoPort)?;
                if let Ok(ip) = host.parse::<IpAddr>() {
                    return Ok(vec![Address::Inet((ip, port).into())]);
                }
                let mut found: Vec<Address> = (host.as_str(), port)
                    .to_socket_addrs()
                    .map_err(|_| AddressError::NotFound)?
                    .map(Address::Inet)
                    .collect();
                found.dedup();
                if found.is_empty() { Err(AddressError::NotFound) } else { Ok(found) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        for (text, expected) in [
            ("80", Ok(Named::Any(80))),
            ("*:80", Ok(Named::Any(80))),
            ("127.0.0.1:8080", Ok(Named::Host("127.0.0.1".into(), Some(8080)))),
            ("localhost", Ok(Named::Host("localhost".into(), None))),
            ("[::1]:80", Ok(Named::Host("::1".into(), Some(80)))),
            ("unix:/tmp/a", Ok(Named::Unix("/tmp/a".into()))),
            ("unix:", Err(AddressError::NoPath)),
            ("a:0", Err(AddressError::InvalidPort)),
            ("a:b", Err(AddressError::InvalidPort)),
            ("70000", Err(AddressError::InvalidPort)),
            ("[::1", Err(AddressError::InvalidIpv6)),
            (":80", Err(AddressError::NoHost)),
        ] {
            assert_eq!(Named::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn a_host_is_appended_as_it_is_shown() {
        for text in
            ["127.0.0.1:80", "0.0.0.0:1", "255.255.255.255:65535", "192.0.2.7:8080", "[::1]:80", "[2001:db8::7]:1"]
        {
            let address = Address::Inet(text.parse().unwrap());
            let mut out = b"from ".to_vec();
            address.write_host(&mut out);
            assert_eq!(out, format!("from {}", address.host()).into_bytes(), "{text}");
        }
        let mut out = Vec::new();
        Address::Unix("/tmp/a".into()).write_host(&mut out);
        assert_eq!(out, b"unix:");
    }

    #[test]
    fn bytes_that_are_no_text() {
        let path = |bytes: &[u8]| Ok(Named::Unix(OsStr::from_bytes(bytes).into()));
        for (text, expected) in [
            (&b"unix:/tmp/\xff"[..], path(b"/tmp/\xff")),
            (b"unix:/tmp/\xfe", path(b"/tmp/\xfe")),
            (b"unix:/tmp/\xc3\xa9", path(b"/tmp/\xc3\xa9")),
            (b"unix:/tmp/a\0b", Err(AddressError::InvalidPath)),
            (b"h\xff:80", Err(AddressError::InvalidHost)),
            (b"\xff", Err(AddressError::InvalidHost)),
            (b"[\xff]:80", Err(AddressError::InvalidHost)),
        ] {
            assert_eq!(Named::parse(text), expected, "{}", text.escape_ascii());
        }
    }
}
