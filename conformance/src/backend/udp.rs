//! A UDP server that answers datagrams with what a closure makes of them.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

/// A UDP backend.
#[derive(Debug)]
pub struct UdpBackend {
    address: SocketAddr,
    stopping: Arc<AtomicBool>,
    received: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl UdpBackend {
    /// Answers every datagram with the datagrams that `answer` returns.
    pub fn start(answer: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> UdpBackend {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind a port");
        let address = socket.local_addr().expect("a bound socket");
        let stopping = Arc::new(AtomicBool::new(false));
        let received = Arc::new(AtomicUsize::new(0));
        let thread = thread::spawn({
            let (stopping, received) = (Arc::clone(&stopping), Arc::clone(&received));
            move || {
                let mut buffer = [0; 65_536];
                while let Ok((count, peer)) = socket.recv_from(&mut buffer) {
                    if stopping.load(Ordering::SeqCst) {
                        break;
                    }
                    received.fetch_add(1, Ordering::SeqCst);
                    for datagram in answer(&buffer[..count]) {
                        let _ = socket.send_to(&datagram, peer);
                    }
                }
            }
        });
        UdpBackend { address, stopping, received, thread: Some(thread) }
    }

    /// Its address, as a configuration names it.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// How many datagrams have come.
    pub fn received(&self) -> usize {
        self.received.load(Ordering::SeqCst)
    }
}

impl Drop for UdpBackend {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        if let Ok(socket) = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)) {
            let _ = socket.send_to(b"stop", self.address);
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
