//! A group of peers and the lease of one: who takes a lease must report how it went, and cannot forget to give it back.

use std::rc::Rc;

use tidegate_core::clock;
use tidegate_core::net::Address;
use tidegate_core::zone::per_worker::PerWorker;
use tidegate_core::zone::{Need, Region, Zone, hash};

use crate::algorithm::{Ask, Balancer, Candidate};
use crate::health;
use crate::peer::{self, Peer, State, WORDS};

/// Peers that do the same work.
pub struct Group {
    name: Rc<str>,
    peers: Vec<Peer>,
    state: Region,
    connections: PerWorker,
    method: Box<dyn Balancer>,
    /// A lone peer has nobody to hand over to, so it never rests.
    lone: bool,
    /// Idle connections kept, and for how long: `keepalive` and its neighbours.
    pub keepalive: crate::idle::Limits,
}

/// How a peer stands.
#[derive(Clone, Copy, Debug)]
pub struct Condition<'a> {
    /// What the configuration says of it.
    pub peer: &'a Peer,
    /// Connections to it now.
    pub connections: u64,
    /// Failures that count.
    pub fails: u64,
    /// It is not chosen for a while, after failures.
    pub rests: bool,
}

/// No peer can be used: all are down, full, resting or tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoPeer;

/// How the work on a lease went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The peer did its work.
    Success,
    /// The peer failed.
    Failure,
    /// Nothing can be said about the peer.
    Declined,
}

impl Group {
    /// A group whose state is private to the process, or kept in a zone.
    ///
    /// # Errors
    /// The zone is too small.
    pub fn new(
        name: &str,
        peers: Vec<Peer>,
        method: Box<dyn Balancer>,
        zone: Option<&Rc<Zone>>,
    ) -> Result<Group, String> {
        let (state, connections) = match zone {
            None => (Region::private(peers.len() * WORDS), PerWorker::private(peers.len())),
            Some(zone) => (
                zone.region(&key(name), peers.len() * WORDS, peer::repair)?,
                PerWorker::shared(zone, &key(name), peers.len())?,
            ),
        };
        let lone = peers.len() == 1;
        let group = Group {
            name: name.into(),
            peers,
            state,
            connections,
            method,
            lone,
            keepalive: crate::idle::Limits::default(),
        };
        group.state.locked(|words| {
            for (index, peer) in group.peers.iter().enumerate() {
                let (state, identity) = (State::of(words, index), identity(peer));
                if state.identity() != identity {
                    state.reset(identity, peer.weight);
                }
            }
        });
        Ok(group)
    }

    /// What a group of this name, with this number of peers, needs of a zone.
    pub fn needs(name: &str, peers: usize) -> [Need; 2] {
        [Need::region(&key(name), peers * WORDS), PerWorker::need(&key(name), peers)]
    }

    /// A group in which even a lone peer rests after failures.
    #[must_use]
    pub fn resting(mut self) -> Group {
        self.lone = false;
        self
    }

    /// The group's name.
    pub fn name(&self) -> &Rc<str> {
        &self.name
    }

    /// The peers, primary and backup.
    pub fn peers(&self) -> &[Peer] {
        &self.peers
    }

    /// How many tries there are.
    pub fn tries(&self) -> usize {
        self.peers.iter().filter(|peer| !peer.down).count().max(1)
    }

    /// How each of the peers stands, in the order in which they are written. Where the group has no zone this is what this
    /// worker knows of them.
    pub fn conditions(&self) -> impl Iterator<Item = Condition<'_>> {
        let now = clock::monotonic();
        self.peers.iter().enumerate().map(move |(index, peer)| {
            let state = State::of(self.state.words(), index);
            let rests = !self.lone && health::is_resting(peer, &state, now);
            Condition { peer, connections: self.connections.sum(index), fails: state.fails(), rests }
        })
    }

    /// Chooses a peer and counts a connection to it. Backup peers are asked when no other can be used.
    ///
    /// # Errors
    /// No peer can be used now.
    pub fn lease(self: &Rc<Self>, ask: &Ask<'_>) -> Result<Lease, NoPeer> {
        let now = clock::monotonic();
        // Counted before anybody else chooses: `max_conns` holds over all workers.
        let chosen = self.state.locked(|words| {
            let peer = [false, true].into_iter().find_map(|backup| self.pick(words, ask, backup, now))?;
            self.connections.increment(peer);
            Some(peer)
        });
        let peer = chosen.ok_or(NoPeer)?;
        Ok(Lease { group: self.clone(), peer, reported: false })
    }

    fn pick(&self, words: &[std::sync::atomic::AtomicU64], ask: &Ask<'_>, backup: bool, now: u64) -> Option<usize> {
        if self.lone && !backup {
            let peer = self.peers.first()?;
            return (!peer.down && !ask.tried.contains(&0) && !self.is_full(peer, 0)).then_some(0);
        }
        let counts = self.method.counts_connections();
        let mut candidates: smallvec::SmallVec<[Candidate<'_>; 8]> = smallvec::SmallVec::new();
        for (index, peer) in self.peers.iter().enumerate() {
            let state = State::of(words, index);
            let usable = peer.backup == backup
                && !peer.down
                && !ask.tried.contains(&index)
                && !self.is_full(peer, index)
                && (self.lone || !health::is_resting(peer, &state, now));
            if usable {
                candidates.push(Candidate {
                    index,
                    weight: peer.weight,
                    connections: if counts { self.connections.sum(index) } else { 0 },
                    state,
                });
            }
        }
        let chosen = candidates.get(self.method.pick(&candidates, ask)?)?;
        health::chosen(self.peers.get(chosen.index)?, &chosen.state, now);
        Some(chosen.index)
    }

    /// False when it is certain, without the lock, that no failure of the peer is remembered.
    fn has_failures(&self, peer: usize) -> bool {
        self.state.is_shared() || State::of(self.state.words(), peer).fails() > 0
    }

    fn is_full(&self, peer: &Peer, index: usize) -> bool {
        peer.max_conns > 0 && self.connections.sum(index) >= u64::from(peer.max_conns)
    }
}

/// What the state of a group is found by.
fn key(name: &str) -> String {
    format!("upstream {name}")
}

fn identity(peer: &Peer) -> u64 {
    let address = peer.address.to_string();
    hash::of_parts(&[address.as_bytes(), &peer.weight.to_le_bytes(), &[u8::from(peer.backup)]])
}

/// A connection's worth of one peer. Dropped without a report it counts as declined, so counts cannot leak.
pub struct Lease {
    group: Rc<Group>,
    peer: usize,
    reported: bool,
}

impl Lease {
    /// The peer's index in its group.
    pub fn index(&self) -> usize {
        self.peer
    }

    /// The group.
    pub fn group(&self) -> &Rc<Group> {
        &self.group
    }

    /// Where the peer is.
    pub fn address(&self) -> &Address {
        // The index came from this group's own list, which never shrinks.
        static NOWHERE: std::sync::LazyLock<Address> = std::sync::LazyLock::new(|| Address::Unix("".into()));
        self.group.peers.get(self.peer).map_or(&*NOWHERE, |peer| &peer.address)
    }

    /// How the peer is called in variables and logs.
    pub fn name(&self) -> &Rc<str> {
        self.group.peers.get(self.peer).map_or(&self.group.name, |peer| &peer.name)
    }

    /// Says that the peer works while the lease goes on: sessions may last for days, and what is known of the peer
    /// must not wait for their end.
    pub fn proved(&self) {
        if !self.group.lone && self.group.has_failures(self.peer) {
            self.group.state.locked(|words| health::succeeded(&State::of(words, self.peer)));
        }
    }

    /// Says how it went and gives the connection back. True when the peer rests from now on.
    pub fn report(mut self, outcome: Outcome) -> bool {
        self.settle(outcome)
    }

    fn settle(&mut self, outcome: Outcome) -> bool {
        if std::mem::replace(&mut self.reported, true) {
            return false;
        }
        self.group.connections.decrement(self.peer);
        let Some(peer) = self.group.peers.get(self.peer) else { return false };
        match outcome {
            Outcome::Declined => false,
            _ if self.group.lone => false,
            Outcome::Success if !self.group.has_failures(self.peer) => false,
            outcome => self.group.state.locked(|words| {
                let state = State::of(words, self.peer);
                match outcome {
                    Outcome::Failure => health::failed(peer, &state, clock::monotonic()),
                    _ => {
                        health::succeeded(&state);
                        false
                    }
                }
            }),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.settle(Outcome::Declined);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::algorithm::least_conn::LeastConn;
    use crate::algorithm::round_robin::RoundRobin;
    use tidegate_core::conf::Place;
    use tidegate_core::zone::Zones;
    use tidegate_core::zone::kill::{alone, at_every_store};

    fn peers(texts: &[&str]) -> Vec<Peer> {
        texts.iter().map(|text| Peer::new(Address::Unix((*text).into()))).collect()
    }

    fn lease(group: &Rc<Group>, tried: &[usize]) -> Result<Lease, NoPeer> {
        group.lease(&Ask { client: &Address::Unix("".into()), tried })
    }

    #[test]
    fn a_failed_peer_is_passed_over_and_a_backup_comes_last() {
        let mut list = peers(&["/a", "/b", "/c"]);
        list[2].backup = true;
        let group = Rc::new(Group::new("g", list, Box::new(RoundRobin), None).unwrap());
        assert_eq!((lease(&group, &[]).unwrap().index(), lease(&group, &[]).unwrap().index()), (0, 1));
        assert!(lease(&group, &[]).unwrap().report(Outcome::Failure));
        assert_eq!((0..3).map(|_| lease(&group, &[]).unwrap().index()).collect::<Vec<_>>(), [1, 1, 1]);
        assert_eq!(lease(&group, &[1]).unwrap().index(), 2);
        assert_eq!(lease(&group, &[1, 2]).err(), Some(NoPeer));
    }

    #[test]
    fn a_full_peer_is_passed_over_and_a_dropped_lease_gives_back() {
        let mut list = peers(&["/a", "/b"]);
        list[0].max_conns = 1;
        list[1].down = true;
        let group = Rc::new(Group::new("g", list, Box::new(LeastConn), None).unwrap());
        let held = lease(&group, &[]).unwrap();
        assert_eq!(lease(&group, &[]).err(), Some(NoPeer));
        drop(held);
        assert!(lease(&group, &[]).is_ok());
    }

    #[test]
    fn a_lone_peer_never_rests_unless_asked_to() {
        let group = Rc::new(Group::new("g", peers(&["/a"]), Box::new(RoundRobin), None).unwrap());
        assert!(!lease(&group, &[]).unwrap().report(Outcome::Failure));
        assert!(lease(&group, &[]).is_ok());
        let group = Rc::new(Group::new("g", peers(&["/a"]), Box::new(RoundRobin), None).unwrap().resting());
        assert!(lease(&group, &[]).unwrap().report(Outcome::Failure));
        assert_eq!(lease(&group, &[]).err(), Some(NoPeer));
    }

    #[test]
    fn a_peer_that_proves_itself_is_trusted_before_the_session_ends() {
        let mut list = peers(&["/a", "/b"]);
        list[0].fail_timeout = std::time::Duration::from_millis(50);
        list[1].down = true;
        let group = Rc::new(Group::new("g", list, Box::new(RoundRobin), None).unwrap());
        lease(&group, &[]).unwrap().report(Outcome::Failure);
        let session = loop {
            // It rests for its fail_timeout.
            if let Ok(lease) = lease(&group, &[]) {
                break lease;
            }
        };
        assert_eq!(lease(&group, &[]).err(), Some(NoPeer));
        session.proved();
        assert!(lease(&group, &[]).is_ok());
    }

    #[test]
    fn standings_tell_connections_failures_and_rest() {
        let mut list = peers(&["/a", "/b", "/c"]);
        list[1].max_fails = 2;
        let group = Rc::new(Group::new("g", list, Box::new(RoundRobin), None).unwrap());
        let _held = lease(&group, &[1, 2]).unwrap();
        lease(&group, &[0, 2]).unwrap().report(Outcome::Failure);
        lease(&group, &[0, 1]).unwrap().report(Outcome::Failure);
        let conditions: Vec<_> = group
            .conditions()
            .map(|condition| (condition.peer.name.to_string(), condition.connections, condition.fails, condition.rests))
            .collect();
        let expected = [("unix:/a", 1, 0, false), ("unix:/b", 0, 1, false), ("unix:/c", 0, 1, true)];
        assert_eq!(
            conditions,
            expected.map(|(name, connections, fails, rests)| (name.to_owned(), connections, fails, rests))
        );
    }

    #[test]
    fn death_in_the_middle_of_choosing_or_reporting_leaves_a_group_that_serves() {
        if !alone("group::tests::death_in_the_middle_of_choosing_or_reporting_leaves_a_group_that_serves") {
            return;
        }
        let zones = Zones::default();
        let zone = zones.declare("z", Some(64 << 10), &Place { file: "f".into(), line: 1, column: 1 }).unwrap();
        let group = |weight: u32| {
            let mut list = peers(&["/a", "/b", "/c"]);
            list.iter_mut().for_each(|peer| (peer.max_fails, peer.weight) = (3, weight));
            Rc::new(Group::new("g", list, Box::new(RoundRobin), Some(&zone)).unwrap())
        };
        let shared = group(5);
        let deaths = at_every_store(
            &zone,
            || {
                // Another weight is another identity: every peer begins anew.
                group(4);
                group(5);
            },
            || {
                drop(lease(&shared, &[]));
                lease(&shared, &[]).unwrap().report(Outcome::Failure);
                lease(&shared, &[0]).unwrap().report(Outcome::Success);
                group(4);
            },
            || {
                // What the dead worker had is taken back, and nobody is left out.
                zone.forget(0);
                let group = group(5);
                let mut served = [0; 3];
                for _ in 0..30 {
                    served[lease(&group, &[]).unwrap().index()] += 1;
                }
                assert!(served.iter().all(|count| *count > 0), "{served:?}");
                assert_eq!((0..3).map(|peer| group.connections.sum(peer)).collect::<Vec<_>>(), [0; 3]);
            },
        );
        assert!(deaths.count > 100, "{deaths:?}");
    }
}
