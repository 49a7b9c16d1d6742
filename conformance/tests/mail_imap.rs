//! What an IMAP client, its backend and the login service see of the mail proxy.

use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tidegate_conformance::backend::{AuthAnswer, AuthHttp, DeafBackend, ImapBackend, Reply, TcpBackend};
use tidegate_conformance::client::{NO_TLS, Offer, alerted};
use tidegate_conformance::peers::Dovecot;
use tidegate_conformance::processes::connections;
use tidegate_conformance::server::skip_on_nginx;
use tidegate_conformance::{Certificate, Port, Server, Setup, Wire, wait_until};

/// A front end with this inside its server block, which asks `auth` about logins.
fn front(auth: &AuthHttp, inside: &str) -> Setup {
    Server::config(
        "events {} mail { auth_http %%AUTH%%/auth; server { listen 127.0.0.1:%%PORT_0%%; protocol imap; %%INSIDE%% } }",
    )
    .set("INSIDE", inside)
    .set("AUTH", auth.address())
}

/// A front end, `alice` with the password `pw`, and the backend that serves her.
fn alice(inside: &str) -> (Server, AuthHttp, ImapBackend) {
    let backend = ImapBackend::start("backend");
    let auth = AuthHttp::one_user("alice", "pw", backend.port());
    (front(&auth, inside).start(), auth, backend)
}

/// A connection that has read the greeting.
fn greeted(server: &Server) -> Wire {
    let mut wire = server.connect(0);
    assert!(wire.line().starts_with("* OK"));
    wire
}

#[test]
fn a_user_is_logged_in_at_the_backend() {
    let (server, auth, backend) = alice("");
    let mut wire = greeted(&server);
    assert_eq!(wire.ask("a1 LOGIN alice pw"), "a1 OK logged in at backend");
    assert_eq!(wire.ask("a2 NOOP"), "* OK backend");
    assert_eq!(wire.line(), "a2 OK done");
    assert_eq!(backend.logins(), [("alice".to_owned(), "pw".to_owned())]);
    let question = auth.questions().remove(0);
    assert_eq!((question.field("Auth-Method"), question.field("Auth-Protocol")), ("plain", "imap"));
    assert_eq!((question.field("Auth-Login-Attempt"), question.field("Client-IP")), ("1", "127.0.0.1"));
    assert_eq!(question.target, "/auth");
}

#[test]
fn words_of_a_login_may_be_quoted_or_literal() {
    let (server, _auth, _backend) = alice("");
    assert_eq!(greeted(&server).ask(r#"a LOGIN "alice" "pw""#), "a OK logged in at backend");
    let mut wire = greeted(&server);
    assert!(wire.ask("b LOGIN {5}").starts_with("+ "));
    assert!(wire.ask("alice {2}").starts_with("+ "));
    assert_eq!(wire.ask("pw"), "b OK logged in at backend");
    let mut wire = greeted(&server);
    wire.send("c LOGIN {5+}\r\nalice {2+}\r\npw\r\n");
    assert_eq!(wire.line(), "c OK logged in at backend");
}

#[test]
fn sasl_plain_and_login_log_in() {
    let (server, auth, _backend) = alice("imap_auth plain login;");
    assert_eq!(greeted(&server).ask("a AUTHENTICATE PLAIN AGFsaWNlAHB3"), "a OK logged in at backend");
    let mut wire = greeted(&server);
    assert!(wire.ask("b AUTHENTICATE PLAIN").starts_with("+ "));
    assert_eq!(wire.ask("AGFsaWNlAHB3"), "b OK logged in at backend");
    let mut wire = greeted(&server);
    assert_eq!(wire.ask("c AUTHENTICATE LOGIN"), "+ VXNlcm5hbWU6");
    assert_eq!(wire.ask("YWxpY2U="), "+ UGFzc3dvcmQ6");
    assert_eq!(wire.ask("cHc="), "c OK logged in at backend");
    assert_eq!(auth.questions().len(), 3);
}

#[test]
fn cram_md5_is_passed_to_the_login_service() {
    let backend = ImapBackend::start("backend");
    let port = backend.port();
    let auth = AuthHttp::start(move |question| {
        assert_eq!(question.field("Auth-Method"), "cram-md5");
        assert!(question.field("Auth-Salt").starts_with('<'));
        AuthAnswer::Backend { server: "127.0.0.1".into(), port, lines: vec!["Auth-Pass: real".into()] }
    });
    let server = front(&auth, "imap_auth cram-md5;").start();
    let mut wire = greeted(&server);
    assert!(wire.ask("a AUTHENTICATE CRAM-MD5").starts_with("+ "));
    // "alice 0123456789abcdef0123456789abcdef"
    let answer = wire.ask("YWxpY2UgMDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=");
    assert_eq!(answer, "a OK logged in at backend");
    assert_eq!(backend.logins(), [("alice".to_owned(), "real".to_owned())]);
}

#[test]
fn capabilities_are_those_that_work_here() {
    let (server, _auth, _backend) = alice("imap_capabilities IMAP4rev1 X-ONE; imap_auth plain login;");
    let mut wire = greeted(&server);
    assert_eq!(wire.ask("a CAPABILITY"), "* CAPABILITY IMAP4rev1 X-ONE AUTH=PLAIN AUTH=LOGIN");
    assert_eq!(wire.line(), "a OK completed");
}

#[test]
fn a_wrong_password_may_be_tried_again() {
    let (server, auth, _backend) = alice("");
    let mut wire = greeted(&server);
    assert_eq!(wire.ask("a LOGIN alice wrong"), "a NO Invalid login or password");
    assert_eq!(wire.ask("b LOGIN alice pw"), "b OK logged in at backend");
    let attempts: Vec<String> =
        auth.questions().iter().map(|asked| asked.field("Auth-Login-Attempt").to_owned()).collect();
    assert_eq!(attempts, ["1", "2"]);
}

#[test]
fn a_refusal_without_a_wait_ends_the_session() {
    let auth = AuthHttp::start(|_| AuthAnswer::Refuse("Go away".into()));
    let server = front(&auth, "").start();
    let mut wire = greeted(&server);
    assert_eq!(wire.ask("a LOGIN alice pw"), "a NO Go away");
    assert!(wire.at_end());
}

#[test]
fn the_login_service_may_change_user_and_password() {
    let backend = ImapBackend::start("backend");
    let port = backend.port();
    let auth = AuthHttp::start(move |_| AuthAnswer::Backend {
        server: "127.0.0.1".into(),
        port,
        lines: vec!["Auth-User: other".into(), "Auth-Pass: secret".into()],
    });
    let server = front(&auth, "").start();
    assert_eq!(greeted(&server).ask("a LOGIN alice pw"), "a OK logged in at backend");
    assert_eq!(backend.logins(), [("other".to_owned(), "secret".to_owned())]);
}

#[test]
fn users_are_sent_to_their_own_backends() {
    let (one, two) = (ImapBackend::start("one"), ImapBackend::start("two"));
    let (first, second) = (one.port(), two.port());
    let auth = AuthHttp::start(move |question| {
        let port = if question.field("Auth-User") == "alice" { first } else { second };
        AuthAnswer::Backend { server: "127.0.0.1".into(), port, lines: Vec::new() }
    });
    let server = front(&auth, "").start();
    assert_eq!(greeted(&server).ask("a LOGIN alice x"), "a OK logged in at one");
    assert_eq!(greeted(&server).ask("a LOGIN bob x"), "a OK logged in at two");
}

#[test]
fn special_letters_reach_the_login_service_encoded() {
    let auth = AuthHttp::start(|_| AuthAnswer::Refuse("no".into()));
    let server = front(&auth, "").start();
    greeted(&server).ask(r#"a LOGIN "al ice" "p%w d""#);
    let question = auth.questions().remove(0);
    assert_eq!((question.field("Auth-User"), question.field("Auth-Pass")), ("al%20ice", "p%25w%20d"));
}

#[test]
fn more_fields_are_sent_to_the_login_service_when_told_so() {
    let auth = AuthHttp::start(|_| AuthAnswer::Refuse("no".into()));
    let server = front(&auth, "auth_http_header X-Key secret;").start();
    greeted(&server).ask("a LOGIN alice pw");
    assert_eq!(auth.questions()[0].field("X-Key"), "secret");
}

#[test]
fn a_login_service_that_is_down_is_an_internal_error() {
    let port = Port::claim();
    let server =
        Server::config("events {} mail { auth_http %%AUTH%%; server { listen 127.0.0.1:%%PORT_0%%; protocol imap; } }")
            .set("AUTH", port.address())
            .start();
    let mut wire = greeted(&server);
    assert_eq!(wire.ask("a LOGIN alice pw"), "* BAD internal server error");
    assert!(wire.at_end());
    server.wait_for_log(r"\(111: Connection refused\) while in http auth state");
}

#[test]
fn a_login_service_that_is_silent_times_out() {
    let auth = AuthHttp::start(|_| AuthAnswer::Raw(Reply::silence()));
    let server = front(&auth, "auth_http_timeout 1s;").start();
    let mut wire = greeted(&server);
    assert_eq!(wire.ask("a LOGIN alice pw"), "* BAD internal server error");
    assert!(wire.at_end());
}

#[test]
fn a_backend_that_is_down_is_an_internal_error() {
    let port = Port::claim();
    let auth = AuthHttp::one_user("alice", "pw", port.number());
    let server = front(&auth, "").start();
    let mut wire = greeted(&server);
    assert_eq!(wire.ask("a LOGIN alice pw"), "* BAD internal server error");
    assert!(wire.at_end());
}

#[test]
fn what_a_backend_says_of_a_login_is_passed_on_when_told_so() {
    let backend = TcpBackend::start(|mut wire, _| {
        wire.send("* OK ready\r\n");
        while let Ok(Some(line)) = wire.try_line() {
            let refused = !line.ends_with('}');
            let sent = wire.try_send(if refused { "a NO mailbox is locked\r\n" } else { "+ go on\r\n" });
            if refused || sent.is_err() {
                return;
            }
        }
    });
    let auth = AuthHttp::one_user("alice", "pw", backend.port());
    let answer = |inside: &str| greeted(&front(&auth, inside).start()).ask("a LOGIN alice pw");
    assert_eq!(answer("proxy_pass_error_message on;"), "a NO mailbox is locked");
    assert_eq!(answer(""), "* BAD internal server error");
}

/// A backend that says one thing after the other: each when it has read so many lines more.
fn backend_saying(script: &'static [(usize, &'static str)]) -> TcpBackend {
    TcpBackend::start(move |mut wire, _| {
        for (lines, words) in script {
            for _ in 0..*lines {
                let Ok(Some(_)) = wire.try_line() else { return };
            }
            if wire.try_send(words).is_err() {
                return;
            }
        }
        while let Ok(Some(_)) = wire.try_line() {}
    })
}

// Differs from nginx, which throws away what came too early.
#[test]
fn what_a_backend_says_before_it_was_asked_is_no_answer() {
    if skip_on_nginx("what a backend says too early is dropped") {
        return;
    }
    for script in [
        &[(0, "* OK ready\r\n+ \r\n+ \r\na OK in\r\n")][..],
        &[(0, "* OK ready\r\na OK in\r\n")],
        &[(0, "* OK ready\r\n+ ")],
        &[(0, "* OK ready\r\n* 1 EXISTS\r\n+ \r\n"), (1, ""), (1, "+ \r\n"), (1, "a OK in\r\n")],
        &[(0, "* OK ready\r\n"), (1, "+ \r\n+ \r\na OK in\r\n")],
        &[(0, "* OK ready\r\n"), (1, "+ \r\n"), (1, "+ \r\na OK in\r\n")],
        &[(0, "* OK ready\r\n"), (1, "+ \r\n"), (1, "+ \r\na NO out\r\n")],
    ] {
        let backend = backend_saying(script);
        let auth = AuthHttp::one_user("alice", "pw", backend.port());
        let server = front(&auth, "proxy_pass_error_message on;").start();
        let mut wire = greeted(&server);
        assert_eq!(wire.ask("a LOGIN alice pw"), "* BAD internal server error", "{script:?}");
        assert!(wire.at_end(), "{script:?}");
        server.wait_for_log("upstream sent a response before it was asked: .* while reading response from upstream");
        wait_until("the backend is let go", || (backend.open() == 0).then_some(()));
        // It has failed, and so rests.
        let mut wire = greeted(&server);
        assert_eq!(wire.ask("b LOGIN alice pw"), "* BAD internal server error", "{script:?}");
        server.wait_for_log("no live upstreams");
        assert_eq!(backend.accepted(), 1, "{script:?}");
    }
}

#[test]
fn what_a_backend_may_say_at_any_time_is_no_answer_either() {
    for script in [
        &[(0, "* OK ready\r\n"), (1, "+ \r\n"), (1, "+ \r\n"), (1, "a OK in\r\n")][..],
        &[(0, "* OK ready\r\n* CAPABILITY IMAP4rev1\r\n"), (1, "+ \r\n"), (1, "+ \r\n"), (1, "a OK in\r\n")],
        &[(0, "* OK ready\r\n* X\r\n* Y\r\n"), (1, "+ \r\n* Z\r\n"), (1, "+ \r\n"), (1, "a OK in\r\n")],
        &[(0, "* OK ready\r\n"), (1, "+ \r\n"), (1, "+ \r\n* 1 EXISTS\r\n"), (1, "a OK in\r\n")],
    ] {
        let backend = backend_saying(script);
        let auth = AuthHttp::one_user("alice", "pw", backend.port());
        let server = front(&auth, "").start();
        assert_eq!(greeted(&server).ask("a LOGIN alice pw"), "a OK in", "{script:?}");
    }
}

#[test]
fn a_wait_that_makes_no_sense_is_ignored() {
    for wait in ["soon", "-1", "1.5", "18446744073709551616", "99999999999999999999"] {
        let line = format!("Auth-Wait: {wait}");
        let auth = AuthHttp::start(move |_| {
            AuthAnswer::Raw(Reply::status("200 OK", &["Auth-Status: no", &line], "").closing())
        });
        let server = front(&auth, "").start();
        let mut wire = greeted(&server);
        assert_eq!(wire.ask("a LOGIN alice pw"), "a NO no", "{wait}");
        assert!(wire.at_end(), "{wait}");
    }
}

// Differs from nginx, which waits for 30 years.
#[test]
fn a_wait_of_more_than_an_hour_is_ignored() {
    if skip_on_nginx("it waits") {
        return;
    }
    for wait in ["3601", "86401", "1000000000", "4294967296"] {
        let line = format!("Auth-Wait: {wait}");
        let auth = AuthHttp::start(move |_| {
            AuthAnswer::Raw(Reply::status("200 OK", &["Auth-Status: no", &line], "").closing())
        });
        let server = front(&auth, "").start();
        let mut wire = greeted(&server);
        assert_eq!(wire.ask("a LOGIN alice pw"), "a NO no", "{wait}");
        assert!(wire.at_end(), "{wait}");
    }
}

#[test]
fn what_the_login_service_decides_holds_whatever_its_status() {
    let backend = ImapBackend::start("backend");
    for status in ["200 OK", "302 Found", "403 Forbidden", "500 Internal Server Error", "502 Bad Gateway", "503 Busy"] {
        let port = format!("Auth-Port: {}", backend.port());
        let auth = AuthHttp::start(move |question| {
            let lines: &[&str] = match question.field("Auth-User") {
                "alice" => &["Auth-Status: OK", "Auth-Server: 127.0.0.1", &port],
                "bob" => &["Auth-Status: no"],
                "carol" => &["Auth-Status: later", "Auth-Wait: 1"],
                _ => &[],
            };
            AuthAnswer::Raw(Reply::status(status, lines, "").closing())
        });
        let server = front(&auth, "").start();
        assert_eq!(greeted(&server).ask("a LOGIN alice pw"), "a OK logged in at backend", "{status}");
        assert_eq!(greeted(&server).ask("a LOGIN bob pw"), "a NO no", "{status}");
        let mut wire = greeted(&server);
        assert_eq!(wire.ask("a LOGIN carol pw"), "a NO later", "{status}");
        assert!(wire.ask("b NOOP").starts_with("b OK"), "{status}");
        assert_eq!(greeted(&server).ask("a LOGIN dave pw"), "* BAD internal server error", "{status}");
    }
}

/// A front end that speaks TLS from the beginning.
fn alice_in_tls(inside: &str) -> (Server, AuthHttp, ImapBackend) {
    let backend = ImapBackend::start("backend");
    let auth = AuthHttp::one_user("alice", "pw", backend.port());
    let setup = Server::config(
        "events {} mail { auth_http %%AUTH%%; ssl_certificate c.crt; ssl_certificate_key c.key;
         server { listen 127.0.0.1:%%PORT_0%% ssl; protocol imap; %%INSIDE%% } }",
    )
    .set("INSIDE", inside)
    .set("AUTH", auth.address())
    .certificate("c", &Certificate::for_names(&["mail.example"]));
    (setup.start(), auth, backend)
}

// Differs from nginx, whose OpenSSL has no alert for most of it.
#[test]
fn plain_text_on_a_tls_port_is_answered_with_an_alert() {
    if skip_on_nginx("the connection is closed without an alert") {
        return;
    }
    let (server, _auth, _backend) = alice_in_tls("");
    for text in NO_TLS {
        assert_eq!(alerted(&mut server.connect(0), text), Ok(()), "{}", text.escape_ascii());
    }
    assert_eq!(alerted(&mut server.connect(0), &[b'x'; 100_000]), Ok(()));
    assert!(server.connect(0).start_tls(&Offer::name("mail.example")).line().starts_with("* OK"));
}

// Differs from nginx, whose OpenSSL has no alert for most of it.
#[test]
fn plain_text_after_starttls_is_answered_with_an_alert() {
    if skip_on_nginx("the connection is closed without an alert") {
        return;
    }
    let (server, _auth, _backend) = alice_with_starttls("on");
    for text in NO_TLS {
        let mut wire = greeted(&server);
        assert!(wire.ask("a STARTTLS").starts_with("a OK"));
        assert_eq!(alerted(&mut wire, text), Ok(()), "{}", text.escape_ascii());
    }
}

#[test]
fn a_tls_client_that_reads_nothing_is_closed_at_proxy_timeout() {
    const ESTABLISHED: u8 = 1;
    for offer in [Offer::name("mail.example"), Offer::tls12("mail.example")] {
        for size in [30_000_000, 60_000_000] {
            let (server, _auth, backend) = alice_in_tls("proxy_timeout 1s;");
            let mut wire = server.connect(0).start_tls(&offer);
            wire.line();
            wire.ask("a LOGIN alice pw");
            wire.send_line(&format!("b FILL {size}"));
            let client = wire.local_address().port();
            let open =
                || connections().any(|(own, peer, state)| (own, peer, state) == (server.port(0), client, ESTABLISHED));
            assert!(open());
            wait_until("the backend is let go", || (backend.open() == 0).then_some(()));
            let over = Instant::now();
            wait_until("the client is closed", || (!open()).then_some(()));
            assert!(over.elapsed() < Duration::from_secs(3), "{size}: {:?} late", over.elapsed());
        }
    }
}

/// How a client leaves while somebody is waited for.
#[derive(Clone, Copy, Debug)]
enum Leaving {
    Closing,
    Breaking,
}

// Differs from nginx, which does not look.
#[test]
fn a_client_that_leaves_frees_what_is_being_connected_for_it() {
    if skip_on_nginx("a client that leaves is not noticed") {
        return;
    }
    let deaf = DeafBackend::start();
    let auth = AuthHttp::one_user("alice", "pw", deaf.port());
    for (authority, leaving, words) in [
        (auth.address(), Leaving::Closing, 0),
        (auth.address(), Leaving::Closing, 100),
        (auth.address(), Leaving::Breaking, 0),
        (auth.address(), Leaving::Breaking, 100_000),
        (deaf.address(), Leaving::Closing, 0),
        (deaf.address(), Leaving::Closing, 100),
        (deaf.address(), Leaving::Breaking, 0),
        (deaf.address(), Leaving::Breaking, 100_000),
    ] {
        let server = Server::config(
            "events {} mail { auth_http %%AUTH%%; access_log m.log; server { listen 127.0.0.1:%%PORT_0%%; protocol imap; } }",
        )
        .set("AUTH", &authority)
        .start();
        let mut wire = greeted(&server);
        wire.send_line("a LOGIN alice pw");
        wire.send(vec![b'x'; words]);
        wait_until("a connection is being made", || (deaf.connecting() == 1).then_some(()));
        let left = Instant::now();
        match leaving {
            Leaving::Closing => drop(wire),
            Leaving::Breaking => wire.abort(),
        }
        server.wait_for_lines("m.log", 1);
        wait_until("both are free", || (deaf.connecting() == 0).then_some(()));
        assert!(left.elapsed() < Duration::from_secs(5), "{authority} {leaving:?} {words}: {:?}", left.elapsed());
    }
}

#[test]
fn logout_says_goodbye() {
    let (server, _auth, _backend) = alice("");
    let mut wire = greeted(&server);
    assert!(wire.ask("a LOGOUT").starts_with("* BYE"));
    assert!(wire.line().starts_with("a OK"));
    assert!(wire.at_end());
}

#[test]
fn unknown_commands_are_bad_until_there_are_too_many() {
    let (server, _auth, _backend) = alice("max_errors 3;");
    let mut wire = greeted(&server);
    assert_eq!(wire.ask("a NONSENSE"), "a BAD invalid command");
    assert_eq!(wire.ask("b SELECT inbox"), "b BAD invalid command");
    assert!(wire.ask("c NONSENSE").contains("BAD invalid command"));
    assert!(wire.at_end());
}

#[test]
fn commands_may_arrive_byte_by_byte() {
    let (server, _auth, _backend) = alice("");
    let mut wire = greeted(&server);
    for byte in b"a LOGIN {5}\r\n" {
        wire.send([*byte]);
    }
    assert!(wire.line().starts_with("+ "));
    for byte in b"alice pw\r\n" {
        wire.send([*byte]);
    }
    assert_eq!(wire.line(), "a OK logged in at backend");
}

#[test]
fn commands_may_be_pipelined() {
    let (server, _auth, _backend) = alice("");
    let mut wire = greeted(&server);
    wire.send("a NOOP\r\nb NOOP\r\nc LOGIN alice pw\r\n");
    let lines = [wire.line(), wire.line(), wire.line()];
    assert!(lines[0].starts_with("a OK") && lines[1].starts_with("b OK"), "{lines:?}");
    assert_eq!(lines[2], "c OK logged in at backend");
}

#[test]
fn a_silent_client_is_cut_off() {
    let (server, _auth, _backend) = alice("timeout 1s;");
    let mut wire = greeted(&server);
    assert!(wire.at_end());
}

#[test]
fn a_lot_of_mail_arrives_whole() {
    let (server, _auth, _backend) = alice("");
    let mut wire = greeted(&server);
    wire.ask("a LOGIN alice pw");
    let line = wire.ask("b FILL 3000000");
    assert_eq!(line.len(), 3_000_002);
    assert_eq!(wire.line(), "b OK done");
}

#[test]
fn a_session_ends_on_both_sides_when_one_goes_away() {
    let (server, _auth, backend) = alice("");
    let mut wire = greeted(&server);
    wire.ask("a LOGIN alice pw");
    drop(wire);
    wait_until("the backend is let go", || (backend.open() == 0).then_some(()));
    let mut wire = greeted(&server);
    wire.ask("a LOGIN alice pw");
    assert_eq!(wire.ask("b LOGOUT"), "* BYE backend");
    assert_eq!(wire.line(), "b OK done");
    assert!(wire.at_end());
}

#[test]
fn a_session_lives_on_after_a_reload() {
    let (mut server, _auth, _backend) = alice("");
    let mut wire = greeted(&server);
    wire.ask("a LOGIN alice pw");
    server.reload();
    assert_eq!(wire.ask("b NOOP"), "* OK backend");
}

#[test]
fn quit_waits_for_a_session() {
    let (mut server, _auth, _backend) = alice("");
    let mut wire = greeted(&server);
    wire.ask("a LOGIN alice pw");
    server.signal(Signal::SIGQUIT);
    assert_eq!(wire.ask("b NOOP"), "* OK backend");
    assert_eq!(wire.line(), "b OK done");
    drop(wire);
    assert!(server.wait().success());
}

#[test]
fn the_proxy_protocol_names_the_client() {
    let auth = AuthHttp::start(|_| AuthAnswer::Refuse("no".into()));
    let Some(server) = Server::config(
        "events {} mail { auth_http %%AUTH%%; server { listen 127.0.0.1:%%PORT_0%% proxy_protocol; protocol imap;
         set_real_ip_from 127.0.0.1/32; } }",
    )
    .set("AUTH", auth.address())
    .start_if_supported() else {
        return;
    };
    let mut wire = server.connect(0);
    wire.send("PROXY TCP4 192.0.2.7 192.0.2.8 1234 143\r\n");
    assert!(wire.line().starts_with("* OK"));
    wire.ask("a LOGIN alice pw");
    let question = auth.questions().remove(0);
    assert_eq!((question.field("Client-IP"), question.field("Proxy-Protocol-Addr")), ("192.0.2.7", "192.0.2.7"));
}

/// A front end that speaks TLS after STARTTLS.
fn alice_with_starttls(mode: &str) -> (Server, AuthHttp, ImapBackend) {
    let backend = ImapBackend::start("backend");
    let auth = AuthHttp::one_user("alice", "pw", backend.port());
    let inside = format!("starttls {mode}; ssl_certificate c.crt; ssl_certificate_key c.key; max_errors 10;");
    let setup = front(&auth, &inside).certificate("c", &Certificate::for_names(&["mail.example"]));
    (setup.start(), auth, backend)
}

#[test]
fn a_user_logs_in_after_starttls() {
    let (server, auth, _backend) = alice_with_starttls("on");
    let mut wire = greeted(&server);
    assert!(wire.ask("a STARTTLS").starts_with("a OK"));
    let mut wire = wire.start_tls(&Offer::name("mail.example"));
    assert_eq!(wire.ask("b LOGIN alice pw"), "b OK logged in at backend");
    assert_eq!(auth.questions()[0].field("Auth-SSL"), "on");
}

#[test]
fn a_login_in_clear_is_refused_when_tls_is_a_must() {
    let (server, auth, _backend) = alice_with_starttls("only");
    let mut wire = greeted(&server);
    let capabilities = wire.ask("a CAPABILITY");
    assert!(capabilities.contains("STARTTLS LOGINDISABLED"), "{capabilities}");
    assert!(wire.line().starts_with("a OK"));
    assert_eq!(wire.ask("b LOGIN alice pw"), "b BAD invalid command");
    assert_eq!(wire.ask("c AUTHENTICATE PLAIN AGFsaWNlAHB3"), "c BAD invalid command");
    assert!(auth.questions().is_empty());
}

#[test]
fn what_is_smuggled_in_behind_starttls_is_not_heard() {
    let (server, auth, _backend) = alice_with_starttls("on");
    let mut wire = greeted(&server);
    wire.send("a STARTTLS\r\nb LOGIN alice pw\r\n");
    assert!(wire.line().starts_with("a OK"));
    // The connection may end here instead.
    if let Ok(mut wire) = wire.try_start_tls(&Offer::name("mail.example")) {
        assert!(wire.ask("c NOOP").starts_with("c OK"));
    }
    assert!(auth.questions().is_empty());
}

// Differs from nginx, which asks the login service as "external" although it is not enabled.
#[test]
fn external_is_refused_unless_enabled() {
    if skip_on_nginx("AUTHENTICATE EXTERNAL with an initial response is let through") {
        return;
    }
    let (server, auth, _backend) = alice("");
    let answer = greeted(&server).ask("a AUTHENTICATE EXTERNAL YWxpY2U=");
    assert!(answer.starts_with("a NO") || answer.starts_with("a BAD"), "{answer}");
    assert!(auth.questions().is_empty());
}

// Differs from nginx, which answers an empty line with what is left of an earlier tag.
#[test]
fn nothing_of_a_failed_login_is_left_behind() {
    if skip_on_nginx("an empty line after a failed login is answered with a piece of it") {
        return;
    }
    let (server, _auth, _backend) = alice("");
    let mut wire = greeted(&server);
    wire.ask("foobar LOGIN alice wrong");
    wire.send("\r\n");
    // Whether an empty line is answered is left open; sent together, the two lines are not told apart from a command.
    wire.is_silent_for(Duration::from_millis(300));
    wire.send("b NOOP\r\n");
    let lines = wire.lines_until("b OK");
    assert!(!lines.iter().any(|line| line.contains("obar")), "{lines:?}");
}

// Differs from nginx, which asks again at once, for ever.
#[test]
fn a_login_service_that_says_wait_is_not_asked_in_a_storm() {
    if skip_on_nginx("WAIT without a time makes it ask again without end") {
        return;
    }
    let auth = AuthHttp::start(|_| AuthAnswer::Refuse("WAIT".into()));
    let server = front(&auth, "").start();
    let mut wire = greeted(&server);
    wire.send_line("a LOGIN alice pw");
    wire.is_silent_for(Duration::from_secs(2));
    assert!(auth.questions().len() <= 4, "{} questions", auth.questions().len());
}

// Differs from nginx, which gives up on more than 1,024 bytes, at once or after auth_http_timeout.
#[test]
fn a_long_answer_of_the_login_service_is_understood() {
    if skip_on_nginx("an answer of more than a kilobyte is an internal error") {
        return;
    }
    let backend = ImapBackend::start("backend");
    let port = backend.port();
    let auth = AuthHttp::start(move |_| AuthAnswer::Backend {
        server: "127.0.0.1".into(),
        port,
        lines: (0..10).map(|number| format!("X-Field-{number}: {}", "x".repeat(400))).collect(),
    });
    let server = front(&auth, "").start();
    assert_eq!(greeted(&server).ask("a LOGIN alice pw"), "a OK logged in at backend");
}

#[test]
fn a_line_end_in_a_user_name_is_no_command() {
    let (server, auth, backend) = alice("");
    // "\0alice\r\nb LOGOUT\0pw"
    let answer = greeted(&server).ask("a AUTHENTICATE PLAIN AGFsaWNlDQpiIExPR09VVABwdw==");
    assert!(answer.starts_with("a NO") || answer.starts_with("a BAD"), "{answer}");
    assert!(auth.questions().iter().all(|question| question.field("Auth-User") == "alice%0D%0Ab%20LOGOUT"));
    assert_eq!(backend.accepted(), 0);
}

// Differs from nginx, which writes a command that is too long into its log, with the password in it.
#[test]
fn a_password_is_not_logged() {
    if skip_on_nginx("a command that is too long is logged with its arguments") {
        return;
    }
    let (server, auth, _backend) = alice("imap_client_buffer 1k;");
    let mut wire = greeted(&server);
    wire.send(format!("a LOGIN alice hunter2{}\r\n", "x".repeat(2_000)));
    wire.rest();
    assert!(auth.questions().is_empty());
    server.wait_for_log("too long");
    assert!(!server.read("error.log").contains("hunter2"), "{}", server.read("error.log"));
}

#[test]
fn many_sessions_at_once_are_all_served() {
    let (server, _auth, backend) = alice("");
    thread::scope(|scope| {
        for number in 0..50 {
            let server = &server;
            scope.spawn(move || {
                let mut wire = greeted(server);
                assert_eq!(
                    wire.ask(&format!("t{number} LOGIN alice pw")),
                    format!("t{number} OK logged in at backend")
                );
                assert_eq!(wire.ask("n NOOP"), "* OK backend");
            });
        }
    });
    assert_eq!(backend.logins().len(), 50);
}

#[test]
fn dovecot_is_reached_through_the_proxy() {
    let Some(dovecot) = Dovecot::start() else { return };
    let auth = AuthHttp::one_user("alice", "pw", dovecot.imap_port());
    let server = front(&auth, "starttls only; ssl_certificate c.crt; ssl_certificate_key c.key;")
        .certificate("c", &Certificate::for_names(&["mail.example"]))
        .start();
    let mut wire = greeted(&server);
    assert!(wire.ask("a STARTTLS").starts_with("a OK"));
    let mut wire = wire.start_tls(&Offer::name("mail.example"));
    wire.send_line("b LOGIN alice pw");
    assert!(wire.lines_until("b ").last().is_some_and(|line| line.starts_with("b OK")), "{}", dovecot.log());
    wire.send_line("c APPEND INBOX {24}");
    assert!(wire.line().starts_with('+'));
    wire.send("Subject: tide\r\n\r\nhello\r\n\r\n");
    assert!(wire.lines_until("c ").last().is_some_and(|line| line.starts_with("c OK")), "{}", dovecot.log());
    wire.send_line("d SELECT INBOX");
    let lines = wire.lines_until("d ");
    assert!(lines.contains(&"* 1 EXISTS".to_owned()), "{lines:?}");
    wire.send_line("e FETCH 1 BODY[TEXT]");
    assert!(wire.lines_until("e ").contains(&"hello".to_owned()));
}
