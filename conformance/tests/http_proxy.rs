//! What a client, and a backend, see of the HTTP proxy.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use tidegate_conformance::backend::{HttpBackend, Reply, TcpBackend};
use tidegate_conformance::client::{Offer, head};
use tidegate_conformance::server::skip_on_nginx;
use tidegate_conformance::{Certificate, Port, Server, Setup, processes, wait_until};

/// A server with this inside its http block.
fn http(inside: &str) -> Setup {
    Server::config(&format!("events {{}} http {{ access_log off; {inside} }}"))
}

/// A server that passes everything to one backend, with this inside the location.
fn proxy(backend: &HttpBackend, inside: &str) -> Setup {
    http(&format!("server {{ listen 127.0.0.1:%%PORT_0%%; location / {{ proxy_pass http://%%BACKEND%%; {inside} }} }}"))
        .set("BACKEND", backend.address())
}

/// A server that passes everything to an upstream of these lines, with this inside the location.
fn balanced(upstream: &str, inside: &str) -> Setup {
    http(&format!(
        "upstream u {{ {upstream} }} server {{ listen 127.0.0.1:%%PORT_0%%; location / {{ proxy_pass http://u; {inside} }} }}"
    ))
}

/// The target that arrives at a backend, for a location and a `proxy_pass` written so.
fn target_seen(location: &str, pass: &str, target: &str) -> String {
    let backend = HttpBackend::start(|request| Reply::ok(&request.target));
    let server = http("server { listen 127.0.0.1:%%PORT_0%%; location %%LOCATION%% { %%PASS%% } }")
        .set("LOCATION", location)
        .set("PASS", pass.replace("BACKEND", &backend.address()))
        .start();
    server.http(0).get(target).text()
}

#[test]
fn a_pass_without_a_path_keeps_the_target_as_it_came() {
    assert_eq!(target_seen("/a/", "proxy_pass http://BACKEND;", "/a/b%20c/../d?q=%41"), "/a/b%20c/../d?q=%41");
}

#[test]
fn a_pass_with_a_path_replaces_the_location() {
    assert_eq!(target_seen("/a/", "proxy_pass http://BACKEND/;", "/a/b?q=1"), "/b?q=1");
    assert_eq!(target_seen("/a/", "proxy_pass http://BACKEND/x/;", "/a/b"), "/x/b");
    assert_eq!(target_seen("/a", "proxy_pass http://BACKEND/x;", "/abc"), "/xbc");
    assert_eq!(target_seen("/a/", "proxy_pass http://BACKEND/x/;", "/a/./c/../b%20c"), "/x/b%20c");
}

#[test]
fn a_pass_with_variables_is_taken_as_it_is() {
    assert_eq!(target_seen("/a/", "proxy_pass http://BACKEND$request_uri;", "/a/b?q=1"), "/a/b?q=1");
    assert_eq!(target_seen("/a/", "proxy_pass http://BACKEND/fixed?u=$uri;", "/a/b?q=1"), "/fixed?u=/a/b");
}

#[test]
fn a_pass_after_a_rewrite_sees_the_new_target() {
    let pass = "rewrite ^/a/(.*)$ /new/$1 break; proxy_pass http://BACKEND;";
    assert_eq!(target_seen("/a/", pass, "/a/b?q=1"), "/new/b?q=1");
}

#[test]
fn a_backend_sees_its_own_name_and_the_fields_of_the_client() {
    let backend = HttpBackend::saying("ok");
    let server = proxy(&backend, "").start();
    assert_eq!(server.http(0).ask("GET", "/", &["X-Mine: 1", "Connection: keep-alive", "Accept: a"]).status, 200);
    let seen = backend.requests().remove(0);
    assert_eq!(seen.field("Host"), backend.address());
    assert_eq!((seen.field("X-Mine"), seen.field("Accept")), ("1", "a"));
    assert_eq!(seen.fields.get("Keep-Alive"), None);
}

#[test]
fn fields_are_set_changed_and_dropped_on_the_way_up() {
    let backend = HttpBackend::saying("ok");
    let server = proxy(
        &backend,
        "proxy_set_header Host $http_host; proxy_set_header X-Real-IP $remote_addr; proxy_set_header Accept '';
         proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;",
    )
    .start();
    server.http(0).ask("GET", "/", &["Host: me.example", "Accept: a", "X-Forwarded-For: 192.0.2.1"]);
    let seen = backend.requests().remove(0);
    assert_eq!((seen.field("Host"), seen.field("X-Real-IP")), ("me.example", "127.0.0.1"));
    assert_eq!(seen.field("X-Forwarded-For"), "192.0.2.1, 127.0.0.1");
    assert_eq!(seen.fields.get("Accept"), None);
}

#[test]
fn what_is_set_on_the_way_up_stays_in_its_line_and_frames_nothing() {
    for (set, target, status, name, value) in [
        ("X-A 'a b'", "/", 200, "X-A", Some("a b")),
        ("X-A $uri", "/a%09b", 200, "X-A", Some("/a\tb")),
        ("X-A $uri", "/a%0d%0aX-B:%20c", 500, "X-B", None),
        ("X-A -$uri-", "/a%0ab", 500, "X-A", None),
        ("Host $uri", "/a%0db", 500, "Host", None),
        ("X-A $arg_none", "/", 200, "X-A", None),
        ("Content-Length 5", "/", 200, "Content-Length", None),
        ("content-length $arg_a", "/?a=5", 200, "Content-Length", None),
        ("Transfer-Encoding chunked", "/", 200, "Transfer-Encoding", None),
    ] {
        let backend = HttpBackend::saying("ok");
        let server = proxy(&backend, &format!("proxy_set_header {set};")).start();
        assert_eq!(server.http(0).get(target).status, status, "{set} {target}");
        let seen = backend.requests();
        assert_eq!(seen.len(), usize::from(status == 200), "{set} {target}");
        assert_eq!(seen.first().and_then(|seen| seen.fields.get(name)), value, "{set} {target}");
    }
}

#[test]
fn fields_are_hidden_and_passed_on_the_way_down() {
    let backend = HttpBackend::start(|_| {
        Reply::status(
            "200 Fine",
            &["X-A: a", "X-B: b", "Server: mine", "X-Accel-Charset: x", "Set-Cookie: c=1", "Set-Cookie: d=2"],
            "ok",
        )
    });
    let server = proxy(&backend, "proxy_hide_header X-B;").start();
    let response = server.http(0).get("/");
    assert_eq!((response.field("X-A"), response.field("X-B")), ("a", ""));
    assert_ne!(response.field("Server"), "mine");
    assert_eq!(response.fields.all("Set-Cookie"), ["c=1", "d=2"]);
    assert_eq!(response.fields.get("X-Accel-Charset"), None);
    let server = proxy(&backend, "proxy_pass_header Server;").start();
    assert_eq!(server.http(0).get("/").field("Server"), "mine");
}

#[test]
fn a_redirect_of_a_backend_is_translated() {
    let backend = HttpBackend::start(|request| {
        Reply::status("302 Found", &[&format!("Location: http://{}/inner/x", request.field("Host"))], "")
    });
    let server =
        http("server { listen 127.0.0.1:%%PORT_0%%; location /outer/ { proxy_pass http://%%BACKEND%%/inner/; } }")
            .set("BACKEND", backend.address())
            .start();
    let response = server.http(0).get("/outer/");
    assert_eq!(response.field("Location"), format!("http://localhost:{}/outer/x", server.port(0)));
}

#[test]
fn a_chunked_body_of_a_client_arrives_whole() {
    let backend = HttpBackend::start(|request| Reply::ok(&request.body));
    for inside in ["", "proxy_http_version 1.1; proxy_request_buffering off;"] {
        let server = proxy(&backend, inside).start();
        let mut http = server.http(0);
        http.send(head("POST", "/", &["Transfer-Encoding: chunked"]));
        http.send("5\r\nhello\r\n");
        http.send("6;extension=1\r\n world\r\n0\r\nX-Trailer: t\r\n\r\n");
        assert_eq!(http.response().text(), "hello world");
        assert_eq!(http.get("/").status, 200);
    }
}

#[test]
fn a_chunk_that_makes_no_sense_is_bad() {
    let backend = HttpBackend::saying("never asked");
    let server = proxy(&backend, "").start();
    let mut http = server.http(0);
    http.send(head("POST", "/", &["Transfer-Encoding: chunked"]));
    http.send("x\r\n");
    assert_eq!(http.response().status, 400);
    assert!(backend.requests().is_empty());
}

#[test]
fn a_large_body_of_a_client_arrives_whole() {
    let backend = HttpBackend::start(|request| Reply::ok(request.body.len().to_string()));
    let server = proxy(&backend, "client_max_body_size 10m; client_body_buffer_size 8k;").start();
    assert_eq!(server.http(0).post("/", &vec![b'x'; 3_000_000], &[]).text(), "3000000");
}

#[test]
fn bodies_of_a_backend_arrive_however_they_are_framed() {
    for reply in [
        Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
        Reply::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"),
        Reply::raw("HTTP/1.1 200 OK\r\n\r\nhel").then("lo").closing(),
        Reply::raw("HTTP/1.0 200 OK\r\n\r\nhello").closing(),
    ] {
        let backend = HttpBackend::start({
            let reply = reply.clone();
            move |_| reply.clone()
        });
        for inside in ["proxy_http_version 1.1;", "proxy_http_version 1.1; proxy_buffering off;"] {
            let server = proxy(&backend, inside).start();
            let response = server.http(0).get("/");
            assert_eq!((response.status, response.text().as_str()), (200, "hello"), "{reply:?}");
        }
    }
}

#[test]
fn head_is_passed_on_without_waiting_for_a_body() {
    let backend = HttpBackend::start(|_| Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"));
    let server = proxy(&backend, "").start();
    let response = server.http(0).ask("HEAD", "/", &[]);
    assert_eq!((response.status, response.field("Content-Length")), (200, "1000"));
}

#[test]
fn a_field_of_a_backend_that_makes_no_sense_is_a_bad_gateway() {
    for garbage in ["HTTP/1.1 200 OK\r\nno colon\r\n\r\n", "HTTP/1.1 200 OK\r\nX: a\x00b\r\n\r\n"] {
        let backend = HttpBackend::start(move |_| Reply::raw(garbage).closing());
        let server = proxy(&backend, "").start();
        assert_eq!(server.http(0).get("/").status, 502, "{garbage:?}");
        server.wait_for_log("upstream sent invalid header");
    }
}

// Differs from nginx, which takes what has no status line for HTTP/0.9 and hands it to the client without a head.
#[test]
fn an_answer_without_a_status_line_is_a_bad_gateway() {
    if skip_on_nginx("an answer without a status line is passed on as HTTP/0.9") {
        return;
    }
    for garbage in ["\x00\x01\x02 garbage\r\n\r\n", "HTTP/1.1 2x0 OK\r\n\r\n", "220 mail.example ESMTP\r\n"] {
        let backend = HttpBackend::start(move |_| Reply::raw(garbage).closing());
        let server = proxy(&backend, "").start();
        assert_eq!(server.http(0).get("/").status, 502, "{garbage:?}");
    }
}

#[test]
fn a_head_of_a_backend_that_is_too_long_is_a_bad_gateway() {
    let backend = HttpBackend::start(|_| Reply::status("200 OK", &[&format!("X-Long: {}", "a".repeat(10_000))], ""));
    let server = proxy(&backend, "proxy_buffer_size 4k;").start();
    assert_eq!(server.http(0).get("/").status, 502);
    server.wait_for_log("upstream sent too big header while reading response header from upstream");
}

#[test]
fn a_backend_that_hangs_up_is_a_bad_gateway() {
    let backend = HttpBackend::start(|_| Reply::hang_up());
    let server = proxy(&backend, "").start();
    assert_eq!(server.http(0).get("/").status, 502);
    server.wait_for_log("upstream prematurely closed connection while reading response header from upstream");
}

#[test]
fn a_backend_that_is_down_is_a_bad_gateway() {
    let port = Port::claim();
    let server = balanced(&format!("server {};", port.address()), "").start();
    assert_eq!(server.http(0).get("/").status, 502);
    server.wait_for_log(r"connect\(\) failed \(111: Connection refused\) while connecting to upstream");
}

#[test]
fn a_backend_that_says_nothing_is_a_gateway_timeout() {
    let backend = HttpBackend::start(|_| Reply::silence());
    let server = proxy(&backend, "proxy_read_timeout 1s;").start();
    assert_eq!(server.http(0).get("/").status, 504);
    server
        .wait_for_log(r"upstream timed out \(110: Connection timed out\) while reading response header from upstream");
}

#[test]
fn a_body_cut_short_by_a_backend_is_cut_short_for_the_client() {
    let backend = HttpBackend::start(|_| Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").closing());
    let server = proxy(&backend, "").start();
    let mut wire = server.connect(0);
    wire.send(head("GET", "/", &[]));
    let text = String::from_utf8_lossy(&wire.rest()).into_owned();
    assert!(text.contains("Content-Length: 10") && text.ends_with("\r\n\r\nhalf"), "{text}");
}

#[test]
fn the_next_server_is_asked_when_one_is_down() {
    let (port, backend) = (Port::claim(), HttpBackend::saying("alive"));
    let upstream = format!("server {}; server {};", port.address(), backend.address());
    let server = balanced(&upstream, "add_header X-Tried $upstream_addr;").start();
    let response = server.http(0).get("/");
    assert_eq!((response.status, response.text().as_str()), (200, "alive"));
    assert_eq!(response.field("X-Tried"), format!("{}, {}", port.address(), backend.address()));
}

#[test]
fn the_next_server_is_asked_after_a_timeout() {
    let (slow, quick) = (HttpBackend::start(|_| Reply::silence()), HttpBackend::saying("quick"));
    let upstream = format!("server {}; server {};", slow.address(), quick.address());
    let server = balanced(&upstream, "proxy_read_timeout 1s;").start();
    assert_eq!(server.http(0).get("/").text(), "quick");
}

#[test]
fn the_next_server_is_asked_after_an_error_status_only_if_told_so() {
    let bad = HttpBackend::start(|_| Reply::status("503 No", &[], "bad"));
    let good = HttpBackend::saying("good");
    let upstream = format!("server {} max_fails=0; server {} backup;", bad.address(), good.address());
    assert_eq!(balanced(&upstream, "").start().http(0).get("/").text(), "bad");
    assert_eq!(balanced(&upstream, "proxy_next_upstream http_503;").start().http(0).get("/").text(), "good");
}

#[test]
fn a_post_is_not_repeated_unless_told_so() {
    let bad = HttpBackend::start(|_| Reply::hang_up());
    let good = HttpBackend::saying("good");
    let upstream = format!("server {} max_fails=0; server {} backup;", bad.address(), good.address());
    assert_eq!(balanced(&upstream, "").start().http(0).post("/", b"x", &[]).status, 502);
    let told = balanced(&upstream, "proxy_next_upstream error non_idempotent;").start();
    assert_eq!(told.http(0).post("/", b"x", &[]).text(), "good");
}

#[test]
fn a_server_that_fails_is_left_alone_and_then_tried_again() {
    let broken = Arc::new(AtomicBool::new(true));
    let first = HttpBackend::start({
        let broken = Arc::clone(&broken);
        move |_| if broken.load(Ordering::SeqCst) { Reply::hang_up() } else { Reply::ok("first") }
    });
    let second = HttpBackend::saying("second");
    let upstream =
        format!("zone u 256k; server {} max_fails=1 fail_timeout=1s; server {};", first.address(), second.address());
    let server = balanced(&upstream, "").start();
    let asked_while_broken = {
        let start = Instant::now();
        (0..10).for_each(|_| assert_eq!(server.http(0).get("/").text(), "second"));
        (first.requests().len(), start.elapsed())
    };
    assert!(asked_while_broken.0 == 1 || asked_while_broken.1 > Duration::from_millis(900), "{asked_while_broken:?}");
    broken.store(false, Ordering::SeqCst);
    wait_until("the first server serves again", || (server.http(0).get("/").text() == "first").then_some(()));
}

#[test]
fn without_a_living_server_there_is_a_bad_gateway() {
    let backend = HttpBackend::start(|_| Reply::hang_up());
    let other = HttpBackend::start(|_| Reply::hang_up());
    let upstream =
        format!("server {} fail_timeout=100; server {} fail_timeout=100;", backend.address(), other.address());
    let server = balanced(&upstream, "").start();
    assert_eq!(server.http(0).get("/").status, 502);
    assert_eq!(server.http(0).get("/").status, 502);
    server.wait_for_log("no live upstreams while connecting to upstream");
    assert_eq!((backend.requests().len(), other.requests().len()), (1, 1));
}

/// How often each of these backends answers `count` questions.
fn shares(upstream: &str, backends: &[&HttpBackend], count: usize, target: impl Fn(usize) -> String) -> Vec<usize> {
    let server = balanced(upstream, "").start();
    for number in 0..count {
        assert_eq!(server.http(0).get(&target(number)).status, 200);
    }
    backends.iter().map(|backend| backend.requests().len()).collect()
}

#[test]
fn servers_are_asked_in_turn_by_weight() {
    let (a, b) = (HttpBackend::saying("a"), HttpBackend::saying("b"));
    let upstream = format!("server {} weight=3; server {};", a.address(), b.address());
    assert_eq!(shares(&upstream, &[&a, &b], 40, |_| "/".into()), [30, 10]);
}

#[test]
fn a_server_that_is_down_is_not_asked_and_a_backup_only_in_need() {
    let (a, b, c) = (HttpBackend::saying("a"), HttpBackend::saying("b"), HttpBackend::saying("c"));
    let upstream = format!("server {} down; server {}; server {} backup;", a.address(), b.address(), c.address());
    assert_eq!(shares(&upstream, &[&a, &b, &c], 5, |_| "/".into()), [0, 5, 0]);
}

#[test]
fn a_hash_sends_the_same_key_to_the_same_server() {
    let backends = [HttpBackend::saying("a"), HttpBackend::saying("b"), HttpBackend::saying("c")];
    let servers: String = backends.iter().map(|backend| format!("server {};", backend.address())).collect();
    let Some(server) = balanced(&format!("hash $arg_k consistent; {servers}"), "").start_if_supported() else { return };
    for key in 0..10 {
        let answers: Vec<String> = (0..3).map(|_| server.http(0).get(&format!("/?k={key}")).text()).collect();
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    }
    assert!(backends.iter().filter(|backend| !backend.requests().is_empty()).count() > 1);
}

#[test]
fn least_conn_avoids_the_busy_server() {
    let release = Arc::new(Mutex::new(()));
    let held = release.lock().unwrap();
    let busy = HttpBackend::start({
        let release = Arc::clone(&release);
        move |request| {
            if request.target == "/slow" {
                drop(release.lock());
            }
            Reply::ok("busy")
        }
    });
    let idle = HttpBackend::saying("idle");
    let upstream = format!("zone u 256k; least_conn; server {}; server {};", busy.address(), idle.address());
    let server = balanced(&upstream, "").start();
    let mut slow = server.http(0);
    slow.send(head("GET", "/slow", &[]));
    wait_until("the slow question is on its way", || (!busy.requests().is_empty()).then_some(()));
    let answers: Vec<String> = (0..4).map(|_| server.http(0).get("/").text()).collect();
    assert_eq!(answers, ["idle"; 4]);
    drop(held);
    assert_eq!(slow.response().text(), "busy");
}

#[test]
fn connections_to_a_backend_are_kept_and_used_again() {
    let backend = HttpBackend::start(|request| Reply::ok(format!("{}-{}", request.connection, request.number)));
    let upstream = format!("server {}; keepalive 4;", backend.address());
    let server = balanced(&upstream, "proxy_http_version 1.1; proxy_set_header Connection '';").start();
    let answers: Vec<String> = (0..5).map(|_| server.http(0).get("/").text()).collect();
    assert_eq!(answers, ["0-0", "0-1", "0-2", "0-3", "0-4"]);
    assert_eq!(backend.connections(), 1);
}

#[test]
fn a_kept_connection_that_the_backend_closed_is_replaced() {
    let backend = HttpBackend::start(|request| {
        let reply = Reply::ok("ok");
        if request.number == 1 { Reply::hang_up() } else { reply }
    });
    let upstream = format!("server {}; keepalive 1;", backend.address());
    let server = balanced(&upstream, "proxy_http_version 1.1; proxy_set_header Connection '';").start();
    assert_eq!(server.http(0).get("/").status, 200);
    assert_eq!(server.http(0).get("/").status, 200);
    assert_eq!(backend.connections(), 2);
}

#[test]
fn a_client_that_goes_away_takes_the_question_with_it() {
    let backend = HttpBackend::start(|_| Reply::silence());
    let server = proxy(&backend, "").start();
    let mut client = server.http(0);
    client.send(head("GET", "/", &[]));
    wait_until("the backend is asked", || (!backend.requests().is_empty()).then_some(()));
    drop(client);
    wait_until("the backend is let go", || (backend.open() == 0).then_some(()));
}

#[test]
fn a_client_that_reads_slowly_does_not_fill_the_memory() {
    const SIZE: usize = 50_000_000;
    let block = vec![b'x'; 1_000_000];
    let backend = TcpBackend::start(move |mut wire, _| {
        let _ = wire.try_head();
        let mut sent = wire.try_send(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"));
        for _ in 0..SIZE / block.len() {
            sent = sent.and_then(|()| wire.try_send(&block));
        }
    });
    for inside in ["proxy_buffering off;", "proxy_max_temp_file_size 0;"] {
        let server =
            http("server { listen 127.0.0.1:%%PORT_0%%; location / { proxy_pass http://%%BACKEND%%; %%INSIDE%% } }")
                .set("BACKEND", backend.address())
                .set("INSIDE", inside)
                .start();
        let worker = server.workers()[0];
        let before = processes::resident_bytes(worker);
        let mut client = server.http(0);
        client.send(head("GET", "/", &[]));
        client.wire.exactly(100_000);
        // As long as nobody reads, the memory must stay where it is: the absence of growth can only be watched.
        let end = Instant::now() + Duration::from_secs(1);
        while Instant::now() < end {
            let grown = processes::resident_bytes(worker).saturating_sub(before);
            assert!(grown < 10_000_000, "{inside} {grown} bytes are held for a client that does not read");
            thread::sleep(Duration::from_millis(20));
        }
        let mut rest = SIZE - 100_000;
        while rest > 0 {
            let piece = rest.min(1_000_000);
            client.wire.exactly(piece);
            rest -= piece;
        }
    }
}

#[test]
fn an_upgrade_becomes_a_tunnel() {
    let backend = TcpBackend::start(|mut wire, _| {
        let head = wire.try_head().ok().flatten().unwrap_or_default();
        assert!(String::from_utf8_lossy(&head).contains("Upgrade: echo"));
        wire.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: upgrade\r\n\r\n");
        while let Ok(Some(line)) = wire.try_line() {
            wire.send(format!("you said {line}\r\n"));
        }
    });
    let server = http(
        "server { listen 127.0.0.1:%%PORT_0%%; location / { proxy_pass http://%%BACKEND%%; proxy_http_version 1.1;
         proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; } }",
    )
    .set("BACKEND", backend.address())
    .start();
    let mut client = server.http(0);
    assert_eq!(client.ask("GET", "/", &["Upgrade: echo", "Connection: upgrade"]).status, 101);
    assert_eq!(client.wire.ask("one"), "you said one");
    assert_eq!(client.wire.ask("two"), "you said two");
}

#[test]
fn an_error_page_replaces_a_bad_answer_when_told_so() {
    let backend = HttpBackend::start(|_| Reply::status("500 Oh", &[], "private"));
    let server =
        proxy(&backend, "proxy_intercept_errors on; error_page 500 =503 @sorry; } location @sorry { return 503 sorry;")
            .start();
    let response = server.http(0).get("/");
    assert_eq!((response.status, response.text().as_str()), (503, "sorry"));
}

#[test]
fn x_accel_redirect_sends_the_client_elsewhere_unseen() {
    let backend = HttpBackend::start(|_| Reply::status("200 OK", &["X-Accel-Redirect: /inside/f"], "unused"));
    let server = http(
        "server { listen 127.0.0.1:%%PORT_0%%; location / { proxy_pass http://%%BACKEND%%; } location /inside/ { internal; root html; } }",
    )
    .set("BACKEND", backend.address())
    .file("html/inside/f", "the file")
    .start();
    assert_eq!(server.http(0).get("/").text(), "the file");
}

#[test]
fn a_cached_answer_is_not_asked_for_again() {
    let backend = HttpBackend::start(|request| Reply::ok(format!("{}{}", request.target, request.connection)));
    let Some(server) = http(
        "proxy_cache_path cache keys_zone=c:1m; server { listen 127.0.0.1:%%PORT_0%%; location / { proxy_pass http://%%BACKEND%%;
         proxy_cache c; proxy_cache_valid 1m; proxy_cache_bypass $arg_fresh; add_header X-Cache $upstream_cache_status; } }",
    )
    .set("BACKEND", backend.address())
    .start_if_supported() else { return };
    let ask = |target: &str| {
        let response = server.http(0).get(target);
        (response.field("X-Cache").to_owned(), response.text())
    };
    let first = ask("/a");
    assert_eq!(first.0, "MISS");
    assert_eq!(ask("/a"), ("HIT".to_owned(), first.1));
    assert_eq!(ask("/b").0, "MISS");
    assert_eq!(ask("/a?fresh=1").0, "BYPASS");
    assert_eq!(backend.requests().len(), 3);
}

#[test]
fn many_clients_at_once_are_all_served() {
    let backend = HttpBackend::start(|request| Reply::ok(&request.target));
    let server = proxy(&backend, "").start();
    thread::scope(|scope| {
        for client in 0..20 {
            let server = &server;
            scope.spawn(move || {
                let mut http = server.http(0);
                for number in 0..20 {
                    let target = format!("/{client}/{number}");
                    assert_eq!(http.get(&target).text(), target);
                }
            });
        }
    });
}

#[test]
fn cookies_of_replies_can_be_rewritten() {
    let backend = HttpBackend::start(|request| {
        let cookie = request.target.trim_start_matches('/');
        Reply::status("200 OK", &[&format!("Set-Cookie: {cookie}")], "")
    });
    let server = proxy(
        &backend,
        "proxy_cookie_domain a.example .b.example; proxy_cookie_path /in /out; proxy_cookie_flags ~^s secure;",
    )
    .start();
    for (sent, seen) in [
        ("a=1;Domain=.A.example", "a=1; Domain=.b.example"),
        ("a=1;Path=/in/x", "a=1; Path=/out/x"),
        ("s=1", "s=1; Secure"),
        ("other=1;x", "other=1;x"),
    ] {
        assert_eq!(server.http(0).get(&format!("/{sent}")).field("Set-Cookie"), seen);
    }
}

#[test]
fn connections_can_come_from_an_address_of_their_own() {
    let backend = HttpBackend::saying("ok");
    let server = proxy(&backend, "proxy_bind 127.0.0.2;").start();
    assert_eq!(server.http(0).get("/").text(), "ok");
    let server = proxy(&backend, "proxy_bind 192.0.2.1;").start();
    assert_eq!(server.http(0).get("/").status, 502);
}

/// A backend that was asked to close will, whatever it says of it, and perhaps only when the next request is on its way.
#[test]
fn a_connection_that_was_asked_to_close_is_not_used_again() {
    if skip_on_nginx("it goes by the reply alone") {
        return;
    }
    for (inside, connections) in [
        ("", 1),
        ("proxy_http_version 1.0;", 3),
        ("proxy_http_version 1.0; proxy_set_header Connection keep-alive;", 1),
        ("proxy_set_header Connection close;", 3),
        ("proxy_set_header connection 'keep-alive, Close';", 3),
        ("proxy_set_header Connection '';", 1),
    ] {
        // It says nothing of closing, and does not.
        let backend = TcpBackend::start(|mut wire, _| {
            while let Ok(Some(_)) = wire.try_head() {
                wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            }
        });
        let server = http(&format!(
            "server {{ listen 127.0.0.1:%%PORT_0%%; location / {{ proxy_pass http://%%BACKEND%%; {inside} }} }}"
        ))
        .set("BACKEND", backend.address())
        .start();
        for _ in 0..3 {
            assert_eq!(server.http(0).get("/").text(), "ok", "{inside}");
        }
        assert_eq!(backend.accepted(), connections, "{inside}");
    }
}

/// What follows a reply is decided by the method that the upstream was asked by.
#[test]
fn a_reply_ends_as_its_own_method_says() {
    let backend = HttpBackend::start(|request| {
        let length = format!("HTTP/1.1 200 OK\r\nX-Method: {}\r\nContent-Length: 5\r\n\r\n", request.method);
        match request.method.as_str() {
            "HEAD" => Reply::raw(length),
            // The body comes later than the head.
            _ => Reply::raw(length).after(Duration::from_millis(50)).then("body!"),
        }
    });
    let server = http(
        "server { listen 127.0.0.1:%%PORT_0%%; location / { proxy_pass http://%%BACKEND%%; }
         location /get { proxy_pass http://%%BACKEND%%; proxy_method GET; }
         location /head { proxy_pass http://%%BACKEND%%; proxy_method HEAD; } }",
    )
    .set("BACKEND", backend.address())
    .start();
    for _ in 0..3 {
        for (method, target, asked, body) in [
            ("HEAD", "/get", "GET", ""),
            ("GET", "/", "GET", "body!"),
            ("HEAD", "/", "HEAD", ""),
            ("GET", "/get", "GET", "body!"),
        ] {
            let mut http = server.http(0);
            http.send(head(method, target, &[]));
            let response = http.response_to(method);
            assert_eq!((response.status, response.field("X-Method")), (200, asked), "{method} {target}");
            assert_eq!(response.text(), body, "{method} {target}");
        }
    }
    if !skip_on_nginx("it announces a body that does not come") {
        assert_eq!(server.http(0).get("/head").text(), "", "nothing is waited for");
    }
}

/// What a library has taken of an answer must not stay there while the upstream is silent.
#[test]
fn a_client_that_reads_late_gets_what_a_silent_upstream_has_sent() {
    for (version, length) in [(0, 400_000), (12, 400_000), (13, 300_000), (13, 400_000), (13, 700_000)] {
        let content: Vec<u8> = (0..length).map(|number: u32| (number % 251) as u8).collect();
        let (sent, all_sent) = mpsc::channel();
        let reply = content.clone();
        let backend = TcpBackend::start(move |mut wire, _| {
            let _ = wire.try_head();
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n");
            wire.send(&reply);
            sent.send(()).unwrap();
            let _ = wire.try_rest();
        });
        for buffering in ["off", "on"] {
            let server = http(
                "server { listen 127.0.0.1:%%PORT_0%% sndbuf=16k; listen 127.0.0.1:%%PORT_1%% ssl sndbuf=16k;
                 ssl_certificate c.crt; ssl_certificate_key c.key;
                 location / { proxy_pass http://%%BACKEND%%; proxy_buffering %%BUFFERING%%; } }",
            )
            .set("BACKEND", backend.address())
            .set("BUFFERING", buffering)
            .certificate("c", &Certificate::for_names(&["a.example"]))
            .start();
            let mut wire = match version {
                0 => server.connect(0),
                12 => server.connect(1).start_tls(&Offer::tls12("a.example")),
                _ => server.connect(1).start_tls(&Offer::name("a.example")),
            };
            wire.send(head("GET", "/", &[]));
            all_sent.recv_timeout(Duration::from_secs(10)).unwrap();
            let _ = wire.try_head().unwrap();
            assert!(wire.exactly(content.len()) == content, "{version} {length} {buffering}");
        }
    }
}

/// An upstream that says something in between (1xx) has not answered: it gets the rest of the body.
#[test]
fn an_interim_reply_does_not_end_an_upload() {
    let body = vec![b'u'; 20_000_000];
    for (interim, expected) in [
        ("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", 200),
        ("HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n", 200),
        ("HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n", 413),
    ] {
        let length = body.len();
        let backend = TcpBackend::start(move |mut wire, _| {
            let _ = wire.try_head();
            let _ = wire.try_send(interim);
            if expected == 200 {
                // Meanwhile there is no room for more of the body.
                thread::sleep(Duration::from_millis(200));
                assert_eq!(wire.exactly(length).len(), length);
                wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            }
            let _ = wire.try_rest();
        });
        for buffering in ["on", "off"] {
            let server = http(&format!(
                "client_max_body_size 0; server {{ listen 127.0.0.1:%%PORT_0%%; location / {{ proxy_pass http://%%BACKEND%%;
                 proxy_request_buffering {buffering}; }} }}"
            ))
            .set("BACKEND", backend.address())
            .start();
            let mut wire = server.connect(0);
            let _ = wire.try_send(head("POST", "/", &[&format!("Content-Length: {length}")]));
            let _ = wire.try_send(&body);
            let answer = wire.try_head().ok().flatten().unwrap_or_default();
            let status = format!("HTTP/1.1 {expected} ");
            assert!(
                answer.starts_with(status.as_bytes()),
                "{interim} {buffering}: {}",
                String::from_utf8_lossy(&answer)
            );
        }
    }
}
