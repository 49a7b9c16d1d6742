//! Which configurations are right and which are not: the verdict is nginx's, but where every request would fail.

use tidegate_conformance::server::{Outcome, skip_on_nginx};
use tidegate_conformance::wait::wait_until;
use tidegate_conformance::{Server, is_nginx};

fn check(text: &str) -> Outcome {
    Server::config(text).bare().run(&["-t"])
}

fn errors(outcome: &Outcome) -> Vec<&str> {
    outcome.stderr.lines().filter(|line| line.contains("[emerg]")).collect()
}

/// Directives of a location, each in a configuration of its own, and whether they are right.
#[track_caller]
fn assert_verdicts(around: &str, cases: &[(&str, bool)]) {
    for (directives, right) in cases {
        let text = format!("events {{}}\n{}", around.replace("%s", directives));
        let outcome = check(&text);
        assert_eq!(outcome.status.success(), *right, "{directives}: {}", outcome.stderr);
    }
}

const LOCATION: &str = "http { server { listen 127.0.0.1:%%PORT_0%%; location / { %s } } }";
const HTTP: &str = "http { server { listen 127.0.0.1:%%PORT_0%%; } %s }";

#[test]
fn conditions_are_cut_as_nginx_cuts_them() {
    assert_verdicts(
        &LOCATION.replace("%s", "if %s { return 204; }"),
        &[
            (r#"($host = "")"#, true),
            (r#"($host != "")"#, true),
            ("($host = '')", true),
            (r#"( $host = "" )"#, true),
            (r#"($host = "a )b")"#, true),
            ("($host = a))", true),
            (r#"($host ~ "^(a|b)$")"#, true),
            (r#"(-f "/a b")"#, true),
            ("( !-e $uri )", true),
            ("($arg_a-b = 1)", true),
            ("($cookie_my.id)", true),
            ("($http_x-y ~ a)", true),
            ("($host = )", false),
            ("($host-x = a)", false),
            ("($1 = a)", false),
            (r#"("$host" = a)"#, false),
            ("($host$uri = a)", false),
            ("(${host} = a)", false),
            ("($host = a b)", false),
            ("($host == a)", false),
            (r#"($host="a")"#, false),
            ("(-z $uri)", false),
            ("($host", false),
            ("()", false),
        ],
    );
}

#[test]
fn a_condition_looks_at_its_variable_by_the_whole_name() {
    let server = Server::start(
        "events {} http { access_log off; server { listen 127.0.0.1:%%PORT_0%%;
           if ($arg_a-b) { return 200 arg; } if ($cookie_my.id = x) { return 200 cookie; }
           if ($http_x ~ ^y$) { return 200 field; } return 200 none; } }",
    );
    for (target, line, text) in [
        ("/?a-b=1", "X-Z: y", "arg"),
        ("/?a=1", "X-Z: y", "none"),
        ("/", "Cookie: my.id=x", "cookie"),
        ("/", "Cookie: my=x", "none"),
        ("/", "X: y", "field"),
    ] {
        assert_eq!(server.http(0).ask("GET", target, &[line]).text(), text, "{target} {line}");
    }
}

/// Which of nginx's variables a configuration may define anew, and which it may not.
#[test]
fn variables_are_defined_or_refused_as_by_nginx() {
    const CHANGEABLE: [&str; 8] =
        ["args", "proxy_host", "proxy_port", "ssl_protocol", "ssl_server_name", "arg_x", "http_x", "sent_http_x"];
    const FIXED: [&str; 12] = [
        "uri",
        "host",
        "status",
        "http_host",
        "http_cookie",
        "http_x_forwarded_for",
        "sent_http_location",
        "sent_http_content_type",
        "realpath_root",
        "request_id",
        "tcpinfo_rtt",
        "date_local",
    ];
    let cases = CHANGEABLE.iter().map(|name| (name, true)).chain(FIXED.iter().map(|name| (name, false)));
    for (name, right) in cases {
        assert_verdicts(LOCATION, &[(&format!("set ${name} x;"), right)]);
        assert_verdicts(HTTP, &[(&format!("map $uri ${name} {{ default x; }}"), right)]);
    }
}

#[test]
fn a_map_may_stand_in_for_what_is_built_in() {
    let server = Server::start(
        "events {} http { access_log off; map $uri $args { /a one=1; default $uri; } map $uri $http_x { default mapped; }
           server { listen 127.0.0.1:%%PORT_0%%; return 200 \"$args $http_x\"; } }",
    );
    for (target, text) in
        [("/a?two=2", "one=1 mapped"), ("/b?two=2", "/b mapped"), ("/a", "one=1 mapped"), ("/c", "/c mapped")]
    {
        assert_eq!(server.http(0).ask("GET", target, &["X: sent"]).text(), text, "{target}");
    }
}

#[test]
fn an_empty_right_side_is_compared_with() {
    let server = Server::start(
        r#"events {} http { access_log off; server { listen 127.0.0.1:%%PORT_0%%;
           if ($arg_a = "") { return 200 empty; } if ( $arg_a != '' ) { return 200 full; } } }"#,
    );
    for (path, expected) in [("/", "empty"), ("/?a=", "empty"), ("/?a=1", "full"), ("/?b=1", "empty")] {
        assert_eq!(server.http(0).get(path).text(), expected, "{path}");
    }
}

#[test]
fn values_at_the_edges_are_judged_as_by_nginx() {
    assert_verdicts(
        LOCATION,
        &[
            ("expires modified +24h;", true),
            ("expires +1d;", true),
            ("expires -1;", true),
            ("expires '1h 30m';", true),
            ("expires 1y2M;", true),
            ("expires @24h;", true),
            ("expires $http_x;", true),
            ("expires @25h;", false),
            ("expires modified @1h;", false),
            ("expires 10ms;", false),
            ("expires --1;", false),
            ("keepalive_timeout 0 0;", true),
            ("keepalive_timeout 65 1y;", true),
            ("keepalive_timeout 1y;", false),
            ("keepalive_timeout 65 10ms;", false),
            ("send_timeout ' 1';", true),
            ("send_timeout '1m 30';", true),
            ("send_timeout 1s1;", true),
            ("send_timeout 1s1s;", false),
            ("send_timeout '';", false),
            ("client_body_buffer_size 1g;", false),
            ("client_body_buffer_size 1K;", true),
            ("client_max_body_size 1G;", true),
            ("client_max_body_size 9223372036854775807k;", false),
            ("client_max_body_size 9223372036854775808;", false),
            ("lingering_close ALWAYS;", true),
            ("etag ON;", true),
            ("etag 1;", false),
            ("tcp_nopush maybe;", false),
            ("tcp_nopush on; tcp_nopush on;", false),
            ("types_hash_max_size 8k;", false),
            ("open_file_cache max=10 inactive=1m;", true),
            ("open_file_cache inactive=1m;", false),
            ("gzip_comp_level 10;", false),
            ("output_buffers 1 0;", false),
            ("proxy_bind 127.0.0.1:x;", false),
            ("proxy_bind 127.0.0.1:0;", false),
            ("proxy_bind [::1];", true),
            ("proxy_bind [::1]:81;", true),
            ("proxy_bind [::1]:0;", false),
            ("proxy_pass http://*;", false),
            ("proxy_pass http://*:80;", false),
            ("open_file_cache max=0;", false),
            ("root '';", true),
            ("alias '';", true),
            ("access_log logs/a.log buffer=1k;", false),
            ("access_log logs/a.log combined buffer=1k;", true),
            ("access_log logs/a.log nosuch;", false),
            ("proxy_ignore_headers Vary Set-Cookie;", true),
            ("proxy_ignore_headers X-Y;", false),
            ("rewrite ^ '';", false),
        ],
    );
    for (text, right) in [
        ("worker_processes 0; events {}", true),
        ("worker_processes -1; events {}", false),
        ("worker_processes 9223372036854775808; events {}", false),
        ("worker_priority 99; events {}", true),
        ("worker_rlimit_core 1g; events {}", true),
        ("events { worker_connections 0; }", false),
        ("events { worker_connections 1; }", true),
        ("events { worker_connections 1; } http { server { listen 127.0.0.1:%%PORT_0%%; } }", false),
        ("timer_resolution 1y; events {}", false),
        ("pcre_jit maybe; events {}", false),
    ] {
        let outcome = check(text);
        assert_eq!(outcome.status.success(), right, "{text}: {}", outcome.stderr);
    }
    assert_verdicts(
        HTTP,
        &[("add_header x $nosuch;", false), ("expires $nosuch;", false), ("add_header x $host;", true)],
    );
}

// Differs from nginx, where these are taken and every request fails, or is sent on in pieces.
#[test]
fn what_no_message_could_carry_is_refused_when_it_is_read() {
    if skip_on_nginx("names and values are not looked at") {
        return;
    }
    for (directives, message) in [
        (
            "add_header X-Frame-Options: DENY;",
            "invalid field name \"X-Frame-Options:\": the colon does not belong to it",
        ),
        ("add_header 'X A' b;", "invalid field name \"X A\": it has a blank"),
        ("add_header '' b;", "a field must have a name"),
        ("add_trailer X: b;", "invalid field name \"X:\""),
        ("proxy_set_header X-A: b;", "invalid field name \"X-A:\""),
        ("proxy_set_header X \"a\\r\\nb\";", "it has a line end"),
        ("proxy_hide_header X:;", "invalid field name \"X:\""),
        ("proxy_pass_header 'a b';", "invalid field name \"a b\""),
        ("proxy_method 'GET /';", "invalid method \"GET /\""),
        ("return 301 \"http://a\\nb\";", "it has a line end"),
        ("error_page 404 \"http://a\\nb\";", "it has a line end"),
        ("rewrite ^ \"http://a\\nb\";", "it has a line end"),
        ("proxy_redirect / \"/a\\nb\";", "it has a line end"),
        ("proxy_cookie_path / \"/a\\nb\";", "it has a line end"),
        ("default_type \"a\\nb\";", "it has a line end"),
        ("proxy_pass ftp://$host;", "invalid URL prefix in \"ftp://$host\""),
        ("proxy_pass localhost$uri;", "invalid URL prefix"),
    ] {
        let outcome = check(&format!("events {{}}\n{}", LOCATION.replace("%s", directives)));
        let found = errors(&outcome);
        assert!(found.len() == 1 && found[0].contains(message) && found[0].ends_with(":2"), "{directives}: {found:?}");
    }
    for directives in
        ["add_header X \"a;\n b\";", "return 200 \"a\nb\";", "proxy_pass http://$host;", "proxy_pass $arg_a;"]
    {
        let outcome = check(&format!("events {{}}\n{}", LOCATION.replace("%s", directives)));
        assert!(outcome.status.success(), "{directives}: {}", outcome.stderr);
    }
}

#[test]
fn names_of_servers_are_judged_as_by_nginx() {
    let pair = "http { server { listen 127.0.0.1:%%PORT_0%%; server_name %s; } server { listen 127.0.0.1:%%PORT_0%%; server_name other; } }";
    assert_verdicts(
        pair,
        &[
            ("a.example", true),
            ("*.example", true),
            ("example.*", true),
            (".example", true),
            ("''", true),
            ("a/b", true),
            ("~^a", true),
            ("*", false),
            ("*.", false),
            ("*a.b", false),
            (".", false),
            ("~", false),
            ("a.*.b", false),
            ("a.b*", false),
            ("a..b.*", false),
        ],
    );
    let alone = "http { server { listen 127.0.0.1:%%PORT_0%%; server_name %s; } }";
    assert_verdicts(alone, &[("a.*.b", true), ("*.*.b", true), ("a.b*", true), ("*", false), ("~", false)]);
    assert_verdicts(
        "stream { server { listen 127.0.0.1:%%PORT_0%%; server_name %s; return x; } }",
        &[("a.example", true), ("a/b", true), ("*", false), ("*a.b", false), (".", false), ("~", false)],
    );
}

#[test]
fn what_nothing_uses_is_judged_all_the_same() {
    assert_verdicts(
        HTTP,
        &[
            ("log_format x '$host';", true),
            ("log_format x '$nosuch';", false),
            ("log_format x '$';", false),
            ("log_format x '${host';", false),
            ("log_format combined '$host';", false),
            ("http2_max_requests 1000;", true),
            ("http2_idle_timeout 3m;", true),
            ("http2_push_preload on;", true),
            ("http2_max_field_size 16k;", true),
            ("http2_chunk_size 8k;", true),
            ("http2_push;", false),
            ("upstream u { server 127.0.0.1; least_conn; least_conn; }", true),
            ("upstream u { server *:80; }", false),
        ],
    );
    assert_verdicts(
        LOCATION,
        &[
            ("location /a { }", true),
            ("location ~ a { location /b { } }", false),
            ("location ~ / { location /b { } }", true),
        ],
    );
}

#[test]
fn a_group_is_named_without_a_port() {
    for text in [
        "http { upstream u { server 127.0.0.1:1; } server { location / { proxy_pass http://u:80; } } }",
        "http { upstream U { server 127.0.0.1:1; } server { location / { proxy_pass http://u:80/x; } } }",
        "stream { upstream u { server 127.0.0.1:1; } server { listen 127.0.0.1:1; proxy_pass u:80; } }",
    ] {
        let outcome = check(&format!("events {{}}\n{text}"));
        let found = errors(&outcome);
        assert!(found.len() == 1 && found[0].contains("upstream \"u\" may not have port 80 in "), "{text}: {found:?}");
    }
}

// Differs from nginx, which stops at the first error: ours go on, and must not tell of what follows from one of them.
#[test]
fn one_mistake_is_one_error() {
    if skip_on_nginx("only the first error of a file is told") {
        return;
    }
    let tls = "listen 127.0.0.1:1 ssl; ssl_certificate none.crt; ssl_certificate_key none.key;";
    let server = |inner: &str| format!("http {{ server {{ listen 127.0.0.1:1; {inner} }} }}");
    for (text, message) in [
        (format!("http {{ server {{ {tls} }} }}"), "cannot load certificate"),
        (format!("stream {{ server {{ {tls} return x; }} }}"), "cannot load certificate"),
        (format!("mail {{ auth_http 127.0.0.1:1; server {{ protocol imap; {tls} }} }}"), "cannot load certificate"),
        (
            "http { upstream u { server 127.0.0.1:1 frob; } server { location / { proxy_pass http://u; } } }".into(),
            "invalid parameter \"frob\"",
        ),
        (
            "http { upstream u v { server 127.0.0.1:1; } server { location / { proxy_pass http://u; } } }".into(),
            "invalid number of arguments",
        ),
        ("http { perl_set $user own; server { add_header x $user; return 200; } }".into(), "perl_set"),
        ("http { js_set $g f; server { return 200 $g; } }".into(), "js_set"),
        ("http { map $host $m { ~( 1; } server { return 200 $m; } }".into(), "regex \"(\""),
        (server("set $a; return 200 $a;"), "invalid number of arguments"),
        (server("location / }"), "unexpected \"}\""),
        (server("location / { add_header a \"b; }"), "to close the quote"),
        (server("rewrite ^/\\d{4}$ /x;"), "\"rewrite\" is not terminated by \";\""),
        (server("location / { return 200 a{b; }"), "\"return\" is not terminated by \";\""),
        (server("location ~ ^/\\d{4}/ { return 200; }"), "\"4}/\""),
        (server("if ($uri ~ /a{2}) { return 200; }"), "invalid condition"),
        (server("location ~ ^/(?<part>a( { return 200 $part; }"), "regex"),
        (server("server_name ~^(?<sub>a(; return 200 $sub;"), "regex"),
        (server("if ($host ~ '(') { set $z 1; } return 200 $z;"), "regex"),
        (server("set_by_lua_block $l { return '}' } return 200 $l;"), "set_by_lua_block"),
        ("http { geoip_country g.dat; server { return 200 $geoip_country_code; } }".into(), "geoip_country"),
        ("http { log_format m escape=frob x; server { access_log l m; } }".into(), "escaping \"frob\""),
        ("http { limit_req_zone $host zone=z:1x rate=1r/s; server { limit_req zone=z; } }".into(), "invalid zone size"),
        ("http { include none.conf; server { location / { proxy_pass http://nosuch-app; } } }".into(), "none.conf"),
        ("stream { server { listen 127.0.0.1:99999; return x; } }".into(), "invalid port"),
        ("mail { auth_http 127.0.0.1:1; server { listen 127.0.0.1:1; protocol frob; } }".into(), "unknown protocol"),
    ] {
        let outcome = check(&format!("events {{}}\n{text}"));
        let found = errors(&outcome);
        assert!(found.len() == 1 && found[0].contains(message), "{text}: {found:#?}");
    }
}

#[test]
fn programs_in_lua_are_no_configuration() {
    for body in [
        "return 1",
        "local t = { a = { '}' } } return t",
        "-- }\n return \"}\\\"\"",
        "--[[ } ]] return [[ } ]]",
        "--[==[ } ]] } ]==] return [=[ }} ]=]",
        "ngx.say('{')",
    ] {
        let outcome = check(&format!(
            "events {{}}\nhttp {{ server {{ location / {{\n content_by_lua_block {{ {body} \n}} }} }} }}\n"
        ));
        let found = errors(&outcome);
        assert!(found.len() == 1, "{body}: {found:?}");
        assert!(found[0].contains("unknown directive \"content_by_lua_block\""), "{body}: {found:?}");
        assert!(is_nginx() || found[0].contains("lua-nginx-module"), "{body}: {found:?}");
    }
}

#[test]
fn directives_of_others_are_told_apart_by_name() {
    for (directive, module) in [
        ("brotli on", "ngx_brotli"),
        ("more_set_headers 'X: y'", "headers-more-nginx-module"),
        ("content_by_lua 'x'", "lua-nginx-module"),
        ("js_content x", "ngx_http_js_module"),
        ("geoip2_proxy 127.0.0.1", "ngx_http_geoip2_module"),
        ("vhost_traffic_status_display", "nginx-module-vts"),
        ("set_md5 $a b", "set-misc-nginx-module"),
        ("echo x", "echo-nginx-module"),
        ("modsecurity on", "ModSecurity-nginx"),
        ("pagespeed on", "ngx_pagespeed"),
        ("fancyindex on", "ngx-fancyindex"),
        ("subs_filter a b", "ngx_http_substitutions_filter_module"),
        ("passenger_enabled on", "Passenger"),
        ("rtmp", "nginx-rtmp-module"),
    ] {
        let outcome = check(&format!("events {{}}\n{}", LOCATION.replace("%s", &format!("{directive};"))));
        let found = errors(&outcome);
        assert!(found.len() == 1 && found[0].contains("unknown directive"), "{directive}: {found:?}");
        assert!(is_nginx() || found[0].contains(module), "{directive}: {found:?}");
    }
}

/// A test and a start must come to the same end, and both name the line.
#[test]
fn a_test_refuses_what_a_start_refuses() {
    for (text, message) in [
        ("user nosuch-user;\nevents {}", "getpwnam(\"nosuch-user\") failed"),
        ("user root nosuch-group;\nevents {}", "getgrnam(\"nosuch-group\") failed"),
        ("error_log none/e.log;\nevents {}", "none/e.log\" failed (2"),
        (
            "events {} http { access_log none/a.log;\n server { listen 127.0.0.1:%%PORT_0%%; } }",
            "none/a.log\" failed (2",
        ),
        ("events {} http { server { listen 127.0.0.1:%%PORT_0%%;\n access_log logs; } }", "logs\" failed (21"),
        (
            "events {} http { access_log none/a.log; server { access_log off; listen 127.0.0.1:%%PORT_0%%; } }",
            "none/a.log\" failed (2",
        ),
        ("events {} stream { server { listen 127.0.0.1:%%PORT_0%%; error_log none/s.log; return x; } }", "none/s.log"),
        ("pid none/x.pid;\nevents {}", "none/x.pid\" failed (2"),
        ("pid logs;\nevents {}", "logs\" failed (21"),
        ("events {} http { server { listen 192.0.2.77:%%PORT_0%%; } }", "bind() to 192.0.2.77:"),
        ("events {} http { server { listen unix:%%DIR%%/none/s; } }", "none/s failed (2"),
        ("working_directory none;\nevents {}", "chdir("),
        ("events { worker_connections 1; } http { server { listen 127.0.0.1:%%PORT_0%%; } }", "are not enough for"),
    ] {
        let for_root = text.starts_with("user");
        let nginxs_own = text.starts_with("working_directory") && is_nginx();
        if nginxs_own || (for_root && !nix::unistd::Uid::effective().is_root()) {
            continue;
        }
        let pid = if text.starts_with("pid") { "" } else { "pid nginx.pid;" };
        let globals = format!("daemon off; {pid}");
        for arguments in [&["-t", "-g", &*globals][..], &["-g", &*globals]] {
            let outcome = Server::config(text).bare().run(arguments);
            let found = errors(&outcome);
            assert!(!outcome.status.success(), "{arguments:?}: {text}");
            assert!(found.iter().any(|line| line.contains(message)), "{arguments:?}: {text}: {}", outcome.stderr);
            let line = text.lines().position(|line| line.contains("none") || line.contains("logs")).unwrap_or(0) + 1;
            let place = if found[0].contains("nginx.conf:") { format!("nginx.conf:{line}") } else { String::new() };
            assert!(found[0].contains(&place) && (is_nginx() || !place.is_empty()), "{text}: {found:?}");
        }
    }
}

#[test]
fn modules_are_loaded_by_being_built_in() {
    if skip_on_nginx("its modules are files") {
        return;
    }
    for (file, note) in [
        ("modules/ngx_stream_module.so", "is built in"),
        ("/usr/lib/nginx/modules/ngx_mail_module.so", "is built in"),
        ("modules/ngx_http_echo_module.so", "its directives such as \"echo\" are refused"),
        ("modules/ngx_http_geoip_module.so", "its directives such as \"geoip_country\" are refused"),
        ("modules/ngx_http_anything_module.so", "its directives are refused"),
    ] {
        let outcome = check(&format!("\nload_module {file};\nevents {{}}\n"));
        assert!(outcome.status.success(), "{file}: {}", outcome.stderr);
        let notes: Vec<&str> = outcome.stderr.lines().filter(|line| line.contains("[warn]")).collect();
        assert!(notes.len() == 1 && notes[0].contains(note) && notes[0].ends_with("nginx.conf:2"), "{file}: {notes:?}");
    }
}

#[test]
fn policy_that_is_not_obeyed_says_so_once_a_file() {
    if skip_on_nginx("it is obeyed") {
        return;
    }
    let lines = "ssl_ciphers HIGH; ssl_prefer_server_ciphers on; ssl_ecdh_curve auto; ssl_dhparam none.pem; \
                 ssl_session_cache shared:s:1m; ssl_session_timeout 1d; ssl_session_tickets off;";
    let server = |port: u16| format!("server {{ listen 127.0.0.1:%%PORT_{port}%%; {lines} }}\n");
    let outcome = Server::config(&format!(
        "events {{}}\nhttp {{ {lines}\n {} {} include more/*.conf; }}\n",
        server(0),
        server(1)
    ))
    .bare()
    .file("more/a.conf", "server { listen unix:a; ssl_ciphers ALL; }\nserver { listen unix:b; ssl_ciphers LOW; }\n")
    .run(&["-t"]);
    assert!(outcome.status.success(), "{}", outcome.stderr);
    for (name, times) in [
        ("ssl_ciphers", 2),
        ("ssl_prefer_server_ciphers", 1),
        ("ssl_ecdh_curve", 1),
        ("ssl_dhparam", 1),
        ("ssl_session_cache", 1),
        ("ssl_session_timeout", 1),
        ("ssl_session_tickets", 1),
    ] {
        let said = outcome.stderr.lines().filter(|line| line.contains(&format!("\"{name}\" is not obeyed"))).count();
        assert_eq!(said, times, "{name}: {}", outcome.stderr);
    }
}

/// The tree that Debian's package installs, moved into a folder, with the modules that its packages load.
#[test]
fn debians_own_configuration_loads_and_serves() {
    const MODULES: [&str; 9] = [
        "http_auth_pam",
        "http_dav_ext",
        "http_echo",
        "http_geoip",
        "http_subs_filter",
        "http_upstream_fair",
        "mail",
        "stream",
        "stream_geoip",
    ];
    let tree = std::path::Path::new("/etc/nginx");
    if !tree.join("sites-available/default").exists() {
        return println!("skipped: needs the configuration of Debian's nginx");
    }
    if skip_on_nginx("its modules are files") {
        return;
    }
    let moved = |text: &str| {
        text.replace("/etc/nginx/", "").replace("/var/log/nginx/", "logs/").replace("/run/nginx.pid", "nginx.pid")
    };
    let read = |name: &str| std::fs::read_to_string(tree.join(name)).expect("a file of the tree");
    let main = moved(&read("nginx.conf")).replace("user www-data;", "");
    // Everything stays as it is but the address, which is one for everybody.
    let site = read("sites-available/default")
        .replace("listen 80 default_server;", "listen 127.0.0.1:%%PORT_0%% default_server;")
        .replace("listen [::]:80 default_server;", "");
    let mut setup = Server::config(&format!("daemon off; {}", main.replace("include sites-enabled/*;", &site)))
        .bare()
        .file("mime.types", read("mime.types"));
    for module in MODULES {
        let line = format!("load_module modules/ngx_{module}_module.so;\n");
        setup = setup.file(&format!("modules-enabled/50-mod-{module}.conf"), line);
    }
    let server = setup.start();
    assert!(matches!(server.http(0).get("/").status, 200 | 403 | 404));
    assert_eq!(server.http(0).get("/nosuch").status, 404);
    wait_until("the request is in the log", || server.read("logs/access.log").contains("GET /nosuch").then_some(()));
    let notes = server.read("stderr.log");
    assert_eq!(notes.matches("[warn] module \"").count(), 7, "{notes}");
    assert_eq!(notes.matches("is built in").count(), 2, "{notes}");
}

/// Nobody sees the standard error stream of a daemon; the harness would name another file with `-e`.
#[test]
fn a_daemon_without_an_error_log_has_one_all_the_same() {
    if skip_on_nginx("the place of its file is chosen when it is built") {
        return;
    }
    let setup = Server::config("");
    let (folder, port) = (setup.folder(), tidegate_conformance::port::Port::claim());
    let text = format!(
        "pid {0}/nginx.pid; events {{}} http {{ access_log off; server {{ listen 127.0.0.1:{1}; }} }}",
        folder.display(),
        port.number()
    );
    std::fs::create_dir_all(folder.join("conf")).unwrap();
    std::fs::write(folder.join("conf/nginx.conf"), text).unwrap();
    let started = std::process::Command::new(tidegate_conformance::binary::path()).arg("-p").arg(folder).status();
    assert!(started.unwrap().success());
    let pid = std::fs::read_to_string(folder.join("nginx.pid")).unwrap();
    let pid = nix::unistd::Pid::from_raw(pid.trim().parse().unwrap());
    let status = tidegate_conformance::client::Http::over(tidegate_conformance::client::Wire::connect(port.number()))
        .get("/nosuch")
        .status;
    let logged = wait_until("the error is logged", || {
        std::fs::read_to_string(folder.join("logs/error.log")).ok().filter(|text| text.contains("/nosuch"))
    });
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    wait_until("the pid file is gone", || (!folder.join("nginx.pid").exists()).then_some(()));
    assert_eq!(status, 404);
    assert!(logged.contains("[error]"), "{logged}");
}

#[test]
fn sizes_of_buffers_fit_one_another() {
    assert_verdicts(
        LOCATION,
        &[
            ("proxy_buffers 2 4k;", false),
            ("proxy_buffers 3 4k;", true),
            ("proxy_buffer_size 16k;", false),
            ("proxy_buffer_size 64k;", false),
            ("proxy_buffer_size 1k; proxy_buffers 8 2k;", true),
            ("proxy_buffer_size 128k; proxy_buffers 4 256k;", true),
            ("proxy_busy_buffers_size 2k;", false),
            ("proxy_busy_buffers_size 28k;", true),
            ("proxy_busy_buffers_size 32k;", false),
            ("proxy_buffers 4 16k; proxy_buffer_size 32k; proxy_busy_buffers_size 48k;", true),
            ("proxy_buffers 4 16k; proxy_buffer_size 32k; proxy_busy_buffers_size 64k;", false),
            ("proxy_max_temp_file_size 0;", true),
            ("proxy_max_temp_file_size 1k;", false),
            ("proxy_max_temp_file_size 4k;", true),
            ("proxy_temp_file_write_size 1k;", false),
            ("proxy_temp_file_write_size 64k; proxy_max_temp_file_size 32k;", true),
            ("proxy_buffering off; proxy_buffer_size 64k;", false),
            ("proxy_pass http://127.0.0.1:1; proxy_buffer_size 64k;", false),
            ("if ($host) { proxy_pass http://127.0.0.1:1; } proxy_buffer_size 64k;", false),
            ("proxy_buffers 8 64k; location /a { proxy_buffers 8 1k; proxy_buffer_size 8k; }", false),
        ],
    );
    assert_verdicts(
        HTTP,
        &[
            ("proxy_buffer_size 64k;", false),
            ("proxy_buffer_size 64k; proxy_buffers 8 64k;", true),
            ("large_client_header_buffers 4 1;", false),
            ("large_client_header_buffers 4 511;", false),
            ("large_client_header_buffers 4 512;", true),
            ("large_client_header_buffers 4 256; connection_pool_size 256;", true),
            ("connection_pool_size 16k;", false),
            ("connection_pool_size 16k; large_client_header_buffers 4 16k;", true),
            ("client_header_buffer_size 16k; large_client_header_buffers 4 8k;", true),
        ],
    );
    // What servers inherit from is looked at with what they say themselves.
    for (text, right) in [
        ("http { proxy_buffer_size 64k; connection_pool_size 16k; }", true),
        ("http { proxy_buffer_size 64k; server { listen 127.0.0.1:%%PORT_0%%; proxy_buffers 8 64k; } }", true),
        (
            "http { server { listen 127.0.0.1:%%PORT_0%%; proxy_buffer_size 64k; location / { proxy_buffers 8 64k; } } }",
            false,
        ),
        (
            "http { connection_pool_size 16k; server { listen 127.0.0.1:%%PORT_0%%; large_client_header_buffers 4 16k; } }",
            true,
        ),
        ("stream { proxy_buffer_size 64k; server { listen 127.0.0.1:%%PORT_0%%; return x; } }", true),
    ] {
        let outcome = check(&format!("events {{}}\n{text}"));
        assert_eq!(outcome.status.success(), right, "{text}: {}", outcome.stderr);
    }
    // One error however many blocks inherit the sizes, where they are written.
    let places = "location /a { } location /b { location /b/c { if ($host) { } } }";
    let outcome = check(&format!(
        "events {{}}\nhttp {{\n proxy_buffer_size 64k;\n server {{ listen 127.0.0.1:%%PORT_0%%; {places} }} }}\n"
    ));
    let found = errors(&outcome);
    assert!(found.len() == 1 && found[0].contains("\"proxy_busy_buffers_size\""), "{found:?}");
    assert!(is_nginx() || found[0].ends_with("nginx.conf:3"), "{found:?}");
}

#[test]
fn variables_must_be_there_whether_or_not_they_are_used() {
    let known = "map $host $known { default 1; }";
    for (directive, has_more) in [
        ("proxy_bind %s", false),
        ("proxy_method %s", false),
        ("proxy_set_body %s", false),
        ("proxy_set_header X %s", true),
        ("proxy_redirect %s /", true),
        ("proxy_redirect / %s", true),
        ("proxy_cookie_domain %s b", true),
        ("proxy_cookie_domain ~a %s", true),
        ("proxy_cookie_path %s /", true),
        ("proxy_cookie_path / %s", true),
        ("proxy_cookie_flags %s secure", true),
        ("proxy_cookie_flags a %s", true),
        ("proxy_cache_key %s", false),
        ("proxy_cache_bypass %s", true),
        ("proxy_no_cache 0 %s", true),
    ] {
        for place in [HTTP, LOCATION] {
            let line = |variable: &str| format!("{};", directive.replace("%s", variable));
            assert_verdicts(
                &place.replace("http {", &format!("http {{ {known}")),
                &[
                    (&line("$nosuch"), false),
                    (&line("a${nosuch}b"), false),
                    (&line("$known"), true),
                    (&line("$"), false),
                    (&line("${host"), false),
                    (&format!("{}{}", line("$host"), line("$known")), has_more),
                ],
            );
        }
    }
    assert_verdicts(
        HTTP,
        &[
            ("limit_conn_zone $nosuch zone=a:1m;", false),
            ("limit_conn_zone $host$nosuch zone=a:1m;", false),
            ("limit_req_zone $nosuch zone=a:1m rate=1r/s;", false),
            ("limit_req_zone $host zone=a:1m rate=1r/s;", true),
            ("limit_conn_zone $later zone=a:1m; map $host $later { default 1; }", true),
        ],
    );
    assert_verdicts(
        "stream { %s }",
        &[("limit_conn_zone $nosuch zone=a:1m;", false), ("limit_conn_zone $remote_addr zone=a:1m;", true)],
    );
    // A group has no braces.
    assert_verdicts(
        LOCATION,
        &[
            ("return 200 $1;", true),
            ("return 200 $12;", true),
            ("return 200 ${1};", false),
            ("return 200 $01;", false),
            ("return 200 $0;", false),
            ("rewrite ^/(a) /${1};", false),
            ("add_header X ${1};", false),
            ("proxy_set_body ${1};", false),
        ],
    );
    // Patterns, too, and what their groups are called.
    assert_verdicts(
        LOCATION,
        &[
            ("proxy_redirect ~( b;", false),
            ("proxy_cookie_path ~( b;", false),
            ("proxy_cookie_domain ~*( b;", false),
            ("proxy_cookie_flags ~( secure;", false),
            ("proxy_redirect ~*^(?<part>b) /$part;", true),
            ("proxy_cookie_path ~(?<part>b) $part;", true),
            ("proxy_pass http://127.0.0.1:1; proxy_cookie_domain ~(?<part>b) $part;", true),
            ("proxy_pass http://127.0.0.1:1; proxy_redirect ~(?<part>b) $part$1;", true),
        ],
    );
}

#[test]
fn what_is_turned_off_is_so_alone() {
    for (name, pair) in [
        ("proxy_redirect", "/a /b"),
        ("proxy_redirect", "~a /b"),
        ("proxy_cookie_domain", "a b"),
        ("proxy_cookie_path", "/a /b"),
        ("proxy_cookie_flags", "a secure"),
    ] {
        for pass in ["", "proxy_pass http://127.0.0.1:1;"] {
            assert_verdicts(
                &LOCATION.replace("%s", &format!("{pass} %s")),
                &[
                    (&format!("{name} off;"), true),
                    (&format!("{name} {pair}; {name} {pair};"), true),
                    (&format!("{name} off; {name} off;"), false),
                    (&format!("{name} off; {name} {pair};"), false),
                    (&format!("{name} {pair}; {name} off;"), false),
                    (&format!("{name} off; location /c {{ {name} {pair}; }}"), true),
                ],
            );
        }
    }
    assert_verdicts(
        LOCATION,
        &[
            ("proxy_redirect default;", false),
            ("proxy_redirect default; proxy_pass http://127.0.0.1:1;", false),
            ("proxy_pass http://127.0.0.1:1; proxy_redirect default;", true),
            ("proxy_pass http://127.0.0.1:1; proxy_redirect default; proxy_redirect default;", true),
            ("proxy_pass http://127.0.0.1:1; proxy_redirect default; proxy_redirect off;", false),
            ("proxy_pass http://$host; proxy_redirect default;", false),
        ],
    );
    assert_verdicts(HTTP, &[("proxy_redirect default;", false), ("proxy_redirect off;", true)]);
}

#[test]
fn a_zone_has_one_use() {
    let upstream = "upstream u { zone a 1m; server 127.0.0.1:1; }";
    let (conn, req) = ("limit_conn_zone $host zone=a:1m;", "limit_req_zone $host zone=a:1m rate=1r/s;");
    assert_verdicts(
        HTTP,
        &[
            (&format!("{conn} {req}"), false),
            (&format!("{req} {conn}"), false),
            (&format!("{conn} {upstream}"), false),
            (&format!("{upstream} {req}"), false),
            (&format!("{conn} {conn}"), false),
            (&format!("{conn} {}", req.replace("=a:", "=b:")), true),
            (&format!("{upstream} {}", upstream.replace("u {", "v {")), true),
            (&format!("{upstream} {}", upstream.replace("u {", "v {").replace("1m", "2m")), false),
        ],
    );
    for (http, stream, right) in [
        (conn, "limit_conn_zone $remote_addr zone=a:1m;", false),
        (conn, "limit_conn_zone $remote_addr zone=b:1m;", true),
        (req, "limit_conn_zone $remote_addr zone=a:1m;", false),
        (upstream, upstream, false),
    ] {
        let outcome = check(&format!("events {{}} http {{ {http} }} stream {{ {stream} }}"));
        assert_eq!(outcome.status.success(), right, "{http} {stream}: {}", outcome.stderr);
    }
    // The last of several is the one that is used.
    assert_verdicts(
        "http { upstream u { server 127.0.0.1:1; %s } server { listen 127.0.0.1:%%PORT_0%%; } }",
        &[
            ("zone a 1m; zone a 1m;", true),
            ("zone a 1m; zone b 1m;", true),
            ("zone a 1m; zone a;", true),
            ("zone a 1m; zone a 2m;", false),
            ("zone a; zone a;", false),
        ],
    );
}

#[test]
fn what_comes_once_or_elsewhere_is_refused() {
    for (text, right) in [
        ("events { use epoll; }", true),
        ("events { use epoll; use epoll; }", false),
        ("events { use frob; use epoll; }", false),
        ("events { multi_accept on; multi_accept on; }", false),
        ("events {} http { types_hash_max_size 0; server { listen 127.0.0.1:%%PORT_0%%; } }", false),
        ("events {} http { types_hash_bucket_size 0; server { listen 127.0.0.1:%%PORT_0%%; } }", false),
        ("events {} http { types_hash_bucket_size 1; server { listen 127.0.0.1:%%PORT_0%%; } }", true),
        ("events {} http { variables_hash_max_size 0; }", false),
        ("events {} http { variables_hash_bucket_size 0; }", false),
        ("events {} http { map_hash_max_size 0; map $host $m { a b; } }", false),
        ("events {} http { map_hash_bucket_size 0; map $host $m { a b; } }", false),
        ("events {} http { map_hash_bucket_size 128; map $host $m { a b; } }", true),
        ("events {} http { map $host $m { a b; } map_hash_bucket_size 128; }", false),
        ("events {} http { map $host $m { a b; } map_hash_max_size 128; }", false),
        ("events {} http { proxy_headers_hash_max_size 0; server { listen 127.0.0.1:%%PORT_0%%; } }", false),
        ("events {} http { proxy_headers_hash_bucket_size 0; server { listen 127.0.0.1:%%PORT_0%%; } }", false),
        ("events {} stream { map_hash_max_size 0; map $remote_addr $m { a b; } }", false),
        ("events {} stream { variables_hash_max_size 0; }", false),
        ("events {} http { ssl_handshake_timeout 1s; }", false),
        ("events {} http { server { listen 127.0.0.1:%%PORT_0%%; ssl_handshake_timeout 1s; } }", false),
        ("events {} mail { ssl_handshake_timeout 1s; }", false),
        ("events {} stream { ssl_handshake_timeout 1s; }", true),
        ("events {} http { server { listen 127.0.0.1:%%PORT_0%%; location / { internal; internal; } } }", false),
    ] {
        let outcome = check(text);
        assert_eq!(outcome.status.success(), right, "{text}: {}", outcome.stderr);
    }
}

#[test]
fn a_byte_order_mark_is_no_configuration() {
    let marked = |text: &str| format!("\u{feff}{text}");
    for (main, more) in [
        (marked("events {}"), String::new()),
        (marked("# a comment\nevents {}"), String::new()),
        (marked("\nevents {}"), String::new()),
        ("events {} include more.conf;".to_owned(), marked("http { }")),
        ("events {} include more.conf;".to_owned(), marked("")),
    ] {
        let outcome = Server::config(&main).bare().file("more.conf", &more).run(&["-t"]);
        let found = errors(&outcome);
        assert!(!outcome.status.success() && found.len() == 1, "{main:?} {more:?}: {}", outcome.stderr);
        assert!(is_nginx() || found[0].contains("byte order mark"), "{found:?}");
    }
}

#[test]
fn what_stands_twice_or_says_nothing_is_taken() {
    let server = "http { server { listen 127.0.0.1:%%PORT_0%%; %s } }";
    assert_verdicts(
        server,
        &[
            ("location @a { } location @a { }", true),
            ("location @a { return 200; } location @b { } location @a { frob; }", false),
            ("location /a { } location /a { }", false),
            ("location = /a { } location = /a { }", false),
            ("location /a { } location ^~ /a { }", false),
            ("location ~ a { } location ~ a { }", true),
            ("access_log '';", true),
            ("access_log '' combined;", true),
            ("access_log '' nosuch;", false),
            ("error_log '';", true),
            ("error_log '' frob;", false),
            ("proxy_cookie_flags a frob;", true),
            ("proxy_cookie_flags a samesite=frob secure;", true),
            ("proxy_cookie_flags frob;", false),
            ("ssl_protocols SSLv3;", true),
            ("ssl_protocols SSLv2 SSLv3 TLSv1;", true),
            ("ssl_protocols TLSv1.1;", true),
            ("ssl_protocols TLSv1 TLSv1.2;", true),
            ("ssl_protocols TLSv9;", false),
            ("ssl_protocols tlsv1.2 TLSv1.2;", true),
            ("ssl_protocols TLSv1.2; ssl_protocols TLSv1.3;", true),
            ("proxy_next_upstream error; proxy_next_upstream timeout error;", true),
            ("proxy_next_upstream off error;", true),
            ("proxy_next_upstream error; proxy_next_upstream frob;", false),
        ],
    );
    for (text, right) in [("pid ''; events {}", true), ("error_log ''; events {}", true)] {
        let outcome = check(text);
        assert_eq!(outcome.status.success(), right, "{text}: {}", outcome.stderr);
    }
}

#[test]
fn of_named_locations_the_first_counts_and_of_flags_those_there_are() {
    let server = Server::start(
        "events {} http { access_log off; server { listen 127.0.0.1:%%PORT_0%%;
           location / { error_page 404 = @a; } location /b { error_page 404 = @b; }
           location @a { return 200 first; } location @b { return 200 other; } location @a { return 200 second; }
           location /flags { proxy_pass http://127.0.0.1:%%PORT_1%%; proxy_cookie_flags x frob secure; } }
         server { listen 127.0.0.1:%%PORT_1%%; add_header Set-Cookie x=1; return 200 flags; } }",
    );
    for (target, text) in [("/none", "first"), ("/b/none", "other"), ("/flags", "flags")] {
        assert_eq!(server.http(0).get(target).text(), text, "{target}");
    }
    let answer = server.http(0).get("/flags");
    assert_eq!(answer.field("Set-Cookie"), "x=1; Secure");
}

#[test]
fn a_log_without_a_name_is_the_standard_error_stream() {
    let text = "daemon off; pid nginx.pid; error_log ''; events {} http { access_log ''; \
                server { listen 127.0.0.1:%%PORT_0%%; location /b { access_log '' combined buffer=4k; } } }";
    let server = Server::config(text).bare().start();
    for (path, is_held_back) in [("/a", false), ("/b/c", true), ("/b/d", true), ("/e", false)] {
        if is_held_back && is_nginx() {
            continue;
        }
        assert_eq!(server.http(0).get(path).status, 404);
        let line = wait_until("it is logged", || {
            let said = server.read("stderr.log");
            said.lines().find(|line| line.contains("\" 404 ") && line.contains(path)).map(str::to_owned)
        });
        assert!(line.starts_with("127.0.0.1 - - ["), "{line}");
        assert!(server.read("stderr.log").contains("[error]"), "{}", server.read("stderr.log"));
    }
}

// Differs from nginx, where every handshake fails.
#[test]
fn protocols_that_are_all_obsolete_leave_those_that_are_not() {
    if skip_on_nginx("nobody is served with these") {
        return;
    }
    use tidegate_conformance::client::Offer;
    for (protocols, remaining, version) in [
        ("SSLv3", "\"SSLv3\" is obsolete and never offered, \"TLSv1.2\" and \"TLSv1.3\" remain", "TLSv1_3"),
        ("SSLv2 TLSv1 TLSv1.1", "\"TLSv1.1\" are obsolete and never offered, \"TLSv1.2\" and", "TLSv1_3"),
        ("TLSv1 TLSv1.1 TLSv1.2", "\"TLSv1.1\" are obsolete and never offered, \"TLSv1.2\" remains", "TLSv1_2"),
        ("TLSv1.2; ssl_protocols SSLv3", "\"SSLv3\" is obsolete and never offered, \"TLSv1.2\" remains", "TLSv1_2"),
        ("SSLv3 TLSv1.3", "\"SSLv3\" is obsolete and never offered, \"TLSv1.3\" remains", "TLSv1_3"),
    ] {
        let text = format!(
            "events {{}} http {{ access_log off; server {{ listen 127.0.0.1:%%PORT_0%% ssl; ssl_certificate a.crt; \
             ssl_certificate_key a.key; ssl_protocols {protocols}; return 200; }} }}"
        );
        let certificate = tidegate_conformance::Certificate::for_names(&["a.example"]);
        let server = Server::config(&text).certificate("a", &certificate).start();
        let wire = server.connect(0).start_tls(&Offer::name("a.example"));
        assert_eq!(wire.tls().version, version, "{protocols}");
        assert!(server.read("stderr.log").contains(remaining), "{protocols}: {}", server.read("stderr.log"));
    }
}

// Differs from nginx, which listens on whatever port the system gives it, where nobody will look.
#[test]
fn a_port_is_needed_where_there_is_no_usual_one() {
    if skip_on_nginx("any port will do") {
        return;
    }
    for text in [
        "stream { server { listen 127.0.0.1; return x; } }",
        "stream { server { listen *; return x; } }",
        "stream { server { listen localhost; return x; } }",
        "stream { server { listen [::1]; return x; } }",
        "mail { auth_http 127.0.0.1:1; server { listen 127.0.0.1; protocol imap; } }",
    ] {
        let outcome = check(&format!("events {{}}\n{text}"));
        let found = errors(&outcome);
        assert!(found.len() == 1 && found[0].contains("no port in"), "{text}: {found:?}");
    }
}
