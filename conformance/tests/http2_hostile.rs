//! HTTP/2 clients that do much without asking for anything, and those beside them that must not notice.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tidegate_conformance::backend::TcpBackend;
use tidegate_conformance::client::{Frames, Http2, frame, request};
use tidegate_conformance::proof::floods::{self, FLOODS};
use tidegate_conformance::server::skip_on_nginx;
use tidegate_conformance::{Server, Setup, wait_until};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;

fn serve(inside: &str) -> Setup {
    Server::config(&format!(
        "events {{}} http {{ access_log off; keepalive_requests 100000; server {{
            listen 127.0.0.1:%%PORT_0%%; http2 on; {inside} location / {{ return 200 well; }} }} }}"
    ))
}

/// A flood ends its own connection, with one line in the log, and nobody else's.
fn ends_its_connection_alone(name: &str) {
    if skip_on_nginx("nginx counts otherwise") {
        return;
    }
    let flood = FLOODS.iter().find(|flood| flood.name == name).unwrap_or_else(|| panic!("there is no flood {name}"));
    let (server, _backend) = floods::serve("");
    let mut good = Http2::connect(server.port(0));
    assert_eq!(good.get("/").text(), "well");
    let code = flood.once(server.connect(0));
    println!("{name}: GOAWAY with {code:?}");
    let told = || server.log_lines().into_iter().filter(|line| flood.is_told(line)).collect::<Vec<_>>();
    wait_until("the log tells of it", || (!told().is_empty()).then_some(()));
    assert_eq!(good.get("/").text(), "well");
    assert_eq!(Http2::connect(server.port(0)).get("/").text(), "well");
    let lines = told();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("[info]") && lines[0].contains("client: 127.0.0.1"), "{lines:?}");
    assert!(!server.read("error.log").contains("panick"));
}

/// A test for each flood, and none forgotten.
macro_rules! floods {
    ($($test:ident: $name:literal,)*) => {
        $(#[test] fn $test() { ends_its_connection_alone($name); })*

        #[test]
        fn every_flood_has_a_test() {
            let names: Vec<_> = FLOODS.iter().map(|flood| flood.name).collect();
            assert_eq!(names, [$($name),*]);
        }
    };
}

floods! {
    ping: "PING",
    settings: "SETTINGS",
    settings_in_one_frame: "settings in one frame",
    rapid_reset: "rapid reset",
    rapid_reset_of_what_is_answered: "rapid reset of what is answered",
    made_you_reset_a_window_too_large: "made you reset: a window too large",
    made_you_reset_data_behind_the_end: "made you reset: DATA behind the end",
    made_you_reset_more_than_was_announced: "made you reset: more than was announced",
    continuation: "CONTINUATION",
    a_head_without_end: "a head without end",
    empty_data: "empty DATA",
    padding: "padding",
    window_update: "WINDOW_UPDATE",
    tiny_windows: "tiny windows",
    an_answer_byte_by_byte: "an answer byte by byte",
    windows_that_stay_shut: "windows that stay shut",
    priority: "PRIORITY",
    unknown_frames: "unknown frames",
    streams: "streams",
    acknowledgements_of_nothing: "acknowledgements of nothing",
    cookie_crumbs: "cookie crumbs",
    a_bomb_of_references: "a bomb of references",
}

/// Requests that are taken back together with their coming are not begun: no backend hears of them.
#[test]
fn what_is_taken_back_at_once_is_not_begun() {
    if skip_on_nginx("nginx begins each") {
        return;
    }
    let hanging = TcpBackend::start(|mut wire, _| drop(wire.try_rest()));
    let server = serve("location /hang { proxy_pass http://%%TO%%; }").set("TO", hanging.address()).start();
    let mut client = Frames::over(server.connect(0), &[]);
    assert!(client.is_alive());
    let pairs = (0..200).flat_map(|turn| [Frames::get(2 * turn + 1, "/hang"), Frames::reset(2 * turn + 1)].concat());
    client.send(pairs.collect::<Vec<u8>>());
    assert!(client.is_alive());
    client.send(Frames::get(1001, "/hang"));
    wait_until("what is not taken back is asked", || (hanging.open() == 1).then_some(()));
    // They may have come in more than one read, between which some are begun.
    assert!(hanging.accepted() <= 50, "{} were asked", hanging.accepted());
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
