//! What a client of the HTTP server sees.

use std::time::{Duration, Instant};

use tidegate_conformance::backend::{HttpBackend, Reply};
use tidegate_conformance::client::head;
use tidegate_conformance::{Server, Setup, matches};

/// A server with this inside its server block.
fn serve(inside: &str) -> Setup {
    Server::config(&format!(
        "events {{}} http {{ access_log off; server {{ listen 127.0.0.1:%%PORT_0%%; root html; {inside} }} }}"
    ))
}

/// The status and the text of an answer to a GET.
fn get(server: &Server, target: &str) -> (u16, String) {
    let response = server.http(0).get(target);
    (response.status, response.text())
}

fn is(status: u16, text: &str) -> (u16, String) {
    (status, text.to_owned())
}

#[test]
fn return_answers_with_a_text() {
    let server = serve("location / { return 200 hello; }").start();
    let response = server.http(0).get("/");
    assert_eq!((response.status, response.text().as_str()), (200, "hello"));
    assert_eq!(response.field("Content-Length"), "5");
    assert_eq!(response.field("Content-Type"), "text/plain");
}

#[test]
fn return_redirects() {
    let server = serve("location /a { return 301 /b?c=d; } location /x { return 302 http://example.org/; }").start();
    let response = server.http(0).get("/a");
    assert_eq!(response.status, 301);
    assert_eq!(response.field("Location"), format!("http://localhost:{}/b?c=d", server.port(0)));
    assert_eq!(server.http(0).get("/x").field("Location"), "http://example.org/");
}

#[test]
fn a_connection_is_kept_for_more() {
    let server = serve("return 200 $connection_requests;").start();
    let mut http = server.http(0);
    let answers: Vec<String> = (0..3).map(|_| http.get("/").text()).collect();
    assert_eq!(answers, ["1", "2", "3"]);
}

#[test]
fn a_connection_is_closed_when_the_client_says_so() {
    let server = serve("return 200;").start();
    let mut http = server.http(0);
    assert!(!http.ask("GET", "/", &["Connection: close"]).keeps_alive());
    assert!(http.wire.at_end());
}

#[test]
fn a_connection_is_closed_after_keepalive_requests() {
    let server = serve("keepalive_requests 2; location / { return 200; }").start();
    let mut http = server.http(0);
    assert!(http.get("/").keeps_alive());
    assert!(!http.get("/").keeps_alive());
    assert!(http.wire.at_end());
}

#[test]
fn an_idle_connection_is_closed_after_keepalive_timeout() {
    let server = serve("keepalive_timeout 1s; location / { return 200; }").start();
    let mut http = server.http(0);
    assert!(http.get("/").keeps_alive());
    assert!(http.wire.at_end());
}

#[test]
fn pipelined_questions_are_answered_in_order() {
    let server = serve("return 200 $uri;").start();
    let mut http = server.http(0);
    http.send([head("GET", "/1", &[]), head("GET", "/2", &[]), head("GET", "/3", &[])].concat());
    let answers: Vec<String> = (0..3).map(|_| http.response().text()).collect();
    assert_eq!(answers, ["/1", "/2", "/3"]);
}

#[test]
fn a_pipelined_question_after_a_body_is_not_taken_for_the_body() {
    let server = serve("return 200 $request_method;").start();
    let mut http = server.http(0);
    http.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(http.response().text(), "POST");
    assert_eq!(http.response().text(), "GET");
}

#[test]
fn a_head_may_arrive_byte_by_byte() {
    let server = serve("return 200 $arg_a;").start();
    let mut http = server.http(0);
    for byte in head("GET", "/?a=b", &["X-Long: value"]).bytes() {
        http.send([byte]);
    }
    assert_eq!(http.response().text(), "b");
}

#[test]
fn lines_may_end_in_a_bare_line_feed() {
    let server = serve("return 200 ok;").start();
    let mut http = server.http(0);
    http.send("GET / HTTP/1.1\nHost: a\n\n");
    assert_eq!(http.response().text(), "ok");
}

#[test]
fn empty_lines_before_a_question_are_passed_over() {
    let server = serve("return 200 ok;").start();
    let mut http = server.http(0);
    http.send("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(http.response().text(), "ok");
}

#[test]
fn http_1_0_closes_unless_asked_to_keep_alive() {
    let server = serve("return 200 ok;").start();
    let mut http = server.http(0);
    http.send("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(http.response().field("Connection"), "close");
    assert!(http.wire.at_end());
    let mut http = server.http(0);
    http.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(http.response().field("Connection"), "keep-alive");
    http.send("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(http.response().status, 200);
}

#[test]
fn http_0_9_gets_a_body_without_a_head() {
    let server = serve("return 200 plain;").start();
    let mut wire = server.connect(0);
    wire.send("GET /\r\n");
    assert_eq!(wire.rest(), b"plain");
}

#[test]
fn http_1_1_without_a_host_is_bad() {
    let server = serve("return 200;").start();
    let mut http = server.http(0);
    http.send("GET / HTTP/1.1\r\n\r\n");
    assert_eq!(http.response().status, 400);
}

#[test]
fn two_hosts_are_bad() {
    let server = serve("return 200;").start();
    assert_eq!(server.http(0).ask("GET", "/", &["Host: a", "Host: b"]).status, 400);
}

#[test]
fn two_lengths_are_bad() {
    let server = serve("return 200;").start();
    assert_eq!(server.http(0).ask("GET", "/", &["Content-Length: 0", "Content-Length: 0"]).status, 400);
}

#[test]
fn a_length_and_the_chunked_coding_together_are_bad() {
    let server = serve("return 200;").start();
    let response = server.http(0).ask("POST", "/", &["Content-Length: 3", "Transfer-Encoding: chunked"]);
    assert_eq!(response.status, 400);
}

#[test]
fn an_unknown_transfer_coding_is_not_implemented() {
    let server = serve("return 200;").start();
    assert_eq!(server.http(0).ask("POST", "/", &["Transfer-Encoding: gzip"]).status, 501);
}

#[test]
fn a_question_that_makes_no_sense_is_bad() {
    let server = serve("return 200;").start();
    for nonsense in ["G\x01T / HTTP/1.1\r\n\r\n", "GET nowhere HTTP/1.1\r\n\r\n", "GET / HTTP/x.y\r\n\r\n"] {
        let mut http = server.http(0);
        http.send(nonsense);
        let response = http.response();
        assert_eq!(response.status, 400, "{nonsense:?}");
        assert!(http.wire.at_end(), "{nonsense:?}");
    }
}

#[test]
fn a_version_from_the_future_is_not_supported() {
    let server = serve("return 200;").start();
    let mut http = server.http(0);
    http.send("GET / HTTP/2.0\r\nHost: a\r\n\r\n");
    assert_eq!(http.response().status, 505);
}

#[test]
fn a_target_above_the_root_is_bad() {
    let server = serve("").start();
    assert_eq!(server.http(0).get("/../etc/passwd").status, 400);
    assert_eq!(server.http(0).get("/a/%2e%2e/%2e%2e/etc/passwd").status, 400);
}

#[test]
fn a_line_longer_than_the_buffers_is_refused() {
    let server = serve("large_client_header_buffers 2 1k; client_header_buffer_size 256; return 200;").start();
    let long = "a".repeat(2000);
    assert_eq!(server.http(0).get(&format!("/{long}")).status, 414);
    assert_eq!(server.http(0).ask("GET", "/", &[&format!("X-Long: {long}")]).status, 400);
    let half = "a".repeat(900);
    assert_eq!(server.http(0).ask("GET", "/", &[&format!("X-Long: {half}")]).status, 200);
}

#[test]
fn more_lines_than_the_buffers_hold_are_refused() {
    let server = serve("large_client_header_buffers 2 1k; client_header_buffer_size 256; return 200;").start();
    let line = format!("X-Line: {}", "a".repeat(800));
    assert_eq!(server.http(0).ask("GET", "/", &[line.as_str(); 3]).status, 400);
}

#[test]
fn a_body_larger_than_allowed_is_refused() {
    let server = serve("client_max_body_size 10; location / { return 200; }").file("html/f", "").start();
    assert_eq!(server.http(0).post("/", b"0123456789", &[]).status, 200);
    assert_eq!(server.http(0).post("/", b"0123456789a", &[]).status, 413);
}

// nginx: what is too slow is logged as 408, but nobody is told so: the connection is closed.
#[test]
fn a_slow_head_times_out() {
    let server = serve("client_header_timeout 1s; access_log status.log combined; location / { return 200; }").start();
    let mut wire = server.connect(0);
    wire.send("GET / HT");
    assert_eq!(wire.rest(), b"");
    server.wait_for_line("status.log", r#"" 408 0 "#);
}

#[test]
fn a_slow_body_times_out() {
    let backend = HttpBackend::saying("never asked");
    let server = serve("client_body_timeout 1s; access_log status.log; location / { proxy_pass http://%%BACKEND%%; }")
        .set("BACKEND", backend.address())
        .start();
    let mut wire = server.connect(0);
    wire.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc");
    assert_eq!(wire.rest(), b"");
    server.wait_for_line("status.log", r#""POST / HTTP/1.1" 408 0 "#);
    assert!(backend.requests().is_empty());
}

#[test]
fn expect_100_continue_is_answered_before_the_body() {
    let backend = HttpBackend::start(|request| Reply::ok(&request.body));
    let server = serve("location / { proxy_pass http://%%BACKEND%%; }").set("BACKEND", backend.address()).start();
    let mut http = server.http(0);
    http.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(http.try_response_to("POST").unwrap().status, 100);
    http.send("body");
    assert_eq!(http.response().text(), "body");
}

#[test]
fn head_has_the_header_and_no_body() {
    let server = serve("").file("html/f", "12345").start();
    let mut http = server.http(0);
    let response = http.ask("HEAD", "/f", &[]);
    assert_eq!((response.status, response.field("Content-Length"), response.body.len()), (200, "5", 0));
    assert_eq!(http.get("/f").text(), "12345");
}

#[test]
fn locations_are_chosen_as_documented() {
    let server = serve(
        "location = /exact { return 200 exact; } location /exact { return 200 prefix; }
         location ^~ /images/ { return 200 no-regex; } location ~ \\.gif$ { return 200 regex; }
         location ~* \\.JPG$ { return 200 caseless; } location /a/ { return 200 short; }
         location /a/b/ { return 200 long; } location / { return 200 root; }",
    )
    .start();
    for (target, location) in [
        ("/exact", "exact"),
        ("/exact/more", "prefix"),
        ("/images/a.gif", "no-regex"),
        ("/a/x.gif", "regex"),
        ("/x.jpg", "caseless"),
        ("/x.GIF", "root"),
        ("/a/x", "short"),
        ("/a/b/x", "long"),
        ("/a/./c/../b/x", "long"),
        ("//a//b//x", "long"),
        ("/%61/b/x", "long"),
        ("/none", "root"),
    ] {
        assert_eq!(get(&server, target), is(200, location), "{target}");
    }
}

#[test]
fn nested_locations_are_chosen_inside_their_parent() {
    let server = serve(
        "location /a/ { return 200 outer; location /a/b/ { return 200 inner; } location ~ x$ { return 200 re; } }",
    )
    .start();
    assert_eq!(get(&server, "/a/c"), is(200, "outer"));
    assert_eq!(get(&server, "/a/b/c"), is(200, "inner"));
    assert_eq!(get(&server, "/a/b/x"), is(200, "re"));
}

#[test]
fn a_named_capture_of_a_location_is_a_variable() {
    let server = serve("location ~ ^/(?<first>[^/]+)/(.*)$ { return 200 $first-$2; }").start();
    assert_eq!(get(&server, "/a/b/c"), is(200, "a-b/c"));
}

#[test]
fn servers_are_chosen_by_name() {
    let server = Server::start(
        "events {} http { access_log off;
         server { listen 127.0.0.1:%%PORT_0%%; server_name first.example; return 200 first; }
         server { listen 127.0.0.1:%%PORT_0%% default_server; server_name _; return 200 default; }
         server { listen 127.0.0.1:%%PORT_0%%; server_name *.wild.example; return 200 before; }
         server { listen 127.0.0.1:%%PORT_0%%; server_name .dot.example; return 200 dot; }
         server { listen 127.0.0.1:%%PORT_0%%; server_name mail.*; return 200 after; }
         server { listen 127.0.0.1:%%PORT_0%%; server_name ~^r(?<n>\\d+)\\.example$; return 200 re-$n; }
         server { listen 127.0.0.1:%%PORT_0%%; server_name exact.wild.example; return 200 exact; } }",
    );
    for (host, name) in [
        ("first.example", "first"),
        ("FIRST.example:80", "first"),
        ("first.example.", "first"),
        ("unknown.example", "default"),
        ("a.wild.example", "before"),
        ("a.b.wild.example", "before"),
        ("wild.example", "default"),
        ("exact.wild.example", "exact"),
        ("dot.example", "dot"),
        ("a.dot.example", "dot"),
        ("mail.anything", "after"),
        ("r42.example", "re-42"),
    ] {
        let response = server.http(0).ask("GET", "/", &[&format!("Host: {host}")]);
        assert_eq!(response.text(), name, "{host}");
    }
}

#[test]
fn the_host_of_an_absolute_target_wins() {
    let server = serve("return 200 $host$uri;").start();
    let response = server.http(0).ask("GET", "http://target.example/x", &["Host: header.example"]);
    assert_eq!(response.text(), "target.example/x");
}

#[test]
fn files_have_type_length_time_and_tag() {
    let server = serve("types { text/html html; } default_type application/x-other;")
        .file("html/a.html", "<p>")
        .file("html/b.bin", "0")
        .start();
    let response = server.http(0).get("/a.html");
    assert_eq!((response.status, response.field("Content-Type")), (200, "text/html"));
    assert_eq!((response.field("Content-Length"), response.field("Accept-Ranges")), ("3", "bytes"));
    assert!(matches(r#"^"[0-9a-f]+-3"$"#, response.field("ETag")), "{response:?}");
    assert!(matches(r"^\w{3}, \d{2} \w{3} \d{4} \d\d:\d\d:\d\d GMT$", response.field("Last-Modified")));
    assert_eq!(server.http(0).get("/b.bin").field("Content-Type"), "application/x-other");
}

#[test]
fn a_missing_file_is_not_found() {
    let server = serve("").start();
    let response = server.http(0).get("/none");
    assert_eq!(response.status, 404);
    assert!(response.text().contains("<h1>404 Not Found</h1>"));
    server.wait_for_log(r#"open\(\) "[^"]*html/none" failed \(2: No such file or directory\)"#);
}

#[test]
fn a_folder_without_a_slash_is_redirected() {
    let server = serve("").file("html/folder/index.html", "inside").start();
    let response = server.http(0).get("/folder?a=b");
    assert_eq!(response.status, 301);
    assert_eq!(response.field("Location"), format!("http://localhost:{}/folder/?a=b", server.port(0)));
    assert_eq!(get(&server, "/folder/"), is(200, "inside"));
}

#[test]
fn a_folder_without_an_index_is_forbidden() {
    let server = serve("").file("html/folder/other", "").start();
    assert_eq!(server.http(0).get("/folder/").status, 403);
    server.wait_for_log(r#"directory index of "[^"]*html/folder/" is forbidden"#);
}

#[test]
fn the_first_index_that_exists_is_shown() {
    let server = serve("index none.html second.html third.html;")
        .file("html/second.html", "second")
        .file("html/third.html", "third")
        .start();
    assert_eq!(get(&server, "/"), is(200, "second"));
}

#[test]
fn alias_replaces_the_location_and_root_does_not() {
    let server = serve("location /pictures/ { alias %%DIR%%/img/; } location /deep/ { root %%DIR%%/other; }")
        .file("img/a", "aliased")
        .file("other/deep/a", "rooted")
        .start();
    assert_eq!(get(&server, "/pictures/a"), is(200, "aliased"));
    assert_eq!(get(&server, "/deep/a"), is(200, "rooted"));
}

#[test]
fn try_files_takes_the_first_that_exists() {
    let server = serve(
        "location / { try_files $uri $uri/ $uri.html /fallback?from=$uri; }
         location = /fallback { return 200 fallback-$arg_from; }
         location /code { try_files $uri =418; } location /named { try_files $uri @named; }
         location @named { return 200 named-$uri; }",
    )
    .file("html/plain", "plain")
    .file("html/page.html", "page")
    .start();
    assert_eq!(get(&server, "/plain"), is(200, "plain"));
    assert_eq!(get(&server, "/page"), is(200, "page"));
    assert_eq!(get(&server, "/none"), is(200, "fallback-/none"));
    assert_eq!(server.http(0).get("/code").status, 418);
    assert_eq!(get(&server, "/named"), is(200, "named-/named"));
}

#[test]
fn ranges_of_a_file_are_served() {
    let server = serve("").file("html/f", "0123456789").start();
    for (range, status, content_range, body) in [
        ("bytes=0-3", 206, "bytes 0-3/10", "0123"),
        ("bytes=7-", 206, "bytes 7-9/10", "789"),
        ("bytes=-2", 206, "bytes 8-9/10", "89"),
        ("bytes=5-100", 206, "bytes 5-9/10", "56789"),
        ("lines=1-2", 200, "", "0123456789"),
    ] {
        let response = server.http(0).ask("GET", "/f", &[&format!("Range: {range}")]);
        assert_eq!((response.status, response.text().as_str()), (status, body), "{range}");
        assert_eq!(response.field("Content-Range"), content_range, "{range}");
    }
}

#[test]
fn several_ranges_come_in_parts() {
    let server = serve("default_type text/plain;").file("html/f", "0123456789").start();
    let response = server.http(0).ask("GET", "/f", &["Range: bytes=0-1,8-9"]);
    assert_eq!(response.status, 206);
    assert!(response.field("Content-Type").starts_with("multipart/byteranges; boundary="));
    let text = response.text();
    assert!(text.contains("Content-Range: bytes 0-1/10\r\n\r\n01\r\n"), "{text}");
    assert!(text.contains("Content-Range: bytes 8-9/10\r\n\r\n89\r\n"), "{text}");
}

#[test]
fn a_range_outside_the_file_cannot_be_satisfied() {
    let server = serve("").file("html/f", "0123456789").start();
    let response = server.http(0).ask("GET", "/f", &["Range: bytes=10-"]);
    assert_eq!((response.status, response.field("Content-Range")), (416, "bytes */10"));
}

#[test]
fn if_range_serves_the_whole_when_the_file_has_changed() {
    let server = serve("").file("html/f", "0123456789").start();
    let tag = server.http(0).get("/f").field("ETag").to_owned();
    let ask = |tag: &str| server.http(0).ask("GET", "/f", &["Range: bytes=0-1", &format!("If-Range: {tag}")]).status;
    assert_eq!((ask(&tag), ask("\"other\"")), (206, 200));
}

#[test]
fn an_unchanged_file_is_not_sent_again() {
    let server = serve("").file("html/f", "body").start();
    let first = server.http(0).get("/f");
    let (tag, time) = (first.field("ETag").to_owned(), first.field("Last-Modified").to_owned());
    let ask = |line: String| server.http(0).ask("GET", "/f", &[&line]);
    let unchanged = ask(format!("If-None-Match: {tag}"));
    assert_eq!((unchanged.status, unchanged.field("ETag")), (304, tag.as_str()));
    assert_eq!(unchanged.field("Content-Length"), "");
    assert_eq!(ask(format!("If-None-Match: \"x\", W/{tag}")).status, 304);
    assert_eq!(ask("If-None-Match: *".into()).status, 304);
    assert_eq!(ask("If-None-Match: \"x\"".into()).status, 200);
    assert_eq!(ask(format!("If-Modified-Since: {time}")).status, 304);
    assert_eq!(ask("If-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT".into()).status, 200);
}

#[test]
fn a_failed_precondition_is_told() {
    let server = serve("").file("html/f", "body").start();
    let tag = server.http(0).get("/f").field("ETag").to_owned();
    let ask = |line: String| server.http(0).ask("GET", "/f", &[&line]).status;
    assert_eq!(ask("If-Match: \"x\"".into()), 412);
    assert_eq!(ask(format!("If-Match: {tag}")), 200);
    assert_eq!(ask("If-Unmodified-Since: Thu, 01 Jan 1970 00:00:00 GMT".into()), 412);
}

#[test]
fn a_file_is_not_posted_to() {
    let server = serve("").file("html/f", "body").start();
    assert_eq!(server.http(0).post("/f", b"x", &[]).status, 405);
}

#[test]
fn error_pages_replace_the_body_and_keep_or_change_the_status() {
    let server = serve(
        "location /keep { error_page 404 /404.html; } location /change { error_page 404 =200 /404.html; }
         location /named { error_page 404 = @named; } location @named { return 201 named; }
         location /away { error_page 404 http://example.org/; } location = /404.html { internal; }",
    )
    .file("html/404.html", "nothing here")
    .start();
    assert_eq!(get(&server, "/keep"), is(404, "nothing here"));
    assert_eq!(get(&server, "/change"), is(200, "nothing here"));
    assert_eq!(get(&server, "/named"), is(201, "named"));
    let away = server.http(0).get("/away");
    assert_eq!((away.status, away.field("Location")), (302, "http://example.org/"));
}

#[test]
fn an_internal_location_is_not_found_from_outside() {
    let server =
        serve("location /secret { internal; return 200 s; } location /in { try_files /none /secret; }").start();
    assert_eq!(server.http(0).get("/secret").status, 404);
    assert_eq!(get(&server, "/in"), is(200, "s"));
}

#[test]
fn a_denied_client_is_forbidden() {
    let server = serve(
        "location /no { deny 127.0.0.0/8; allow all; } location /yes { allow 127.0.0.1; deny all; } location /all { deny all; }",
    )
    .file("html/yes", "yes")
    .start();
    assert_eq!(server.http(0).get("/no").status, 403);
    assert_eq!(get(&server, "/yes"), is(200, "yes"));
    assert_eq!(server.http(0).get("/all").status, 403);
    server.wait_for_log("access forbidden by rule");
}

#[test]
fn satisfy_any_lets_in_by_either_rule() {
    let Some(server) = serve(
        "satisfy any; auth_basic closed; auth_basic_user_file %%DIR%%/users;
         location /from-here { allow 127.0.0.1; deny all; } location /by-password { deny all; }",
    )
    .file("users", "alice:{PLAIN}pw\n")
    .file("html/from-here", "a")
    .file("html/by-password", "b")
    .start_if_supported() else {
        return;
    };
    assert_eq!(get(&server, "/from-here"), is(200, "a"));
    let refused = server.http(0).get("/by-password");
    assert_eq!((refused.status, refused.field("WWW-Authenticate")), (401, "Basic realm=\"closed\""));
    let asked = server.http(0).ask("GET", "/by-password", &["Authorization: Basic YWxpY2U6cHc="]);
    assert_eq!((asked.status, asked.text().as_str()), (200, "b"));
}

#[test]
fn added_fields_follow_status_and_inheritance() {
    let server = serve(
        "add_header X-Outer $uri; location /a { return 200; } location /b { add_header X-Inner b; return 200; }
         location /none { add_header X-Plain p; add_header X-Always a always; return 404; }",
    )
    .start();
    assert_eq!(server.http(0).get("/a").field("X-Outer"), "/a");
    let inner = server.http(0).get("/b");
    assert_eq!((inner.field("X-Inner"), inner.field("X-Outer")), ("b", ""));
    let missing = server.http(0).get("/none");
    assert_eq!((missing.field("X-Plain"), missing.field("X-Always")), ("", "a"));
}

#[test]
fn expires_sets_both_fields() {
    let Some(server) = serve("location /a { expires 1h; return 200; } location /b { expires epoch; return 200; }")
        .start_if_supported()
    else {
        return;
    };
    assert_eq!(server.http(0).get("/a").field("Cache-Control"), "max-age=3600");
    let epoch = server.http(0).get("/b");
    assert_eq!(epoch.field("Cache-Control"), "no-cache");
    assert_eq!(epoch.field("Expires"), "Thu, 01 Jan 1970 00:00:01 GMT");
}

#[test]
fn the_access_log_has_the_combined_format() {
    let server = Server::start(
        "events {} http { access_log access.log; server { listen 127.0.0.1:%%PORT_0%%; return 200 hello; } }",
    );
    server.http(0).ask("GET", "/a?b=c", &["Referer: http://r/", "User-Agent: me \"q\""]);
    let line = server.wait_for_line("access.log", "hello|GET");
    let expected = r#"^127\.0\.0\.1 - - \[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] "GET /a\?b=c HTTP/1\.1" 200 5 "http://r/" "me \\x22q\\x22"$"#;
    assert!(matches(expected, &line), "{line}");
}

#[test]
fn the_access_log_has_the_format_it_is_given() {
    let server = Server::start(
        r#"events {} http {
        log_format mine '$request_method|$uri|$args|$status|$body_bytes_sent|$http_x_mine|$request_length|$arg_none';
        log_format json escape=json '{"agent":"$http_user_agent"}';
        server { listen 127.0.0.1:%%PORT_0%%; access_log mine.log mine; access_log json.log json; access_log no.log mine if=$arg_log;
                 return 200 hello; } }"#,
    );
    let question = head("GET", "/%41?q=1", &["X-Mine: v", "User-Agent: a\"b\\c"]);
    let mut http = server.http(0);
    http.send(&question);
    http.response();
    let line = server.wait_for_lines("mine.log", 1).remove(0);
    assert_eq!(line, format!("GET|/A|q=1|200|5|v|{}|-", question.len()));
    assert_eq!(server.wait_for_lines("json.log", 1), [r#"{"agent":"a\"b\\c"}"#]);
    assert_eq!(server.read("no.log"), "");
}

#[test]
fn map_finds_exact_names_wildcards_and_expressions() {
    let server = Server::start(
        "events {} http { access_log off; map $arg_k $v { hostnames; default d; exact.example e; *.example w; ~^r(\\d)$ re-$1; '' empty; }
         server { listen 127.0.0.1:%%PORT_0%%; return 200 $v; } }",
    );
    for (key, value) in [("exact.example", "e"), ("EXACT.example", "e"), ("a.example", "w"), ("r7", "re-7"), ("x", "d")]
    {
        assert_eq!(get(&server, &format!("/?k={key}")), is(200, value), "{key}");
    }
    assert_eq!(get(&server, "/"), is(200, "empty"));
}

#[test]
fn set_if_and_rewrite_run_in_order() {
    let server = serve(
        "set $a 1; if ($arg_x = y) { set $a 2; } if ($http_x_drop) { return 403; }
         rewrite ^/old/(.*)$ /new/$1?kept=1 last; rewrite ^/moved$ /there permanent;
         location /new/ { return 200 $a-$uri-$args; } location / { return 200 $a; }",
    )
    .start();
    assert_eq!(get(&server, "/"), is(200, "1"));
    assert_eq!(get(&server, "/?x=y"), is(200, "2"));
    assert_eq!(get(&server, "/old/p?q=r"), is(200, "1-/new/p-kept=1&q=r"));
    assert_eq!(server.http(0).get("/moved").status, 301);
    assert_eq!(server.http(0).ask("GET", "/", &["X-Drop: 1"]).status, 403);
}

#[test]
fn a_rewrite_that_never_ends_is_stopped() {
    let server = serve("location / { rewrite ^(.*)$ $1x last; }").start();
    assert_eq!(server.http(0).get("/").status, 500);
    server.wait_for_log("rewrite or internal redirection cycle");
}

#[test]
fn gzip_is_used_when_the_client_takes_it() {
    let Some(server) = serve("gzip on; gzip_min_length 1; gzip_types text/plain; default_type text/plain;")
        .file("html/f", "a".repeat(10_000))
        .start_if_supported()
    else {
        return;
    };
    let packed = server.http(0).ask("GET", "/f", &["Accept-Encoding: gzip"]);
    assert_eq!((packed.status, packed.field("Content-Encoding")), (200, "gzip"));
    assert_eq!(&packed.body[..2], [0x1f, 0x8b]);
    assert!(packed.body.len() < 1_000 && packed.field("ETag").starts_with("W/"), "{:?}", packed.fields);
    assert_eq!(server.http(0).get("/f").body.len(), 10_000);
}

#[test]
fn answers_are_slowed_to_the_limit_rate() {
    for (directives, target, is_slow) in [
        ("limit_rate 20k;", "/f", true),
        ("limit_rate 20k; limit_rate_after 40k;", "/f", false),
        ("set $limit_rate 20k;", "/f", true),
        ("limit_rate 20k; set $limit_rate 0;", "/f", false),
        ("limit_rate $arg_rate;", "/f?rate=20k", true),
        ("limit_rate $arg_rate;", "/f?rate=none", false),
        ("limit_rate 20k; limit_rate_after $arg_after;", "/f?after=100k", false),
    ] {
        let server = serve(directives).file("html/f", "a".repeat(40_000)).start();
        let start = Instant::now();
        assert_eq!(server.http(0).get(target).body.len(), 40_000, "{directives} {target}");
        // The first second's worth leaves at once.
        let taken = start.elapsed();
        assert!(taken > Duration::from_millis(800) || !is_slow, "{directives} {target}: {taken:?}");
        let is_told = target.ends_with("none");
        if is_told {
            server.wait_for_log("invalid size \"none\"");
        }
        assert!(is_slow || is_told || taken < Duration::from_millis(700), "{directives} {target}: {taken:?}");
    }
}

#[test]
fn limit_req_refuses_what_comes_too_fast() {
    let setup = Server::config(
        "events {} http { access_log off; limit_req_zone $arg_k zone=z:1m rate=1r/m;
         server { listen 127.0.0.1:%%PORT_0%%; location / { limit_req zone=z; limit_req_status 429; try_files /n =204; } } }",
    );
    let Some(server) = setup.start_if_supported() else { return };
    assert_eq!([server.http(0).get("/?k=a").status, server.http(0).get("/?k=a").status], [204, 429]);
    assert_eq!(server.http(0).get("/?k=b").status, 204);
    server.wait_for_log(r#"limiting requests, excess: [0-9.]+ by zone "z""#);
}

#[test]
fn return_444_says_nothing() {
    let server = serve("return 444;").start();
    let mut wire = server.connect(0);
    wire.send(head("GET", "/", &[]));
    assert_eq!(wire.rest(), b"");
}

#[test]
fn a_large_file_arrives_whole() {
    let content: Vec<u8> = (0..5_000_000_u32).map(|number| (number % 251) as u8).collect();
    let server = serve("sendfile on;").file("html/f", &content).start();
    assert!(server.http(0).get("/f").body == content);
}

#[test]
fn a_redirect_that_an_error_page_takes_over_keeps_its_location() {
    let server = serve(
        "location /a { error_page 302 /text; return 302 http://example.org/; } location /text { return 200 text; }
         location /b { error_page 405 /redirect; return 405; } location /redirect { return 302 http://example.org/; }
         location /c { error_page 405 /none; return 405; } location /none { return 204; }",
    )
    .start();
    let kept = server.http(0).get("/a");
    assert_eq!((kept.status, kept.field("Location"), &*kept.text()), (302, "http://example.org/", "text"));
    assert_eq!(server.http(0).get("/b").status, 302);
    assert_eq!(get(&server, "/c"), is(405, ""));
}

#[test]
fn an_index_may_be_an_absolute_path() {
    let server = serve("location /a/ { index /b.html; }").file("html/b.html", "b").start();
    assert_eq!(get(&server, "/a/"), is(200, "b"));
}

#[test]
fn a_value_over_several_lines_becomes_one_line() {
    let server = serve("add_header X-A \"a;\n b\n\"; return 200;").start();
    assert_eq!(server.http(0).get("/").field("X-A"), "a;  b");
}

#[test]
fn rewrites_escape_what_came_escaped() {
    let server = serve(
        "location /a { rewrite ^(.*) $1?c=$1; return 200 $uri|$args; }
         location /b { rewrite ^/b/(.*) http://example.org/$1 redirect; }
         location /c { rewrite ^ $arg_r? redirect; }",
    )
    .start();
    assert_eq!(get(&server, "/a/%3F?a=b").1, "/a/?|c=/a/%3F&a=b");
    assert_eq!(server.http(0).get("/b/%0dX").field("Location"), "http://example.org/%0DX");
    assert_eq!(server.http(0).get("/c?r=http%3A%2F%2Fexample.org%0a").field("Location"), "http://example.org%0a");
}

#[test]
fn expires_says_how_long_an_answer_may_be_kept() {
    let server = serve(
        "expires 60; location / { return 200; } location /max { expires max; return 200; }
         location /no { expires -1; return 200; } location /off { expires off; return 200; }
         location /var { expires $arg_e; return 200; }",
    )
    .start();
    for (target, expected) in [
        ("/", "max-age=60"),
        ("/max", "max-age=315360000"),
        ("/no", "no-cache"),
        ("/off", ""),
        ("/var?e=5m", "max-age=300"),
        ("/var?e=nonsense", ""),
    ] {
        let answer = server.http(0).get(target);
        assert_eq!(answer.field("Cache-Control"), expected, "{target}");
        assert_eq!(answer.field("Expires").is_empty(), expected.is_empty(), "{target}");
    }
}

#[test]
fn trailers_follow_the_last_chunk() {
    let server =
        serve("add_trailer X-A $status; location / { return 200 body; } location /no { return 404 body; }").start();
    let mut http = server.http(0);
    http.send(head("GET", "/", &["Connection: close"]));
    let text = String::from_utf8(http.wire.rest()).unwrap();
    assert!(text.ends_with("\r\n\r\n4\r\nbody\r\n0\r\nX-A: 200\r\n\r\n"), "{text}");
    assert_eq!(server.http(0).get("/no").field("Content-Length"), "4");
}

#[test]
fn limit_except_is_for_all_other_methods() {
    let server = serve("location / { limit_except GET { deny all; } return 200 all; }").start();
    assert_eq!(get(&server, "/"), is(200, "all"));
    assert_eq!(server.http(0).ask("HEAD", "/", &[]).status, 200);
    assert_eq!(server.http(0).post("/", b"x", &[]).status, 403);
}

#[test]
fn an_if_block_is_answered_by_what_is_around_it() {
    let backend = HttpBackend::start(|_| Reply::ok("backend"));
    let server = serve("location / { proxy_pass http://%%BACKEND%%; if ($arg_a) { add_header X-A yes; } }")
        .set("BACKEND", backend.address())
        .start();
    let answer = server.http(0).get("/?a=1");
    assert_eq!((&*answer.text(), answer.field("X-A")), ("backend", "yes"));
}
