//! State that workers share: it is one for all of them, outlives reloads, and forgets what a killed worker had.

use nix::sys::signal::Signal;
use tidegate_conformance::backend::{HttpBackend, TcpBackend};
use tidegate_conformance::client::Wire;
use tidegate_conformance::server::{signal_to, skip_on_nginx};
use tidegate_conformance::{Server, wait_until};

const ONE_SESSION: &str = "worker_processes 2; events {}
     stream { limit_conn_zone $binary_remote_addr zone=z:1m; limit_conn z 1;
      server { listen 127.0.0.1:%%PORT_0%%; proxy_pass %%BACKEND%%; } }";

fn one_session(backend: &TcpBackend) -> Server {
    Server::config(ONE_SESSION).set("BACKEND", backend.address()).start()
}

/// A session that is served, when there is room for one.
fn session(server: &Server) -> Wire {
    wait_until("a session is served", || {
        let mut wire = server.connect(0);
        let sent = wire.try_send("in\r\n");
        (sent.is_ok() && matches!(wire.try_line(), Ok(Some(line)) if line == "in")).then_some(wire)
    })
}

fn requests(rate: &str, key: &str) -> String {
    format!(
        "worker_processes 4; events {{}} http {{ access_log off; limit_req_zone {key} zone=z:1m rate={rate};
         server {{ listen 127.0.0.1:%%PORT_0%%; location / {{ limit_req zone=z; return 204; }}
                  location /limited {{ limit_req zone=z; try_files /n =204; }} }} }}"
    )
}

#[test]
fn what_a_killed_worker_counted_is_forgotten() {
    if skip_on_nginx("the connections of a killed worker count for ever") {
        return;
    }
    let backend = TcpBackend::echo();
    let server = one_session(&backend);
    for _ in 0..5 {
        let held = session(&server);
        assert!(server.connect(0).at_end(), "one is enough");
        // Only one of them has the session, and both are replaced.
        let workers = server.workers();
        workers.iter().for_each(|pid| signal_to(*pid, Signal::SIGKILL));
        server.wait_until_gone(&workers);
        drop(held);
        wait_until("both are replaced", || (server.workers().len() == 2).then_some(()));
    }
    session(&server);
}

#[test]
fn sessions_of_old_workers_count_after_a_reload() {
    let backend = TcpBackend::echo();
    let mut server = one_session(&backend);
    let mut held = session(&server);
    let old = server.workers();
    server.reload();
    assert!(server.connect(0).at_end(), "one is enough");
    assert_eq!(held.ask("still"), "still");
    drop(held);
    session(&server);
    server.wait_until_gone(&old);
}

#[test]
fn a_rate_is_one_for_all_workers_and_outlives_reloads() {
    let mut server = Server::start(&requests("1r/m", "$arg_k"));
    assert_eq!(server.http(0).get("/limited?k=a").status, 204);
    for _ in 0..20 {
        assert_eq!(server.http(0).get("/limited?k=a").status, 503);
    }
    server.reload();
    assert_eq!(server.http(0).get("/limited?k=a").status, 503);
    assert_eq!(server.http(0).get("/limited?k=b").status, 204);
}

#[test]
fn a_key_as_long_as_can_be_is_limited_too() {
    let server = Server::start(&requests("1r/m", "$arg_k"));
    let long = "k".repeat(4000);
    let ask = |end: &str| server.http(0).get(&format!("/limited?k={long}{end}")).status;
    assert_eq!([ask("a"), ask("b"), ask("a"), ask("b")], [204, 204, 503, 503]);
}

#[test]
fn a_zone_does_not_change_its_key_while_it_is_in_use() {
    let server = Server::start(&requests("1r/m", "$arg_k"));
    assert_eq!(server.http(0).get("/limited?k=a").status, 204);
    let text = server.read("nginx.conf").replace("$arg_k", "$arg_j");
    server.write("nginx.conf", text);
    server.signal(Signal::SIGHUP);
    server.wait_for_log(r#"\[emerg\] .*"z""#);
    assert_eq!(server.http(0).get("/limited?k=a").status, 503);
}

#[test]
fn wrong_limits_are_told() {
    for (lines, message) in [
        ("limit_req_zone $arg_k zone=z rate=1r/s;", "invalid zone size \"zone=z\""),
        ("limit_req_zone $arg_k zone=z:1k rate=1r/s;", "zone \"zone=z:1k\" is too small"),
        ("limit_req_zone $arg_k zone=z:1m rate=0r/s;", "invalid rate \"rate=0r/s\""),
        ("limit_req_zone $arg_k zone=z:1m burst=1;", "invalid parameter \"burst=1\""),
        ("limit_req_zone $arg_k rate=1r/s rate=1r/s;", "\"limit_req_zone\" must have \"zone\" parameter"),
        (
            "limit_conn_zone $arg_k zone=z:1m; limit_conn_zone $arg_j zone=z:1m;",
            "limit_conn_zone \"z\" is already bound to key \"$arg_k\"",
        ),
        ("limit_conn_zone $arg_k zone=z:1m; limit_conn z 0;", "invalid number of connections \"0\""),
        ("limit_conn_zone $arg_k zone=z:1m; limit_conn z 65536;", "connection limit must be less 65536"),
        ("limit_conn_zone $arg_k zone=z:1m; limit_conn z 1; limit_conn z 2;", "\"limit_conn\" directive is duplicate"),
        ("limit_conn z 1;", "zero size shared memory zone \"z\""),
        ("limit_req burst=1;", "\"limit_req\" must have \"zone\" parameter"),
        ("limit_req zone=z burst=0;", "invalid burst value \"burst=0\""),
        ("limit_req zone=z delay=x;", "invalid delay value \"delay=x\""),
        ("limit_req_status 399;", "value must be between 400 and 599"),
    ] {
        let text = format!("events {{}} http {{ {lines} server {{ listen 127.0.0.1:%%PORT_0%%; }} }}");
        let outcome = Server::config(&text).run(&["-t"]);
        assert!(!outcome.status.success(), "{lines}");
        assert!(outcome.stderr.contains(message), "{lines}: {}", outcome.stderr);
    }
}

/// An upstream of so many servers, all at one address.
fn upstream(name: &str, zone: &str, servers: usize) -> String {
    format!("upstream {name} {{ zone {zone}; {} }}", "server %%BACKEND%%; ".repeat(servers))
}

/// `/u` asks upstream `u`, `/kept` one whose first server is dead: that is tried once and then rests for an hour.
fn shared(number: usize, kept: &str, more: &str) -> String {
    format!(
        "worker_processes 2; events {{}} http {{ access_log off;
         upstream kept {{ zone {kept}; server 127.0.0.1:%%PORT_1%% max_fails=1 fail_timeout=1h weight=100;
                          server %%BACKEND%%; }}
         {more}
         server {{ listen 127.0.0.1:%%PORT_0%%;
                  location /number {{ return 200 {number}; }}
                  location /u {{ proxy_pass http://u; }}
                  location /kept {{ proxy_pass http://kept; }} }} }}"
    )
}

/// How often the dead server has been tried.
fn refusals(server: &Server) -> usize {
    server.log_lines().iter().filter(|line| line.contains("Connection refused")).count()
}

fn lines_with(server: &Server, text: &str) -> usize {
    server.log_lines().iter().filter(|line| line.contains(text)).count()
}

#[test]
fn many_upstreams_share_a_zone() {
    let backend = HttpBackend::saying("here");
    let upstreams: String = (0..50).map(|number| upstream(&format!("u{number}"), "z 64k", 1)).collect();
    let places: String =
        (0..50).map(|number| format!("location /u{number}/ {{ proxy_pass http://u{number}; }}")).collect();
    let text = format!("events {{}} http {{ {upstreams} server {{ listen 127.0.0.1:%%PORT_0%%; {places} }} }}");
    let mut server = Server::config(&text).set("BACKEND", backend.address()).start();
    for _ in 0..2 {
        for number in [0, 8, 49] {
            assert_eq!(server.http(0).get(&format!("/u{number}/")).text(), "here");
        }
        server.reload();
    }
}

#[test]
fn an_upstream_may_change_its_number_of_servers_again_and_again() {
    let backend = HttpBackend::saying("here");
    let text = |servers: usize| shared(servers, "other 64k", &upstream("u", "z 32k", servers));
    let mut server = Server::config(&text(1)).set("BACKEND", backend.address()).start();
    assert_eq!(server.http(0).get("/kept").text(), "here");
    assert_eq!(refusals(&server), 1);
    for servers in 2..=13 {
        server.reload_with(&text(servers));
        // An old worker may still accept.
        let is_new = || server.http(0).get("/number").text() == servers.to_string();
        wait_until("the new configuration serves", || is_new().then_some(()));
        for _ in 0..5 {
            assert_eq!(server.http(0).get("/u").text(), "here");
            assert_eq!(server.http(0).get("/kept").text(), "here");
        }
    }
    assert_eq!(lines_with(&server, "[emerg]"), 0);
    if skip_on_nginx("every reload begins the zones of upstreams anew") {
        return;
    }
    // 91 servers are more than the zone has room for.
    assert_eq!(lines_with(&server, "zone \"z\" has no room for the new configuration: new workers begin it anew"), 1);
    assert_eq!(refusals(&server), 1, "the other zone is kept");
}

#[test]
fn a_reload_that_fails_takes_no_room() {
    if skip_on_nginx("every reload begins the zones of upstreams anew") {
        return;
    }
    let backend = HttpBackend::saying("here");
    let text = |servers: usize, more: &str| shared(servers, "z 32k", &(upstream("u", "z", servers) + more));
    let mut server = Server::config(&text(2, "")).set("BACKEND", backend.address()).start();
    assert_eq!(server.http(0).get("/kept").text(), "here");
    for servers in 20..26 {
        server.rewrite(&text(servers, "server { location / { limit_req zone=missing; } }"));
        server.signal(Signal::SIGHUP);
        wait_until("the reload has failed", || (lines_with(&server, "[emerg]") == servers - 19).then_some(()));
        assert_eq!(server.http(0).get("/number").text(), "2");
    }
    server.reload_with(&text(40, ""));
    for _ in 0..5 {
        assert_eq!(server.http(0).get("/u").text(), "here");
        assert_eq!(server.http(0).get("/kept").text(), "here");
    }
    assert_eq!((refusals(&server), lines_with(&server, "anew")), (1, 0));
}

#[test]
fn a_zone_that_is_too_small_for_its_upstreams_is_told_once() {
    if skip_on_nginx("says neither how many bytes a zone lacks nor where it is declared") {
        return;
    }
    for (more, message) in [
        (upstream("u", "z 32k", 200), "zone \"z\" is too small: "),
        (
            upstream("u", "z 32k", 1) + "limit_req_zone $arg_k zone=z:32k rate=1r/s;",
            "zone \"z\" is already declared for a different use, limit_req of http, at ",
        ),
        (upstream("u", "z", 1), "zone \"z\" is not declared with a size"),
        ("upstream u { server 127.0.0.1:0; }".into(), "invalid port in upstream \"127.0.0.1:0\""),
    ] {
        let limit = if more.contains("limit_req_zone") { "limit_req zone=z;" } else { "" };
        let text = format!(
            "events {{}}\nhttp {{\n{more}\nserver {{ listen 127.0.0.1:%%PORT_0%%; {limit}
             location / {{ proxy_pass http://u; }} }} }}"
        );
        let outcome = Server::config(&text).set("BACKEND", "127.0.0.1:1").run(&["-t"]);
        let found: Vec<&str> = outcome.stderr.lines().filter(|line| line.contains("[emerg]")).collect();
        assert!(
            matches!(*found, [line] if line.contains(message) && line.ends_with("nginx.conf:3")),
            "{more}: {found:?}"
        );
    }
    // nginx: zones of the upstreams of HTTP and of streams are not the same.
    let text = "events {} http { upstream u { zone z 64k; server 127.0.0.1:1; } }
        stream { upstream u { zone z 64k; server 127.0.0.1:1; } }";
    let outcome = Server::config(text).run(&["-t"]);
    assert!(outcome.stderr.contains("the shared memory zone \"z\" is already declared for a different use"));
}
