//! HTTP/2 clients that do much without asking for anything, and those beside them that must not notice.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tidegate_conformance::backend::TcpBackend;
use tidegate_conformance::client::{Frames, Http2, frame, request};
use tidegate_conformance::server::skip_on_nginx;
use tidegate_conformance::{Server, Setup};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;

fn serve(inside: &str) -> Setup {
    Server::config(&format!(
        "events {{}} http {{ access_log off; keepalive_requests 100000; server {{
            listen 127.0.0.1:%%PORT_0%%; http2 on; {inside} location / {{ return 200 well; }} }} }}"
    ))
}

/// A flood: its name, the limit that ends it, how it begins, what it repeats (told how often it has), and how often at most.
type Flood = (&'static str, &'static str, fn() -> Vec<u8>, fn(u32) -> Vec<u8>, u32);

fn nothing() -> Vec<u8> {
    Vec::new()
}

fn stream(turn: u32) -> u32 {
    2 * turn + 1
}

const FLOODS: &[Flood] = &[
    ("PING", "pings", nothing, |_| frame(PING, 0, 0, b"12345678"), 250),
    ("SETTINGS", "settings", nothing, |_| frame(SETTINGS, 0, 0, []), 150),
    ("settings in one frame", "settings_entries", nothing, |_| Frames::settings(&[(3, 100); 33]), 1),
    (
        "rapid reset",
        "rapid_resets",
        nothing,
        |turn| [Frames::get(stream(turn), "/hang"), Frames::reset(stream(turn))].concat(),
        700,
    ),
    (
        "made you reset",
        "own_resets",
        nothing,
        |turn| [Frames::post(stream(turn), "/hang"), Frames::window(stream(turn), 0x7fff_ffff)].concat(),
        200,
    ),
    // The library has limits of its own for these.
    ("CONTINUATION", "", || frame(HEADERS, 0, 1, []), |_| frame(CONTINUATION, 0, 1, []), 100),
    ("a head without end", "", || frame(HEADERS, 0, 1, []), |_| frame(CONTINUATION, 0, 1, vec![0; 16_000]), 10),
    ("padding", "", || Frames::post(1, "/hang"), |_| frame(DATA, 8, 1, [1, 0]), 150),
    ("WINDOW_UPDATE", "window_updates", nothing, |_| Frames::window(0, 100), 1500),
    ("tiny windows", "tiny_window_updates", nothing, |_| Frames::window(0, 1), 800),
    ("PRIORITY", "priorities", nothing, |turn| frame(PRIORITY, 0, stream(turn), [0, 0, 0, 0, 15]), 300),
    ("unknown frames", "unknown_frames", nothing, |_| frame(0x42, 0, 0, b"what is it"), 300),
    ("streams", "refused_streams", nothing, |turn| Frames::get(stream(turn), "/hang"), 600),
    ("acknowledgements of nothing", "stray_frames", nothing, |_| frame(PING, 1, 0, b"12345678"), 1500),
];

/// Each flood ends its own connection, with a line in the log, and nobody else's.
#[test]
fn floods_end_their_connections_within_their_budgets() {
    if skip_on_nginx("nginx counts otherwise") {
        return;
    }
    let hanging = TcpBackend::start(|mut wire, _| drop(wire.rest()));
    let server = serve("location /hang { proxy_pass http://%%TO%%; }").set("TO", hanging.address()).start();
    for (name, limit, begin, repeat, most) in FLOODS {
        let mut good = Http2::connect(server.port(0));
        assert_eq!(good.get("/").text(), "well");
        let mut flood = Frames::over(server.connect(0), &[]);
        flood.send(begin());
        // A server that has had enough takes no more.
        let _ = (0..*most).try_for_each(|turn| flood.wire.try_send(repeat(turn)));
        let code = flood.end();
        assert!(matches!(code, Some(11) | None), "{name}: GOAWAY with {code:?}");
        let line = match *limit {
            "" => server.wait_for_log("detected excessive load .*while processing HTTP/2 connection"),
            limit => server.wait_for_log(&format!("http2 flood detected: .*[(]{limit}[)]")),
        };
        assert!(line.contains("[info]") && line.contains("client: 127.0.0.1"), "{line}");
        assert_eq!(good.get("/").text(), "well", "{name}");
    }
    let told =
        server.log_lines().into_iter().filter(|line| line.contains("flood detected") || line.contains("excessive"));
    assert_eq!(told.count(), FLOODS.len(), "each is told once");
}

/// What breaks the protocol ends the stream or the connection, and is no reason to panic.
#[test]
fn frames_that_make_no_sense_end_the_connection() {
    let server = serve("").start();
    for (name, bytes) in [
        ("HEADERS on the connection", frame(HEADERS, 5, 0, Frames::head("GET", "/", &[]))),
        ("a stream of the server's", Frames::get(2, "/")),
        ("DATA on a stream that is not open", frame(DATA, 0, 1, b"x")),
        ("DATA on the connection", frame(DATA, 0, 0, b"x")),
        ("a frame that is too large", frame(DATA, 0, 1, vec![0; 16_385])),
        ("SETTINGS of a stream", frame(SETTINGS, 0, 1, [])),
        ("half a setting", frame(SETTINGS, 0, 0, [0, 4, 0])),
        ("a window that is too large", Frames::settings(&[(4, 0x8000_0000)])),
        ("a window of nothing", Frames::window(0, 0)),
        ("a window beyond all bounds", Frames::window(0, 0x7fff_ffff)),
        ("a PING of seven bytes", frame(PING, 0, 0, b"1234567")),
        ("CONTINUATION of nothing", frame(CONTINUATION, 4, 1, [])),
        ("something between the parts of a head", [frame(HEADERS, 0, 1, []), frame(PING, 0, 0, b"12345678")].concat()),
        ("a reference to nothing", frame(HEADERS, 5, 1, [0xff, 0xff, 0x00])),
    ] {
        let mut client = Frames::over(server.connect(0), &[]);
        client.send(bytes);
        let code = client.end();
        assert_ne!(code, Some(0), "{name}");
        assert_eq!(Http2::connect(server.port(0)).get("/").text(), "well", "{name}");
    }
}

/// A window that SETTINGS make negative is flow control: the answer waits, and goes on.
#[test]
fn windows_may_become_negative() {
    let server = serve("location /f { }").file("html/f", vec![b'x'; 200_000]).start();
    let mut client = Frames::over(server.connect(0), &[]);
    client.send(Frames::get(1, "/f"));
    client.until(|frame| frame.kind == DATA);
    client.send(Frames::settings(&[(4, 10)]));
    assert!(client.is_alive());
    client.send(Frames::settings(&[(4, 1_000_000)]));
    client.send(Frames::window(0, 1_000_000));
    client.until(|frame| frame.stream == 1 && frame.is_end());
}

#[test]
fn limits_are_set_by_name() {
    for (written, complaint) in [
        ("pings=2", ""),
        ("pings=2 settings=0 rapid_resets=7", ""),
        ("pongs=2", "unknown limit \"pongs=2\""),
        ("pings=many", "invalid parameter \"pings=many\""),
        ("pings=-1", "invalid parameter \"pings=-1\""),
        ("pings", "invalid parameter \"pings\""),
        ("=2", "unknown limit \"=2\""),
    ] {
        if skip_on_nginx("nginx has no such directive") {
            return;
        }
        let outcome = serve(&format!("http2_limits {written};")).run(&["-t"]);
        assert_eq!(outcome.status.success(), complaint.is_empty(), "{written}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(complaint), "{written}: {}", outcome.stderr);
        assert!(complaint.is_empty() || outcome.stderr.contains("nginx.conf:2"), "{}", outcome.stderr);
    }
    let server = serve("http2_limits pings=2;").start();
    let mut client = Frames::over(server.connect(0), &[]);
    client.send(frame(PING, 0, 0, b"12345678").repeat(2));
    assert_eq!(Http2::connect(server.port(0)).get("/").text(), "well");
    client.send(frame(PING, 0, 0, b"12345678").repeat(3));
    client.end();
    server.wait_for_log("http2 flood detected: 3 PING frames .*[(]pings[)]");
}

/// Clients that open nothing more once they are told that a connection ends lose nothing over reloads.
#[test]
fn reloads_lose_no_request() {
    let server = serve("").start();
    let port = server.port(0);
    let stop = AtomicBool::new(false);
    let client = || {
        let (mut answered, mut connections) = (0, 0);
        while !stop.load(Ordering::Relaxed) {
            let mut client = Http2::connect(port);
            connections += 1;
            while !stop.load(Ordering::Relaxed) {
                match client.attempt(request("GET", "/", &[]), Default::default()) {
                    Ok(answer) => {
                        assert_eq!(answer.response.text(), "well");
                        answered += 1;
                    }
                    // Refused before it was begun: it may be asked again, on another connection.
                    Err(error) if error.is_go_away() || error.is_library() => break,
                    Err(error) => panic!("a request is lost: {error:?}"),
                }
            }
        }
        (answered, connections)
    };
    let (answered, connections): (u32, u32) = thread::scope(|scope| {
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(client)).collect();
        let begun = Instant::now();
        for _ in 0..20 {
            server.signal(Signal::SIGHUP);
            thread::sleep(Duration::from_millis(150));
        }
        stop.store(true, Ordering::Relaxed);
        println!("20 reloads in {:?}", begun.elapsed());
        clients.into_iter().map(|client| client.join().unwrap()).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    });
    println!("{answered} answered on {connections} connections, none lost");
    assert!(connections > 20, "the reloads were noticed: {connections} connections");
}
