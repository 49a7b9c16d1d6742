//! Regular expressions where a configuration has them: what they mean, and what becomes of a request when a pattern
//! cannot say.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use tidegate_conformance::backend::{HttpBackend, Reply};
use tidegate_conformance::client::{Offer, head};
use tidegate_conformance::peers::Nginx;
use tidegate_conformance::server::skip_on_nginx;
use tidegate_conformance::{Certificate, Http, Server, Wire, is_nginx};

/// Patterns of locations that deny access, and targets that they cover or do not.
const DENIED: &[(&str, &str, &[&str], &[&str])] = &[
    ("~", r"\.php$", &["/x.php", "/x.php%0a", "/%0a.php"], &["/x.php%0a%0a", "/x.phpx", "/x.php%0d", "/x.php%0ax"]),
    ("~", r"\.php\Z", &["/x.php", "/x.php%0a"], &["/x.php%0a%0a"]),
    ("~", r"\.php\z", &["/x.php"], &["/x.php%0a"]),
    ("~", r"^/a\hb", &["/a%20b", "/a%09b", "/a%a0b"], &["/afb", "/aab", "/a%0ab", "/a0b"]),
    ("~", r"^/a\Hb", &["/afb", "/a%0ab"], &["/a%20b"]),
    ("~", r"^/a\vb", &["/a%0ab", "/a%0bb", "/a%0db", "/a%85b"], &["/avb", "/a%20b"]),
    ("~", r"^/a\sb", &["/a%0bb", "/a%20b"], &["/a%a0b", "/asb"]),
    ("~", r"^/(\((?:[^()]|(?1))*\))$", &["/(a(b)c)"], &["/(a(b)c", "/a"]),
    ("~", r"\((?:[^()]|(?R))+\)x", &["/(a(b)xc)x"], &["/(a(b)c)x", "/(a)"]),
    ("~", r"^/(?|a(.)|b(.))\1$", &["/axx", "/byy"], &["/axy"]),
    ("~", r"^/(a)?(?(1)b|c)$", &["/ab", "/c"], &["/b", "/ac"]),
    ("~", r"^/\x41\101\o{101}\cA$", &["/AAA%01"], &["/AAA", "/AAAA"]),
    ("~", r"^/\Qa.b\E$", &["/a.b"], &["/axb"]),
    ("~", r"^/a++b", &["/aab"], &["/b"]),
    ("~", r"^/a\Kb\X$", &["/abc"], &["/ab"]),
    ("~", r"(*UTF8)^/\xe9.$", &["/%c3%a9%c3%a9"], &["/%c3%a9"]),
    ("~*", r"(*UTF8)^/\x{e9}$", &["/%c3%a9", "/%c3%89"], &["/e"]),
    ("~*", r"^/[^a]$", &["/b"], &["/a", "/A"]),
    ("~", r"^/[[:alpha:]&&_]+$", &["/a&_"], &["/1"]),
    ("~", r"^/\p{Lu}$", &["/A", "/%c9"], &["/a", "/%e9"]),
    ("~", r"^(/[^/]+)+/secret$", &["/a/b/secret"], &["/a/b/public"]),
    ("~", r"/x(?:(?!/pub/).)*/secret$", &[], &[]),
];

/// Servers r0, r1 and so on, one for each row.
fn table() -> String {
    let mut servers = String::new();
    for (index, (operator, pattern, ..)) in DENIED.iter().enumerate() {
        let _ = write!(
            servers,
            "server {{ listen 127.0.0.1:%%PORT_0%%; server_name r{index}; location {operator} \"{pattern}\" {{ return 403; }}
             location / {{ return 200 open; }} }} ",
        );
    }
    format!("events {{}} http {{ access_log off; large_client_header_buffers 4 64k; {servers} }}")
}

fn status(port: u16, host: &str, target: &str) -> u16 {
    let mut http = Http::over(Wire::connect(port));
    http.send(head("GET", target, &[&format!("Host: {host}"), "Connection: close"]));
    http.response().status
}

/// What each row denies and lets through, at this port.
fn judge(port: u16, who: &str) {
    for (index, (operator, pattern, denied, open)) in DENIED.iter().enumerate() {
        let host = format!("r{index}");
        for (targets, expected) in [(denied, 403), (open, 200)] {
            for target in *targets {
                assert_eq!(status(port, &host, target), expected, "{who}: location {operator} {pattern}: {target}");
            }
        }
    }
    // A secret at the end of six hundred bytes, three hundred of which could begin the match.
    let host = format!("r{}", DENIED.len() - 1);
    for (tail, expected) in [("/secret", 403), ("/pub/secret", 200), ("/public", 200)] {
        let target = format!("{}{tail}", "/x".repeat(300));
        assert_eq!(status(port, &host, &target), expected, "{who}: {tail}");
    }
}

#[test]
fn patterns_mean_what_they_mean_in_nginx() {
    let server = Server::start(&table());
    judge(server.port(0), "ours");
    if let Some(nginx) = Nginx::start(&table()) {
        judge(nginx.port(), "nginx");
    }
}

#[test]
fn bytes_of_a_pattern_stay_bytes() {
    let server = Server::config(
        "events {} http { access_log off; include latin1.conf;
         server { listen 127.0.0.1:%%PORT_0%%; include locations.conf; location / { return 200 $class; } } }",
    )
    .file("latin1.conf", b"map $uri $class { default other; \"~^/caf\xe9/\" latin1; \"~^/caf\xc3\xa9/\" utf8; }")
    .file(
        "locations.conf",
        b"location ~ \"^/[\xe0-\xff]$\" { return 403; } location ~ \"^/\\Q\xfe\\E$\" { return 404; }",
    )
    .start();
    for (target, expected) in [
        ("/caf%e9/", (200, "latin1")),
        ("/caf%c3%a9/", (200, "utf8")),
        ("/caf%ef%bf%bd/", (200, "other")),
        ("/caf/", (200, "other")),
    ] {
        let answer = server.http(0).get(target);
        assert_eq!((answer.status, &*answer.text()), expected, "{target}");
    }
    for (target, expected) in [("/%e9", 403), ("/%fe", 403), ("/%c3%a9", 200), ("/%df", 200)] {
        assert_eq!(server.http(0).get(target).status, expected, "{target}");
    }
}

/// Takes longer than any limit on thirty times the letter a, if a b follows somewhere.
const ENDLESS: &str = r"(?:(a)|(a))*\2b$";

/// A text on which nobody can say whether [`ENDLESS`] matches.
fn unknown() -> String {
    format!("{}cb", "a".repeat(60))
}

/// The line of the error log that says so.
fn assert_alert(server: &Server, what: &str) {
    if !is_nginx() {
        server.wait_for_log(&format!(
            r#"\[alert\] .*{what} regex "[^"]*\(\?:\(a\)\|\(a\)\)\*[^"]*" in .*nginx.conf:\d+ failed on \d+ bytes: match limit exceeded"#
        ));
    }
}

#[test]
fn a_pattern_that_cannot_say_is_no_answer() {
    for (what, inside) in [
        ("location", format!("location ~ \"^/s/{ENDLESS}\" {{ deny all; }} location / {{ return 200 open; }}")),
        ("location", format!("location / {{ location ~ \"^/s/{ENDLESS}\" {{ deny all; }} return 200 open; }}")),
        ("rewrite", format!("rewrite \"^/s/{ENDLESS}\" /denied; location / {{ return 200 open; }}")),
        ("rewrite", format!("location / {{ rewrite \"^/s/{ENDLESS}\" /denied last; return 200 open; }}")),
        ("if", format!("if ($uri ~ \"^/s/{ENDLESS}\") {{ return 403; }} location / {{ return 200 open; }}")),
        ("if", format!("location / {{ if ($uri !~* \"^/s/{ENDLESS}\") {{ return 200 open; }} return 200 open; }}")),
    ] {
        let server =
            Server::start(&format!("events {{}} http {{ server {{ listen 127.0.0.1:%%PORT_0%%; {inside} }} }}"));
        let began = Instant::now();
        assert_eq!(server.http(0).get(&format!("/s/{}", unknown())).status, 500, "{inside}");
        assert!(began.elapsed() < Duration::from_secs(10), "{inside}: {:?}", began.elapsed());
        assert_eq!(server.http(0).get("/other").status, 200, "{inside}");
        assert_alert(&server, what);
    }
}

#[test]
fn the_cost_of_a_pattern_is_bounded() {
    let server = Server::start(
        "events {} http { large_client_header_buffers 4 64k; server { listen 127.0.0.1:%%PORT_0%%;
         location ~ \"^/s/(?:(?!.*zz)a|a)*b$\" { deny all; } location / { return 200 open; } } }",
    );
    let began = Instant::now();
    assert_eq!(server.http(0).get(&format!("/s/{}", "a".repeat(30_000))).status, 500);
    // A tenth of a second in a release build.
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(server.http(0).get("/s/aaab").status, 403);
    assert_eq!(server.http(0).get("/s/aaa").status, 200);
}

#[test]
fn an_error_page_can_stand_in() {
    let server = Server::start(&format!(
        "events {{}} http {{ server {{ listen 127.0.0.1:%%PORT_0%%; error_page 500 =503 /sorry;
         location ~ \"^/s/{ENDLESS}\" {{ deny all; }} location = /sorry {{ return 200 sorry; }} }} }}"
    ));
    let answer = server.http(0).get(&format!("/s/{}", unknown()));
    assert_eq!((answer.status, &*answer.text()), (503, "sorry"));
}

#[test]
fn a_map_takes_its_default() {
    let server = Server::start(&format!(
        "events {{}} http {{ map $uri $class {{ \"~^/s/{ENDLESS}\" slow; ~^/s/ behind; default other; }}
         server {{ listen 127.0.0.1:%%PORT_0%%; location / {{ return 200 $class; }} }} }}"
    ));
    assert_eq!(server.http(0).get(&format!("/s/{}", unknown())).text(), "other");
    assert_eq!(server.http(0).get("/s/aaab").text(), "slow");
    assert_eq!(server.http(0).get("/s/c").text(), "behind");
    assert_alert(&server, r#"map "\$class""#);
}

#[test]
fn a_server_name_that_cannot_say_is_nobody_s() {
    let server = Server::start(&format!(
        "events {{}} http {{ server {{ listen 127.0.0.1:%%PORT_0%% default_server; return 200 default; }}
         server {{ listen 127.0.0.1:%%PORT_0%%; server_name \"~^{ENDLESS}\"; return 200 pattern; }}
         server {{ listen 127.0.0.1:%%PORT_0%%; server_name ~^a; return 200 behind; }} }}"
    ));
    assert_eq!(status(server.port(0), "aaab", "/"), 200);
    if !is_nginx() {
        assert_eq!(status(server.port(0), &unknown(), "/"), 500);
    }
    assert_alert(&server, "server_name");
}

#[test]
fn nothing_of_a_reply_is_passed_on_unseen() {
    if skip_on_nginx("a field whose pattern cannot say is passed on as it is") {
        return;
    }
    let reply = |line: String| HttpBackend::start(move |_| Reply::status("302 Found", &[&line], ""));
    for (what, line, settings) in [
        ("proxy_redirect", format!("Location: /s/{}", unknown()), format!("proxy_redirect \"~^/s/{ENDLESS}\" /x;")),
        (
            "proxy_redirect",
            format!("Refresh: 0; url=/s/{}", unknown()),
            format!("proxy_redirect \"~^/s/{ENDLESS}\" /x;"),
        ),
        ("cookie:", format!("Set-Cookie: n=v; domain={}", unknown()), format!("proxy_cookie_domain \"~{ENDLESS}\" x;")),
        ("cookie:", format!("Set-Cookie: n=v; path=/{}", unknown()), format!("proxy_cookie_path \"~^/{ENDLESS}\" /x;")),
        ("cookie:", format!("Set-Cookie: {}=v", unknown()), format!("proxy_cookie_flags \"~{ENDLESS}\" secure;")),
    ] {
        let backend = reply(line.clone());
        let server = Server::start(&format!(
            "events {{}} http {{ server {{ listen 127.0.0.1:%%PORT_0%%;
             location / {{ proxy_pass http://{}; {settings} }} }} }}",
            backend.address()
        ));
        let answer = server.http(0).get("/");
        assert_eq!(answer.status, 500, "{settings}");
        assert!(!format!("{answer:?}").contains("aaaa"), "{settings}");
        assert_alert(&server, what);
    }
}

#[test]
fn a_name_in_a_handshake_that_cannot_be_judged_is_refused() {
    let long = format!("{}.{}.{}.bz", "a".repeat(60), "a".repeat(60), "a".repeat(60));
    let pattern = r"^(?:([a.])|([a.]))*\2z$";
    let certificate = Certificate::for_names(&["a.example"]);
    let server = Server::config(&format!(
        "events {{}} stream {{ ssl_certificate c.crt; ssl_certificate_key c.key;
         server {{ listen 127.0.0.1:%%PORT_0%% ssl; return default; }}
         server {{ listen 127.0.0.1:%%PORT_0%% ssl; server_name \"~{pattern}\"; return pattern; }}
         server {{ listen 127.0.0.1:%%PORT_0%% ssl; server_name ~^a; return behind; }} }}"
    ))
    .certificate("c", &certificate);
    let Some(server) = server.start_if_supported() else { return };
    let says = |name: &str| {
        let mut wire = server.connect(0).try_start_tls(&Offer::name(name)).ok()?;
        wire.try_rest().ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    };
    assert_eq!(says("b.example").as_deref(), Some("default"));
    assert_eq!(says("a.example").as_deref(), Some("behind"));
    assert_eq!(says(&long), None);
    if !is_nginx() {
        server.wait_for_log(r"\[alert\] .*server_name regex .* in .*nginx.conf:\d+ failed on \d+ bytes");
    }
}

#[test]
fn what_is_not_offered_is_named_with_its_line() {
    if skip_on_nginx("PCRE has these") {
        return;
    }
    for (pattern, message) in [
        (r"(*THEN)a|b", r#"regex "(*THEN)a|b" is invalid: (*THEN) is not supported at offset 0"#),
        (r"(*UTF)^/\X", r#"regex "(*UTF)^/\X" is invalid: \X is not supported with (*UTF) at offset 8"#),
        (r"^/[a", r#"regex "^/[a" is invalid: missing terminating ] for character class at offset 4"#),
        (r"^/a**", "quantifier does not follow a repeatable item at offset 4"),
        (r"^/(?1)", "reference to non-existent group at offset 2"),
    ] {
        let outcome = Server::config(&format!(
            "events {{}} http {{ server {{ listen 127.0.0.1:%%PORT_0%%;\nlocation ~ \"{pattern}\" {{ return 204; }} }} }}"
        ))
        .run(&["-t"]);
        assert!(!outcome.status.success(), "{pattern}");
        assert!(outcome.stderr.contains(message) && outcome.stderr.contains("nginx.conf:2"), "{}", outcome.stderr);
    }
}

/// Three thousand locations and five thousand lines of a map: loaded at once, and none of them dear.
#[test]
fn long_lists_are_cheap() {
    let mut locations = String::new();
    for number in 0..3_000 {
        let _ =
            writeln!(locations, "location ~ \"^/app{number}/([a-z]+)/(.*)\\.php$\" {{ return 200 app{number}-$1; }}");
    }
    let mut lines = String::new();
    for number in 0..5_000 {
        let _ = writeln!(lines, "\"~*(^|[.])host-{number}[.](com|net)$\" v{number};");
    }
    let text = format!(
        "events {{}} http {{ access_log off; variables_hash_max_size 4096; map_hash_max_size 20000;
         map $arg_host $value {{ default none; {lines} }}
         server {{ listen 127.0.0.1:%%PORT_0%%; {locations} location / {{ return 200 $value; }} }} }}"
    );
    let began = Instant::now();
    let server = Server::start(&text);
    println!("started after {:?}", began.elapsed());
    let mut http = server.http(0);
    for (target, expected) in [
        ("/other?host=www.HOST-4999.net", "v4999"),
        ("/other?host=host-0.com", "v0"),
        ("/other?host=host-5000.com", "none"),
        ("/other?host=xhost-1.com", "none"),
        ("/app2999/abc/x.php", "app2999-abc"),
        ("/app0/z/x/y.php%0a", "app0-z"),
        ("/app3000/abc/x.php", "none"),
        ("/app2999/ABC/x.php", "none"),
    ] {
        let began = Instant::now();
        let answer = http.get(target);
        println!("{target}: {:?}", began.elapsed());
        assert_eq!((answer.status, &*answer.text()), (200, expected), "{target}");
    }
}
