//! Whom a rule is about: one address, a network, local clients, everybody.

use std::net::IpAddr;

use super::Address;

/// Which clients a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// `all`
    All,
    /// The addresses that begin with as many bits of this one.
    Inet(IpAddr, u8),
    /// `unix:`, clients of sockets in the file system.
    Local,
}

impl Network {
    /// Reads `address`, `address/bits`, `unix:` or `all`. `None` for anything else.
    pub fn parse(text: &str) -> Option<Network> {
        match text {
            "all" => return Some(Network::All),
            "unix:" => return Some(Network::Local),
            _ => {}
        }
        let (ip, bits) = text.split_once('/').map_or((text, None), |(ip, bits)| (ip, Some(bits)));
        let ip: IpAddr = ip.parse().ok()?;
        let most = if ip.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Some(most), |bits| bits.parse().ok()).filter(|bits| *bits <= most)?;
        Some(Network::Inet(ip, bits))
    }

    /// The network of this address alone.
    pub fn only(ip: IpAddr) -> Network {
        Network::Inet(ip, if ip.is_ipv4() { 32 } else { 128 })
    }

    /// True when bits are set that do not matter, which nginx warns of.
    pub fn has_meaningless_bits(self) -> bool {
        matches!(self, Network::Inet(ip, bits) if mask(ip, bits) != ip)
    }

    /// True when the client is in it.
    pub fn contains(self, client: &Address) -> bool {
        match (self, client) {
            (Network::All, _) | (Network::Local, Address::Unix(_)) => true,
            (Network::Inet(network, bits), Address::Inet(client)) => {
                // An IPv4 client of an IPv6 socket is still the IPv4 client.
                let ip = client.ip().to_canonical();
                ip.is_ipv4() == network.is_ipv4() && mask(ip, bits) == mask(network, bits)
            }
            _ => false,
        }
    }
}

/// The address with all but its first `bits` bits cleared.
fn mask(ip: IpAddr, bits: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            IpAddr::V4((ip.to_bits() & u32::MAX.checked_shl(32 - u32::from(bits.min(32))).unwrap_or(0)).into())
        }
        IpAddr::V6(ip) => {
            IpAddr::V6((ip.to_bits() & u128::MAX.checked_shl(128 - u32::from(bits.min(128))).unwrap_or(0)).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        for (rule, client, expected) in [
            ("10.0.0.0/8", "10.1.2.3", true),
            ("10.0.0.0/8", "11.1.2.3", false),
            ("0.0.0.0/0", "1.2.3.4", true),
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "::ffff:127.0.0.1", true),
            ("::1", "::1", true),
            ("2001:db8::/32", "2001:db8:1::1", true),
            ("2001:db8::/32", "127.0.0.1", false),
            ("all", "::1", true),
            ("unix:", "127.0.0.1", false),
        ] {
            let client = Address::Inet((client.parse::<IpAddr>().unwrap(), 1).into());
            assert_eq!(Network::parse(rule).unwrap().contains(&client), expected, "{rule} {client}");
        }
        for wrong in ["10.0.0.0/33", "10.0.0", "localhost", ""] {
            assert_eq!(Network::parse(wrong), None, "{wrong}");
        }
    }
}
