//! A port at which every connection hangs: the system knows nobody who would accept it, and does not refuse it either.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use nix::sys::socket::{Backlog, listen};

use crate::processes::connections;

/// The port.
#[derive(Debug)]
pub struct DeafBackend {
    address: SocketAddr,
    _listener: TcpListener,
    /// What fills its queue.
    _waiting: Vec<TcpStream>,
}

impl DeafBackend {
    /// Listens with the shortest queue there is, and fills it.
    pub fn start() -> DeafBackend {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind a port");
        let address = listener.local_addr().expect("a bound socket");
        listen(&listener, Backlog::new(0).expect("a queue")).expect("shorten the queue");
        let mut waiting = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
            waiting.push(stream);
        }
        DeafBackend { address, _listener: listener, _waiting: waiting }
    }

    /// Its address, as a configuration names it.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// How many connections to it are hanging.
    pub fn connecting(&self) -> usize {
        const SYN_SENT: u8 = 2;
        connections().filter(|(_, peer, state)| *peer == self.address.port() && *state == SYN_SENT).count()
    }
}
