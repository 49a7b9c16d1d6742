//! The client's greeting, as far as it has to be looked into: the server name that it asks for.
//!
//! rustls refuses a handshake whose server name is no host name (`a:443`, `x..y`, `[::1]`), where nginx serves it. Such a
//! greeting is given to rustls with another number on that extension, so that it is passed over. Both sides sign and
//! hash what was said, though, so the hashes of the connection see the greeting as it came: [`honest`] suites put the
//! number back.

use std::sync::LazyLock;

use rustls::crypto::hash::{Context, Hash, HashAlgorithm, Output};
use rustls::crypto::{CipherSuiteCommon, CryptoProvider};
use rustls::{SupportedCipherSuite, Tls12CipherSuite, Tls13CipherSuite};

/// The extension `server_name` (RFC 6066).
const SERVER_NAME: [u8; 2] = [0, 0];
/// A number that no extension has (RFC 8446, section 11: 0xff00 and above are for private use).
const HIDDEN: [u8; 2] = [0xff, 0x7a];
/// The record type of a handshake, and the message type of a client's greeting.
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;

/// A greeting: where it stands among the bytes that have come, and its server name.
#[derive(Debug)]
pub struct Hello {
    /// The places of the greeting's bytes among all that have come.
    places: Vec<usize>,
    /// Where the number of the extension is, and the name.
    name: Option<(usize, Vec<u8>)>,
}

impl Hello {
    /// Finds the greeting in the records that have come. `None` while it is not whole, or if it is none.
    pub fn find(records: &[u8]) -> Option<Hello> {
        let mut places = Vec::new();
        let mut at = 0;
        while let Some([kind, _, _, high, low]) = records.get(at..at + 5) {
            let start = at + 5;
            let end = start + usize::from(u16::from_be_bytes([*high, *low]));
            if *kind != HANDSHAKE || end > records.len() {
                break;
            }
            places.extend(start..end);
            at = end;
        }
        let message: Vec<u8> = places.iter().filter_map(|place| records.get(*place).copied()).collect();
        let length = length_of(&message)?;
        places.truncate(length);
        let message = message.get(..length)?;
        let name = match extension(message, SERVER_NAME) {
            Some((place, body)) => Some((place, only_name(body)?.to_vec())),
            None => None,
        };
        Some(Hello { places, name })
    }

    /// The name, if there is one.
    pub fn name(&self) -> Option<&[u8]> {
        self.name.as_ref().map(|(_, name)| &**name)
    }

    /// The same records, in which rustls sees no server name.
    pub fn without_name(&self, records: &[u8]) -> Option<Vec<u8>> {
        let (place, _) = self.name.as_ref()?;
        let mut records = records.to_vec();
        for (offset, byte) in HIDDEN.into_iter().enumerate() {
            *records.get_mut(*self.places.get(place + offset)?)? = byte;
        }
        Some(records)
    }
}

/// nginx, which is to say OpenSSL, takes any other name for no mistake.
pub fn is_acceptable(name: &[u8]) -> bool {
    name.len() <= 255 && !name.contains(&0)
}

/// The host that a server is looked up by: without port and last dot, in lower case. `None` for what is no host, which
/// the default server answers.
pub fn host(name: &[u8]) -> Option<Vec<u8>> {
    let host = match name.iter().position(|byte| *byte == b':').and_then(|at| name.split_at_checked(at)) {
        Some((host, port)) if port.iter().skip(1).all(u8::is_ascii_digit) => host,
        Some(_) => return None,
        None => name,
    };
    let is_odd = |byte: &u8| *byte <= b' ' || matches!(*byte, 0x7f | b'/' | b'\\' | b'[' | b']' | b'@' | b'?' | b'#');
    if host.iter().any(is_odd) || host.windows(2).any(|pair| pair == b"..") {
        return None;
    }
    let host = host.strip_suffix(b".").unwrap_or(host);
    if host.is_empty() {
        return None;
    }
    Some(host.to_ascii_lowercase())
}

/// The length of a whole greeting at the beginning of `bytes`, with its own head.
fn length_of(bytes: &[u8]) -> Option<usize> {
    match bytes.get(..4)? {
        [CLIENT_HELLO, high, middle, low] => {
            let length = usize::try_from(u32::from_be_bytes([0, *high, *middle, *low])).ok()? + 4;
            (length <= bytes.len()).then_some(length)
        }
        _ => None,
    }
}

/// Where the number of an extension stands in a greeting, and the extension's body.
fn extension(message: &[u8], number: [u8; 2]) -> Option<(usize, &[u8])> {
    // Head, version and random; then session, cipher suites and compression methods, each behind its length.
    let mut at = 4 + 2 + 32;
    at += 1 + usize::from(*message.get(at)?);
    at += 2 + two(message, at)?;
    at += 1 + usize::from(*message.get(at)?);
    let end = at + 2 + two(message, at)?;
    at += 2;
    while at < end {
        let length = two(message, at + 2)?;
        let body = message.get(at + 4..at + 4 + length)?;
        if message.get(at..at + 2)? == number {
            return Some((at, body));
        }
        at += 4 + length;
    }
    None
}

fn two(bytes: &[u8], at: usize) -> Option<usize> {
    match bytes.get(at..at + 2)? {
        [high, low] => Some(usize::from(u16::from_be_bytes([*high, *low]))),
        _ => None,
    }
}

/// The one host name of a list of server names.
fn only_name(list: &[u8]) -> Option<&[u8]> {
    let entry = list.get(2..).filter(|rest| two(list, 0) == Some(rest.len()))?;
    let name = entry.get(3..).filter(|name| entry.first() == Some(&0) && two(entry, 1) == Some(name.len()))?;
    Some(name)
}

/// The suites of `provider`, whose hashes see a greeting as it came.
pub fn honest(provider: CryptoProvider) -> CryptoProvider {
    static SUITES: LazyLock<Vec<SupportedCipherSuite>> = LazyLock::new(|| {
        // Made once: rustls wants suites that stay.
        let usual = rustls::crypto::aws_lc_rs::default_provider().cipher_suites;
        usual.into_iter().map(honest_suite).collect()
    });
    CryptoProvider { cipher_suites: SUITES.clone(), ..provider }
}

fn honest_suite(suite: SupportedCipherSuite) -> SupportedCipherSuite {
    let common = |common: &CipherSuiteCommon| CipherSuiteCommon {
        suite: common.suite,
        hash_provider: Box::leak(Box::new(Honest(common.hash_provider))),
        confidentiality_limit: common.confidentiality_limit,
    };
    match suite {
        SupportedCipherSuite::Tls13(suite) => SupportedCipherSuite::Tls13(Box::leak(Box::new(Tls13CipherSuite {
            common: common(&suite.common),
            ..*suite
        }))),
        SupportedCipherSuite::Tls12(suite) => SupportedCipherSuite::Tls12(Box::leak(Box::new(Tls12CipherSuite {
            common: common(&suite.common),
            ..*suite
        }))),
    }
}

struct Honest(&'static dyn Hash);

impl Hash for Honest {
    fn start(&self) -> Box<dyn Context> {
        Box::new(HonestContext(self.0.start()))
    }

    fn hash(&self, data: &[u8]) -> Output {
        match as_it_came(data) {
            Some(data) => self.0.hash(&data),
            None => self.0.hash(data),
        }
    }

    fn output_len(&self) -> usize {
        self.0.output_len()
    }

    fn algorithm(&self) -> HashAlgorithm {
        self.0.algorithm()
    }

    fn fips(&self) -> bool {
        self.0.fips()
    }
}

struct HonestContext(Box<dyn Context>);

impl Context for HonestContext {
    fn fork_finish(&self) -> Output {
        self.0.fork_finish()
    }

    fn fork(&self) -> Box<dyn Context> {
        Box::new(HonestContext(self.0.fork()))
    }

    fn finish(self: Box<Self>) -> Output {
        self.0.finish()
    }

    fn update(&mut self, data: &[u8]) {
        match as_it_came(data) {
            Some(data) => self.0.update(&data),
            None => self.0.update(data),
        }
    }
}

/// Messages that begin with a greeting whose server name is hidden, with the number put back.
fn as_it_came(data: &[u8]) -> Option<Vec<u8>> {
    let message = data.get(..length_of(data)?)?;
    let (place, _) = extension(message, HIDDEN)?;
    let mut data = data.to_vec();
    data.get_mut(place..place + 2)?.copy_from_slice(&SERVER_NAME);
    Some(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A greeting that asks for this name.
    fn hello(name: &[u8]) -> Vec<u8> {
        let length = |bytes: usize| u16::try_from(bytes).unwrap().to_be_bytes();
        let mut list = vec![0];
        list.extend(length(name.len()));
        list.extend(name);
        let mut extensions = [&[0, 23, 0, 0, 0, 0][..], &length(list.len() + 2), &length(list.len()), &list].concat();
        extensions.extend([0, 5, 0, 1, 1]);
        let mut body = [&[3, 3][..], &[7; 32], &[2, 8, 8], &[0, 2, 19, 1], &[1, 0]].concat();
        body.extend(length(extensions.len()));
        body.extend(extensions);
        let mut message = vec![CLIENT_HELLO, 0];
        message.extend(length(body.len()));
        message.extend(body);
        message
    }

    fn records(message: &[u8], size: usize) -> Vec<u8> {
        let record = |part: &[u8]| [&[HANDSHAKE, 3, 1, 0, u8::try_from(part.len()).unwrap()], part].concat();
        message.chunks(size).flat_map(record).collect()
    }

    #[test]
    fn a_name_is_found_and_hidden_however_the_records_are_cut() {
        for name in [&b"a.example:443"[..], b"x..y", b"[::1]", b""] {
            let message = hello(name);
            for size in 1..message.len() + 1 {
                let records = records(&message, size);
                let found = Hello::find(&records).unwrap();
                assert_eq!(found.name(), Some(name));
                let hidden = found.without_name(&records).unwrap();
                let found = Hello::find(&hidden).unwrap();
                assert_eq!(found.name(), None);
                let seen: Vec<u8> = found.places.iter().map(|place| hidden[*place]).collect();
                assert_ne!(seen, message);
                assert_eq!(as_it_came(&seen), Some(message.clone()));
                for end in 0..records.len() {
                    assert!(Hello::find(&records[..end]).is_none());
                }
            }
        }
    }

    #[test]
    fn hosts_are_what_nginx_looks_up() {
        for (name, expected) in [
            (&b"a.example"[..], Some("a.example")),
            (b"A.Example:443", Some("a.example")),
            (b"a.example.", Some("a.example")),
            (b"-x", Some("-x")),
            (b"a%41", Some("a%41")),
            (b"127.0.0.1", Some("127.0.0.1")),
            ("\u{e9}.example".as_bytes(), Some("\u{e9}.example")),
            (b"a.example..", None),
            (b"x..y", None),
            (b"[::1]", None),
            (b"a b", None),
            (b"a/b", None),
            (b"a.example:x", None),
            (b"", None),
        ] {
            assert_eq!(host(name).as_deref(), expected.map(str::as_bytes), "{name:?}");
        }
        assert_eq!(host(b"A\xe9:443").as_deref(), Some(&b"a\xe9"[..]), "a name need not be text");
    }
}
