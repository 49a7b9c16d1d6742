//! A TCP server whose connections are handled by a closure, each in a thread.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use crate::client::Wire;
use crate::port::Port;

type Handler = dyn Fn(Wire, usize) + Send + Sync;

/// A TCP backend.
#[derive(Debug)]
pub struct TcpBackend {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stopping: AtomicBool,
    accepted: AtomicUsize,
    open: Mutex<HashMap<usize, TcpStream>>,
}

impl TcpBackend {
    /// Serves every connection with `handler`, which is told its number, counted from 0.
    pub fn start(handler: impl Fn(Wire, usize) + Send + Sync + 'static) -> TcpBackend {
        TcpBackend::serve(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind a port"), handler)
    }

    /// Serves on a port claimed earlier: for a backend that is down at first.
    pub fn start_on(port: &Port, handler: impl Fn(Wire, usize) + Send + Sync + 'static) -> TcpBackend {
        TcpBackend::serve(TcpListener::bind(port.address()).expect("bind the port"), handler)
    }

    /// Sends back whatever comes.
    pub fn echo() -> TcpBackend {
        TcpBackend::start(|wire, _| {
            let mut reader = wire.socket().try_clone().expect("clone a socket");
            let mut writer = wire.socket().try_clone().expect("clone a socket");
            let _ = std::io::copy(&mut reader, &mut writer);
            let _ = writer.shutdown(Shutdown::Write);
        })
    }

    /// Says its name on a line at once, then answers each line with `<name> <line>`.
    pub fn named(name: &str) -> TcpBackend {
        let name = name.to_owned();
        TcpBackend::start(move |wire, _| answer_lines(wire, &name))
    }

    /// As [`TcpBackend::named`], on a port claimed earlier.
    pub fn named_on(port: &Port, name: &str) -> TcpBackend {
        let name = name.to_owned();
        TcpBackend::start_on(port, move |wire, _| answer_lines(wire, &name))
    }

    /// Its address, as a configuration names it.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// How many connections it has accepted.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// How many connections are open.
    pub fn open(&self) -> usize {
        self.shared.open.lock().expect("no handler panics with the lock").len()
    }

    fn serve(listener: TcpListener, handler: impl Fn(Wire, usize) + Send + Sync + 'static) -> TcpBackend {
        let address = listener.local_addr().expect("a bound socket");
        let shared = Arc::new(Shared::default());
        let handler: Arc<Handler> = Arc::new(handler);
        let acceptor = thread::spawn({
            let shared = Arc::clone(&shared);
            move || accept(&listener, &shared, &handler)
        });
        TcpBackend { address, shared, acceptor: Some(acceptor) }
    }
}

impl Drop for TcpBackend {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>, handler: &Arc<Handler>) {
    let mut sessions = Vec::new();
    loop {
        let Ok((stream, _)) = listener.accept() else { continue };
        if shared.stopping.load(Ordering::SeqCst) {
            break;
        }
        let number = shared.accepted.fetch_add(1, Ordering::SeqCst);
        let _ = stream.set_nodelay(true);
        if let (Ok(copy), Ok(mut open)) = (stream.try_clone(), shared.open.lock()) {
            open.insert(number, copy);
        }
        let (shared, handler) = (Arc::clone(shared), Arc::clone(handler));
        sessions.push(thread::spawn(move || {
            let _forget = Forget { shared: &shared, number };
            handler(Wire::over(stream), number);
        }));
    }
    if let Ok(open) = shared.open.lock() {
        open.values().for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
    }
    for session in sessions {
        let _ = session.join();
    }
}

/// Closes and forgets a connection when its handler returns, or panics.
struct Forget<'a> {
    shared: &'a Shared,
    number: usize,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        if let Ok(mut open) = self.shared.open.lock()
            && let Some(stream) = open.remove(&self.number)
        {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn answer_lines(mut wire: Wire, name: &str) {
    if wire.try_send(format!("{name}\r\n")).is_err() {
        return;
    }
    while let Ok(Some(line)) = wire.try_line() {
        if wire.try_send(format!("{name} {line}\r\n")).is_err() {
            return;
        }
    }
}
