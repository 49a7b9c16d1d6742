//! Peers that nobody configured: addresses that come from elsewhere at run time, with passive health all the same.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use tidegate_core::net::Address;

use crate::algorithm::Ask;
use crate::algorithm::round_robin::RoundRobin;
use crate::group::{Group, Lease, NoPeer};
use crate::peer::Peer;

/// Addresses remembered at once; the oldest is forgotten first.
const REMEMBERED: usize = 4096;

/// Peers by address, and the addresses from the one remembered longest.
type Remembered = (HashMap<Address, Rc<Group>>, VecDeque<Address>);

/// Peers by address.
#[derive(Default)]
pub struct Directory {
    peers: RefCell<Remembered>,
}

impl Directory {
    /// Leases the peer at this address.
    ///
    /// # Errors
    /// It rests after a failure.
    pub fn lease(&self, address: &Address, client: &Address) -> Result<Lease, NoPeer> {
        self.group(address)?.lease(&Ask { client, tried: &[] })
    }

    fn group(&self, address: &Address) -> Result<Rc<Group>, NoPeer> {
        let mut peers = self.peers.borrow_mut();
        let (by_address, order) = &mut *peers;
        if let Some(group) = by_address.get(address) {
            return Ok(group.clone());
        }
        let group = Group::new(&address.to_string(), vec![Peer::new(address.clone())], Box::new(RoundRobin), None)
            .map_err(|_| NoPeer)?;
        let group = Rc::new(group.resting());
        if order.len() >= REMEMBERED
            && let Some(oldest) = order.pop_front()
        {
            by_address.remove(&oldest);
        }
        order.push_back(address.clone());
        by_address.insert(address.clone(), group.clone());
        Ok(group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::Outcome;

    #[test]
    fn a_failed_address_rests_and_others_do_not() {
        let directory = Directory::default();
        let (a, b) = (Address::Unix("/a".into()), Address::Unix("/b".into()));
        assert!(directory.lease(&a, &b).unwrap().report(Outcome::Failure));
        assert_eq!(directory.lease(&a, &b).err(), Some(NoPeer));
        assert!(directory.lease(&b, &b).is_ok());
    }
}
