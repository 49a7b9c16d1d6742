//! Reloads of configurations that cannot be used, under load: everything goes on as before, and what is wrong is told.

use std::net::TcpListener;

use nix::sys::signal::Signal;
use tidegate_conformance::backend::EchoBackend;
use tidegate_conformance::load::{self, Load, Shape};
use tidegate_conformance::server::skip_on_nginx;
use tidegate_conformance::{Certificate, Server, wait_until};

/// `%%HTTP%%` is line 3, `%%SERVER%%` line 6.
const CONFIG: &str = "worker_processes 2; events {}
http { access_log off; keepalive_requests 1000000;
    %%HTTP%%
    upstream app { zone app 256k; keepalive 16; server %%ONE%%; server %%TWO%%; }
    server { listen 127.0.0.1:%%PORT_0%%;
        %%SERVER%%
        location / { proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection \"\";
                     add_header X-Worker $pid always; }
        location = /limited { limit_req zone=z; } } }";

const ZONE: &str = "limit_req_zone $arg_k zone=z:1m rate=1r/m;";

struct Wrong {
    name: &'static str,
    http: String,
    server: String,
    /// What is told, without the place.
    message: String,
    line: usize,
    /// `-t` cannot know.
    only_reload: bool,
}

fn wrong(name: &'static str, server: impl Into<String>, message: impl Into<String>) -> Wrong {
    let http = ZONE.to_owned();
    Wrong { name, http, server: server.into(), message: message.into(), line: 6, only_reload: false }
}

fn wrong_zone(name: &'static str, size: &str, message: impl Into<String>) -> Wrong {
    Wrong { http: ZONE.replace("1m", size), line: 3, ..wrong(name, "", message) }
}

fn kinds(foreign: &TcpListener) -> Vec<Wrong> {
    let foreign = foreign.local_addr().unwrap();
    let pair = |certificate: &str, key: &str| {
        format!("listen 127.0.0.1:%%PORT_1%% ssl; ssl_certificate {certificate}; ssl_certificate_key {key};")
    };
    vec![
        wrong("a syntax error", "root /x }", r#"unexpected "\}""#),
        wrong("an unknown directive", "nonsense on;", r#"unknown directive "nonsense""#),
        wrong("a missing include", "include nowhere.conf;", r#"open\(\) "/.*/nowhere.conf" failed \(2: No such file"#),
        wrong("a key of another certificate", pair("one.crt", "two.key"), r#"(two.key|key values mismatch)"#),
        Wrong {
            only_reload: true,
            ..wrong(
                "an address in use",
                format!("listen {foreign};"),
                format!(r"bind\(\) to {foreign} failed \(98: Address already in use\)"),
            )
        },
        wrong(
            "a host that is not there",
            "location /x { proxy_pass http://nowhere.invalid; }",
            "host not found in upstream",
        ),
        wrong("a missing certificate", pair("none.crt", "one.key"), r#""/.*/none.crt".*No such file"#),
        wrong("a folder for a certificate", pair("folder", "one.key"), r#"/folder"#),
        wrong_zone("a zone too small", "1k", r#"zone "zone=z:1k" is too small"#),
        wrong_zone(
            "a zone too large",
            "1000000000000000",
            r#"zone "z" of 1000000000000000 bytes cannot be made \(12: "#,
        ),
        wrong_zone(
            "a zone larger than any memory",
            "10000000000000",
            r#"zone "z" of 10000000000000 bytes cannot be made \(12: "#,
        ),
        wrong(
            "an address of another machine",
            "listen 203.0.113.1:%%PORT_1%%;",
            r"bind\(\) to 203.0.113.1:\d+ failed \(99: Cannot assign requested address\)",
        ),
    ]
}

/// What is behind `[emerg] ` and the number of the process.
fn told(line: &str) -> Option<&str> {
    let (_, message) = line.split_once("[emerg] ")?;
    let number = message.split_once(": ").filter(|(number, _)| number.contains('#'));
    Some(number.map_or(message, |(_, message)| message))
}

/// Asks for a reload and returns what is logged up to its end.
fn reload(server: &Server) -> Vec<String> {
    let before = server.log_lines().len();
    server.signal(Signal::SIGHUP);
    // The master does one thing after the other, so the answer to this signal comes after the reload.
    wait_until("the reload has begun", || {
        server.log_lines()[before..].iter().any(|line| line.ends_with("reconfiguring")).then_some(())
    });
    server.signal(Signal::SIGUSR1);
    wait_until("the reload has come to its end", || {
        let lines = server.log_lines().split_off(before);
        let end = lines.iter().position(|line| line.ends_with("reopening logs"))?;
        Some(lines[..end].to_vec())
    })
}

#[test]
fn nothing_fails_and_the_place_is_told_when_a_configuration_cannot_be_used() {
    let _alone = load::alone();
    let backends = [EchoBackend::start(), EchoBackend::start()];
    let foreign = TcpListener::bind("127.0.0.1:0").unwrap();
    let (one, two) = (Certificate::for_names(&["localhost"]), Certificate::for_names(&["localhost"]));
    let good = CONFIG.replace("%%ONE%%", &backends[0].address()).replace("%%TWO%%", &backends[1].address());
    let fill = |http: &str, server: &str| good.replace("%%HTTP%%", http).replace("%%SERVER%%", server);
    let mut server = Server::config(&fill(ZONE, ""))
        .certificate("one", &one)
        .certificate("two", &two)
        .file("folder/.keep", "")
        .start();
    wait_until("both workers run", || (server.workers().len() == 2).then_some(()));
    let workers = server.workers();
    let load = Load::start(Shape::mixed(server.port(0)));
    load.wait_for(100);
    let mut failed = Vec::new();
    for wrong in kinds(&foreign) {
        server.rewrite(&fill(&wrong.http, &wrong.server));
        let pattern = format!("{}.* in /.*/nginx.conf:{}$", wrong.message, wrong.line);
        let test = server.control(&["-t"]);
        let by_test: Vec<&str> = test.stderr.lines().filter_map(told).collect();
        let lines = reload(&server);
        let by_reload: Vec<&str> = lines.iter().filter_map(|line| told(line)).collect();
        println!("{}: {by_reload:?}", wrong.name);
        let mut check = |what: &str, holds: bool| {
            if !holds {
                failed.push(format!(
                    "{}: {what}: -t: {:?} {by_test:?}, HUP: {by_reload:?}",
                    wrong.name,
                    test.status.code()
                ));
            }
        };
        check(
            "the message and the place are told",
            by_reload.iter().any(|line| tidegate_conformance::matches(&pattern, line)),
        );
        if wrong.only_reload {
            check("-t does not mind", test.status.success());
        } else {
            check("-t ends with 1", test.status.code() == Some(1));
            check("-t and HUP tell the same", by_test == by_reload);
        }
        check("the workers are the same", server.workers() == workers);
        let answered = load.answered();
        wait_until("the load goes on", || (load.answered() > answered + 20).then_some(()));
    }
    let report = load.finish();
    println!("{report}");
    report.assert_clean();
    assert!(failed.is_empty(), "{failed:#?}");
    server.reload_with(&fill(ZONE, ""));
    assert!(server.workers().iter().any(|pid| !workers.contains(pid)), "a good configuration is taken again");
}

#[test]
fn every_mistake_of_a_configuration_is_told_at_once() {
    if skip_on_nginx("the first mistake is told") {
        return;
    }
    let mut server = Server::start("events {}\nhttp {\nserver { listen 127.0.0.1:%%PORT_0%%; } }");
    let wrong = "events {}\nhttp {\nserver { listen 127.0.0.1:%%PORT_0%%;\nnonsense 1;\nroot;\nkeepalive_timeout x;\n\
                 location / { proxy_pass ftp://x; }\nlisten 127.0.0.1:%%PORT_1%% ssl; ssl_certificate none.crt;\nssl_certificate_key none.key; } }";
    server.rewrite(wrong);
    let places = |lines: Vec<String>| -> Vec<usize> {
        let mut places: Vec<usize> =
            lines.iter().filter_map(|line| told(line)?.rsplit_once("nginx.conf:")?.1.parse().ok()).collect();
        places.dedup();
        places
    };
    let by_test = places(server.control(&["-t"]).stderr.lines().map(str::to_owned).collect());
    let by_reload = places(reload(&server));
    assert_eq!(by_test, by_reload);
    for line in 4..=7 {
        assert!(by_test.contains(&line), "line {line} is not among {by_test:?}");
    }
}
