//! Whom a proxy in front speaks for, by the addresses that proxies have noted.

use std::net::{IpAddr, SocketAddr};

use super::Address;
use super::network::Network;

/// The client behind trusted proxies. Each has noted, behind what was noted before it, whose connection it passes on. Only
/// the last note counts, and with `recursive` those before it for as long as whoever was noted is trusted, too.
pub fn client_behind(peer: IpAddr, notes: &[u8], trusted: &[Network], recursive: bool) -> IpAddr {
    let is_trusted =
        |ip: IpAddr| trusted.iter().any(|network| network.contains(&Address::Inet(SocketAddr::new(ip, 0))));
    let mut client = peer;
    if !is_trusted(peer) {
        return client;
    }
    let notes = notes.rsplit(|byte| matches!(byte, b',' | b' ')).filter(|note| !note.is_empty());
    for note in notes {
        let Some(noted) = address(note) else { return client };
        client = noted;
        if !recursive || !is_trusted(client) {
            return client;
        }
    }
    client
}

/// An address, with or without a port.
fn address(note: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(note).ok()?;
    let in_brackets = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    text.parse().ok().or_else(|| text.parse().ok().map(|address: SocketAddr| address.ip())).or_else(in_brackets)
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
                let found = client_behind(peer.parse().unwrap(), notes.as_bytes(), &trusted, recursive);
                assert_eq!(found.to_string(), expected, "{peer} {notes} {recursive}");
            }
        }
    }
}
