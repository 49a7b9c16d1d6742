//! `ip_hash`: clients of one network, or of one IPv6 address, go to the same server as long as it can be used.

use std::net::IpAddr;

use tidegate_core::conf::directive::{Arity, Directive, Feature, Levels, Set};
use tidegate_core::module::Module;
use tidegate_core::net::Address;
use tidegate_core::subject::Subject;

use super::{Ask, Balancer, Candidate, round_robin};
use crate::module::UpstreamConf;
use crate::peer::Peer;

/// `ip_hash`, for protocols that have it
pub struct ByIp;

impl Feature for ByIp {
    type Conf = UpstreamConf;
    const NAME: &'static str = "ip_hash";
    const DIRECTIVES: &'static [Directive<UpstreamConf>] = &[Directive {
        name: "ip_hash",
        levels: Levels::UPSTREAM,
        arity: Arity::Exactly(0),
        set: Set::With(|conf, line| {
            conf.refuse_backup();
            conf.choose(line, |peers| Box::new(IpHash::new(peers)))
        }),
        doc: "Chooses the server by the client's address: the first 24 bits of IPv4, all of IPv6.",
    }];
}

impl<S: Subject> Module<S> for ByIp {}

/// Tries before turns decide, as in nginx.
const TRIES: usize = 20;

/// By the client's address.
pub struct IpHash {
    /// The peers that are no backup, by index, with their weights.
    weights: Vec<(usize, u64)>,
    total: u64,
}

impl IpHash {
    /// For the peers of a group. Those that cannot be used keep their part of all addresses, so that the others' clients
    /// stay where they are.
    pub fn new(peers: &[Peer]) -> IpHash {
        let own = peers.iter().enumerate().filter(|(_, peer)| !peer.backup);
        let weights: Vec<(usize, u64)> = own.map(|(index, peer)| (index, peer.weight.into())).collect();
        let total = weights.iter().fold(0, |sum: u64, (_, weight)| sum.saturating_add(*weight));
        IpHash { weights, total }
    }

    /// The peer whose part of all addresses a hash lies in.
    fn peer_of(&self, hash: u64) -> Option<usize> {
        let mut left = hash.checked_rem(self.total)?;
        let found = self.weights.iter().find(|(_, weight)| match left.checked_sub(*weight) {
            Some(rest) => {
                left = rest;
                false
            }
            None => true,
        });
        found.map(|(index, _)| *index)
    }
}

impl Balancer for IpHash {
    fn pick(&self, candidates: &[Candidate<'_>], ask: &Ask<'_>) -> Option<usize> {
        let mut hash = 89;
        for _ in 0..TRIES {
            hash = rehash(hash, ask.client);
            let peer = self.peer_of(hash)?;
            let found = candidates.iter().position(|candidate| candidate.index == peer);
            if found.is_some() {
                return found;
            }
        }
        round_robin::richest(candidates, |_| true)
    }
}

/// nginx's hash: of IPv4 the network of 24 bits counts, of local clients nothing.
fn rehash(hash: u64, client: &Address) -> u64 {
    let step = |hash: u64, byte: u8| (hash * 113 + u64::from(byte)) % 6271;
    match client.ip() {
        Some(IpAddr::V4(ip)) => ip.octets().into_iter().take(3).fold(hash, step),
        Some(IpAddr::V6(ip)) => ip.octets().into_iter().fold(hash, step),
        None => [0; 3].into_iter().fold(hash, step),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::{State, WORDS};
    use std::net::SocketAddr;
    use std::sync::atomic::AtomicU64;

    /// The peers, of these weights and as far as they are usable, that clients of 30 networks are sent to.
    fn chosen(weights: &[u32], usable: &[usize]) -> Vec<usize> {
        let words: Vec<AtomicU64> = (0..weights.len() * WORDS).map(|_| AtomicU64::new(0)).collect();
        let address = |last: u8| Address::Inet(SocketAddr::from(([192, 0, last, 1], 80)));
        let peers: Vec<Peer> = weights.iter().map(|weight| Peer { weight: *weight, ..Peer::new(address(0)) }).collect();
        let method = IpHash::new(&peers);
        let candidate =
            |index: &usize| Candidate { index: *index, weight: 1, connections: 0, state: State::of(&words, *index) };
        let candidates: Vec<Candidate<'_>> = usable.iter().map(candidate).collect();
        let pick = |at: u8| method.pick(&candidates, &Ask { client: &address(at), tried: &[] });
        (0..30).filter_map(pick).filter_map(|position| usable.get(position).copied()).collect()
    }

    #[test]
    fn clients_stay_with_their_server() {
        let count = |chosen: &[usize], index: usize| chosen.iter().filter(|at| **at == index).count();
        let all = chosen(&[1, 1, 1], &[0, 1, 2]);
        assert_eq!([count(&all, 0), count(&all, 1), count(&all, 2)], [10, 10, 10]);
        assert_eq!(all, chosen(&[1, 1, 1], &[2, 0, 1]), "the order in which they are offered does not matter");
        // Without one of them the others keep their clients.
        let some = chosen(&[1, 1, 1], &[0, 2]);
        assert!(all.iter().zip(&some).all(|(before, after)| *before == 1 || before == after));
        assert_eq!(some.len(), all.len(), "those of the one that is missing are the others' now");
        assert_eq!(all.iter().take(6).copied().collect::<Vec<_>>(), [1, 2, 0, 1, 2, 0], "nginx's choices");
        let heavy = chosen(&[4, 1], &[0, 1]);
        assert!(count(&heavy, 0) > 2 * count(&heavy, 1), "{heavy:?}");
        assert_eq!(chosen(&[1], &[0]).len(), 30);
        assert!(chosen(&[1, 1], &[]).is_empty());
    }
}
