//! The client's side of a connection: what the wires share, and each wire.

pub mod h1;
pub mod h2;

use std::rc::Rc;

use tidegate_core::log;
use tidegate_core::log::Logger;
use tidegate_core::net::{Connection, PeerInfo};
use tidegate_core::script::Slots;
use tidegate_core::script::regex::Matches;
use tidegate_core::tls::{TlsFailure, server as tls};
use tidegate_http_wire::RequestHead;

use crate::run::Unwelcome;
use crate::site::{Server, Site};

/// The TLS handshake. Plain text on a TLS port (true) is served far enough to be told so.
pub async fn handshake(site: &Site, connection: Connection) -> Option<(Connection, bool)> {
    let Connection { transport, mut timer, info } = connection;
    let default = site.servers.default_server();
    // nginx: a handshake may take as long as a head.
    let head = default.plan.settings.client_header_timeout;
    let limit = default.tls.as_ref().map_or(head, |tls| tls.timeout().min(head));
    let choose = |name: Option<&[u8]>| match site.named(name) {
        Ok(server) => site.tls(server).cloned(),
        Err(failure) => {
            log!(Logger::of(&default.plan.error_log, &info), Alert, "server_name {failure} while SSL handshaking");
            None
        }
    };
    match tls::accept(transport, &mut timer, limit, choose).await {
        Ok((transport, session)) => {
            let _ = info.tls.set(Box::new(session));
            Some((Connection { transport, timer, info }, false))
        }
        Err(TlsFailure::NotTls(transport)) => Some((Connection { transport: *transport, timer, info }, true)),
        Err(failure) => {
            let log = Logger::of(&default.plan.error_log, &info);
            log!(log, Info, "{failure} while SSL handshaking, client: {}, server: {}", info.client.host(), info.local);
            None
        }
    }
}

/// The server that a head is for.
///
/// # Errors
/// A pattern among the names could not be matched.
pub fn server_for(
    site: &Site,
    peer: &PeerInfo,
    head: &RequestHead,
    refused: bool,
    slots: &Slots,
) -> Matches<Rc<Server>> {
    match &head.host {
        Some(host) => site.servers.find(&host.name, slots).cloned(),
        None if refused => first_server(site, peer),
        // nginx: whatever the handshake named, such a request is for a server named "", else for the default one.
        None => site.servers.find(b"", slots).cloned(),
    }
}

/// The server in force before a client has named one in a head: that of its handshake, else the default.
///
/// # Errors
/// A pattern among the names could not be matched.
pub fn first_server(site: &Site, peer: &PeerInfo) -> Matches<Rc<Server>> {
    let host = peer.tls.get().and_then(|session| session.host());
    site.named(host.as_deref()).cloned()
}

/// Why the client of a TLS session must not go on to this server.
pub fn unwelcome(site: &Site, server: &Server, peer: &PeerInfo) -> Option<Unwelcome> {
    let session = peer.tls.get()?;
    let demands = site.tls(server)?;
    if demands.asks_nothing() {
        // Without a certificate of its own it cannot ask, and nobody has asked in its place.
        return server.asks_clients.then_some(Unwelcome::Misdirected);
    }
    // What another server has found of the certificate says nothing about what this one demands.
    let negotiated = site.named(session.host().as_deref()).map(|server| site.tls(server));
    // A server that is not known demands nothing that would do for another.
    let negotiated = negotiated.unwrap_or(None);
    if !negotiated.is_some_and(|tls| tls.asks_the_same(demands)) {
        return Some(Unwelcome::Misdirected);
    }
    demands.objection(session).map(Unwelcome::Certificate)
}
