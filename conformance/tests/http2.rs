//! HTTP/2 to clients: how it is chosen, and that an exchange over it is the one that HTTP/1 has.

use tidegate_conformance::backend::{HttpBackend, Reply};
use tidegate_conformance::client::{Body, Frames, Http2, Offer, frame, request};
use tidegate_conformance::server::skip_on_nginx;
use tidegate_conformance::{Certificate, Http, Response, Server, Setup, is_nginx, matches, wait_until};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// One server in clear with this inside.
fn serve(inside: &str) -> Setup {
    serve_all(&format!("server {{ listen 127.0.0.1:%%PORT_0%%; http2 on; {inside} }}"))
}

/// These servers, and the certificates `a` and `b`.
fn serve_all(http: &str) -> Setup {
    Server::config(&format!("events {{}} http {{ access_log off; {http} }}"))
        .certificate("a", &Certificate::for_names(&["a.example"]))
        .certificate("b", &Certificate::for_names(&["b.example"]))
}

fn frames(server: &Server) -> Frames {
    Frames::over(server.connect(0), &[])
}

fn secure(server: &Server, name: &str, protocols: &[&str]) -> Option<String> {
    server.connect(0).start_tls(&Offer::name(name).alpn(protocols)).tls().alpn.clone()
}

#[test]
fn the_preface_chooses_http_2() {
    let server = serve("return 200 $server_protocol-$http2;").start();
    assert_eq!(server.http(0).get("/").text(), "HTTP/1.1-");
    assert_eq!(Http2::connect(server.port(0)).get("/").text(), "HTTP/2.0-h2c");

    let whole = [PREFACE, &Frames::settings(&[]), &Frames::get(1, "/")].concat();
    for pieces in [whole.chunks(whole.len()), whole.chunks(1), whole.chunks(12), whole.chunks(24), whole.chunks(25)] {
        let mut client = Frames { wire: server.connect(0) };
        pieces.for_each(|piece| client.send(piece));
        assert_eq!(client.status(1), 200);
    }
}

#[test]
fn what_only_begins_like_the_preface_is_http_1() {
    let server = serve("return 200 $request;").start();
    for (text, said) in [
        ("PRI /x HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200"),
        ("PRI / HTTP/1.0\r\n\r\n", "HTTP/1.1 200"),
        ("PROPFIND / HTTP/1.0\r\n\r\n", "HTTP/1.1 200"),
        ("PRI * HTTP/2.1\r\n\r\n", "HTTP/1.1 "),
        ("P /x HTTP/1.0\r\n\r\n", "HTTP/1.1 200"),
    ] {
        for size in [1, 3, text.len()] {
            let mut wire = server.connect(0);
            // A server that refuses may close before it has taken everything.
            let _ = text.as_bytes().chunks(size).try_for_each(|piece| wire.try_send(piece));
            wire.finish();
            let answer = String::from_utf8_lossy(&wire.rest()).into_owned();
            assert!(answer.starts_with(said), "{text:?} by {size}: {answer}");
        }
    }
}

#[test]
fn a_server_without_it_refuses_the_preface() {
    let server = serve_all("server { listen 127.0.0.1:%%PORT_0%%; return 200; }").start();
    let mut wire = server.connect(0);
    let _ = wire.try_send(PREFACE);
    let answer = String::from_utf8_lossy(&wire.rest()).into_owned();
    assert!(!answer.contains(" 200 "), "{answer}");
    assert_eq!(server.http(0).get("/").status, 200);
}

#[test]
fn listen_may_say_so_and_is_warned_of() {
    let text = "server { listen 127.0.0.1:%%PORT_0%% http2; return 200 $http2; }";
    let warning = serve_all(text).run(&["-t"]).stderr;
    let said = r#"\[warn\].* the "listen ... http2" directive is deprecated, use the "http2" directive instead in .*nginx\.conf:1"#;
    assert!(matches(said, &warning), "{warning}");
    assert_eq!(Http2::connect(serve_all(text).start().port(0)).get("/").text(), "h2c");
}

#[test]
fn the_name_in_the_hello_says_what_is_offered() {
    let server = serve_all(
        "ssl_certificate a.crt; ssl_certificate_key a.key;
         server { listen 127.0.0.1:%%PORT_0%% ssl; server_name a.example; http2 on; return 200 a-$http2; }
         server { listen 127.0.0.1:%%PORT_0%% ssl; server_name b.example; return 200 b-$http2; }
         server { listen 127.0.0.1:%%PORT_0%% ssl; server_name c.example; http2 on; return 200 c-$http2; }",
    )
    .start();
    for (name, offered, chosen) in [
        ("a.example", &["h2", "http/1.1"][..], Some("h2")),
        ("a.example", &["http/1.1", "h2"], Some("h2")),
        ("a.example", &["http/1.1"], Some("http/1.1")),
        ("a.example", &[], None),
        ("b.example", &["h2", "http/1.1"], Some("http/1.1")),
        ("c.example", &["h2"], Some("h2")),
        ("unknown.example", &["h2", "http/1.1"], Some("h2")),
    ] {
        assert_eq!(secure(&server, name, offered).as_deref(), chosen, "{name} {offered:?}");
    }
    let mut client = Http2::secure(server.port(0), "a.example");
    for (authority, answer) in [
        ("a.example", (200, "a-h2")),
        ("A.Example", (200, "a-h2")),
        ("unknown.example", (200, "a-h2")),
        ("c.example", (200, "c-h2")),
    ] {
        let response = client.ask("GET", "/", &[&format!(":authority: {authority}")]);
        assert_eq!((response.status, response.text().as_str()), answer, "{authority}");
    }
    // Under TLS nobody knows beforehand: RFC 9113 section 3.2.
    let mut client = Frames::over(server.connect(0).start_tls(&Offer::name("a.example")), &[]);
    let answer = String::from_utf8_lossy(&client.wire.rest()).into_owned();
    assert!(answer.contains("400 Bad Request"), "{answer}");
}

#[test]
fn a_server_without_it_at_the_same_address_is_misdirected() {
    if skip_on_nginx("HTTP/2 is on for a whole address in clear") {
        return;
    }
    let server = serve_all(
        "ssl_certificate a.crt; ssl_certificate_key a.key;
         server { listen 127.0.0.1:%%PORT_0%% ssl; server_name a.example; http2 on; return 200 a; }
         server { listen 127.0.0.1:%%PORT_0%% ssl; server_name b.example; return 200 b; }",
    )
    .start();
    let mut client = Http2::secure(server.port(0), "a.example");
    for (authority, status) in [("a.example", 200), ("b.example", 421), ("B.example", 421), ("a.example", 200)] {
        assert_eq!(client.ask("GET", "/", &[&format!(":authority: {authority}")]).status, status, "{authority}");
    }
    assert_eq!(
        Http::over(server.connect(0).start_tls(&Offer::name("b.example"))).ask("GET", "/", &["Host: b.example"]).text(),
        "b"
    );
}

#[test]
fn the_variables_and_the_log_say_what_was_spoken() {
    let server = serve_all(
        "log_format own '$request|$server_protocol|$http2|$status|$connection_requests|$body_bytes_sent|$request_length|$bytes_sent|$pipe';
         server { listen 127.0.0.1:%%PORT_0%%; listen 127.0.0.1:%%PORT_1%% ssl; http2 on; access_log access.log own;
           ssl_certificate a.crt; ssl_certificate_key a.key; add_header X-Number $connection_requests; return 200 $scheme-$host-$request_uri; }",
    )
    .start();
    let mut client = Http2::connect(server.port(0));
    assert_eq!(client.get("/a?b=c").text(), "http-localhost-/a?b=c");
    let second = client.ask("HEAD", "/%20", &[]);
    assert_eq!((second.field("x-number"), second.body.len()), ("2", 0));
    let mut client = Http2::secure(server.port(1), "a.example");
    assert_eq!(client.ask("GET", "/", &[":authority: a.example:1"]).text(), "https-a.example-/");
    let lines = server.wait_for_lines("access.log", 3);
    for (line, pattern) in lines.iter().zip([
        r"^GET /a\?b=c HTTP/2\.0\|HTTP/2\.0\|h2c\|200\|1\|21\|[1-9]\d+\|[1-9]\d+\|\.$",
        r"^HEAD /%20 HTTP/2\.0\|HTTP/2\.0\|h2c\|200\|2\|0\|[1-9]\d+\|[1-9]\d+\|\.$",
        r"^GET / HTTP/2\.0\|HTTP/2\.0\|h2\|200\|1\|17\|[1-9]\d+\|[1-9]\d+\|\.$",
    ]) {
        assert!(matches(pattern, line), "{line}: {pattern}");
    }
}

/// How many requests a connection takes before it ends in order.
fn requests_to_the_end(server: &Server) -> usize {
    let mut client = Http2::connect(server.port(0));
    let mut count = 0;
    while client.attempt(request("GET", "/", &[]), Body::default()).is_ok() {
        count += 1;
        assert!(count < 10_000, "the connection does not end");
    }
    assert!(client.ended().is_ok());
    count
}

#[test]
fn a_connection_ends_in_order_after_its_requests_and_its_time() {
    assert_eq!(requests_to_the_end(&serve("keepalive_requests 3; return 200;").start()), 3);
    assert_eq!(requests_to_the_end(&serve("keepalive_requests 1; return 200;").start()), 1);
    let aged = requests_to_the_end(&serve("keepalive_time 20ms; return 200;").start());
    assert!(aged >= 1, "{aged}");
}

#[test]
fn an_idle_connection_ends_in_order() {
    let server = serve("keepalive_timeout 100ms; return 200;").start();
    let mut client = frames(&server);
    client.send(Frames::get(1, "/"));
    assert_eq!(client.status(1), 200);
    assert_eq!(client.end(), Some(0));
    let mut client = Http2::connect(server.port(0));
    assert_eq!(client.get("/").status, 200);
    assert!(client.ended().is_ok());
}

#[test]
fn limits_are_read_and_refused() {
    let try_out =
        |line: &str| serve_all(&format!("server {{ listen 127.0.0.1:%%PORT_0%%; return 200; {line} }}")).run(&["-t"]);
    for good in [
        "http2_max_concurrent_streams 1;",
        "http2_body_preread_size 64k;",
        "http2_chunk_size 1;",
        "http2_chunk_size 1m;",
        "http2_recv_buffer_size_is_of_http 1;",
    ] {
        let outcome = try_out(good);
        assert_eq!(outcome.status.success(), !good.contains("is_of_http"), "{good}: {}", outcome.stderr);
    }
    for (bad, said) in [
        ("http2 maybe;", "invalid value \"maybe\" in \"http2\" directive, it must be \"on\" or \"off\""),
        ("http2;", "invalid number of arguments in \"http2\" directive"),
        ("http2_max_concurrent_streams x;", "invalid number"),
        ("http2_chunk_size x;", "invalid value"),
        ("http2_body_preread_size x;", "invalid"),
    ] {
        let outcome = try_out(bad);
        assert!(!outcome.status.success() && outcome.stderr.contains(said), "{bad}: {}", outcome.stderr);
        assert!(matches(r"nginx\.conf:\d+", &outcome.stderr), "{bad}: {}", outcome.stderr);
    }
}

/// What a request with these lines comes to, in the words of its variables.
fn shown(client: &mut Http2, lines: &[&str]) -> Response {
    client.ask("GET", "/", lines)
}

#[test]
fn cookies_in_crumbs_are_one_cookie() {
    let server = serve("return 200 $http_cookie|$cookie_a|$cookie_c;").start();
    let mut client = Http2::connect(server.port(0));
    for (lines, text) in [
        (&["Cookie: a=1"][..], "a=1|1|"),
        (&["Cookie: a=1", "Cookie: b=2"], "a=1; b=2|1|"),
        (&["Cookie: a=1", "X-Other: 1", "Cookie: b=2; c=3"], "a=1; b=2; c=3|1|3"),
        (&[], "||"),
    ] {
        assert_eq!(shown(&mut client, lines).text(), text, "{lines:?}");
    }
}

#[test]
fn the_authority_is_the_host() {
    let server = serve_all(
        "server { listen 127.0.0.1:%%PORT_0%%; http2 on; server_name a.example; return 200 a-$host-$http_host; }
         server { listen 127.0.0.1:%%PORT_0%%; http2 on; server_name b.example; return 200 b-$host-$http_host; }",
    )
    .start();
    let mut client = frames(&server);
    let base = [(":method", "GET"), (":scheme", "http"), (":path", "/")];
    for (number, (more, outcome)) in [
        (&[(":authority", "b.example")][..], Ok(200)),
        (&[("host", "b.example")], Ok(200)),
        (&[(":authority", "b.example"), ("host", "b.example")], Ok(200)),
        (&[(":authority", "b.example"), ("host", "a.example")], Ok(400)),
        (&[(":authority", "b.example"), ("host", "B.example")], Ok(400)),
        (&[], Ok(400)),
    ]
    .into_iter()
    .enumerate()
    {
        let stream = u32::try_from(number).unwrap() * 2 + 1;
        client.send(frame(1, 5, stream, Frames::block(&[&base[..], more].concat())));
        assert_eq!(client.outcome(stream), outcome, "{more:?}");
    }
    let mut client = Http2::connect(server.port(0));
    assert_eq!(client.ask("GET", "/", &[":authority: b.example:80"]).text(), "b-b.example-b.example:80");
}

/// A request of which one thing is wrong: refused with a status, or its stream reset; the connection goes on unless `ends`.
#[test]
fn requests_that_are_malformed_are_refused_alone() {
    let backend = HttpBackend::saying("asked");
    let server = serve("location / { proxy_pass http://%%BACKEND%%; }").set("BACKEND", backend.address()).start();
    let base = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a")];
    let without = |name: &str| base.into_iter().filter(|(field, _)| *field != name).collect::<Vec<_>>();
    let with = |more: &[(&'static str, &'static str)]| [&base[..], more].concat();
    let first = |more: (&'static str, &'static str)| [&[more][..], &base].concat();
    let table = [
        ("no :method", without(":method")),
        ("no :scheme", without(":scheme")),
        ("no :path", without(":path")),
        (":path twice", first((":path", "/"))),
        (":method twice", first((":method", "GET"))),
        ("unknown pseudo-field", first((":status", "200"))),
        ("pseudo-field behind a field", [&[("a", "b")][..], &base].concat()),
        ("empty :path", [&without(":path")[..], &[(":path", "")]].concat()),
        (":path of no path", [&without(":path")[..], &[(":path", "x")]].concat()),
        ("upper case", with(&[("Upper", "1")])),
        ("space in a name", with(&[("a b", "1")])),
        ("line feed in a value", with(&[("a", "b\nc: d")])),
        ("carriage return in a value", with(&[("a", "b\rc")])),
        ("zero in a value", with(&[("a", "b\0c")])),
        ("blank before a value", with(&[("a", " b")])),
        ("connection", with(&[("connection", "close")])),
        ("keep-alive", with(&[("keep-alive", "1")])),
        ("proxy-connection", with(&[("proxy-connection", "close")])),
        ("transfer-encoding", with(&[("transfer-encoding", "chunked")])),
        ("upgrade", with(&[("upgrade", "h2c")])),
        ("te", with(&[("te", "gzip")])),
        ("content-length twice", with(&[("content-length", "0"), ("content-length", "0")])),
        ("content-length of no number", with(&[("content-length", "1x")])),
        ("content-length without a body", with(&[("content-length", "1")])),
        ("host of no host", with(&[("host", "a/b")])),
        (":protocol without CONNECT", first((":protocol", "websocket"))),
        ("trace", [&without(":method")[..], &[(":method", "TRACE")]].concat()),
    ];
    // nginx lets pass what RFC 9113 section 8.2 forbids in a field but not in its own parser.
    let lenient = [
        "connection",
        "keep-alive",
        "proxy-connection",
        "upgrade",
        "te",
        "blank before a value",
        "carriage return in a value",
    ];
    let breaking =
        ["upper case", "space in a name", "line feed in a value", "carriage return in a value", "zero in a value"];
    let mut client = frames(&server);
    let mut stream = 1;
    for (what, fields) in table {
        if is_nginx() && (lenient.contains(&what) || what == "transfer-encoding") {
            continue;
        }
        client.send(frame(1, 5, stream, Frames::block(&fields)));
        let outcome = client.outcome(stream);
        println!("{what}: {outcome:?}");
        assert!(matches!(outcome, Ok(400 | 405 | 421) | Err(1)), "{what}: {outcome:?}");
        stream += 2;
        if !client.is_alive() {
            // The library that decodes heads gives up where nginx does not.
            assert!(breaking.contains(&what), "{what} ended the connection");
            (client, stream) = (frames(&server), 1);
        }
    }
    assert_eq!(backend.requests(), []);
    client.send(Frames::get(stream, "/"));
    assert_eq!(client.outcome(stream), Ok(200));
}

#[test]
fn a_body_that_belies_its_length_is_refused() {
    let backend = HttpBackend::saying("asked");
    let server = serve("location / { proxy_pass http://%%BACKEND%%; }").set("BACKEND", backend.address()).start();
    let mut client = frames(&server);
    let data = |stream, flags, bytes: &[u8]| frame(0, flags, stream, bytes);
    let mut stream = 1;
    for (length, pieces, good) in [
        ("3", &["abc"][..], true),
        ("3", &["a", "", "bc"], true),
        ("0", &[""], true),
        ("3", &["abcd"], false),
        ("3", &["ab"], false),
        ("3", &["a", "b", "cd"], false),
        ("0", &["a"], false),
        ("18446744073709551616", &["a"], false),
    ] {
        client.send(frame(1, 4, stream, Frames::head("POST", "/", &[("content-length", length)])));
        for (number, piece) in pieces.iter().enumerate() {
            client.send(data(stream, u8::from(number + 1 == pieces.len()), piece.as_bytes()));
        }
        let outcome = client.outcome(stream);
        println!("{length} {pieces:?}: {outcome:?}");
        match good {
            true => assert_eq!(outcome, Ok(200), "{length} {pieces:?}"),
            false => assert!(matches!(outcome, Ok(400) | Err(1)), "{length} {pieces:?}: {outcome:?}"),
        }
        assert!(client.is_alive(), "{length} {pieces:?}");
        stream += 2;
    }
    assert!(backend.requests().iter().all(|request| request.body.len() <= 3));
    assert_eq!(backend.requests().len(), 3);
}

#[test]
fn heads_have_limits() {
    let server = serve("large_client_header_buffers 4 2k; max_headers 20; return 200 $http_a;").start();
    let long = |length: usize| "a".repeat(length);
    let mut client = frames(&server);
    client.send(frame(1, 5, 1, Frames::head("GET", "/", &[("a", &long(2000))])));
    assert_eq!(client.outcome(1), Ok(200));
    let many: Vec<(&str, &str)> = (0..30).map(|_| ("a", "b")).collect();
    client.send(frame(1, 5, 3, Frames::head("GET", "/", &many)));
    let outcome = client.outcome(3);
    println!("too many fields: {outcome:?}");
    assert!(matches!(outcome, Ok(400)), "{outcome:?}");
    assert!(client.is_alive());
    // nginx ends the connection, whose table of fields it has not kept up.
    client.send(frame(1, 5, 5, Frames::head("GET", "/", &[("a", &long(8000)), ("b", &long(8000))])));
    let outcome = client.outcome(5);
    println!("too much: {outcome:?}");
    assert!(matches!(outcome, Ok(400 | 431) | Err(11)), "{outcome:?}");
}

#[test]
fn methods_are_what_they_are() {
    let server = serve("return 200 $request_method;").start();
    let mut client = frames(&server);
    let base = [(":method", "CONNECT"), (":authority", "a:443")];
    client.send(frame(1, 5, 1, Frames::block(&base)));
    // nginx looks for the scheme first.
    assert_eq!(client.outcome(1), Ok(if is_nginx() { 400 } else { 405 }));
    let star = [(":method", "OPTIONS"), (":scheme", "http"), (":path", "*"), (":authority", "a")];
    client.send(frame(1, 5, 3, Frames::block(&star)));
    assert_eq!(client.outcome(3), Ok(400));
    let mut client = Http2::connect(server.port(0));
    for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "PROPFIND", "OTHER"] {
        assert_eq!(client.ask(method, "/", &[]).text(), method);
    }
}

#[test]
fn answers_are_those_of_http_1() {
    let page = "<p>page</p>";
    let setup = serve(
        "root %%DIR%%; error_page 404 /missing.html; add_header X-Own own always;
         location /text { return 200 text; }
         location /none { return 204; }
         location /moved { return 301 /there; }
         location /refused { return 403; }
         location /inner { rewrite ^ /text last; }
         location /tried { try_files /no /file.txt =404; }
         location /large { limit_except GET { deny all; } }
         location /lines { add_header X-Lines \"a\nb\"; return 200 x; }
         location /trailer { add_header X-Head a; add_trailer X-Sum $status; return 200 abc; }
         location /folder { }",
    )
    .file("file.txt", "0123456789")
    .file("missing.html", page)
    .file("folder/index.html", "index");
    let server = setup.start();
    let mut client = Http2::connect(server.port(0));
    for (method, target, lines) in [
        ("GET", "/text", &[][..]),
        ("HEAD", "/text", &[]),
        ("GET", "/none", &[]),
        ("GET", "/moved", &[]),
        ("GET", "/refused", &[]),
        ("GET", "/inner", &[]),
        ("GET", "/tried", &[]),
        ("GET", "/file.txt", &[]),
        ("HEAD", "/file.txt", &[]),
        ("GET", "/file.txt", &["Range: bytes=2-4"]),
        ("GET", "/file.txt", &["Range: bytes=-1"]),
        ("GET", "/file.txt", &["Range: bytes=0-0,3-4"]),
        ("GET", "/file.txt", &["Range: bytes=20-"]),
        ("GET", "/file.txt", &["If-Modified-Since: Thu, 01 Jan 2099 00:00:00 GMT"]),
        ("GET", "/file.txt", &["If-Match: \"other\""]),
        ("GET", "/absent", &[]),
        ("GET", "/folder/", &[]),
        ("GET", "/folder", &[]),
        ("PUT", "/file.txt", &[]),
    ] {
        let mut one = server.http(0);
        let expected = one.ask(method, target, lines);
        let got = client.ask(method, target, lines);
        assert_eq!(got.status, expected.status, "{method} {target} {lines:?}");
        // The pieces of several ranges are parted by chance.
        if expected.field("content-type").starts_with("multipart/") {
            assert_eq!(got.body.len(), expected.body.len());
            continue;
        }
        assert_eq!(got.text(), expected.text(), "{method} {target} {lines:?}");
        for name in [
            "content-type",
            "content-length",
            "etag",
            "last-modified",
            "location",
            "content-range",
            "x-own",
            "accept-ranges",
        ] {
            assert_eq!(got.fields.all(name), expected.fields.all(name), "{method} {target} {lines:?}: {name}");
        }
        assert_eq!(got.fields.get("connection"), None);
        assert!(got.field("server").len() > 3 && got.field("date").len() == 29);
    }
    let answer = client.whole(request("GET", "/trailer", &[]), Body::default());
    assert_eq!((answer.trailers.get("x-sum"), answer.response.text().as_str()), (Some("200"), "abc"));
    let head = client.whole(request("HEAD", "/trailer", &[]), Body::default());
    assert_eq!((head.response.status, head.trailers.get("x-sum")), (200, None));
    if !skip_on_nginx("line breaks are sent as they are") {
        assert_eq!(client.get("/lines").field("x-lines"), "a b");
    }
}

#[test]
fn a_request_body_comes_with_length_and_without() {
    let backend = HttpBackend::start(|request| Reply::ok(format!("{}-{}", request.method, request.text())));
    let server = serve("location / { proxy_pass http://%%BACKEND%%; proxy_http_version 1.1; }")
        .set("BACKEND", backend.address())
        .start();
    let mut client = Http2::connect(server.port(0));
    for method in ["POST", "PUT", "PATCH", "GET"] {
        for lines in [&["Content-Length: 4"][..], &[]] {
            let body = Body { bytes: Some("body".into()), trailers: None };
            let answer = client.whole(request(method, "/", lines), body);
            assert_eq!(answer.response.text(), format!("{method}-body"), "{lines:?}");
        }
    }
    // What follows the body is taken, and its request is none the worse.
    if skip_on_nginx("trailers of requests are refused") {
        return;
    }
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-sum", "1".parse().unwrap());
    for bytes in [Some("body".into()), Some("".into()), None] {
        let text = format!("POST-{}", String::from_utf8_lossy(bytes.as_deref().unwrap_or_default()));
        let body = Body { bytes, trailers: Some(trailers.clone()) };
        assert_eq!(client.whole(request("POST", "/", &[]), body).response.text(), text);
    }
    wait_until("every request came", || (backend.requests().len() == 11).then_some(()));
}

/// RFC 8441: an extended CONNECT becomes the upgrade of HTTP/1, and bytes flow both ways.
#[test]
fn websockets_are_tunnelled() {
    if skip_on_nginx("nginx has no extended CONNECT") {
        return;
    }
    let backend = tidegate_conformance::backend::TcpBackend::start(|mut wire, _| {
        let mut head = Vec::new();
        while let Ok(Some(line)) = wire.try_line()
            && !line.is_empty()
        {
            head.push(line.to_ascii_lowercase());
        }
        assert!(head.iter().any(|line| line == "upgrade: websocket"), "{head:?}");
        assert!(head.iter().any(|line| line.starts_with("sec-websocket-key: ")), "{head:?}");
        wire.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello");
        let said = wire.line();
        wire.send(format!("heard {said}"));
    });
    let server = serve(
        "location / { proxy_pass http://%%TO%%; proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade;
         proxy_set_header Connection upgrade; } location /plain { return 200; }",
    )
    .set("TO", backend.address())
    .start();
    let mut client = Http2::connect(server.port(0));
    // With an answer the settings of the server have come, too.
    assert_eq!(client.get("/plain").status, 200);
    let heard = client.run(async |send| {
        let mut send = send.ready().await.unwrap();
        let mut connect = http::Request::new(());
        *connect.method_mut() = http::Method::CONNECT;
        *connect.uri_mut() = "http://localhost/chat".parse().unwrap();
        connect.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
        let (answer, mut up) = send.send_request(connect, false).unwrap();
        let mut answer = answer.await.unwrap();
        assert_eq!(answer.status(), 200);
        up.send_data("well\r\n".into(), false).unwrap();
        let mut heard = Vec::new();
        while let Some(data) = answer.body_mut().data().await {
            heard.extend_from_slice(&data.unwrap());
        }
        heard
    });
    assert_eq!(String::from_utf8(heard).unwrap(), "helloheard well");
}
