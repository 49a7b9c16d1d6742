//! What is asked for within a request: who may by `auth_request`, and copies of requests by `mirror`.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tidegate_conformance::backend::{HttpBackend, Reply};
use tidegate_conformance::client::Http2;
use tidegate_conformance::server::skip_on_nginx;
use tidegate_conformance::{Server, Setup, wait_until};

/// A reply that comes late needs no more than this.
const NO_CONTENT: &str = "HTTP/1.1 204 No Content\r\n\r\n";

/// A server of these locations.
fn server(inside: &str) -> Setup {
    Server::config(&format!(
        "events {{}} http {{ log_format own '$uri $status'; access_log off;
           server {{ listen 127.0.0.1:%%PORT_0%%; root html; {inside} }} }}"
    ))
    .file("html/file.txt", "file")
    .file("html/open/file.txt", "open")
}

#[test]
fn the_answer_to_a_subrequest_decides_who_may() {
    let backend = HttpBackend::start(|request| match request.target.as_str() {
        "/yes" => Reply::ok("what nobody wants to read"),
        "/created" => Reply::status("201 Created", &[], ""),
        "/no" => Reply::status("403 Forbidden", &[], "no"),
        "/who" => {
            Reply::status("401 Unauthorized", &["WWW-Authenticate: Basic realm=a", "WWW-Authenticate: Other"], "")
        }
        "/hidden" => Reply::status("401 Unauthorized", &["WWW-Authenticate: Hidden"], "no"),
        "/moved" => Reply::status("302 Found", &["Location: /elsewhere"], ""),
        _ => Reply::status("500 Internal Server Error", &[], ""),
    });
    let server = server(
        "location / { auth_request /none; }
         location /open/ { auth_request /files/open/file.txt; }
         location /files/ { internal; alias html/; }
         location = /nothing { auth_request /missing; } location /missing { return 404; }
         location = /204 { auth_request /allow; return 200 never; } location = /204/file.txt { auth_request /allow; alias html/file.txt; }
         location = /allow { return 204; } location = /deny { return 403; } location = /who { return 401; } location = /code { return 499; }
         location ~ ^/file/(.*) { auth_request /$1; alias html/file.txt; }
         location = /denied.txt { auth_request /deny; alias html/file.txt; }
         location = /unknown.txt { auth_request /who; alias html/file.txt; }
         location = /yes.txt { auth_request /to/yes; alias html/file.txt; }
         location = /created.txt { auth_request /to/created; alias html/file.txt; }
         location = /no.txt { auth_request /to/no; alias html/file.txt; }
         location = /who.txt { auth_request /to/who; alias html/file.txt; }
         location = /hidden.txt { auth_request /hide; alias html/file.txt; }
         location = /moved.txt { auth_request /to/moved; alias html/file.txt; }
         location = /error.txt { auth_request /to/error; alias html/file.txt; }
         location = /off.txt { auth_request off; alias html/file.txt; }
         location = /page.txt { auth_request /deny; error_page 403 = /said; alias html/file.txt; } location = /said { return 200 said; }
         location = /changed.txt { auth_request /changing; alias html/file.txt; }
         location = /changing { error_page 404 = /allow; return 404; }
         location = /rewritten.txt { auth_request /rewriting; alias html/file.txt; } location = /rewriting { rewrite ^ /allow; }
         location /to/ { proxy_pass http://%%BACKEND%%/; proxy_pass_request_body off; proxy_set_header Content-Length ''; }
         location = /hide { proxy_pass http://%%BACKEND%%/hidden; proxy_hide_header WWW-Authenticate; proxy_pass_request_body off;
           proxy_set_header Content-Length ''; }",
    )
    .set("BACKEND", backend.address())
    .start();
    let mut http = server.http(0);
    for (target, status, challenges) in [
        ("/file.txt", 500, &[][..]),
        ("/open/file.txt", 200, &[]),
        ("/nothing", 500, &[]),
        // What is rewritten is not asked about.
        ("/204", 200, &[]),
        ("/204/file.txt", 200, &[]),
        ("/denied.txt", 403, &[]),
        ("/unknown.txt", 401, &[]),
        ("/yes.txt", 200, &[]),
        ("/created.txt", 200, &[]),
        ("/no.txt", 403, &[]),
        ("/who.txt", 401, &["Basic realm=a", "Other"]),
        ("/hidden.txt", 401, &["Hidden"]),
        ("/moved.txt", 500, &[]),
        ("/error.txt", 500, &[]),
        ("/off.txt", 200, &[]),
        ("/page.txt", 200, &[]),
        ("/changed.txt", 200, &[]),
        ("/rewritten.txt", 200, &[]),
    ] {
        let response = http.get(target);
        assert_eq!(response.status, status, "{target}");
        assert_eq!(response.fields.all("WWW-Authenticate"), challenges, "{target}");
        if status >= 500 {
            // After such a status nobody goes on with the connection.
            http = server.http(0);
        }
    }
    server.wait_for_log(r"auth request unexpected status: 404.*request: .GET /nothing");
    if !skip_on_nginx("it closes connections whose answers have a body") {
        assert_eq!(backend.connections(), 1, "connections to the backend are kept");
    }
}

#[test]
fn a_subrequest_has_the_fields_of_its_request_and_none_of_its_body() {
    let backend = HttpBackend::start(|request| match request.target.as_str() {
        "/auth?a=b" => Reply::ok("?"),
        _ => Reply::ok(format!("{} {}", request.method, request.body.len())),
    });
    let server = server(
        "location / { auth_request /auth; proxy_pass http://%%BACKEND%%/content; }
         location = /auth { internal; proxy_pass http://%%BACKEND%%/auth?a=b; proxy_pass_request_body off;
           proxy_set_header Content-Length ''; proxy_set_header X-Original $request_uri; proxy_set_header X-Method $request_method; }",
    )
    .set("BACKEND", backend.address())
    .start();
    let body = vec![b'x'; 100_000];
    for (number, method, sent) in
        [(0, "GET", &b""[..]), (1, "POST", &b"short"[..]), (2, "PUT", &body), (3, "HEAD", &b""[..])]
    {
        let length = format!("Content-Length: {}", sent.len());
        let mut http = server.http(0);
        http.send(tidegate_conformance::client::head(method, "/page?x=1", &["X-Own: mine", &length]));
        http.send(sent);
        let response = http.response_to(method);
        assert_eq!(response.status, 200, "{method}");
        if method != "HEAD" {
            assert_eq!(response.text(), format!("{method} {}", sent.len()));
        }
        let requests = backend.requests();
        let asked = &requests[number * 2];
        assert_eq!((asked.method.as_str(), asked.target.as_str()), ("GET", "/auth?a=b"), "{method}");
        assert_eq!(asked.body.len(), 0);
        for (name, value) in [("X-Original", "/page?x=1"), ("X-Method", method), ("X-Own", "mine")] {
            assert_eq!(asked.field(name), value, "{method}");
        }
        assert_eq!(requests[number * 2 + 1].body, sent, "{method}");
    }
    // nginx announces a body that does not follow.
    if skip_on_nginx("it hangs without proxy_pass_request_body off") {
        return;
    }
    let server = self::server(
        "location / { auth_request /auth; return 204; } location /file { auth_request /auth; alias html/file.txt; }
         location = /auth { proxy_pass http://%%BACKEND%%/auth?a=b; }",
    )
    .set("BACKEND", backend.address())
    .start();
    assert_eq!(server.http(0).post("/file", b"body", &[]).status, 405, "it was allowed, and files take no POST");
}

#[test]
fn variables_take_what_the_subrequest_was_answered() {
    let backend = HttpBackend::start(|request| {
        let user = request.field("X-Token").to_owned();
        let status = if user.is_empty() { "401 Unauthorized" } else { "200 OK" };
        Reply::status(status, &[&format!("X-User: {user}"), "Set-Cookie: sid=1; Path=/"], "ok")
    });
    let server = server(
        "location / { auth_request /auth; auth_request_set $user $upstream_http_x_user; auth_request_set $auth_status $upstream_status;
           auth_request_set $cookie $upstream_cookie_sid; auth_request_set $args own=$upstream_http_x_user;
           error_page 401 = @refused; add_header X-User $user; add_header X-Auth $auth_status; add_header X-Cookie $cookie;
           add_header X-Args $args; add_header X-Mine $mine; add_header X-Status $upstream_status; }
         location @refused { return 200 'refused $auth_status'; }
         location = /auth { set $mine $uri; proxy_pass http://%%BACKEND%%; proxy_pass_request_body off; proxy_set_header Content-Length ''; }",
    )
    .set("BACKEND", backend.address())
    .start();
    for user in ["alice", "bob", "carol"] {
        let response = server.http(0).ask("GET", "/file.txt", &[&format!("X-Token: {user}")]);
        let own = format!("own={user}");
        for (name, value) in [
            ("X-User", user),
            ("X-Auth", "200"),
            ("X-Cookie", "1"),
            ("X-Args", &own),
            ("X-Mine", "/auth"),
            ("X-Status", ""),
        ] {
            assert_eq!(response.field(name), value, "{name}");
        }
    }
    assert_eq!(server.http(0).get("/file.txt").text(), "refused 401");
}

#[test]
fn one_may_allow_for_all_of_them() {
    let server = server(
        "location = /any { satisfy any; deny all; auth_request /allow; alias html/file.txt; }
         location = /none { satisfy any; deny all; auth_request /deny; alias html/file.txt; }
         location = /who { satisfy any; deny all; auth_request /unknown; alias html/file.txt; }
         location = /address { satisfy any; allow 127.0.0.1; auth_request /unknown; alias html/file.txt; }
         location = /all { deny all; auth_request /allow; alias html/file.txt; }
         location = /both { allow all; auth_request /deny; alias html/file.txt; }
         location = /inner { auth_request /closed; alias html/file.txt; }
         location = /closed { deny all; return 204; }
         location = /allow { return 204; } location = /deny { return 403; }
         location = /unknown { add_header WWW-Authenticate Basic always; return 401; }",
    )
    .start();
    for (target, status) in [
        ("/any", 200),
        ("/none", 403),
        ("/who", 401),
        ("/address", 200),
        ("/all", 403),
        ("/both", 403),
        // Who may is asked of the client's request only.
        ("/inner", 200),
    ] {
        let response = server.http(0).get(target);
        assert_eq!(response.status, status, "{target}");
        if status == 200 {
            assert_eq!(response.fields.all("WWW-Authenticate"), Vec::<&str>::new(), "{target}");
        }
    }
}

#[test]
fn subrequests_are_logged_where_asked_for() {
    let server = server(
        "access_log logs/own.log own;
         location = /told { auth_request /loud; alias html/file.txt; } location = /loud { log_subrequest on; return 204; }
         location = /untold { auth_request /quiet; alias html/file.txt; } location = /quiet { return 204; }
         location = /failing { auth_request /broken; alias html/file.txt; } location = /broken { root /nowhere; }",
    )
    .start();
    for target in ["/told", "/untold", "/failing"] {
        server.http(0).get(target);
    }
    assert_eq!(server.wait_for_lines("logs/own.log", 4), ["/loud 204", "/told 200", "/untold 200", "/failing 500"]);
    server
        .wait_for_log(r#"open\(\) "/nowhere/broken" failed .*request: "GET /failing HTTP/1.1", subrequest: "/broken""#);
}

#[test]
fn requests_are_mirrored_with_their_bodies_and_nobody_waits() {
    let shadow = HttpBackend::start(|_| Reply::default().after(Duration::from_millis(1500)).then(NO_CONTENT));
    let slow = HttpBackend::start(|_| Reply::default().after(Duration::from_secs(3)).then(NO_CONTENT));
    let backend = HttpBackend::start(|request| Reply::ok(request.body.clone()));
    let server = server(
        "client_body_buffer_size 16k; proxy_pass_request_headers on;
         location / { mirror /copy; proxy_pass http://%%BACKEND%%; }
         location /headless/ { mirror /bare; mirror_request_body off; proxy_pass http://%%BACKEND%%; }
         location /twice/ { mirror /copy; mirror /slow; proxy_pass http://%%BACKEND%%; }
         location /off/ { mirror off; proxy_pass http://%%BACKEND%%; }
         location = /copy { internal; proxy_pass http://%%SHADOW%%$request_uri; }
         location = /bare { internal; proxy_pass http://%%SHADOW%%$request_uri; proxy_pass_request_body off; proxy_set_header Content-Length ''; }
         location = /slow { internal; proxy_pass http://%%SLOW%%/slow; }",
    )
    .set("BACKEND", backend.address())
    .set("SHADOW", shadow.address())
    .set("SLOW", slow.address())
    .start();
    let large = vec![b'm'; 200_000];
    let mut http = server.http(0);
    let begun = Instant::now();
    for (method, target, body, mirrored) in [
        ("GET", "/a?x=1", &b""[..], Some(0)),
        ("POST", "/b", b"body", Some(4)),
        ("PUT", "/large", &large, Some(large.len())),
        ("POST", "/headless/", b"body", Some(0)),
        ("POST", "/twice/", b"both", Some(4)),
        ("POST", "/off/", b"none", None),
    ] {
        let before = shadow.requests().len();
        http.send(tidegate_conformance::client::head(method, target, &[&format!("Content-Length: {}", body.len())]));
        http.send(body);
        let response = http.response_to(method);
        assert_eq!((response.status, response.body.len()), (200, body.len()), "{target}");
        let Some(length) = mirrored else {
            assert_eq!(shadow.requests().len(), before, "{target}");
            continue;
        };
        wait_until("the mirror was asked", || (shadow.requests().len() > before).then_some(()));
        let requests = shadow.requests();
        let copy = requests.last().unwrap();
        assert_eq!((copy.method.as_str(), copy.target.as_str()), (method, target));
        assert_eq!(copy.body.len(), length, "{target}");
        assert!(length == 0 || copy.body == body);
    }
    if !skip_on_nginx("the next request of a connection waits for it") {
        assert!(begun.elapsed() < Duration::from_secs(5), "nobody has waited for the mirrors, {:?}", begun.elapsed());
    }
    assert_eq!(slow.requests().len(), 1);
}

#[test]
fn both_work_over_http_2() {
    let backend = HttpBackend::start(|request| Reply::ok(format!("{} {}", request.target, request.body.len())));
    let shadow = HttpBackend::saying("copy");
    let server = server(
        "http2 on; location / { auth_request /allow; mirror /copy; proxy_pass http://%%BACKEND%%; }
         location = /no { auth_request /deny; alias html/file.txt; }
         location = /allow { return 204; } location = /deny { return 403; } location = /copy { proxy_pass http://%%SHADOW%%$request_uri; }",
    )
    .set("BACKEND", backend.address())
    .set("SHADOW", shadow.address())
    .start();
    let mut http = Http2::connect(server.port(0));
    for (number, length) in [0, 1, 70_000].into_iter().enumerate() {
        let response = http.post("/page", vec![b'x'; length], &[]);
        assert_eq!(response.text(), format!("/page {length}"));
        wait_until("the mirror was asked", || (shadow.requests().len() == number + 1).then_some(()));
        assert_eq!(shadow.requests()[number].body.len(), length);
    }
    assert_eq!(http.get("/no").status, 403);
}

#[test]
fn a_client_that_leaves_ends_the_subrequest() {
    let backend = HttpBackend::start(|_| Reply::silence());
    let server = server(
        "location / { auth_request /auth; alias html/file.txt; } location = /auth { proxy_pass http://%%BACKEND%%; }",
    )
    .set("BACKEND", backend.address())
    .start();
    let mut http = server.http(0);
    http.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    wait_until("the subrequest is under way", || (backend.requests().len() == 1).then_some(()));
    drop(http);
    wait_until("the subrequest is given up", || (backend.open() == 0).then_some(()));
}

#[test]
fn subrequests_within_subrequests_end() {
    if skip_on_nginx("who may is asked once there as well, but mirrors of mirrors are another matter") {
        return;
    }
    // A mirror is not mirrored, and who may is asked of a client's request only.
    let server = server(
        "access_log logs/own.log own; auth_request /auth; mirror /auth;
         location = /auth { log_subrequest on; return 204; }",
    )
    .start();
    assert_eq!(server.http(0).get("/file.txt").status, 200);
    let mut lines = server.wait_for_lines("logs/own.log", 3);
    lines.sort();
    assert_eq!(lines, ["/auth 204", "/auth 204", "/file.txt 200"]);
}

#[test]
fn mirrors_are_finished_before_a_worker_ends() {
    let shadow = HttpBackend::start(|_| Reply::default().after(Duration::from_millis(700)).then(NO_CONTENT));
    let mut server = server(
        "access_log logs/own.log own; location / { mirror /copy; }
         location = /copy { log_subrequest on; proxy_pass http://%%SHADOW%%; }",
    )
    .set("SHADOW", shadow.address())
    .start();
    assert_eq!(server.http(0).get("/file.txt").status, 200);
    wait_until("the mirror was asked", || (shadow.requests().len() == 1).then_some(()));
    server.signal(Signal::SIGQUIT);
    server.wait();
    let mut lines = server.lines("logs/own.log");
    lines.sort();
    assert_eq!(lines, ["/copy 204", "/file.txt 200"]);
}

/// A mirror may take longer than its request: it must not keep what that was allowed.
#[test]
fn a_mirror_keeps_no_place_of_its_request() {
    if skip_on_nginx("it has the next request wait for the mirror") {
        return;
    }
    let shadow = HttpBackend::start(|_| Reply::silence());
    let server = Server::config(
        "events {} http { access_log off; limit_conn_zone $server_name zone=z:64k; server { server_name a; listen 127.0.0.1:%%PORT_0%%;
         location / { limit_conn z 1; mirror /copy; root html; } location = /copy { proxy_pass http://%%SHADOW%%; } } }",
    )
    .file("html/file.txt", "file")
    .set("SHADOW", shadow.address())
    .start();
    let mut http = server.http(0);
    for number in 1..4 {
        assert_eq!(http.get("/file.txt").status, 200);
        wait_until("the mirror was asked", || (shadow.requests().len() == number).then_some(()));
    }
}

/// 499 is what a log says of a client that has gone; an upstream that answers it is another matter.
#[test]
fn an_odd_status_is_no_client_that_has_gone() {
    let backend = HttpBackend::start(|_| Reply::status("499 Whatever", &[], "no"));
    let server = server("location / { auth_request /auth; } location = /auth { proxy_pass http://%%BACKEND%%; }")
        .set("BACKEND", backend.address())
        .start();
    assert_eq!(server.http(0).get("/file.txt").status, 500);
    server.wait_for_log("auth request unexpected status: 499");
}
