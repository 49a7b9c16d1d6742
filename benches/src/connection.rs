//! Whole connections, served on sockets of this process: all of a connection's turns count, and neither its client, its
//! upstream nor the event loop do.

use std::cell::OnceCell;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::Poll;
use std::time::Instant;

use tidegate_core::build::{Build, Domain, Made};
use tidegate_core::conf::apply::Setup;
use tidegate_core::conf::known::Known;
use tidegate_core::conf::{Errors, Tree};
use tidegate_core::log::{ErrorLog, Level};
use tidegate_core::net::{Address, Connection, Connections, PeerInfo, Protocol, Timer, Transport};
use tidegate_http::Http;
use tidegate_stream::Stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};

use crate::count::Meter;
use crate::parts::{REPLY, REQUEST};

/// The body that [`REPLY`] announces.
const BODY: [u8; 512] = [b'x'; 512];

/// `return`, on a kept connection.
pub fn answered(meter: &Meter) {
    on_loop(async {
        let text = "http { access_log off; keepalive_requests 1000000000; server { listen 127.0.0.1:80;
            location / { return 200 ok; } } }";
        let mut client = Client::of(&Http::new(), text, meter).await;
        while meter.next() {
            client.ask(REQUEST, b"ok").await;
        }
    });
}

/// A request is passed on and a small reply brought back, on kept connections.
pub fn proxied(meter: &Meter) {
    on_loop(async {
        let upstream = upstream([REPLY, &BODY].concat()).await;
        let text = format!(
            "http {{ access_log off; keepalive_requests 1000000000;
                upstream b {{ server {upstream}; keepalive 4; keepalive_requests 1000000000; }}
                server {{ listen 127.0.0.1:80; location / {{
                    proxy_pass http://b; proxy_http_version 1.1; proxy_set_header Connection \"\"; }} }} }}"
        );
        let mut client = Client::of(&Http::new(), &text, meter).await;
        while meter.next() {
            client.ask(REQUEST, &BODY).await;
        }
    });
}

/// Bytes there, and bytes back.
pub fn streamed(meter: &Meter) {
    on_loop(async {
        let upstream = upstream([REPLY, &BODY].concat()).await;
        let text = format!("stream {{ server {{ listen 127.0.0.1:80; proxy_pass {upstream}; }} }}");
        let mut client = Client::of(&Stream, &text, meter).await;
        while meter.next() {
            client.ask(REQUEST, &BODY).await;
        }
    });
}

/// Runs something on an event loop like that of a worker, and ends the process with it.
pub fn on_loop(work: impl Future<Output = ()>) {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).expect("a runtime");
    runtime.block_on(work);
}

/// An upstream that gives `reply` for whatever comes; its address.
async fn upstream(reply: Vec<u8>) -> Address {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = Address::Inet(listener.local_addr().expect("it is bound"));
    tokio::task::spawn_local(async move {
        let mut peers = Vec::new();
        while let Ok((mut peer, _)) = listener.accept().await {
            let reply = reply.clone();
            peers.push(tokio::task::spawn_local(async move {
                let mut input = [0; 4096];
                while peer.read(&mut input).await.is_ok_and(|count| count > 0) {
                    peer.write_all(&reply).await.expect("the server reads");
                }
            }));
        }
    });
    address
}

/// A client of one connection.
pub struct Client {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Client {
    /// Connects to a server of the block `text`, every turn of which counts.
    pub async fn of(domain: &dyn Domain, text: &str, meter: &Meter) -> Client {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let local = listener.local_addr().expect("it is bound");
        let stream = TcpStream::connect(local).await.expect("a connection");
        let (accepted, peer) = listener.accept().await.expect("a connection");
        let info = PeerInfo {
            number: 1,
            debugged: false,
            client: Address::Inet(peer),
            local: Address::Inet(local),
            accepted: Instant::now(),
            tls: OnceCell::new(),
        };
        let connection =
            Connection { transport: Transport::Tcp(accepted), timer: Timer::default(), info: Rc::new(info) };
        let life = Connections::new(1).admit().expect("a place");
        let protocol = load(domain, text);
        life.entering().await;
        let (mut serving, meter) = (protocol.serve(connection, life), meter.clone());
        tokio::task::spawn_local(poll_fn(move |cx| {
            let mut polled = Poll::Pending;
            meter.part(|| polled = serving.as_mut().poll(cx));
            polled
        }));
        Client { stream, input: Vec::new() }
    }

    /// Sends a request, and waits for an answer that ends with `end`.
    pub async fn ask(&mut self, request: &[u8], end: &[u8]) {
        self.input.clear();
        self.stream.write_all(request).await.expect("the server reads");
        while !self.input.ends_with(end) {
            assert!(self.stream.read_buf(&mut self.input).await.expect("an answer") > 0, "the server has closed");
        }
        assert!(self.input.starts_with(b"HTTP/1.1 2"), "{}", self.input.escape_ascii());
    }
}

/// The protocol that a block serves its first address by.
fn load(domain: &dyn Domain, text: &str) -> Rc<dyn Protocol> {
    let read = || -> io::Result<(Errors, Tree)> {
        let folder = tempfile::tempdir()?;
        let (file, mut errors) = (folder.path().join("nginx.conf"), Errors::default());
        std::fs::write(&file, text)?;
        let tree = Tree::read(&file, None, &mut errors);
        Ok((errors, tree))
    };
    let (mut errors, tree) = read().expect("a temporary file");
    let setup = Setup { prefix: "/".into(), conf_dir: "/".into(), known: Known::default() };
    let error_log = ErrorLog::stderr(Level::Crit);
    let made = Made::default();
    let mut build = Build::new(&setup, &made, &mut errors, &error_log);
    domain.load(&tree.nodes[0], &mut build);
    let endpoints = build.endpoints;
    assert!(errors.is_empty(), "{:?}", errors.iter().map(|error| error.message.clone()).collect::<Vec<_>>());
    endpoints[0].protocol.clone()
}
