//! Virtual servers as they are served: by address and name.

use std::rc::Rc;

use tidegate_core::conf::Word;
use tidegate_core::script::regex::Matches;
use tidegate_core::script::{Regex, Slots};
use tidegate_core::tls::ServerTls;

use crate::plan::Plan;
use crate::route::location::Locations;
use crate::route::server_name::ServerNames;
use crate::server::h2::settings as h2;

/// A virtual server.
pub struct Server {
    /// Its first name; empty without one.
    pub name: String,
    /// What its exchanges run through before a location is chosen, and when there is none.
    pub plan: Rc<Plan>,
    /// Its locations.
    pub locations: Locations<Rc<Plan>>,
    /// What it offers in a TLS handshake; without it, the default server's offer holds.
    pub tls: Option<ServerTls>,
    /// What it would offer is wrong, and has been told of.
    pub(crate) lost_tls: bool,
    /// How it speaks HTTP/2, if it does.
    pub http2: Option<Rc<h2::Settings>>,
    /// It asks clients for certificates, whether it has one of its own or not.
    pub asks_clients: bool,
    /// The patterns among its names, as they are written.
    pub(crate) patterns: Vec<(Word, Rc<Regex>)>,
}

/// The servers of one address.
pub struct Site {
    /// By name.
    pub servers: ServerNames<Rc<Server>>,
    /// Connections begin with a TLS handshake.
    pub tls: bool,
}

impl Site {
    /// What a server of this address offers in a handshake.
    pub fn tls<'a>(&'a self, server: &'a Server) -> Option<&'a ServerTls> {
        server.tls.as_ref().or(self.servers.default_server().tls.as_ref())
    }

    /// The server that a client which names this host in its handshake is served by; the default server if it names none.
    ///
    /// # Errors
    /// A pattern could not say which.
    pub fn named(&self, host: Option<&[u8]>) -> Matches<&Rc<Server>> {
        match host {
            Some(host) => self.servers.find(&host.to_ascii_lowercase(), &Slots::default()),
            None => Ok(self.servers.default_server()),
        }
    }
}
