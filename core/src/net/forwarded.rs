//! Whom a proxy in front speaks for, by the addresses that proxies have noted.

use std::net::{IpAddr, SocketAddr};

use super::Address;
use super::network::Network;

/// The client behind trusted proxies, where they tell of one. Each has noted, behind what was noted before it, whose
/// connection it passes on. Only the last note counts, and with `recursive` those before it for as long as whoever was
/// noted is trusted, too. The port is 0 where none is noted.
pub fn client_behind(peer: &Address, notes: &[u8], trusted: &[Network], recursive: bool) -> Option<SocketAddr> {
    let is_trusted = |address: &Address| trusted.iter().any(|network| network.contains(address));
    if !is_trusted(peer) {
        return None;
    }
    let mut client = None;
    for note in notes.rsplit(|byte| matches!(byte, b',' | b' ')).filter(|note| !note.is_empty()) {
        let Some(noted) = address(note) else { break };
        client = Some(noted);
        if !recursive || !is_trusted(&Address::Inet(noted)) {
            break;
        }
    }
    client
}

/// An address, with or without a port.
fn address(note: &[u8]) -> Option<SocketAddr> {
    let text = std::str::from_utf8(note).ok()?;
    let alone = |text: &str| text.parse().ok().map(|ip: IpAddr| SocketAddr::new(ip, 0));
    let in_brackets = || alone(text.strip_prefix('[')?.strip_suffix(']')?);
    alone(text).or_else(|| text.parse().ok()).or_else(in_brackets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_count_as_far_as_they_can_be_trusted() {
        let trusted: Vec<Network> = ["10.0.0.0/8", "2001:db8::/32"].into_iter().filter_map(Network::parse).collect();
        for (peer, notes, once, all) in [
            ("10.0.0.1", "1.1.1.1", "1.1.1.1", "1.1.1.1"),
            ("10.0.0.1", "1.1.1.1, 2.2.2.2", "2.2.2.2", "2.2.2.2"),
            ("10.0.0.1", "1.1.1.1, 10.0.0.2", "10.0.0.2", "1.1.1.1"),
            ("10.0.0.1", "1.1.1.1,10.0.0.3,  10.0.0.2 ,", "10.0.0.2", "1.1.1.1"),
            ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.2", "10.0.0.3"),
            ("10.0.0.1", "1.1.1.1, unknown, 10.0.0.2", "10.0.0.2", "10.0.0.2"),
            ("10.0.0.1", "nobody", "10.0.0.1", "10.0.0.1"),
            ("10.0.0.1", "", "10.0.0.1", "10.0.0.1"),
            ("11.0.0.1", "1.1.1.1", "11.0.0.1", "11.0.0.1"),
            ("::ffff:10.0.0.1", "1.1.1.1:80", "1.1.1.1", "1.1.1.1"),
            ("2001:db8::1", "[2001:db9::1]:80", "2001:db9::1", "2001:db9::1"),
            ("2001:db8::1", "[2001:db9::1]", "2001:db9::1", "2001:db9::1"),
        ] {
            for (recursive, expected) in [(false, once), (true, all)] {
                let address = Address::Inet(SocketAddr::new(peer.parse().unwrap(), 1));
                let found = client_behind(&address, notes.as_bytes(), &trusted, recursive);
                let found = found.map_or_else(|| peer.to_owned(), |client| client.ip().to_string());
                assert_eq!(found, expected, "{peer} {notes} {recursive}");
            }
        }
    }

    #[test]
    fn ports_are_kept_and_local_proxies_can_be_trusted() {
        let local = Address::Unix("".into());
        for (notes, trusted, expected) in [
            ("192.0.2.1:80", Network::Local, Some("192.0.2.1:80")),
            ("192.0.2.1", Network::Local, Some("192.0.2.1:0")),
            ("192.0.2.1", Network::only(IpAddr::from([127, 0, 0, 1])), None),
        ] {
            let found = client_behind(&local, notes.as_bytes(), &[trusted], false);
            assert_eq!(found, expected.map(|text| text.parse().unwrap()), "{notes}");
        }
    }
}
