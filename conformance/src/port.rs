//! Loopback ports that no other test of this machine is given at the same time.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the range from which the kernel takes the ports of outgoing connections.
const FIRST: u16 = 12_000;
const COUNT: u16 = 20_000;

/// A TCP and UDP port of 127.0.0.1, ours until this value is dropped.
///
/// Finding a free port and giving it to a server are two steps, and another test may come between them. So a port is
/// claimed by binding an abstract unix socket named after it: the kernel gives it to one owner only, across processes,
/// and takes it back when that process ends in whatever way.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _claim: UnixListener,
}

impl Port {
    /// Claims a port on which nobody listens.
    pub fn claim() -> Port {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let start = (std::process::id().wrapping_mul(37) % u32::from(COUNT)) as u16;
        for _ in 0..COUNT {
            let step = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
            let number = FIRST + (start + step) % COUNT;
            if let Some(claim) = claim(number).filter(|_| is_free(number)) {
                return Port { number, _claim: claim };
            }
        }
        panic!("no free port between {FIRST} and {}", FIRST + COUNT);
    }

    /// The number to write into a configuration.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// The port on 127.0.0.1.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.number))
    }
}

fn claim(number: u16) -> Option<UnixListener> {
    let name = UnixAddr::from_abstract_name(format!("tidegate-conformance-port-{number}")).ok()?;
    UnixListener::bind_addr(&name).ok()
}

fn is_free(number: u16) -> bool {
    let address = (Ipv4Addr::UNSPECIFIED, number);
    TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok()
}

#[cfg(test)]
mod tests {
    use crate::wait_until;

    use super::*;

    #[test]
    fn a_port_is_given_once_and_comes_back() {
        let first = Port::claim();
        assert!(claim(first.number()).is_none());
        let number = first.number();
        drop(first);
        // Another test may just be starting a process, which for a moment has copies of all our descriptors.
        wait_until("the port comes back", || claim(number));
    }
}
