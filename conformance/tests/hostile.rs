//! What peers that mean harm, or are broken, can do to the HTTP proxy: nothing to anybody but themselves.
//!
//! Every test ends with the same worker serving, and with as many descriptors as before.

use std::net::Shutdown;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use tidegate_conformance::backend::{HttpBackend, Reply, TcpBackend};
use tidegate_conformance::client::{Offer, head};
use tidegate_conformance::server::skip_on_nginx;
use tidegate_conformance::{Certificate, Http, Server, Setup, Wire, is_nginx, processes, wait_until};

/// A server, and how its worker was before it was ill-treated.
struct Patient {
    server: Server,
    workers: Vec<i32>,
    descriptors: usize,
    /// Connections to backends that may be kept for reuse.
    kept: usize,
}

impl Patient {
    fn start(setup: Setup) -> Patient {
        let server = setup.start();
        // One exchange to the end, so that what is opened once and kept is open.
        assert_eq!(server.http(0).ask("GET", "/healthy", &["Connection: close"]).status, 204);
        let workers = server.workers();
        let descriptors = settled(workers[0]);
        Patient { server, workers, descriptors, kept: 0 }
    }

    fn keeping(mut self, connections: usize) -> Patient {
        self.kept = connections;
        self
    }

    /// What the server says to these bytes, until it closes; the client does not close first.
    fn says(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut wire = self.server.connect(0);
        // A server that refuses may close before it has taken everything.
        let _ = wire.try_send(bytes);
        String::from_utf8_lossy(&wire.rest()).into_owned()
    }
}

impl Drop for Patient {
    fn drop(&mut self) {
        if thread::panicking() {
            return;
        }
        assert_eq!(self.server.http(0).ask("GET", "/healthy", &["Connection: close"]).status, 204);
        assert_eq!(self.server.workers(), self.workers, "a worker has died");
        let log = self.server.read("error.log");
        assert!(!log.contains("panic"), "{log}");
        wait_until("no descriptor is left over", || {
            (processes::descriptors(self.workers[0]) <= self.descriptors + self.kept).then_some(())
        });
    }
}

/// The number of descriptors once it no longer goes down.
fn settled(worker: i32) -> usize {
    let mut last = processes::descriptors(worker);
    wait_until("the number of descriptors is stable", || {
        thread::sleep(Duration::from_millis(20));
        let now = processes::descriptors(worker);
        let stable = now == last;
        last = now;
        stable.then_some(now)
    })
}

const SERVER: &str = "events {} http { access_log off; %%HTTP%% server { listen 127.0.0.1:%%PORT_0%%; %%SERVER%%
    location = /healthy { return 204; } location / { proxy_pass http://%%BACKEND%%; %%LOCATION%% } } }";

/// A proxy of one backend, with this inside its server and its location.
fn proxy(backend: &str, server: &str, location: &str) -> Setup {
    let text = SERVER.replace("%%HTTP%%", "").replace("%%SERVER%%", server).replace("%%LOCATION%%", location);
    Server::config(&text).set("BACKEND", backend)
}

/// A proxy that keeps connections to its backend.
fn keeping_proxy(backend: &str, location: &str) -> Setup {
    let text = SERVER
        .replace("%%HTTP%%", &format!("upstream u {{ server {backend}; keepalive 4; }}"))
        .replace("%%SERVER%%", "")
        .replace("%%BACKEND%%", "u")
        .replace("%%LOCATION%%", &format!("proxy_http_version 1.1; proxy_set_header Connection ''; {location}"));
    Server::config(&text)
}

fn backend_saying(reply: Reply) -> HttpBackend {
    HttpBackend::start(move |_| reply.clone())
}

/// A backend that answers a head with these bytes and closes.
fn backend_sending(bytes: impl AsRef<[u8]>) -> HttpBackend {
    backend_saying(Reply::raw(bytes).closing())
}

/// How many final responses a text holds.
fn answers(text: &str) -> usize {
    text.matches("HTTP/1.1 ").count()
}

// Clients that would have us and a backend disagree on where a request ends.

#[test]
fn framing_that_could_be_read_in_two_ways_is_refused() {
    let backend = HttpBackend::saying("never asked");
    let patient = Patient::start(proxy(&backend.address(), "", ""));
    for lines in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 5, 5",
        "Content-Length: +5",
        "Content-Length: -5",
        "Content-Length: 0x5",
        "Content-Length: 5 5",
        "Content-Length: ",
        "Content-Length: 99999999999999999999999",
        "Content-Length: 18446744073709551621",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: chunked;a=b",
        "Transfer-Encoding:\x0bchunked",
        "Content-Length: 5\r\nX: a\0b",
    ] {
        let answer = patient.says(format!(
            "POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
        ));
        assert!(answer.starts_with("HTTP/1.1 400 ") || answer.starts_with("HTTP/1.1 501 "), "{lines:?}: {answer}");
        assert_eq!(answers(&answer), 1, "{lines:?}: {answer}");
    }
    assert!(backend.requests().is_empty(), "{:?}", backend.requests());
}

#[test]
fn a_chunked_request_of_an_old_version_is_refused() {
    let backend = HttpBackend::saying("never asked");
    let patient = Patient::start(proxy(&backend.address(), "", ""));
    let answer = patient.says("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(backend.requests().is_empty());
}

#[test]
fn field_lines_that_could_be_read_in_two_ways_do_not_reach_a_backend() {
    let backend = HttpBackend::saying("ok");
    let patient = Patient::start(proxy(&backend.address(), "", "")).keeping(1);
    for lines in [
        "Content-Length : 5",
        " Content-Length: 5",
        "\tContent-Length: 5",
        "X: a\r\n Content-Length: 5",
        "X: a\r\n\tTransfer-Encoding: chunked",
        "X: a\rContent-Length: 5",
        "X: a\r\r\nY: b",
        "Content-Length\0: 5",
        "Transfer-Encoding : chunked",
        "Transfer_Encoding: chunked",
        "X\r: a",
    ] {
        let before = backend.requests().len();
        let answer = patient.says(format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{lines}\r\n\r\n"));
        assert!(answer.starts_with("HTTP/1.1 400 ") || answer.starts_with("HTTP/1.1 200 "), "{lines:?}: {answer}");
        assert_eq!(answers(&answer), 1, "{lines:?}: {answer}");
        for request in &backend.requests()[before..] {
            let odd = |text: &str| text.contains(['\r', '\n', '\0']);
            assert!(!request.fields.0.iter().any(|(name, value)| odd(name) || odd(value)), "{lines:?}: {request:?}");
            assert_eq!(request.fields.get("Content-Length"), None, "{lines:?}");
            assert_eq!(request.fields.get("Transfer-Encoding"), None, "{lines:?}");
        }
    }
}

#[test]
fn chunks_that_make_no_sense_are_refused() {
    let backend = HttpBackend::saying("never asked");
    let patient = Patient::start(proxy(&backend.address(), "", ""));
    for body in [
        "fffffffffffffffff\r\n",
        "10000000000000000\r\n",
        "ffffffffffffffff\r\nx",
        "-1\r\n",
        "+1\r\na\r\n",
        "0x1\r\na\r\n",
        " 1\r\na\r\n",
        "1\r\nab\r\n0\r\n\r\n",
        "1\r\na0\r\n\r\n",
        "\r\n",
        ";a\r\n",
        "1\ra\r\n",
        "g\r\n",
    ] {
        let answer = patient.says(format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}"));
        assert!(answer.starts_with("HTTP/1.1 400 ") || answer.starts_with("HTTP/1.1 413 "), "{body:?}: {answer}");
        assert_eq!(answers(&answer), 1, "{body:?}: {answer}");
    }
    assert!(backend.requests().is_empty());
}

#[test]
fn a_body_of_a_get_is_not_the_next_request() {
    let backend = HttpBackend::start(|request| Reply::ok(&request.target));
    let patient = Patient::start(proxy(&backend.address(), "", "")).keeping(1);
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut http = patient.server.http(0);
    http.send(head("GET", "/first", &[&format!("Content-Length: {}", smuggled.len())]) + smuggled);
    http.send(head("GET", "/second", &["Connection: close"]));
    assert_eq!([http.response().text(), http.response().text()], ["/first", "/second"]);
    assert!(http.wire.at_end());
}

#[test]
fn a_body_that_is_refused_is_not_the_next_request() {
    let backend = HttpBackend::saying("never asked");
    let patient = Patient::start(proxy(&backend.address(), "client_max_body_size 10;", ""));
    let smuggled = "GET /healthy HTTP/1.1\r\nHost: a\r\n\r\n";
    for lines in
        [format!("Content-Length: {}", smuggled.len()), "Expect: 100-continue\r\nContent-Length: 36".to_owned()]
    {
        let answer = patient.says(format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n{smuggled}"));
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
        assert_eq!(answers(&answer), 1, "{answer}");
    }
}

#[test]
fn hosts_that_make_no_sense_are_refused() {
    let backend = HttpBackend::saying("never asked");
    let patient = Patient::start(proxy(&backend.address(), "", ""));
    for request in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: ..\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\0b\r\n\r\n",
        "GET /a\0b HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /../.. HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /\rX HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/2.0\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1x\r\nHost: a\r\n\r\n",
        "GE\tT / HTTP/1.1\r\nHost: a\r\n\r\n",
        "\x16\x03\x01\x02\0\x01\0\x01\r\n\r\n",
    ] {
        let answer = patient.says(request);
        let refused = ["HTTP/1.1 400 ", "HTTP/1.1 405 ", "HTTP/1.1 505 "].iter().any(|start| answer.starts_with(start));
        assert!(refused, "{request:?}: {answer}");
        assert_eq!(answers(&answer), 1, "{request:?}: {answer}");
    }
    assert!(backend.requests().is_empty());
}

// Backends that would split, stretch or cut a response.

#[test]
fn a_backend_cannot_split_a_response() {
    for reply in [
        "HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: b\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX\0: a\r\nContent-Length: 0\r\n\r\n",
        // nginx passes this on.
        "HTTP/1.1 200 a\rb\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nhello",
    ] {
        if is_nginx() && reply.contains("a\rb") {
            continue;
        }
        let backend = backend_sending(reply);
        let patient = Patient::start(proxy(&backend.address(), "", "proxy_http_version 1.1;"));
        let answer = patient.says(head("GET", "/", &["Connection: close"]));
        assert_eq!(answers(&answer), 1, "{reply:?}: {answer}");
        let (head, _) = answer.split_once("\r\n\r\n").unwrap();
        assert!(!head.replace("\r\n", "").contains(['\r', '\n', '\0']), "{reply:?}: {answer:?}");
        assert!(answer.starts_with("HTTP/1.1 502 "), "{reply:?}: {answer}");
    }
}

#[test]
fn what_is_no_http_is_a_bad_gateway() {
    if skip_on_nginx("an answer without a status line is passed on as HTTP/0.9") {
        return;
    }
    for garbage in [
        "garbage\r\n\r\n",
        "\0\0\0\0\0\0",
        "HTTP/1.1\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 099 OK\r\n\r\n",
        "SSH-2.0-OpenSSH_9.9\r\n",
        "\r\n\r\n\r\n",
        "HTTP/1.1 200 OK\r\n: a\r\n\r\n",
    ] {
        let backend = backend_sending(garbage);
        let patient = Patient::start(proxy(&backend.address(), "", ""));
        assert_eq!(patient.server.http(0).ask("GET", "/", &["Connection: close"]).status, 502, "{garbage:?}");
    }
}

#[test]
fn a_head_without_end_is_a_bad_gateway() {
    let backend = TcpBackend::start(|mut wire, _| {
        let _ = wire.try_head();
        let mut sent = wire.try_send("HTTP/1.1 200 OK\r\n");
        while sent.is_ok() {
            sent = wire.try_send(format!("X-More: {}\r\n", "x".repeat(1000)));
        }
    });
    let patient = Patient::start(proxy(&backend.address(), "", ""));
    assert_eq!(patient.server.http(0).get("/").status, 502);
    patient.server.wait_for_log("upstream sent too big header while reading response header from upstream");
}

#[test]
fn a_head_larger_than_its_buffer_is_a_bad_gateway() {
    let line = |length: usize| format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: {}\r\n\r\n", "x".repeat(length));
    let backend = HttpBackend::start(move |request| Reply::raw(line(request.target[1..].parse().unwrap())).closing());
    let patient = Patient::start(proxy(
        &backend.address(),
        "",
        "proxy_buffer_size 2k; proxy_buffers 4 2k; proxy_busy_buffers_size 4k;",
    ));
    assert_eq!(patient.server.http(0).get("/1000").status, 200);
    assert_eq!(patient.server.http(0).get("/3000").status, 502);
}

#[test]
fn a_head_that_drips_is_a_gateway_timeout() {
    let backend = TcpBackend::start(|mut wire, _| {
        let _ = wire.try_head();
        let _ = wire.try_send("HTTP/1.1 200 OK\r\nX: ");
        let _ = wire.try_rest();
    });
    let patient = Patient::start(proxy(&backend.address(), "", "proxy_read_timeout 300ms;"));
    assert_eq!(patient.server.http(0).get("/").status, 504);
}

/// The bytes that a client gets of a backend's bytes, and whether they were the whole body as far as it can tell.
fn relayed(location: &str, reply: &str) -> (Vec<u8>, bool) {
    let backend = backend_sending(reply);
    let patient = Patient::start(proxy(&backend.address(), "", &format!("proxy_http_version 1.1; {location}")));
    let mut http = patient.server.http(0);
    http.send(head("GET", "/", &[]));
    let whole = http.try_response_to("GET").map(|response| response.body);
    let is_whole = whole.is_ok();
    (whole.unwrap_or_default(), is_whole)
}

#[test]
fn a_body_cut_short_is_not_taken_for_whole() {
    for location in ["", "proxy_buffering off;"] {
        for reply in [
            "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nx\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nffffffffffffffffff\r\n",
        ] {
            assert!(!relayed(location, reply).1, "{location} {reply:?}");
        }
    }
}

#[test]
fn bytes_behind_a_body_are_dropped_with_their_connection() {
    for location in ["", "proxy_buffering off;"] {
        for extra in ["hello EXTRA", "helloHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nPOISON"] {
            let first = Mutex::new(Some(format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{extra}")));
            let backend = HttpBackend::start(move |request| match request.target.as_str() {
                "/first" => Reply::raw(first.lock().unwrap().take().unwrap_or_default()),
                _ => Reply::ok("second"),
            });
            let patient = Patient::start(keeping_proxy(&backend.address(), location)).keeping(1);
            assert_eq!(patient.server.http(0).get("/first").text(), "hello");
            assert_eq!(patient.server.http(0).get("/second").text(), "second", "{extra:?}");
            assert_eq!(backend.connections(), 2, "{extra:?}");
        }
    }
}

#[test]
fn bytes_that_come_while_idle_are_not_an_answer() {
    // The poison leaves only after the answer has been read: the pause is what the test is about.
    let backend = HttpBackend::start(|request| match request.target.as_str() {
        "/first" => Reply::ok("first")
            .after(Duration::from_millis(100))
            .then("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nPOISON"),
        _ => Reply::ok("second"),
    });
    let patient = Patient::start(keeping_proxy(&backend.address(), "")).keeping(1);
    assert_eq!(patient.server.http(0).get("/first").text(), "first");
    wait_until("the connection is given up", || (backend.open() == 0).then_some(()));
    assert_eq!(patient.server.http(0).get("/second").text(), "second");
}

#[test]
fn a_body_where_none_belongs_is_dropped() {
    for status in ["204 No Content", "304 Not Modified"] {
        let reply = format!(
            "HTTP/1.1 {status}\r\nContent-Length: 43\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxxxxxx"
        );
        let backend = HttpBackend::start(move |request| match request.target.as_str() {
            "/first" => Reply::raw(&reply),
            _ => Reply::ok("second"),
        });
        let patient = Patient::start(keeping_proxy(&backend.address(), "")).keeping(1);
        let mut http = patient.server.http(0);
        assert_eq!(http.get("/first").status.to_string(), status[..3]);
        assert_eq!(http.get("/second").text(), "second", "{status}");
    }
}

#[test]
fn interim_responses_without_end_are_a_bad_gateway() {
    if skip_on_nginx("interim responses are skipped for ever") {
        return;
    }
    let backend = TcpBackend::start(|mut wire, _| {
        let _ = wire.try_head();
        while wire.try_send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(100)).is_ok() {}
    });
    let patient = Patient::start(proxy(&backend.address(), "", "proxy_http_version 1.1;"));
    assert_eq!(patient.server.http(0).get("/").status, 502);
}

#[test]
fn a_switch_of_protocols_that_nobody_asked_for_is_a_bad_gateway() {
    if skip_on_nginx("an unasked 101 is passed on") {
        return;
    }
    let backend = backend_sending(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    );
    let patient = Patient::start(proxy(&backend.address(), "", "proxy_http_version 1.1;"));
    let answer = patient.says(head("GET", "/", &["Connection: close"]));
    assert!(answer.starts_with("HTTP/1.1 502 ") && answers(&answer) == 1, "{answer}");
}

#[test]
fn a_backend_that_never_reads_is_given_up() {
    let (done, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let backend = TcpBackend::start(move |_wire, _| assert!(wait.lock().unwrap().recv().is_err()));
    let patient = Patient::start(proxy(
        &backend.address(),
        "client_max_body_size 0;",
        "proxy_send_timeout 300ms; proxy_read_timeout 300ms;",
    ));
    let response = patient.server.http(0).post("/", &vec![b'x'; 20_000_000], &[]);
    assert_eq!(response.status, 504);
    drop(done);
}

// Clients that waste what they are given.

#[test]
fn a_head_that_drips_is_cut_off_in_time() {
    let backend = HttpBackend::saying("never asked");
    let patient = Patient::start(proxy(&backend.address(), "client_header_timeout 1s;", ""));
    let began = Instant::now();
    let mut wire = patient.server.connect(0);
    wire.send("GET / HTTP/1.1\r\nHost: a\r\n");
    while wire.try_send("X: a\r\n").is_ok() {
        assert!(began.elapsed() < Duration::from_secs(5), "the client goes on and on");
        thread::sleep(Duration::from_millis(50));
    }
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
}

#[test]
fn ten_thousand_requests_in_a_row_are_all_answered_in_order() {
    const COUNT: usize = 10_000;
    let patient = Patient::start(Server::config(
        "events {} http { access_log off; keepalive_requests 100000; server { listen 127.0.0.1:%%PORT_0%%;
             location = /healthy { return 204; } location / { return 200 $arg_n; } } }",
    ));
    let wire = patient.server.connect(0);
    let mut writer = Wire::over(wire.socket().try_clone().unwrap());
    let writing = thread::spawn(move || {
        for number in 0..COUNT {
            writer.send(head("GET", &format!("/?n={number}"), &[]));
        }
    });
    let mut http = Http::over(wire);
    for number in 0..COUNT {
        assert_eq!(http.response().text(), number.to_string());
    }
    writing.join().unwrap();
}

#[test]
fn a_pipeline_does_not_starve_others() {
    let patient = Patient::start(Server::config(
        "events {} http { access_log off; keepalive_requests 10000000; server { listen 127.0.0.1:%%PORT_0%%;
             location = /healthy { return 204; } location / { return 200; } } }",
    ));
    let wire = patient.server.connect(0);
    let socket = wire.socket().try_clone().unwrap();
    let mut reader = Wire::over(wire.socket().try_clone().unwrap());
    let mut writer = wire;
    let writing = thread::spawn(move || {
        let many = head("GET", "/", &[]).repeat(1000);
        while writer.try_send(&many).is_ok() {}
    });
    let reading = thread::spawn(move || while reader.try_exactly(100_000).is_ok() {});
    let began = Instant::now();
    for _ in 0..20 {
        assert_eq!(patient.server.http(0).ask("GET", "/healthy", &["Connection: close"]).status, 204);
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    socket.shutdown(Shutdown::Both).unwrap();
    writing.join().unwrap();
    reading.join().unwrap();
}

#[test]
fn a_client_that_closes_in_its_body_reaches_no_backend() {
    let backend = HttpBackend::saying("never asked");
    let patient = Patient::start(proxy(&backend.address(), "", ""));
    for bytes in
        ["Content-Length: 10\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n5\r\nab", "Content-Length: 10\r\n"]
    {
        let mut wire = patient.server.connect(0);
        wire.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{bytes}"));
        wire.finish();
        wire.rest();
    }
    assert!(backend.requests().is_empty(), "{:?}", backend.requests());
}

#[test]
fn a_client_that_closes_in_a_streamed_body_does_not_complete_it() {
    let ended = Arc::new(Mutex::new(None));
    let backend = TcpBackend::start({
        let ended = Arc::clone(&ended);
        move |mut wire, _| {
            let text = String::from_utf8_lossy(&wire.try_rest().unwrap_or_default()).into_owned();
            *ended.lock().unwrap() = Some(text);
        }
    });
    let patient = Patient::start(proxy(&backend.address(), "", "proxy_http_version 1.1; proxy_request_buffering off;"));
    let mut wire = patient.server.connect(0);
    wire.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
    wait_until("the backend is connected to", || (backend.accepted() == 1).then_some(()));
    drop(wire);
    let text = wait_until("the backend's connection ends", || ended.lock().unwrap().clone());
    assert!(!text.ends_with("0\r\n\r\n"), "{text}");
}

#[test]
fn a_client_that_never_reads_is_given_up() {
    let patient = Patient::start(
        Server::config(
            "events {} http { access_log off; server { listen 127.0.0.1:%%PORT_0%% sndbuf=16k; send_timeout 1s;
             root %%DIR%%; location = /healthy { return 204; } location / { } } }",
        )
        .file("large", vec![b'x'; 50_000_000]),
    );
    let mut wire = patient.server.connect(0);
    wire.send(head("GET", "/large", &[]));
    patient.server.wait_for_log(r"client timed out \(110: Connection timed out\) while sending response to client");
    assert!(wire.rest().len() < 50_000_000);
}

#[test]
fn a_client_that_never_reads_a_relayed_body_is_given_up() {
    let backend =
        backend_sending(format!("HTTP/1.1 200 OK\r\nContent-Length: 30000000\r\n\r\n{}", "x".repeat(30_000_000)));
    for location in
        ["send_timeout 1s;", "send_timeout 1s; proxy_buffering off;", "send_timeout 1s; proxy_max_temp_file_size 0;"]
    {
        let patient = Patient::start(proxy(&backend.address(), "", location));
        let mut wire = patient.server.connect(0);
        wire.send(head("GET", "/", &[]));
        patient
            .server
            .wait_for_log(r"client timed out \(110: Connection timed out\) while sending (response )?to client");
        assert!(wire.rest().len() < 30_000_000, "{location}");
    }
}

#[test]
fn heads_beyond_their_limits_are_refused() {
    let backend = HttpBackend::saying("never asked");
    let patient = Patient::start(proxy(&backend.address(), "", ""));
    for (request, statuses) in [
        (format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(100_000)), ["414", "414"]),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(100_000)), ["400", "431"]),
        (
            format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", format!("X: {}\r\n", "x".repeat(4000)).repeat(100)),
            ["400", "431"],
        ),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: a\r\n".repeat(100_000)), ["400", "431"]),
        ("x".repeat(1_000_000), ["400", "414"]),
    ] {
        let answer = patient.says(&request);
        assert!(
            statuses.iter().any(|status| answer.starts_with(&format!("HTTP/1.1 {status} "))),
            "{statuses:?}: {answer:.200}"
        );
        assert_eq!(answers(&answer), 1);
    }
    assert!(backend.requests().is_empty());
}

#[test]
fn many_clients_that_vanish_leave_nothing_behind() {
    let backend = backend_saying(Reply::silence());
    let patient = Patient::start(proxy(&backend.address(), "", ""));
    let waiting: Vec<Wire> = (0..100)
        .map(|_| {
            let mut wire = patient.server.connect(0);
            wire.send(head("GET", "/", &[]));
            wire
        })
        .collect();
    wait_until("the backend has been asked by all", || (backend.requests().len() == 100).then_some(()));
    drop(waiting);
    wait_until("the backend is let go", || (backend.open() == 0).then_some(()));
}

// Clients that do not keep to TLS.

fn tls() -> Patient {
    let certificate = Certificate::for_names(&["a.example"]);
    Patient::start(
        Server::config(
            "events {} http { access_log off; ssl_certificate a.crt; ssl_certificate_key a.key;
             client_header_timeout 2s;
             server { listen 127.0.0.1:%%PORT_0%%; location = /healthy { return 204; } }
             server { listen 127.0.0.1:%%PORT_1%% ssl; return 200 secure; } }",
        )
        .certificate("a", &certificate),
    )
}

fn secure(patient: &Patient) -> String {
    Http::over(patient.server.connect(1).start_tls(&Offer::name("a.example")))
        .ask("GET", "/", &["Connection: close"])
        .text()
}

#[test]
fn plain_text_on_a_tls_port_is_told_so() {
    let patient = tls();
    let mut wire = patient.server.connect(1);
    wire.send(head("GET", "/", &[]));
    let answer = String::from_utf8_lossy(&wire.rest()).into_owned();
    assert!(
        answer.starts_with("HTTP/1.1 400 ") && answer.contains("plain HTTP request was sent to HTTPS port"),
        "{answer}"
    );
    assert_eq!(secure(&patient), "secure");
}

/// A ClientHello as our own client sends it.
fn client_hello() -> Vec<u8> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let listener = TcpBackend::start({
        let seen = Arc::clone(&seen);
        move |mut wire, _| {
            let head = wire.try_exactly(5).unwrap_or_default();
            let length = usize::from(head[3]) << 8 | usize::from(head[4]);
            let body = wire.try_exactly(length).unwrap_or_default();
            *seen.lock().unwrap() = [head, body].concat();
        }
    });
    assert!(Wire::connect(listener.port()).try_start_tls(&Offer::name("a.example")).is_err());
    let hello = seen.lock().unwrap().clone();
    assert!(hello.len() > 50);
    hello
}

#[test]
fn a_client_hello_may_come_byte_by_byte() {
    let patient = tls();
    let hello = client_hello();
    let mut wire = patient.server.connect(1);
    for byte in &hello {
        wire.send([*byte]);
    }
    assert_eq!(wire.exactly(6)[0], 22, "a handshake record, the server's hello");
}

#[test]
fn a_client_hello_may_come_in_records_of_one_byte() {
    let patient = tls();
    let hello = client_hello();
    let mut wire = patient.server.connect(1);
    let records: Vec<u8> = hello[5..].iter().flat_map(|byte| [22, 3, 1, 0, 1, *byte]).collect();
    let _ = wire.try_send(records);
    // Served or refused, in time and with nothing broken.
    let kind = wire.exactly(1)[0];
    assert!(kind == 22 || kind == 21, "{kind}");
}

#[test]
fn garbage_in_a_handshake_ends_it() {
    let patient = tls();
    let hello = client_hello();
    let garbage = |bytes: &[u8]| [hello.as_slice(), bytes].concat();
    for bytes in [
        garbage(&[0xff; 100]),
        garbage(b"GET / HTTP/1.1\r\n\r\n"),
        garbage(&hello),
        vec![0x16; 1000],
        vec![0x80; 1000],
        [&[22, 3, 1, 0xff, 0xff][..], &[1; 1000]].concat(),
        [&[22, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff][..], &[22, 3, 1, 0, 0]].concat(),
        hello[..hello.len() / 2].to_vec(),
    ] {
        let mut wire = patient.server.connect(1);
        let _ = wire.try_send(&bytes);
        wire.finish();
        wire.rest();
    }
    assert_eq!(secure(&patient), "secure");
}

#[test]
fn a_silent_handshake_times_out() {
    let patient = tls();
    let began = Instant::now();
    for start in [&b""[..], &client_hello()[..20]] {
        let mut wire = patient.server.connect(1);
        wire.send(start);
        assert!(wire.at_end());
    }
    assert!(began.elapsed() < Duration::from_secs(10));
}
