//! Answers where nginx's are easily missed: what is judged and by whom, what variables see, what an upstream is asked,
//! and what is logged of a request that was refused.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex};

use tidegate_conformance::backend::{HttpBackend, Reply, TcpBackend};
use tidegate_conformance::client::head;
use tidegate_conformance::server::skip_on_nginx;
use tidegate_conformance::{Server, Setup, wait_until};

/// A server of these locations.
fn server(inside: &str) -> Setup {
    Server::config(&format!(
        "events {{}} http {{ access_log off; server {{ listen 127.0.0.1:%%PORT_0%%; {inside} }} }}"
    ))
}

/// The same below a folder with files.
fn files(inside: &str) -> Setup {
    Server::config(&format!(
        "events {{}} http {{ access_log off; server {{ listen 127.0.0.1:%%PORT_0%%; root html; {inside} }} }}"
    ))
    .file("html/file.txt", "file")
    .file("html/picture.gif", "gif")
    .file("html/page.html", "page")
    .file("html/folder/index.html", "index")
    .file("html/app/index.php", "source")
    .file("html/empty/other", "other")
}

#[test]
fn what_an_upstream_has_decided_is_not_decided_again() {
    const MODIFIED: &str = "Mon, 28 Sep 2020 06:00:00 GMT";
    let backend = HttpBackend::start(|_| {
        Reply::status("200 OK", &["ETag: \"new\"", &format!("Last-Modified: {MODIFIED}")], "body")
    });
    let server = server("location / { proxy_pass http://%%BACKEND%%; }").set("BACKEND", backend.address()).start();
    let since = format!("If-Modified-Since: {MODIFIED}");
    for (method, line) in [
        ("PUT", "If-Match: \"old\""),
        ("POST", "If-Match: \"old\""),
        ("PATCH", "If-Unmodified-Since: Sun, 28 Sep 2014 06:00:00 GMT"),
        ("DELETE", "If-None-Match: *"),
        ("GET", "If-None-Match: \"new\""),
        ("GET", &since),
        ("GET", "Range: bytes=0-1"),
    ] {
        let response = server.http(0).ask(method, "/", &[line, "Content-Length: 0"]);
        assert_eq!((response.status, response.text().as_str()), (200, "body"), "{method} with {line}");
        assert_eq!(response.field("Last-Modified"), MODIFIED);
    }
}

#[test]
fn methods_on_files_are_answered_as_by_nginx() {
    let server = files(
        "location / { } location /fallback/ { error_page 404 = @app; } location @app { return 200 \"app $request_method\"; }
         location ~ \\.php$ { return 200 \"php $request_method\"; } location /app/ { index index.php; }",
    )
    .start();
    for (method, target, status, text) in [
        ("POST", "/missing", 404, ""),
        ("POST", "/fallback/missing", 200, "app POST"),
        ("POST", "/app/", 200, "php POST"),
        ("POST", "/empty/", 403, ""),
        ("POST", "/folder", 301, ""),
        ("POST", "/folder/", 405, ""),
        ("POST", "/file.txt", 405, ""),
        ("PUT", "/missing", 405, ""),
        ("PUT", "/fallback/missing", 405, ""),
        ("DELETE", "/folder/", 405, ""),
        ("OPTIONS", "/file.txt", 405, ""),
        ("HEAD", "/missing", 404, ""),
        ("GET", "/file.txt", 200, "file"),
    ] {
        let mut http = server.http(0);
        http.send(head(method, target, &["Content-Length: 0"]));
        let response = http.response_to(method);
        assert_eq!(response.status, status, "{method} {target}");
        if !text.is_empty() {
            assert_eq!(response.text(), text, "{method} {target}");
        }
    }
}

/// An error is no verdict: only a file that is certainly missing makes room for the next.
#[test]
fn files_that_cannot_be_looked_for_are_told_from_missing_ones() {
    let long = "x".repeat(300);
    let server = files(&format!(
        "location /empty/long/ {{ alias html/empty/; index {long} other; }}
         location /empty/next/ {{ alias html/empty/; index missing other; }}
         location /empty/below/ {{ alias html/empty/; index other/below other; }}
         location /empty/loop/ {{ alias html/empty/; index loop other; }}
         location /empty/none/ {{ alias html/empty/; index missing; }}
         location /empty/gone/ {{ alias html/gone/; index missing other; }}
         location /tried/loop {{ try_files /empty/loop /empty/other =410; }}
         location /tried/long {{ try_files /{long} /empty/other =410; }}
         location /if/loop {{ if (-f html/empty/loop) {{ return 200 there; }} return 404; }}"
    ))
    .start();
    std::os::unix::fs::symlink("loop", server.folder().join("html/empty/loop")).unwrap();
    for (target, status, logged) in [
        ("/empty/long/", 404, "is not found (36: File name too long)"),
        ("/empty/next/", 200, ""),
        ("/empty/below/", 404, "is not found (20: Not a directory)"),
        ("/empty/loop/", 403, ""),
        ("/empty/none/", 403, "is forbidden"),
        ("/empty/gone/", 404, "is not found (2: No such file or directory)"),
        ("/tried/loop", 200, "loop\" failed (40: Too many levels of symbolic links)"),
        ("/tried/long", 200, ""),
        ("/if/loop", 404, "loop\" failed (40: Too many levels of symbolic links)"),
    ] {
        assert_eq!(server.http(0).get(target).status, status, "{target}");
        if !logged.is_empty() {
            let line = server.wait_for_log(&format!("\"GET {target} "));
            assert!(line.contains(logged), "{target}: {line}");
        }
    }
}

#[test]
fn variables_of_the_answer_have_their_values_while_filters_run() {
    let backend = HttpBackend::start(|_| Reply::status("200 OK", &["Content-Type: image/png", "X-Up: up"], "png"));
    let server = Server::config(
        "events {} http { access_log off; map $sent_http_content_type $kept { default off; ~image/ 1h; text/html epoch; }
         server { listen 127.0.0.1:%%PORT_0%%; root html; expires $kept;
           add_header X \"$status $sent_http_content_length $sent_http_content_type $sent_http_connection\" always;
           add_header Y \"$sent_http_last_modified$sent_http_etag\"; add_header Z $upstream_http_x_up;
           location = /p { proxy_pass http://%%BACKEND%%; } location /text { return 200 text; } location /moved { return 302 /x; } } }",
    )
    .file("html/file.txt", "file")
    .file("html/picture.gif", "gif")
    .file("html/page.html", "page")
    .set("BACKEND", backend.address())
    .start();
    for (target, lines, seen, kept) in [
        ("/file.txt", &[][..], "200 4 text/plain keep-alive", ""),
        ("/file.txt", &["Range: bytes=0-1"], "200 4 text/plain keep-alive", ""),
        ("/file.txt", &["If-None-Match: *"], "304   keep-alive", ""),
        ("/picture.gif", &[], "200 3 image/gif keep-alive", "max-age=3600"),
        ("/page.html", &[], "200 4 text/html keep-alive", "no-cache"),
        ("/p", &[], "200 3 image/png keep-alive", "max-age=3600"),
        ("/text", &["Connection: close"], "200 4 text/plain close", ""),
    ] {
        let response = server.http(0).ask("GET", target, lines);
        assert_eq!((response.field("X"), response.field("Cache-Control")), (seen, kept), "{target} {lines:?}");
        let has_validators = target.contains('.');
        assert_eq!(!response.field("Y").is_empty(), has_validators, "{target}");
        assert_eq!(response.field("Z"), if target == "/p" { "up" } else { "" });
    }
    assert!(server.http(0).get("/missing").field("X").starts_with("404 "));
    assert!(server.http(0).get("/moved").field("X").starts_with("302 "));
}

#[test]
fn state_survives_internal_redirects() {
    let backend = HttpBackend::start(|_| Reply::status("302 Found", &["Location: http://x/y", "X-A: q"], ""));
    let server = server(
        "location / { proxy_pass http://%%BACKEND%%; proxy_intercept_errors on; error_page 302 = @f; }
         location @f { return 200 \"$upstream_http_location $upstream_http_x_a $upstream_status\"; }
         location /a { error_page 404 /b; recursive_error_pages on; return 404; }
         location /b { error_page 403 =200 /c; recursive_error_pages off; return 403; } location /c { return 200 c; }
         location /d { error_page 404 /e; recursive_error_pages off; return 404; }
         location /e { error_page 403 =200 /c; recursive_error_pages on; return 403; }
         location /f { error_page 404 =201 /c; return 404; }
         location /loop { recursive_error_pages on; error_page 404 /loop; return 404; }",
    )
    .set("BACKEND", backend.address())
    .start();
    for (target, status, text) in
        [("/", 200, "http://x/y q 302"), ("/a", 200, "c"), ("/d", 403, ""), ("/f", 201, "c"), ("/loop", 500, "")]
    {
        let response = server.http(0).get(target);
        assert_eq!(response.status, status, "{target}");
        if !text.is_empty() {
            assert_eq!(response.text(), text, "{target}");
        }
    }
}

#[test]
fn errors_that_filters_find_have_pages_and_fields() {
    let server = files(
        "add_header A always always; add_header B usual; location /paged/ { alias %%ROOT%%; error_page 412 416 /page.html; }",
    );
    let root = format!("{}/html/", server.folder().display());
    let server = server.set("ROOT", root).start();
    for (target, line, status, text) in [
        ("/file.txt", "Range: bytes=9-", 416, ""),
        ("/file.txt", "If-Match: \"other\"", 412, ""),
        ("/paged/file.txt", "Range: bytes=9-", 416, "page"),
        ("/paged/file.txt", "If-Match: \"other\"", 412, "page"),
    ] {
        let response = server.http(0).ask("GET", target, &[line]);
        assert_eq!((response.status, response.field("A")), (status, "always"), "{target} {line}");
        assert_eq!(response.field("Content-Range"), if status == 416 { "bytes */4" } else { "" });
        assert!(response.fields.get("Last-Modified").is_none(), "the page of an error has no time of change");
        if !text.is_empty() {
            assert_eq!(response.text(), text, "{target} {line}");
        }
    }
}

#[test]
fn internal_locations_are_reached_by_every_internal_redirect() {
    let server = files(
        "location /inner { internal; return 200 inner; } location /last { rewrite ^ /inner last; }
         location /plain { rewrite ^ /inner; } location /try { try_files /nothing /inner; }
         location /index/ { index /inner; } location /error { error_page 404 = /inner; return 404; }",
    )
    .start();
    assert_eq!(server.http(0).get("/inner").status, 404);
    for target in ["/last", "/plain", "/try", "/index/", "/error"] {
        assert_eq!(server.http(0).get(target).text(), "inner", "{target}");
    }
}

#[test]
fn requests_to_upstreams_are_nginx_s_to_the_byte() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let backend = HttpBackend::start({
        let seen = seen.clone();
        move |request| {
            seen.lock().unwrap().push((request.target.clone(), request.field("Host").to_owned()));
            Reply::ok("ok")
        }
    });
    let server = server(
        "proxy_set_header Host $http_host; location / { proxy_pass http://%%BACKEND%%; }
         location /empty { proxy_set_header Host ''; proxy_pass http://%%BACKEND%%; }
         location /bytes { rewrite ^/bytes(.*)$ /new$1 break; proxy_pass http://%%BACKEND%%; }
         location ~ ^/capture/(.*)$ { proxy_pass http://%%BACKEND%%/x/$1; }
         location /args { set $args n=1; proxy_pass http://%%BACKEND%%; }
         location /nosuch { set $name nosuch; error_page 502 =203 /page; proxy_pass http://$name; }
         location /scheme { set $name ftp://x; error_page 502 =203 /page; proxy_pass $name; } location /page { return 200 page; }",
    )
    .set("BACKEND", backend.address())
    .start();
    let own = backend.address();
    for (target, lines, expected, host) in [
        ("/a", "", "/a", &*own),
        ("/a", "Host: their.example\r\n", "/a", "their.example"),
        ("/empty", "Host: their.example\r\n", "/empty", &own),
        ("/bytes/%FF%20x", "", "/new/%FF%20x", &own),
        ("/bytes/a?b=%FE", "", "/new/a?b=%FE", &own),
        ("/args?z=2", "", "/args?n=1", &own),
    ] {
        let mut http = server.http(0);
        http.send(format!("GET {target} HTTP/1.0\r\n{lines}\r\n"));
        assert_eq!(http.response().status, 200, "{target}");
        assert_eq!(seen.lock().unwrap().pop(), Some((expected.to_owned(), host.to_owned())), "{target}");
    }
    if skip_on_nginx("it sends blanks as they are, and has another status for a scheme that cannot work") {
        return;
    }
    for (target, expected) in [("/capture/a%20b", "/x/a%20b"), ("/capture/a%09%7Fb", "/x/a%09%7Fb")] {
        assert_eq!(server.http(0).get(target).status, 200, "{target}");
        assert_eq!(seen.lock().unwrap().pop().map(|(target, _)| target), Some(expected.to_owned()));
    }
    for target in ["/nosuch", "/scheme"] {
        assert_eq!(server.http(0).get(target).status, 203, "{target}");
    }
}

#[test]
fn the_host_comes_first_to_an_upstream() {
    let backend = TcpBackend::start(|mut wire, _| {
        let first = wire.line();
        let second = wire.line();
        while !wire.line().is_empty() {}
        let text = format!("{first}|{second}");
        wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len()));
    });
    for (inside, expected) in [
        ("", "BACK"),
        ("proxy_set_header X-A 1;", "BACK"),
        ("proxy_set_header X-A 1; proxy_set_header Host me;", "me"),
        ("proxy_set_header X-A 1; proxy_set_header Host a; proxy_set_header HOST b;", "b"),
    ] {
        if expected != "BACK" && std::env::var_os("TIDEGATE_BINARY").is_some() {
            // Versions of nginx before 1.29 send fields in the order of the configuration.
            continue;
        }
        let server = server(&format!("location / {{ {inside} proxy_pass http://%%BACKEND%%; }}"))
            .set("BACKEND", backend.address())
            .start();
        let text = server.http(0).get("/").text();
        let expected = expected.replace("BACK", &backend.address());
        assert!(text.contains(&format!("|Host: {expected}")), "{text}");
    }
}

#[test]
fn line_breaks_in_variables_get_a_proper_answer() {
    if skip_on_nginx("it lets them through") {
        return;
    }
    let server = server(
        "location /r { return 302 http://h$uri; } location /x { return 301 /y$uri; }
         location /e/ { error_page 404 http://h$uri; return 404; } location /p { rewrite (?s)^/p(.*)$ /q$1 permanent; }
         location /h { add_header X \"a${uri}b\"; return 200 x; }",
    )
    .start();
    for (target, status, location) in [
        ("/r%0Aa", 302, "http://h/r%0Aa"),
        ("/x%0D%0AZ:1", 301, "/y/x%0D%0AZ:1"),
        ("/e/%0Aq", 302, "http://h/e/%0Aq"),
        ("/p%0Ab", 301, "/q%0Ab"),
        ("/h%0Ac", 200, ""),
    ] {
        let response = server.http(0).get(target);
        assert_eq!(response.status, status, "{target}");
        assert!(response.field("Location").ends_with(location), "{target}: {}", response.field("Location"));
        assert!(response.fields.get("Z").is_none());
    }
}

#[test]
fn what_was_refused_is_logged_as_it_came() {
    let server = Server::config(
        "events {} http { log_format t '[$request] $status $connection_requests $args|'; access_log logs/t.log t;
         server { listen 127.0.0.1:%%PORT_0%%; location / { return 200 x; } } }",
    )
    .start();
    for (sent, logged) in [
        (&b"\x16\x03\x01\x02\x00\x01abc\r\n\r\n"[..], r"[\x16\x03\x01\x02\x00\x01abc] 400 1 -|"),
        (b"garbage\r\n\r\n", "[garbage] 400 1 -|"),
        (b"get / HTTP/1.1\r\n\r\n", "[get / HTTP/1.1] 400 1 -|"),
        (b"GET / HTTP/9.9\r\nHost: a\r\n\r\n", "[GET / HTTP/9.9] 505 1 -|"),
        (b"GET /none HTTP/1.1\r\n\r\n", "[GET /none HTTP/1.1] 400 1 -|"),
        (b"GET /?\"x HTTP/1.0\r\n\r\n", r"[GET /?\x22x HTTP/1.0] 200 1 \x22x|"),
        (b"GET /? HTTP/1.0\r\n\r\n", "[GET /? HTTP/1.0] 200 1 -|"),
        (b"GET http://h\r\n", "[GET http://h] 400 1 -|"),
    ] {
        let mut http = server.http(0);
        http.send(sent);
        wait_until(logged, || server.read("logs/t.log").lines().any(|line| line == logged).then_some(()));
    }
}

/// One request on a local socket.
fn ask_locally(path: &Path, request: &str) -> String {
    let mut socket = UnixStream::connect(path).expect("the server listens");
    socket.write_all(request.as_bytes()).expect("it reads");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("it answers");
    answer
}

#[test]
fn a_local_socket_has_a_path_for_an_address() {
    let server = Server::start(
        "events {} http { log_format t '$remote_addr|$remote_port|$server_addr|$server_port|$status|';
         access_log logs/t.log t; server { listen unix:%%DIR%%/first.sock; listen unix:%%DIR%%/second.sock;
           location / { return 200 \"$remote_addr|$remote_port|$server_addr|$server_port|\"; }
           location /moved { return 301 /there; } } }
         stream { server { listen unix:%%DIR%%/stream.sock; return \"$remote_addr|$remote_port|$server_addr|$server_port|\"; } }",
    );
    for (name, request) in [
        ("first.sock", "GET / HTTP/1.0\r\n\r\n"),
        ("second.sock", "GET /?x HTTP/1.0\r\nHost: a\r\n\r\n"),
        ("stream.sock", ""),
    ] {
        let path = server.folder().join(name);
        let answer = ask_locally(&path, request);
        assert!(answer.ends_with(&format!("unix:||unix:{}||", path.display())), "{name}: {answer}");
    }
    let path = server.folder().join("first.sock");
    for (request, status) in [("garbage\r\n\r\n", 400), ("GET /moved HTTP/1.0\r\nHost: a\r\n\r\n", 301)] {
        ask_locally(&path, request);
        let line = format!("unix:||unix:{}||{status}|", path.display());
        wait_until(&line, || server.lines("logs/t.log").contains(&line).then_some(()));
    }
    // A redirect for a client that has named no host.
    let answer = ask_locally(&path, "GET /moved HTTP/1.0\r\n\r\n");
    assert!(answer.contains(&format!("Location: http://unix:{}/there\r\n", path.display())), "{answer}");
}

/// What `stub_status` counts: every request of which something has come, whatever becomes of it.
#[test]
fn refused_requests_are_counted() {
    let server = Server::start(
        "events {} http { access_log off; client_header_buffer_size 1k; large_client_header_buffers 2 1k;
         server { listen 127.0.0.1:%%PORT_0%%; client_max_body_size 1; location / { return 200 x; }
           location /limited { proxy_pass http://127.0.0.1:1; } location = /status { stub_status; } } }",
    );
    // Accepted, handled and requested, when no other connection is open; each look counts itself.
    let counted = || {
        wait_until("no other connection is open", || {
            let text = server.http(0).ask("GET", "/status", &["Connection: close"]).text();
            let numbers: Vec<u64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
            let [1, accepted, handled, requested, ..] = numbers[..] else { return None };
            assert_eq!(accepted, handled);
            Some((accepted, requested))
        })
    };
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(3000));
    for (sent, requests) in [
        (&b"GET / HTTP/1.0\r\n\r\n"[..], 1),
        (b"garbage\r\n\r\n", 1),
        (b"\x16\x03\x01\x02\x00\x01abc\r\n\r\n", 1),
        (b"GET / HTTP/9.9\r\n\r\n", 1),
        (b"GET / HTTP/1.1\r\n\r\n", 1),
        (b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 1),
        (b"POST /limited HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n", 1),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 1),
        (long.as_bytes(), 1),
        (b"GET /", 1),
        (b"\r\n", 1),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\ngarbage\r\n\r\n", 2),
        (b"", 0),
    ] {
        let (accepted, requested) = counted();
        let mut wire = server.connect(0);
        wire.send(sent);
        wire.finish();
        let _ = wire.try_rest();
        drop(wire);
        let (accepted_then, requested_then) = counted();
        // Without the looks, of which each is one connection and one request.
        let looks = accepted_then - accepted - 1;
        assert_eq!(requested_then - requested - looks, requests, "{}", sent.escape_ascii());
    }
}

#[test]
fn small_things_are_nginx_s() {
    let backend = HttpBackend::start(|request| match request.target.as_str() {
        "/chunks" => {
            Reply::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
        }
        "/upgrade" => Reply::status("426 Upgrade Required", &["Upgrade: h2c"], ""),
        "/head" => Reply::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        "/accel" => Reply::status("200 OK", &["Content-Type: text/x; charset=koi8-r", "X-Accel-Redirect: /inner"], ""),
        _ => Reply::status("200 OK", &["Set-Cookie: ", "Set-Cookie: a=b"], ""),
    });
    let server = files(
        "location /type { add_header Content-Type text/x; return 200 a; } location /server { add_header Server mine; return 200 a; }
         location /moved { return 302 /a; } location /inner { internal; alias %%FILE%%; }
         location ~ ^/(chunks|upgrade|head|accel|cookie) { proxy_cookie_flags ~ secure; proxy_pass http://%%BACKEND%%; }",
    )
    .set("BACKEND", backend.address());
    let file = server.folder().join("html/file.txt").display().to_string();
    let server = server.set("FILE", file).start();
    let ask = |target: &str| server.http(0).get(target);
    assert_eq!(ask("/type").fields.all("Content-Type"), ["text/plain", "text/x"]);
    assert!(ask("/server").fields.all("Server").contains(&"mine"));
    assert!(ask("/moved").text().contains("<title>302 Found</title>"));
    assert_eq!(ask("/upgrade").field("Upgrade"), "h2c");
    assert_eq!(ask("/accel").field("Content-Type"), "text/x; charset=koi8-r");
    assert_eq!(ask("/cookie").fields.all("Set-Cookie"), ["", "a=b; Secure"]);
    let mut http = server.http(0);
    http.send(head("HEAD", "/head", &["Connection: close"]));
    assert_eq!(http.response_to("HEAD").fields.get("Transfer-Encoding"), None);
    let mut wire = server.connect(0);
    wire.send(head("GET", "/chunks", &["Connection: close"]));
    while !wire.line().is_empty() {}
    assert_eq!((wire.line().as_str(), wire.line().as_str()), ("5", "abcde"));
}

#[test]
fn a_request_without_a_host_is_for_the_server_without_a_name() {
    let server = Server::config(
        "events {} http { access_log off; server { listen 127.0.0.1:%%PORT_0%%; server_name named; return 200 named; }
         server { listen 127.0.0.1:%%PORT_0%%; server_name ''; return 200 nameless; } }",
    )
    .start();
    for (lines, text) in [("", "nameless"), ("Host: named\r\n", "named"), ("Host: other\r\n", "named")] {
        let mut http = server.http(0);
        http.send(format!("GET / HTTP/1.0\r\n{lines}\r\n"));
        assert_eq!(http.response().text(), text, "{lines:?}");
    }
}

#[test]
fn the_time_of_change_that_an_upstream_tells_counts_for_expires() {
    const MODIFIED: &str = "Mon, 28 Sep 2020 06:00:00 GMT";
    let backend = HttpBackend::start(|_| Reply::status("200 OK", &[&format!("Last-Modified: {MODIFIED}")], "body"));
    let server = server("expires modified 1d; location / { proxy_pass http://%%BACKEND%%; }")
        .set("BACKEND", backend.address())
        .start();
    let response = server.http(0).get("/");
    assert_eq!(response.field("Expires"), "Tue, 29 Sep 2020 06:00:00 GMT");
    assert_eq!(response.fields.all("Last-Modified"), [MODIFIED]);
}

#[test]
fn a_client_is_told_to_go_on_although_its_body_came_along() {
    let backend = HttpBackend::saying("ok");
    let server = server("location / { proxy_pass http://%%BACKEND%%; }").set("BACKEND", backend.address()).start();
    let mut wire = server.connect(0);
    wire.send(head("POST", "/", &["Expect: 100-continue", "Content-Length: 3"]) + "abc");
    assert_eq!((wire.line().as_str(), wire.line().as_str()), ("HTTP/1.1 100 Continue", ""));
    assert_eq!(wire.line(), "HTTP/1.1 200 OK");
}

#[test]
fn redirects_of_an_upstream_never_show_its_address() {
    let backend = HttpBackend::start(|request| {
        let host = request.field("Host");
        let lines = [format!("Location: http://{host}/a/z"), format!("Refresh: 0; url=http://{host}/a/q")];
        Reply::status("302 Found", &[&lines[0], &lines[1]], "")
    });
    let server = Server::config(
        "events {} http { access_log off; upstream group { server %%BACKEND%%; } server { listen 127.0.0.1:%%PORT_0%%;
         location /a { proxy_pass http://%%BACKEND%%; } location /b/ { proxy_pass http://%%BACKEND%%/a/; }
         location /u { proxy_pass http://group; } location = /e { proxy_pass http://%%BACKEND%%; }
         location /d { proxy_pass http://group; proxy_redirect default; } location / { proxy_pass http://group; } } }",
    )
    .set("BACKEND", backend.address())
    .start();
    for (target, folder) in [("/a/x", "/a"), ("/b/x", "/b"), ("/u/x", "/a"), ("/e", "/a"), ("/d", "/a"), ("/", "/a")] {
        let response = server.http(0).get(target);
        let expected = format!("http://localhost:{}{folder}/z", server.port(0));
        assert_eq!(response.field("Location"), expected, "{target}");
        assert_eq!(response.field("Refresh"), format!("0; url={folder}/q"), "{target}");
    }
}

#[test]
fn a_body_in_doubt_ends_the_connection() {
    let backend = HttpBackend::saying("ok");
    let server = files(
        "client_max_body_size 100; location / { return 200 a; } location /p { proxy_pass http://%%BACKEND%%; }
         location /i { alias %%ROOT%%; } location /moved { return 302 /; } location /missing { } location /file.txt { }
         location /paged { error_page 404 /file.txt; return 404; }",
    )
    .set("ROOT", "/nonexistent/")
    .set("BACKEND", backend.address())
    .start();
    for (target, body, statuses) in [
        ("/", "zz\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n", &[400][..]),
        ("/", "3\r\nabcX\r\n", &[400]),
        ("/p", "zz\r\n", &[400]),
        ("/p", "65\r\nabc", &[413]),
        ("/p", "32\r\naaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n33\r\na", &[413]),
        // nginx takes the length together with what it allows for for too large a number.
        ("/p", "7fffffffffffffff\r\nabc", &[413, 400]),
        ("/moved", "zz\r\n", &[400]),
        // nginx: the status is that of the answer, and the connection ends all the same.
        ("/missing", "3\r\nabcX\r\n", &[400, 404]),
        ("/file.txt", "-1\r\n", &[400, 405]),
        ("/paged", "\r\n\r\n", &[400]),
    ] {
        let mut http = server.http(0);
        http.send(head("POST", target, &["Transfer-Encoding: chunked"]) + body);
        let response = http.response();
        assert!(statuses.contains(&response.status), "{target} {body:?}: {}", response.status);
        assert_eq!(response.field("Connection"), "close", "{target} {body:?}");
        assert!(http.wire.at_end(), "{target} {body:?} has a second answer");
    }
    // Version 0.9: there is no head, neither of the question nor of the answer.
    for (sent, is_right) in [
        ("GET http://h\r\n", false),
        ("GET http://\r\n", false),
        ("GET http:///x\r\n", false),
        ("GET http://h/\r\n", true),
        ("GET /\r\n", true),
    ] {
        let mut wire = server.connect(0);
        wire.send(sent);
        let answer = String::from_utf8(wire.rest()).expect("an answer");
        assert_eq!(answer == "a", is_right, "{sent:?}: {answer}");
        assert!(is_right || answer.contains("400 Bad Request"), "{sent:?}: {answer}");
    }
    if skip_on_nginx("an alias without its last slash reaches beside its folder") {
        return;
    }
    for target in ["/i../x", "/i../", "/i.."] {
        assert_eq!(server.http(0).get(target).status, 404, "{target}");
    }
    wait_until("the paths are in the log", || {
        (server.read("error.log").matches("leads to no file").count() == 3).then_some(())
    });
}

#[test]
fn a_client_that_has_half_closed_gets_its_answer() {
    let backend = HttpBackend::saying("ok");
    let server = files(
        "location / { try_files $uri /file.txt; } location /if { if (-f /nonexistent/x) { return 201; } return 202 x; }
         location /p { proxy_ignore_client_abort on; proxy_pass http://%%BACKEND%%; } location /folder/ { }",
    )
    .set("BACKEND", backend.address())
    .start();
    for (target, status) in [("/nothing", 200), ("/file.txt", 200), ("/if", 202), ("/p", 200), ("/folder/", 200)] {
        let mut wire = server.connect(0);
        wire.send(head("GET", target, &[]));
        wire.finish();
        let line = wire.line();
        assert!(line.starts_with(&format!("HTTP/1.1 {status}")), "{target}: {line}");
    }
}

#[test]
fn some_variables_may_be_set() {
    let server = server(
        "location /a { set $args n=1; return 200 \"$args $is_args $query_string\"; }
         location /b { set $args ''; return 200 \"$args|$is_args|\"; }
         location /c { set $args x=1; rewrite ^ /d last; } location /d { return 200 $args; }
         location /f { set $ssl_protocol mine; return 200 $ssl_protocol; }
         location /g { set $http_x theirs; return 200 $http_x; }
         location /h { set $proxy_host mine; return 200 $proxy_host; }",
    )
    .start();
    for (target, text) in
        [("/a?z=2", "n=1 ? n=1"), ("/b?z=2", "||"), ("/c?z=2", "x=1"), ("/f", "mine"), ("/g", "theirs")]
    {
        assert_eq!(server.http(0).get(target).text(), text, "{target}");
    }
    // A server of its own: nginx remembers the variable once anything captures into it.
    let named = self::server("location ~ ^/e/(?<args>.*)$ { return 200 $args; }").start();
    assert_eq!(named.http(0).get("/e/named?z=2").text(), "named");
    for refused in ["set $uri x;", "set $document_root x;", "set $status 1;", "set $remote_addr x;"] {
        let outcome = self::server(&format!("location / {{ {refused} }}")).run(&["-t"]);
        assert!(!outcome.status.success() && outcome.stderr.contains("duplicate"), "{refused} {}", outcome.stderr);
    }
}
