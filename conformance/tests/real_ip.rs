//! The client's address as a trusted proxy tells it: who trusts whom, and everything that goes by it afterwards.

use tidegate_conformance::backend::{HttpBackend, Reply};
use tidegate_conformance::client::Http2;
use tidegate_conformance::{Server, Setup};

fn server(outer: &str, inside: &str) -> Setup {
    Server::config(&format!(
        "events {{}} http {{ log_format own '$remote_addr $realip_remote_addr'; access_log logs/own.log own; {outer}
           server {{ listen 127.0.0.1:%%PORT_0%%; root html; {inside} }} }}"
    ))
    .file("html/file.txt", "file")
}

#[test]
fn the_address_is_taken_from_those_who_are_trusted() {
    let shows = "return 200 '$remote_addr $remote_port $realip_remote_addr';";
    let server = server(
        "",
        &format!(
            "location /none {{ {shows} }}
             location /field {{ set_real_ip_from 127.0.0.0/8; add_header X $remote_addr; alias html/file.txt; }}
             location /other {{ set_real_ip_from 127.0.0.1; real_ip_header X-Client; add_header X $remote_addr; alias html/file.txt; }}
             location /list {{ set_real_ip_from 127.0.0.1; set_real_ip_from 10.0.0.0/8; real_ip_header X-Forwarded-For;
               add_header X '$remote_addr $remote_port $realip_remote_addr'; alias html/file.txt; }}
             location /through {{ set_real_ip_from 127.0.0.1; set_real_ip_from 10.0.0.0/8; real_ip_header X-Forwarded-For; real_ip_recursive on;
               add_header X $remote_addr; alias html/file.txt; }}
             location /name {{ set_real_ip_from localhost; add_header X $remote_addr; alias html/file.txt; }}
             location /stranger {{ set_real_ip_from 10.0.0.0/8; add_header X $remote_addr; alias html/file.txt; }}"
        ),
    )
    .start();
    for (target, lines, expected) in [
        ("/field", &["X-Real-IP: 192.0.2.1"][..], "192.0.2.1"),
        ("/field", &["X-Real-IP: 2001:db8::1"], "2001:db8::1"),
        ("/field", &["X-Real-IP: 192.0.2.1", "X-Real-IP: 192.0.2.2"], "192.0.2.1"),
        ("/other", &["X-Client: nobody", "X-Client: 192.0.2.2"], "127.0.0.1"),
        ("/field", &["X-Real-IP: nobody"], "127.0.0.1"),
        ("/field", &[], "127.0.0.1"),
        ("/field", &["X-Forwarded-For: 192.0.2.1"], "127.0.0.1"),
        ("/other", &["x-client: 192.0.2.1"], "192.0.2.1"),
        ("/list", &["X-Forwarded-For: 1.1.1.1, 192.0.2.1:4711"], "192.0.2.1 4711 127.0.0.1"),
        ("/list", &["X-Forwarded-For: 1.1.1.1, 192.0.2.1, 10.0.0.1"], "10.0.0.1  127.0.0.1"),
        ("/through", &["X-Forwarded-For: 1.1.1.1, 192.0.2.1, 10.0.0.1"], "192.0.2.1"),
        ("/through", &["X-Forwarded-For: 192.0.2.1", "X-Forwarded-For: 10.0.0.1"], "192.0.2.1"),
        ("/through", &["X-Forwarded-For: 10.0.0.2, 10.0.0.1"], "10.0.0.2"),
        ("/name", &["X-Real-IP: 192.0.2.1"], "192.0.2.1"),
        ("/stranger", &["X-Real-IP: 192.0.2.1"], "127.0.0.1"),
    ] {
        let response = server.http(0).ask("GET", target, lines);
        let found = response.field("X");
        // Without a port of its own there is none.
        let found = found.replace(" 0 ", "  ");
        assert_eq!(found, expected, "{target} {lines:?}");
    }
    assert!(server.http(0).ask("GET", "/none", &["X-Real-IP: 192.0.2.1"]).text().starts_with("127.0.0.1 "));
}

#[test]
fn everything_goes_by_the_address_that_was_told() {
    let backend = HttpBackend::start(|request| Reply::ok(request.field("X-Forwarded-For")));
    let server = server(
        "set_real_ip_from 127.0.0.1; limit_req_zone $binary_remote_addr zone=z:64k rate=1r/m;
         geo $where { default elsewhere; 192.0.2.0/24 test; }",
        "http2 on;
         location /denied { deny 192.0.2.0/24; alias html/file.txt; }
         location /allowed { allow 192.0.2.0/24; deny all; alias html/file.txt; }
         location /limited { limit_req zone=z; alias html/file.txt; }
         location /geo { return 200 $where; }
         location /redirected { error_page 404 = @shown; root /nowhere; } location @shown { return 200 $remote_addr; }
         location /asks { auth_request /auth; alias html/file.txt; } location = /auth { allow 192.0.2.9; deny all; return 204; }
         location /proxied { proxy_pass http://%%BACKEND%%; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; }
         location /failing { root /nowhere; }",
    )
    .set("BACKEND", backend.address())
    .start();
    let told = ["X-Real-IP: 192.0.2.1"];
    for (target, lines, status, text) in [
        ("/denied", &told[..], 403, None),
        ("/denied", &[][..], 200, Some("file")),
        ("/allowed", &told, 200, Some("file")),
        ("/allowed", &[], 403, None),
        ("/limited", &told, 200, Some("file")),
        ("/limited", &told, 503, None),
        ("/limited", &["X-Real-IP: 192.0.2.2"], 200, Some("file")),
        ("/geo", &told, 200, Some("test")),
        ("/geo", &[], 200, Some("elsewhere")),
        ("/redirected", &told, 200, Some("192.0.2.1")),
        ("/asks", &told, 200, Some("file")),
        ("/proxied", &told, 200, Some("192.0.2.1")),
        ("/proxied", &["X-Real-IP: 192.0.2.1", "X-Forwarded-For: 1.1.1.1"], 200, Some("1.1.1.1, 192.0.2.1")),
        ("/failing", &told, 404, None),
    ] {
        let response = server.http(0).ask("GET", target, lines);
        assert_eq!(response.status, status, "{target} {lines:?}");
        if let Some(text) = text {
            assert_eq!(response.text(), text, "{target} {lines:?}");
        }
    }
    server
        .wait_for_log(r"failed .2: No such file or directory., client: 192\.0\.2\.1, server: , request: .GET /failing");
    let lines = server.wait_for_lines("logs/own.log", 14);
    assert_eq!((lines[0].as_str(), lines[1].as_str()), ("192.0.2.1 127.0.0.1", "127.0.0.1 127.0.0.1"));
    // Each request of a connection tells for itself.
    let mut http = server.http(0);
    assert_eq!(http.ask("GET", "/geo", &told).text(), "test");
    assert_eq!(http.get("/geo").text(), "elsewhere");
    let mut http = Http2::connect(server.port(0));
    assert_eq!(http.ask("GET", "/geo", &told).text(), "test");
    assert_eq!(http.get("/geo").text(), "elsewhere");
}

#[test]
fn clients_keep_their_server_by_address() {
    let backends: Vec<HttpBackend> = ["a", "b", "c"].map(HttpBackend::saying).into();
    let mut setup = server(
        "set_real_ip_from 127.0.0.1; upstream u { ip_hash; server %%A%%; server %%B%%; server %%C%%; }",
        "location / { proxy_pass http://u; }",
    );
    for (name, backend) in ["A", "B", "C"].into_iter().zip(&backends) {
        setup = setup.set(name, backend.address());
    }
    let server = setup.start();
    let mut seen = std::collections::BTreeMap::<String, usize>::new();
    for network in 0..30 {
        let ask = |last: u8| server.http(0).ask("GET", "/", &[&format!("X-Real-IP: 192.0.{network}.{last}")]).text();
        let first = ask(1);
        assert!([2, 77, 255].into_iter().all(|last| ask(last) == first), "one network, one server");
        *seen.entry(first).or_default() += 1;
    }
    assert_eq!(seen.into_values().collect::<Vec<_>>(), [10, 10, 10]);
}

#[test]
fn mistakes_are_told() {
    for (text, message) in [
        ("set_real_ip_from 10.0.0.0/33;", "10.0.0.0/33"),
        ("set_real_ip_from no.such.host.invalid;", "host not found in set_real_ip_from \"no.such.host.invalid\""),
        ("real_ip_recursive yes;", "\"real_ip_recursive\""),
        ("real_ip_header a; real_ip_header b;", "\"real_ip_header\" directive is duplicate"),
        (
            "upstream u { ip_hash; server 127.0.0.1:1; server 127.0.0.1:2 backup; }",
            "balancing method does not support parameter \"backup\"",
        ),
    ] {
        let outcome = Server::config(&format!("events {{}} http {{ {text} }}")).run(&["-t"]);
        assert!(!outcome.status.success() && outcome.stderr.contains(message), "{text}: {}", outcome.stderr);
    }
}
