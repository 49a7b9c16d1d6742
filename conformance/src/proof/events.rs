//! Events that a backend sends now and then reach the client at once, whatever the wire and whether replies are buffered.
//!
//! Each event carries the time of its sending. What the proxy adds is the difference to a client that is connected to the
//! backend directly, measured at the same time.

use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use crate::backend::TcpBackend;
use crate::client::{Frames, Offer, head};
use crate::{Certificate, Server, Setup, Wire};

use super::{Verdict, percentile};

/// What is measured.
#[derive(Debug)]
pub struct Options {
    /// Events of each kind.
    pub events: usize,
    /// How far apart they are.
    pub apart: Duration,
    /// What the proxy may add to the 99th percentile.
    pub most: Duration,
    /// How often a kind is tried again whose delay was too long: the machine may have been busy.
    pub rounds: usize,
}

/// How a client speaks: its name, the port, whether under TLS, and whether HTTP/2.
const WIRES: [(&str, usize, bool, bool); 4] = [
    ("HTTP/1", 0, false, false),
    ("HTTP/1 over TLS", 1, true, false),
    ("HTTP/2", 0, false, true),
    ("HTTP/2 over TLS", 1, true, true),
];

/// Measures every kind.
pub fn run(options: &Options) -> bool {
    let mut verdict = Verdict::default();
    let source = source(options.events, options.apart);
    let server = setup().set("BACKEND", source.address()).start();
    println!(
        "{} events of each kind, {:?} apart; delays p50 and p99, directly and by the proxy",
        options.events, options.apart
    );
    for wire in WIRES {
        for (target, buffering) in [("/on", "proxy_buffering on"), ("/off", "proxy_buffering off")] {
            let mut added = Duration::MAX;
            let mut figures = String::new();
            for _ in 0..options.rounds {
                let (direct, proxied) = both(&source, &server, wire, target, options.events);
                // When not even the direct client is served in time, it says nothing about the proxy.
                let more = proxied.1.saturating_sub(direct.1.min(options.most));
                if more < added {
                    added = more;
                    figures =
                        format!("directly {:?} {:?}, proxied {:?} {:?}", direct.0, direct.1, proxied.0, proxied.1);
                }
                if added <= options.most {
                    break;
                }
            }
            verdict.check(added <= options.most, &format!("{}, {buffering}: {added:?} added ({figures})", wire.0));
        }
    }
    verdict.is_good()
}

fn setup() -> Setup {
    Server::config(
        "worker_processes 1; events {} http { access_log off; ssl_certificate a.crt; ssl_certificate_key a.key; server {
            listen 127.0.0.1:%%PORT_0%%; listen 127.0.0.1:%%PORT_1%% ssl; http2 on; proxy_http_version 1.1;
            location /on { proxy_pass http://%%BACKEND%%; }
            location /off { proxy_pass http://%%BACKEND%%; proxy_buffering off; } } }",
    )
    .certificate("a", &Certificate::for_names(&["a.example"]))
}

/// The 50th and the 99th percentile of a direct client and of one behind the proxy, both at once.
fn both(
    source: &TcpBackend,
    server: &Server,
    wire: (&str, usize, bool, bool),
    target: &str,
    count: usize,
) -> ((Duration, Duration), (Duration, Duration)) {
    let figures = |mut delays: Vec<Duration>| {
        assert_eq!(delays.len(), count, "every event comes");
        (percentile(&mut delays, 0.5), percentile(&mut delays, 0.99))
    };
    let (_, port, is_secure, is_http2) = wire;
    thread::scope(|scope| {
        let direct = scope.spawn(|| http1(Wire::connect(source.port()), target));
        let mut wire = server.connect(port);
        if is_secure {
            let offer = Offer::name("a.example");
            wire = wire.start_tls(&if is_http2 { offer.alpn(&["h2"]) } else { offer });
        }
        let proxied = if is_http2 { http2(wire, target) } else { http1(wire, target) };
        (figures(direct.join().expect("the direct client reads")), figures(proxied))
    })
}

/// Sends events, each with the time of its sending, to whoever asks.
fn source(count: usize, apart: Duration) -> TcpBackend {
    TcpBackend::start(move |mut wire, _| {
        let _ = wire.try_head();
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
        let mut sent = wire.try_send(head);
        for _ in 0..count {
            // The rhythm is what is tested.
            thread::sleep(apart);
            sent = sent.and_then(|()| wire.try_send(format!("data: {}\n\n", now().as_nanos())));
        }
    })
}

fn http1(mut wire: Wire, target: &str) -> Vec<Duration> {
    wire.send(head("GET", target, &["Accept: text/event-stream"]));
    let head = wire.try_head().expect("a head").expect("a head");
    assert!(head.starts_with(b"HTTP/1.1 200"), "the server answers");
    // Between the events are what parts chunks, and empty lines.
    let mut delays = Vec::new();
    while let Ok(Some(line)) = wire.try_line() {
        delays.extend(delay(&line));
    }
    delays
}

fn http2(wire: Wire, target: &str) -> Vec<Duration> {
    let mut client = Frames::over(wire, &[(4, 0x7fff_ffff)]);
    client.send([Frames::window(0, 0x7fff_0000), Frames::get(1, target)].concat());
    assert_eq!(client.status(1), 200);
    let (mut delays, mut text) = (Vec::new(), String::new());
    while let Ok(Some(frame)) = client.try_next() {
        if frame.stream == 1 && frame.kind == 0 {
            text.push_str(&String::from_utf8_lossy(&frame.payload));
            while let Some((event, rest)) = text.split_once("\n\n") {
                delays.extend(delay(event));
                text = rest.to_owned();
            }
        }
        if frame.stream == 1 && frame.is_end() {
            break;
        }
    }
    delays
}

/// How long ago an event was sent, if the line is one.
fn delay(line: &str) -> Option<Duration> {
    let sent = line.strip_prefix("data: ")?.parse().ok()?;
    Some(now().saturating_sub(Duration::from_nanos(sent)))
}

fn now() -> Duration {
    static BEGUN: OnceLock<Instant> = OnceLock::new();
    BEGUN.get_or_init(Instant::now).elapsed()
}
