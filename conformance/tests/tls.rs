//! What a TLS client sees.

use tidegate_conformance::client::{NO_TLS, Offer, alerted};
use tidegate_conformance::server::{skip_on_nginx, skip_without};
use tidegate_conformance::{Authority, Certificate, Http, Server, Setup, wait_until};

/// A server with this inside its http block, and the certificates `a` and `b`.
fn https(inside: &str) -> (Setup, Certificate, Certificate) {
    let (a, b) = (Certificate::for_names(&["a.example"]), Certificate::for_names(&["b.example"]));
    let setup = Server::config(&format!("events {{}} http {{ access_log off; {inside} }}"))
        .certificate("a", &a)
        .certificate("b", &b);
    (setup, a, b)
}

const ONE: &str =
    "server { listen 127.0.0.1:%%PORT_0%% ssl; ssl_certificate a.crt; ssl_certificate_key a.key; %%INSIDE%% }";

fn one(inside: &str) -> Server {
    https(&ONE.replace("%%INSIDE%%", inside)).0.start()
}

fn secure(server: &Server, offer: &Offer) -> Http {
    Http::over(server.connect(0).start_tls(offer))
}

#[test]
fn http_is_served_under_tls() {
    let server = one("return 200 $scheme-$https-$ssl_protocol-$ssl_server_name;");
    let mut http = secure(&server, &Offer::name("a.example"));
    assert_eq!(http.wire.tls().version, "TLSv1_3");
    assert_eq!(http.get("/").text(), "https-on-TLSv1.3-a.example");
    assert_eq!(secure(&server, &Offer::tls12("a.example")).get("/").text(), "https-on-TLSv1.2-a.example");
}

#[test]
fn the_name_in_the_hello_chooses_certificate_and_server() {
    let (setup, a, b) = https(
        "server { listen 127.0.0.1:%%PORT_0%% ssl; server_name a.example; ssl_certificate a.crt; ssl_certificate_key a.key; return 200 a; }
         server { listen 127.0.0.1:%%PORT_0%% ssl; server_name b.example; ssl_certificate b.crt; ssl_certificate_key b.key; return 200 b; }",
    );
    let server = setup.start();
    for (name, certificate, text) in [("a.example", &a, "a"), ("b.example", &b, "b"), ("unknown.example", &a, "a")] {
        let mut http = secure(&server, &Offer::name(name));
        assert!(http.wire.tls().certificate == certificate.der, "{name}");
        assert_eq!(http.ask("GET", "/", &[&format!("Host: {name}")]).text(), text, "{name}");
    }
}

#[test]
fn a_request_that_cannot_be_read_is_for_the_server_of_the_handshake() {
    let (setup, ..) = https(
        "server { listen 127.0.0.1:%%PORT_0%% ssl; server_name a.example; ssl_certificate a.crt; ssl_certificate_key a.key;
           error_page 400 = /bad; location /bad { return 200 a-bad; } location / { return 200 a; } }
         server { listen 127.0.0.1:%%PORT_0%% ssl; server_name b.example; ssl_certificate b.crt; ssl_certificate_key b.key;
           error_page 400 = /bad; location /bad { return 200 b-bad; } location / { return 200 b; } }",
    );
    let server = setup.start();
    for (name, sent, text) in [
        ("a.example", "GET / HTTP/1.0\r\n\r\n", "a"),
        ("b.example", "GET / HTTP/1.0\r\n\r\n", "a"),
        ("b.example", "garbage\r\n\r\n", "b-bad"),
        ("b.example", "get / HTTP/1.1\r\n\r\n", "b-bad"),
        ("a.example", "garbage\r\n\r\n", "a-bad"),
        ("unknown.example", "garbage\r\n\r\n", "a-bad"),
        ("B.EXAMPLE", "garbage\r\n\r\n", "b-bad"),
        ("b.example.", "garbage\r\n\r\n", "b-bad"),
    ] {
        let mut http = secure(&server, &Offer::name(name));
        http.send(sent);
        assert_eq!(http.response().text(), text, "{name} {sent:?}");
    }
}

#[test]
fn a_server_may_refuse_a_handshake() {
    let server = one(
        "server_name a.example; return 200; } server { listen 127.0.0.1:%%PORT_0%% ssl default_server; ssl_reject_handshake on;",
    );
    assert!(server.connect(0).try_start_tls(&Offer::name("other.example")).is_err());
    assert_eq!(secure(&server, &Offer::name("a.example")).ask("GET", "/", &["Host: a.example"]).status, 200);
}

#[test]
fn a_version_that_is_off_is_refused() {
    let server = one("ssl_protocols TLSv1.3; return 200;");
    assert!(server.connect(0).try_start_tls(&Offer::tls12("a.example")).is_err());
    assert_eq!(secure(&server, &Offer::name("a.example")).get("/").status, 200);
}

#[test]
fn plain_http_on_a_tls_port_is_told_so() {
    let server = one("return 200;");
    let response = server.http(0).get("/");
    assert_eq!(response.status, 400);
    assert!(response.text().contains("The plain HTTP request was sent to HTTPS port"));
}

// Differs from nginx, whose OpenSSL has no alert for some of it.
#[test]
fn a_greeting_that_cannot_be_read_is_answered_with_an_alert() {
    if skip_on_nginx("the connection is closed without an alert") {
        return;
    }
    let server = one("return 200;");
    let records = NO_TLS.iter().filter(|opening| opening.starts_with(&[0x16]));
    for opening in records.copied().chain([&b"\x80\x05hello and more"[..], &[0x16; 100_000]]) {
        let shown = opening.get(..20).unwrap_or(opening).escape_ascii();
        assert_eq!(alerted(&mut server.connect(0), opening), Ok(()), "{shown}");
    }
    assert_eq!(secure(&server, &Offer::name("a.example")).get("/").status, 200);
}

#[test]
fn the_application_protocol_is_chosen() {
    let server = one("return 200;");
    let alpn = |offers: &[&str]| secure(&server, &Offer::name("a.example").alpn(offers)).wire.tls().alpn.clone();
    assert_eq!(alpn(&["http/1.1"]).as_deref(), Some("http/1.1"));
    assert_eq!(alpn(&["h2", "http/1.1"]).as_deref(), Some("http/1.1"));
    let Some(server) = https(&ONE.replace("%%INSIDE%%", "http2 on; return 200;")).0.start_if_supported() else {
        return;
    };
    let mut offer = secure(&server, &Offer::name("a.example").alpn(&["h2", "http/1.1"]));
    assert_eq!(offer.wire.tls().alpn.as_deref(), Some("h2"));
    offer.wire.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    assert_eq!(offer.wire.exactly(4)[3], 4, "a SETTINGS frame comes first");
}

#[test]
fn a_session_is_resumed() {
    if skip_without("TLS sessions that are resumed") {
        return;
    }
    let server = one("ssl_session_cache shared:s:1m; return 200;");
    for offer in [Offer::name("a.example"), Offer::tls12("a.example")] {
        assert!(!secure(&server, &offer).wire.tls().resumed);
        secure(&server, &offer).get("/");
        let mut again = secure(&server, &offer);
        assert!(again.wire.tls().resumed);
        assert_eq!(again.get("/").status, 200);
    }
}

#[test]
fn a_client_certificate_is_asked_for_and_checked() {
    let (authority, stranger) = (Authority::named("authority"), Certificate::for_names(&["stranger"]));
    let friend = authority.issue(&["friend.example"]);
    let ask = |mode: &str, offer: &Offer| {
        let inside = format!(
            "ssl_verify_client {mode}; ssl_client_certificate ca.crt; location / {{ return 200 $ssl_client_verify-$ssl_client_s_dn; }}"
        );
        let (setup, ..) = https(&ONE.replace("%%INSIDE%%", &inside));
        let server = setup.file("ca.crt", &authority.certificate).start_if_supported()?;
        let response = secure(&server, offer).get("/");
        Some((response.status, response.text()))
    };
    let (anonymous, known) = (Offer::name("a.example"), Offer::identified("a.example", &friend));
    let Some(optional) = ask("optional", &anonymous) else { return };
    assert_eq!(optional, (200, "NONE-".to_owned()));
    assert_eq!(ask("on", &known), Some((200, "SUCCESS-CN=friend.example".to_owned())));
    let (status, text) = ask("on", &anonymous).unwrap();
    assert!(status == 400 && text.contains("No required SSL certificate was sent"), "{text}");
    let (status, text) = ask("on", &Offer::identified("a.example", &stranger)).unwrap();
    assert!(status == 400 && text.contains("The SSL certificate error"), "{text}");
}

#[test]
fn a_backend_is_reached_under_tls_and_checked_when_told_so() {
    // nginx: locations with the same address share sessions, and with them the verdict on the certificate.
    let (authority, other) = (Authority::named("authority"), Authority::named("other"));
    let (setup, ..) = https(
        "server { listen 127.0.0.1:%%PORT_0%% ssl; ssl_certificate c.crt; ssl_certificate_key c.key; return 200; }
         server { listen 127.0.0.1:%%PORT_1%%; proxy_ssl_session_reuse off; proxy_ssl_trusted_certificate ca.crt; proxy_ssl_name c.example;
           location / { proxy_pass https://127.0.0.1:%%PORT_0%%; }
           location /right { proxy_pass https://127.0.0.1:%%PORT_0%%; proxy_ssl_verify on; }
           location /wrong { proxy_pass https://127.0.0.1:%%PORT_0%%; proxy_ssl_verify on; proxy_ssl_name d.example; }
           location /stranger { proxy_pass https://127.0.0.1:%%PORT_0%%; proxy_ssl_verify on; proxy_ssl_trusted_certificate other.crt; } }",
    );
    let Some(server) = setup
        .certificate("c", &authority.issue(&["c.example"]))
        .file("ca.crt", &authority.certificate)
        .file("other.crt", &other.certificate)
        .start_if_supported()
    else {
        return;
    };
    let status = |target: &str| server.http(1).get(target).status;
    assert_eq!([status("/"), status("/right"), status("/wrong"), status("/stranger")], [200, 200, 502, 502]);
}

#[test]
fn a_certificate_is_replaced_by_a_reload() {
    let (setup, a, b) = https(&ONE.replace("%%INSIDE%%", "return 200;"));
    let mut server = setup.start();
    let seen = |server: &Server| server.connect(0).start_tls(&Offer::name("a.example")).tls().certificate.clone();
    assert!(seen(&server) == a.der);
    // Moved into place, as tools that renew certificates do: nginx keeps a file of the same inode and second.
    server.write("a.crt", &b.certificate);
    server.write("a.key", &b.key);
    server.reload();
    wait_until("the new certificate is shown", || (seen(&server) == b.der).then_some(()));
}

#[test]
fn starttls_secures_an_imap_session() {
    let certificate = Certificate::for_names(&["mail.example"]);
    let server = Server::config(
        "events {} mail { auth_http 127.0.0.1:1/none; server { listen 127.0.0.1:%%PORT_0%%; protocol imap; starttls on;
         ssl_certificate c.crt; ssl_certificate_key c.key; } }",
    )
    .certificate("c", &certificate)
    .start();
    let mut wire = server.connect(0);
    assert!(wire.line().starts_with("* OK"));
    assert!(wire.ask("a CAPABILITY").contains("STARTTLS"));
    assert!(wire.line().starts_with("a OK"));
    assert!(wire.ask("b STARTTLS").starts_with("b OK"));
    let mut wire = wire.start_tls(&Offer::name("mail.example"));
    assert!(wire.tls().certificate == certificate.der);
    assert!(!wire.ask("c CAPABILITY").contains("STARTTLS"));
    assert!(wire.line().starts_with("c OK"));
}
