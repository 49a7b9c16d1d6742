//! What a client of the TCP and UDP proxy sees.

use std::net::{TcpListener, UdpSocket};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tidegate_conformance::backend::{DeafBackend, TcpBackend, UdpBackend};
use tidegate_conformance::client::{NO_TLS, Offer, alerted};
use tidegate_conformance::peers::Redis;
use tidegate_conformance::processes::connections;
use tidegate_conformance::server::skip_on_nginx;
use tidegate_conformance::{Certificate, Port, Server, Setup, Wire, matches, wait_until};

/// A server with this inside its stream block.
fn stream(inside: &str) -> Setup {
    Server::config(&format!("events {{}} stream {{ {inside} }}"))
}

/// A server that passes everything to an upstream of these lines, with this inside the server.
fn balanced(upstream: &str, inside: &str) -> Server {
    balanced_setup(upstream, inside).start()
}

fn balanced_setup(upstream: &str, inside: &str) -> Setup {
    stream(&format!("upstream u {{ {upstream} }} server {{ listen 127.0.0.1:%%PORT_0%%; proxy_pass u; {inside} }}"))
}

fn answers(server: &Server, count: usize) -> Vec<String> {
    (0..count).map(|_| server.connect(0).line()).collect()
}

#[test]
fn bytes_go_both_ways() {
    let backend = TcpBackend::echo();
    let server = balanced(&format!("server {};", backend.address()), "");
    let mut wire = server.connect(0);
    assert_eq!(wire.ask("one"), "one");
    assert_eq!(wire.ask("two"), "two");
}

#[test]
fn a_lot_of_bytes_arrive_whole() {
    let content: Vec<u8> = (0..8_000_000_u32).map(|number| (number % 253) as u8).collect();
    let backend = TcpBackend::echo();
    let server = balanced(&format!("server {};", backend.address()), "");
    let mut wire = server.connect(0);
    let mut writer = Wire::over(wire.socket().try_clone().unwrap());
    std::thread::scope(|scope| {
        scope.spawn(|| writer.send(&content));
        assert!(wire.exactly(content.len()) == content);
    });
}

#[test]
fn the_end_of_one_side_reaches_the_other() {
    let backend = TcpBackend::start(|mut wire, _| {
        let all = wire.rest();
        wire.send(format!("got {}", all.len()));
    });
    let server = balanced(&format!("server {};", backend.address()), "proxy_half_close on;");
    let mut wire = server.connect(0);
    wire.send("12345");
    wire.finish();
    assert_eq!(wire.rest(), b"got 5");
}

#[test]
fn a_backend_that_closes_closes_the_session() {
    let backend = TcpBackend::start(|mut wire, _| wire.send("bye"));
    let server = balanced(&format!("server {};", backend.address()), "");
    assert_eq!(server.connect(0).rest(), b"bye");
}

#[test]
fn servers_are_used_in_turn_by_weight() {
    let (a, b) = (TcpBackend::named("a"), TcpBackend::named("b"));
    let server = balanced(&format!("server {} weight=3; server {};", a.address(), b.address()), "");
    let answers = answers(&server, 8);
    assert_eq!(answers.iter().filter(|answer| *answer == "a").count(), 6, "{answers:?}");
}

#[test]
fn least_conn_avoids_the_busy_server() {
    let (a, b) = (TcpBackend::named("a"), TcpBackend::named("b"));
    let server = balanced(&format!("zone z 256k; least_conn; server {}; server {};", a.address(), b.address()), "");
    let mut held: Vec<Wire> = (0..4).map(|_| server.connect(0)).collect();
    let mut names: Vec<String> = held.iter_mut().map(Wire::line).collect();
    names.sort();
    assert_eq!(names, ["a", "a", "b", "b"]);
}

#[test]
fn a_hash_sends_the_same_client_to_the_same_server() {
    let (a, b) = (TcpBackend::named("a"), TcpBackend::named("b"));
    let setup = balanced_setup(&format!("hash $remote_addr; server {}; server {};", a.address(), b.address()), "");
    let Some(server) = setup.start_if_supported() else { return };
    let answers = answers(&server, 6);
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
}

#[test]
fn the_next_server_is_used_when_one_is_down() {
    let (port, backend) = (Port::claim(), TcpBackend::named("alive"));
    let server = balanced(&format!("server {}; server {};", port.address(), backend.address()), "");
    assert_eq!(answers(&server, 4), ["alive"; 4]);
    server.wait_for_log(r"connect\(\) failed \(111: Connection refused\) while connecting to upstream");
}

#[test]
fn a_backup_serves_until_the_first_is_back() {
    let (port, backup) = (Port::claim(), TcpBackend::named("backup"));
    let server =
        balanced(&format!("server {} fail_timeout=1s; server {} backup;", port.address(), backup.address()), "");
    assert_eq!(answers(&server, 2), ["backup"; 2]);
    let _first = TcpBackend::named_on(&port, "first");
    wait_until("the first server serves again", || (server.connect(0).line() == "first").then_some(()));
}

#[test]
fn without_a_living_server_the_session_ends() {
    let port = Port::claim();
    let server = balanced(&format!("server {};", port.address()), "");
    assert!(server.connect(0).at_end());
}

#[test]
fn an_idle_session_ends_after_proxy_timeout() {
    let backend = TcpBackend::echo();
    let server = balanced(&format!("server {};", backend.address()), "proxy_timeout 1s;");
    let mut wire = server.connect(0);
    assert_eq!(wire.ask("hello"), "hello");
    assert!(wire.at_end());
    wait_until("the backend is let go", || (backend.open() == 0).then_some(()));
}

/// A server that speaks TLS on its second port, with this in its stream block.
fn secured(inside: &str, backend: &str) -> Setup {
    stream(
        "ssl_certificate c.crt; ssl_certificate_key c.key; log_format f $status; access_log s.log f; %%INSIDE%%
         server { listen 127.0.0.1:%%PORT_0%%; listen 127.0.0.1:%%PORT_1%% ssl; proxy_pass %%BACKEND%%; }",
    )
    .set("INSIDE", inside)
    .set("BACKEND", backend)
    .certificate("c", &Certificate::for_names(&["a.example"]))
}

#[test]
fn a_tls_client_that_reads_nothing_is_closed_at_proxy_timeout() {
    const ESTABLISHED: u8 = 1;
    for (version, half_close) in [(13, "off"), (12, "off"), (13, "on"), (12, "on")] {
        let backend = TcpBackend::start(|mut wire, _| while wire.try_send([7; 65_536]).is_ok() {});
        let inside = format!("proxy_timeout 1s; proxy_half_close {half_close};");
        let server = secured(&inside, &backend.address()).start();
        let offer = if version == 13 { Offer::name("a.example") } else { Offer::tls12("a.example") };
        let wire = server.connect(1).start_tls(&offer);
        let client = wire.local_address().port();
        let open =
            || connections().any(|(own, peer, state)| (own, peer, state) == (server.port(1), client, ESTABLISHED));
        assert!(open());
        server.wait_for_lines("s.log", 1);
        let over = Instant::now();
        wait_until("the client is closed", || (!open()).then_some(()));
        assert!(over.elapsed() < Duration::from_secs(2), "{version} {half_close}: {:?} late", over.elapsed());
    }
}

/// An upstream that has said all is not heard of again: it is the client's reading alone that moves the rest on.
#[test]
fn what_an_upstream_has_sent_reaches_a_client_that_reads_late() {
    for (version, length) in [(0, 400_000), (12, 400_000), (13, 300_000), (13, 400_000), (13, 700_000)] {
        let content: Vec<u8> = (0..length).map(|number: u32| (number % 251) as u8).collect();
        let (sent, all_sent) = mpsc::channel();
        let reply = content.clone();
        let backend = TcpBackend::start(move |mut wire, _| {
            wire.send(&reply);
            sent.send(()).unwrap();
            wire.rest();
        });
        let server = Server::config(
            "events {} stream { server { listen 127.0.0.1:%%PORT_0%% sndbuf=16k; listen 127.0.0.1:%%PORT_1%% ssl sndbuf=16k;
             ssl_certificate c.crt; ssl_certificate_key c.key; proxy_pass %%BACKEND%%; } }",
        )
        .set("BACKEND", backend.address())
        .certificate("c", &Certificate::for_names(&["a.example"]))
        .start();
        let mut wire = match version {
            0 => server.connect(0),
            12 => server.connect(1).start_tls(&Offer::tls12("a.example")),
            _ => server.connect(1).start_tls(&Offer::name("a.example")),
        };
        all_sent.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(wire.exactly(content.len()) == content, "{version} {length}");
    }
}

/// How a client leaves.
#[derive(Clone, Copy, Debug)]
enum Leaving {
    Closing,
    Breaking,
    /// It has said that it will say no more before.
    BreakingLate,
}

// Differs from nginx, which does not look at the client before it is connected.
#[test]
fn a_client_that_leaves_frees_the_connection_that_is_being_made_for_it() {
    if skip_on_nginx("a client that leaves is not noticed") {
        return;
    }
    let backend = DeafBackend::start();
    for (tls, words, leaving, half_close) in [
        (false, 0, Leaving::Closing, "off"),
        (false, 9, Leaving::Closing, "off"),
        (true, 0, Leaving::Closing, "off"),
        (true, 9, Leaving::Closing, "off"),
        (false, 0, Leaving::Breaking, "off"),
        (false, 0, Leaving::Breaking, "on"),
        (false, 9, Leaving::Breaking, "on"),
        (false, 16_384, Leaving::Breaking, "off"),
        (false, 100_000, Leaving::Breaking, "off"),
        (true, 0, Leaving::Breaking, "on"),
        (true, 100_000, Leaving::Breaking, "off"),
        (false, 0, Leaving::BreakingLate, "on"),
        (false, 9, Leaving::BreakingLate, "on"),
    ] {
        let server = secured(&format!("proxy_half_close {half_close};"), &backend.address()).start();
        let mut wire = server.connect(usize::from(tls));
        if tls {
            wire = wire.start_tls(&Offer::name("a.example"));
        }
        wire.send(vec![b'x'; words]);
        wait_until("a connection is being made", || (backend.connecting() == 1).then_some(()));
        let left = Instant::now();
        match leaving {
            Leaving::Closing => drop(wire),
            Leaving::Breaking => wire.abort(),
            Leaving::BreakingLate => {
                wire.finish();
                assert!(wire.is_silent_for(Duration::from_millis(1_500)), "half a connection goes on");
                assert_eq!(backend.connecting(), 1);
                wire.abort();
            }
        }
        server.wait_for_lines("s.log", 1);
        wait_until("both are free", || (backend.connecting() == 0).then_some(()));
        let took = left.elapsed();
        assert!(took < Duration::from_secs(5), "{tls} {words} {leaving:?} {half_close}: {took:?}");
    }
}

#[test]
fn the_last_words_of_a_client_that_has_left_arrive() {
    for words in [1, 9, 16_384, 100_000] {
        let (sender, receiver) = mpsc::channel();
        let backend = TcpBackend::start(move |mut wire, _| {
            let _ = sender.send(wire.rest().len());
        });
        let server = balanced(&format!("server {};", backend.address()), "");
        let mut wire = server.connect(0);
        wire.send(vec![b'x'; words]);
        drop(wire);
        assert_eq!(receiver.recv_timeout(Duration::from_secs(10)), Ok(words));
    }
}

/// How a side of a session ends when the other has broken off, which has said `words` bytes before.
fn after_a_reset(inside: &str, tls: bool, client_breaks: bool, words: usize) -> bool {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = secured(inside, &listener.local_addr().unwrap().to_string()).start();
    let mut client = server.connect(usize::from(tls));
    if tls {
        client = client.start_tls(&Offer::name("a.example"));
    }
    client.send("x");
    let mut upstream = Wire::over(listener.accept().unwrap().0);
    assert_eq!(upstream.exactly(1), b"x");
    let (mut breaks, mut stays) = if client_breaks { (client, upstream) } else { (upstream, client) };
    breaks.send(vec![b'y'; words]);
    assert_eq!(stays.exactly(words).len(), words);
    breaks.abort();
    stays.ends_by_reset()
}

// Differs from nginx, which knows no proxy_reset.
#[test]
fn a_reset_of_one_side_is_passed_on() {
    if skip_on_nginx("a reset is passed on as an ordinary end") {
        return;
    }
    for (inside, expected) in
        [("", true), ("proxy_reset on;", true), ("proxy_half_close on;", true), ("proxy_reset off;", false)]
    {
        for tls in [false, true] {
            for client_breaks in [false, true] {
                for words in [0, 100_000] {
                    let reset = after_a_reset(inside, tls, client_breaks, words);
                    assert_eq!(reset, expected, "{inside} tls {tls}, client {client_breaks}, {words}");
                }
            }
        }
    }
}

#[test]
fn an_ordinary_end_is_no_reset() {
    for (tls, client_closes, timeout) in
        [(false, false, false), (false, true, false), (true, false, false), (true, true, false), (false, false, true)]
    {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = secured("proxy_timeout 1s;", &listener.local_addr().unwrap().to_string()).start();
        let mut client = server.connect(usize::from(tls));
        if tls {
            client = client.start_tls(&Offer::name("a.example"));
        }
        client.send("x");
        let mut upstream = Wire::over(listener.accept().unwrap().0);
        assert_eq!(upstream.exactly(1), b"x");
        let (closes, mut stays) = if client_closes { (client, upstream) } else { (upstream, client) };
        // Neither closes: the time is over.
        let held = if timeout { Some(closes) } else { None };
        assert!(!stays.ends_by_reset(), "{tls} {client_closes} {timeout}");
        drop(held);
    }
}

// Differs from nginx, whose OpenSSL has no alert for most of it.
#[test]
fn plain_text_on_a_tls_port_is_answered_with_an_alert() {
    if skip_on_nginx("the connection is closed without an alert") {
        return;
    }
    let backend = TcpBackend::echo();
    let server = secured("", &backend.address()).start();
    for text in NO_TLS {
        let mut wire = server.connect(1);
        assert_eq!(alerted(&mut wire, text), Ok(()), "{}", text.escape_ascii());
    }
    let mut wire = server.connect(1);
    assert_eq!(alerted(&mut wire, &[b'x'; 100_000]), Ok(()));
    assert_eq!(backend.accepted(), 0);
}

#[test]
fn a_denied_client_is_cut_off() {
    let backend = TcpBackend::named("never");
    let server = balanced(&format!("server {};", backend.address()), "deny 127.0.0.1; allow all;");
    assert!(server.connect(0).at_end());
    assert_eq!(backend.accepted(), 0);
    server.wait_for_log("access forbidden by rule");
}

#[test]
fn limit_conn_cuts_off_one_too_many() {
    let backend = TcpBackend::echo();
    let Some(server) = stream(
        "limit_conn_zone $binary_remote_addr zone=z:1m; limit_conn z 1;
         server { listen 127.0.0.1:%%PORT_0%%; proxy_pass %%BACKEND%%; }",
    )
    .set("BACKEND", backend.address())
    .start_if_supported() else {
        return;
    };
    let mut first = server.connect(0);
    assert_eq!(first.ask("in"), "in");
    assert!(server.connect(0).at_end());
    drop(first);
    wait_until("the place is free again", || {
        let mut next = server.connect(0);
        let sent = next.try_send("again\r\n");
        (sent.is_ok() && matches!(next.try_line(), Ok(Some(line)) if line == "again")).then_some(())
    });
}

#[test]
fn return_sends_a_text_and_closes() {
    let server = stream("server { listen 127.0.0.1:%%PORT_0%%; return $protocol-$server_port; }").start();
    assert_eq!(server.connect(0).rest(), format!("TCP-{}", server.port(0)).as_bytes());
}

#[test]
fn map_and_set_choose_the_backend() {
    let (a, b) = (TcpBackend::named("a"), TcpBackend::named("b"));
    let server = stream(
        "map $server_port $backend { %%PORT_0%% %%A%%; default %%B%%; }
         server { listen 127.0.0.1:%%PORT_0%%; listen 127.0.0.1:%%PORT_1%%; set $to $backend; proxy_pass $to; }",
    )
    .set("A", a.address())
    .set("B", b.address())
    .start();
    assert_eq!((server.connect(0).line(), server.connect(1).line()), ("a".to_owned(), "b".to_owned()));
}

#[test]
fn the_access_log_tells_of_a_session_when_it_is_over() {
    let backend = TcpBackend::echo();
    let server = stream(
        "log_format f '$remote_addr $protocol $status $bytes_received $bytes_sent $session_time $upstream_addr $upstream_bytes_sent';
         access_log s.log f; server { listen 127.0.0.1:%%PORT_0%%; proxy_pass %%BACKEND%%; }",
    )
    .set("BACKEND", backend.address())
    .start();
    let mut wire = server.connect(0);
    wire.ask("12345");
    drop(wire);
    let line = server.wait_for_lines("s.log", 1).remove(0);
    let expected = format!(r"^127\.0\.0\.1 TCP 200 7 7 \d+\.\d{{3}} {} 7$", backend.address().replace('.', r"\."));
    assert!(matches(&expected, &line), "{line}");
}

#[test]
fn the_proxy_protocol_is_sent_and_understood() {
    let backend = TcpBackend::start(|mut wire, _| {
        let line = wire.line();
        wire.send(format!("{line}\r\n"));
    });
    let Some(server) = stream(
        "server { listen 127.0.0.1:%%PORT_0%%; proxy_protocol on; proxy_pass %%BACKEND%%; }
         server { listen 127.0.0.1:%%PORT_1%% proxy_protocol; return $proxy_protocol_addr:$proxy_protocol_port; }
         server { listen 127.0.0.1:%%PORT_2%% proxy_protocol; set_real_ip_from 127.0.0.0/8; return $remote_addr; }",
    )
    .set("BACKEND", backend.address())
    .start_if_supported() else {
        return;
    };
    let mut wire = server.connect(0);
    let local = wire.local_address();
    assert_eq!(wire.line(), format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}", local.port(), server.port(0)));
    let mut wire = server.connect(1);
    wire.send("PROXY TCP4 192.0.2.7 192.0.2.8 1234 80\r\n");
    assert_eq!(wire.rest(), b"192.0.2.7:1234");
    let mut wire = server.connect(2);
    wire.send(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x09\xc0\0\x02\x0a\x04\xd2\0\x50");
    assert_eq!(wire.rest(), b"192.0.2.9");
}

#[test]
fn a_broken_proxy_protocol_ends_the_session() {
    let Some(server) =
        stream("server { listen 127.0.0.1:%%PORT_0%% proxy_protocol; return never; }").start_if_supported()
    else {
        return;
    };
    let mut wire = server.connect(0);
    wire.send("GET / HTTP/1.1\r\n\r\n");
    assert_eq!(wire.rest(), b"");
    server.wait_for_log("broken header.*while reading PROXY protocol");
}

#[test]
fn the_name_in_a_client_hello_chooses_the_backend() {
    let (a, b) = (Certificate::for_names(&["a.example"]), Certificate::for_names(&["b.example"]));
    let Some(server) = stream(
        "map $ssl_preread_server_name $to { a.example 127.0.0.1:%%PORT_1%%; default 127.0.0.1:%%PORT_2%%; }
         server { listen 127.0.0.1:%%PORT_0%%; ssl_preread on; proxy_pass $to; }
         server { listen 127.0.0.1:%%PORT_1%% ssl; ssl_certificate a.crt; ssl_certificate_key a.key; return a; }
         server { listen 127.0.0.1:%%PORT_2%% ssl; ssl_certificate b.crt; ssl_certificate_key b.key; return b; }",
    )
    .certificate("a", &a)
    .certificate("b", &b)
    .start_if_supported() else {
        return;
    };
    let seen = |name: &str| server.connect(0).start_tls(&Offer::name(name)).tls().certificate.clone();
    assert!(seen("a.example") == a.der && seen("b.example") == b.der && seen("c.example") == b.der);
}

#[test]
fn tls_is_ended_and_begun() {
    let certificate = Certificate::for_names(&["a.example"]);
    let backend = TcpBackend::echo();
    let Some(server) = stream(
        "ssl_certificate c.crt; ssl_certificate_key c.key;
         server { listen 127.0.0.1:%%PORT_0%% ssl; proxy_pass %%BACKEND%%; }
         server { listen 127.0.0.1:%%PORT_1%%; proxy_ssl on; proxy_pass 127.0.0.1:%%PORT_0%%; }",
    )
    .set("BACKEND", backend.address())
    .certificate("c", &certificate)
    .start_if_supported() else {
        return;
    };
    let mut wire = server.connect(0).start_tls(&Offer::name("a.example"));
    assert_eq!(wire.ask("through tls"), "through tls");
    assert_eq!(server.connect(1).ask("twice"), "twice");
}

#[test]
fn datagrams_go_both_ways() {
    let backend = UdpBackend::start(|datagram| vec![[b"re: ", datagram].concat()]);
    let Some(server) = stream("server { listen 127.0.0.1:%%PORT_0%% udp; proxy_pass %%BACKEND%%; proxy_responses 1; }")
        .set("BACKEND", backend.address())
        .start_if_supported()
    else {
        return;
    };
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    for text in ["one", "two"] {
        client.send_to(text.as_bytes(), server.address(0)).unwrap();
        let mut buffer = [0; 100];
        let (count, _) = client.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..count], format!("re: {text}").as_bytes());
    }
    assert_eq!(backend.received(), 2);
}

#[test]
fn redis_is_reached_through_the_proxy() {
    let Some(redis) = Redis::start() else { return };
    let server = balanced(&format!("server 127.0.0.1:{};", redis.port()), "");
    let mut wire = server.connect(0);
    assert_eq!(wire.ask("SET key value"), "+OK");
    assert_eq!(wire.ask("GET key"), "$5");
    assert_eq!(wire.line(), "value");
    let commands = "INCR count\r\n".repeat(1000);
    wire.send(commands);
    let replies: Vec<String> = (0..1000).map(|_| wire.line()).collect();
    assert_eq!((replies[0].as_str(), replies[999].as_str()), (":1", ":1000"));
}
