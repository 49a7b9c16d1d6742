//! Which sockets have to be opened for a set of endpoints.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;

use super::SocketOptions;
use crate::conf::Place;
use crate::net::{Address, Protocol};

/// An address that a protocol wants to serve.
#[derive(Clone)]
pub struct Endpoint {
    /// Where.
    pub address: Address,
    /// How.
    pub options: SocketOptions,
    /// Who serves what comes in.
    pub protocol: Rc<dyn Protocol>,
    /// The directive that asked for it.
    pub at: Place,
}

/// A socket to open and who serves it, by local address when endpoints share it.
#[derive(Clone)]
pub struct Binding {
    /// What to bind.
    pub address: Address,
    /// How.
    pub options: SocketOptions,
    /// Endpoints below a wildcard socket, by local address.
    pub specific: Vec<(IpAddr, Rc<dyn Protocol>)>,
    /// Who serves everything else.
    pub protocol: Option<Rc<dyn Protocol>>,
    /// The directive that asked for it.
    pub at: Place,
}

impl Binding {
    /// Who serves a connection that came in on this local address.
    pub fn route(&self, local: &Address) -> Option<Rc<dyn Protocol>> {
        let ip = local.ip();
        self.specific
            .iter()
            .find(|(address, _)| Some(*address) == ip)
            .map(|(_, protocol)| protocol.clone())
            .or_else(|| self.protocol.clone())
    }

    /// True when the socket accepts for any local address.
    pub fn is_wildcard(&self) -> bool {
        self.address.ip().is_some_and(|ip| ip.is_unspecified())
    }
}

/// The sockets for a set of endpoints. As nginx: a wildcard socket serves the specific addresses of its port and family,
/// unless they ask for a socket of their own.
pub fn bindings(endpoints: Vec<Endpoint>) -> Vec<Binding> {
    let mut wildcards: BTreeMap<(u16, bool), usize> = BTreeMap::new();
    let mut bindings: Vec<Binding> = Vec::new();
    let (wild, specific): (Vec<Endpoint>, Vec<Endpoint>) =
        endpoints.into_iter().partition(|endpoint| endpoint.address.ip().is_some_and(|ip| ip.is_unspecified()));
    for endpoint in wild.into_iter().chain(specific) {
        let key = endpoint.address.port().map(|port| (port, endpoint.address.ip().is_some_and(|ip| ip.is_ipv6())));
        let below = key.and_then(|key| wildcards.get(&key).copied()).filter(|_| !endpoint.options.bind);
        if let (Some(index), Some(ip)) = (below, endpoint.address.ip())
            && let Some(binding) = bindings.get_mut(index)
        {
            binding.specific.push((ip, endpoint.protocol));
            continue;
        }
        if let (Some(key), true) = (key, endpoint.address.ip().is_some_and(|ip| ip.is_unspecified())) {
            wildcards.insert(key, bindings.len());
        }
        bindings.push(Binding {
            address: endpoint.address,
            options: endpoint.options,
            specific: Vec::new(),
            protocol: Some(endpoint.protocol),
            at: endpoint.at,
        });
    }
    bindings
}
