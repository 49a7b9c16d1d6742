//! What a user sees of the configuration: tests of it, dumps of it, and errors in it.

use tidegate_conformance::server::{Outcome, skip_on_nginx};
use tidegate_conformance::{Server, is_nginx, matches};

/// What `-t` says about a configuration. Nothing stands before it, so line numbers are as written.
fn check(text: &str) -> Outcome {
    Server::config(text).bare().run(&["-t"])
}

/// Asserts that a configuration is refused with this message on its error line, and that each of its errors says where.
#[track_caller]
fn assert_refused(text: &str, message: &str) {
    let stderr = refusal(text, message);
    let errors = stderr.lines().filter(|line| line.contains("[emerg]"));
    let homeless: Vec<&str> = errors.filter(|line| !matches(r" in /.*\.conf:\d+$", line)).collect();
    assert!(is_nginx() || homeless.is_empty(), "without a place: {homeless:?}");
}

/// As [`assert_refused`], for what is missing as a whole and so has no place; returns all errors.
#[track_caller]
fn refusal(text: &str, message: &str) -> String {
    let outcome = check(text);
    assert!(!outcome.status.success(), "accepted: {text}");
    let stderr = outcome.stderr;
    assert!(
        stderr.lines().any(|line| line.contains("[emerg]") && line.contains(message)),
        "{message}\nis not in\n{stderr}"
    );
    stderr
}

#[test]
fn a_good_configuration_is_said_to_be_ok() {
    let outcome = check("events {}\nhttp { server { listen 127.0.0.1:%%PORT_0%%; } }\n");
    assert!(outcome.status.success(), "{outcome:?}");
    assert!(matches(r"the configuration file /.*/nginx\.conf syntax is ok", &outcome.stderr), "{outcome:?}");
    assert!(matches(r"configuration file /.*/nginx\.conf test is successful", &outcome.stderr), "{outcome:?}");
}

#[test]
fn a_bad_configuration_is_said_to_have_failed() {
    let outcome = check("events {}\nnonsense on;\n");
    assert_eq!(outcome.status.code(), Some(1));
    assert!(
        matches(r#"\[emerg\] .*unknown directive "nonsense" in /.*/nginx\.conf:2"#, &outcome.stderr),
        "{outcome:?}"
    );
    assert!(matches(r"configuration file /.*/nginx\.conf test failed", &outcome.stderr), "{outcome:?}");
}

#[test]
fn a_configuration_is_dumped_with_what_it_includes() {
    let outcome = Server::config("events {}\ninclude more/*.conf;\n")
        .bare()
        .file("more/a.conf", "# a comment stays\nhttp { include inner.conf; }\n")
        .file("inner.conf", "access_log off;\n")
        .run(&["-T"]);
    assert!(outcome.status.success(), "{outcome:?}");
    let files: Vec<&str> =
        outcome.stdout.lines().filter_map(|line| line.strip_prefix("# configuration file ")).collect();
    assert_eq!(files.len(), 3, "{outcome:?}");
    assert!(
        files[0].ends_with("/nginx.conf:") && files[1].ends_with("/more/a.conf:") && files[2].ends_with("/inner.conf:")
    );
    assert!(outcome.stdout.contains("# a comment stays\nhttp { include inner.conf; }\n"));
}

#[test]
fn a_quiet_test_says_nothing_of_success() {
    let outcome = Server::config("events {}\n").bare().run(&["-t", "-q"]);
    assert!(outcome.status.success() && !outcome.stderr.contains("syntax is ok"), "{outcome:?}");
}

#[test]
fn a_test_binds_nothing_and_leaves_a_running_server_alone() {
    let server =
        Server::start("events {} http { access_log off; server { listen 127.0.0.1:%%PORT_0%%; return 200; } }");
    let outcome = server.control(&["-t"]);
    assert!(outcome.status.success(), "{outcome:?}");
    assert_eq!(server.http(0).get("/").status, 200);
    assert_eq!(server.pid_in_file(), Some(server.pid()));
}

#[test]
fn directives_from_the_command_line_are_heard() {
    let outcome = Server::config("events {}\n").bare().run(&["-t", "-g", "nonsense on;"]);
    assert!(outcome.stderr.contains(r#"unknown directive "nonsense" in command line"#), "{outcome:?}");
}

#[test]
fn a_missing_file_is_named() {
    assert_refused("events {}\ninclude none.conf;\n", "none.conf\" failed (2: No such file or directory) in ");
}

#[test]
fn syntax_errors_are_told() {
    for (text, message) in [
        ("events {}\nhttp {\n", "unexpected end of file, expecting \"}\""),
        ("events {}\n}\n", "unexpected \"}\""),
        ("events {}\nuser nobody\n", "unexpected end of file, expecting \";\" or \"}\""),
        ("events {}\nuser \"nobody;\n", "unexpected end of file, expecting '\"' to close the quote"),
        ("events {}\nuser \"a\"b;\n", "unexpected \"b\""),
        ("events {}\n;\n", "unexpected \";\""),
        ("events {}\nhttp;\n", "directive \"http\" has no opening \"{\""),
        ("events {}\nuser nobody {\n}\n", "directive \"user\" is not terminated by \";\""),
    ] {
        assert_refused(text, message);
    }
}

#[test]
fn misplaced_and_repeated_directives_are_told() {
    for (text, message) in [
        ("events {}\nlisten 80;\n", "\"listen\" directive is not allowed here"),
        ("events {}\nhttp { events {} }\n", "\"events\" directive is not allowed here"),
        ("events {}\nhttp { server { root a; root b; } }\n", "\"root\" directive is duplicate"),
        ("events {}\nevents {}\n", "\"events\" directive is duplicate"),
        ("events {}\nhttp { server { location /a { } location /a { } } }\n", "duplicate location \"/a\""),
        ("events {}\nhttp { server { listen 127.0.0.1:1; listen 127.0.0.1:1; } }\n", "a duplicate listen 127.0.0.1:1"),
        (
            "events {}\nhttp { upstream u { server 127.0.0.1:1; } upstream u { server 127.0.0.1:1; } }\n",
            "duplicate upstream \"u\"",
        ),
    ] {
        assert_refused(text, message);
    }
}

#[test]
fn wrong_arguments_are_told() {
    for (text, message) in [
        ("events {}\nhttp { sendfile on off; }\n", "invalid number of arguments in \"sendfile\" directive"),
        (
            "events {}\nhttp { sendfile maybe; }\n",
            "invalid value \"maybe\" in \"sendfile\" directive, it must be \"on\" or \"off\"",
        ),
        ("events {}\nhttp { client_max_body_size 1x; }\n", "\"client_max_body_size\" directive invalid value"),
        ("events {}\nhttp { keepalive_timeout soon; }\n", "\"keepalive_timeout\" directive invalid value"),
        ("events {}\nhttp { proxy_next_upstream nonsense; }\n", "invalid value \"nonsense\""),
        (
            "events {}\nhttp { server { listen 127.0.0.1:99999; } }\n",
            "invalid port in \"127.0.0.1:99999\" of the \"listen\" directive",
        ),
        ("events {}\nhttp { server { listen 127.0.0.1:1 nonsense; } }\n", "invalid parameter \"nonsense\""),
        ("events {}\nhttp { server { location ~ ( { } } }\n", "closing parenthesis"),
        ("events {}\nhttp { server { return 200 $nonsense; } }\n", "unknown \"nonsense\" variable"),
        ("events {}\nhttp { server { access_log l nonsense; } }\n", "unknown log format \"nonsense\""),
        ("events {}\nhttp { upstream u { } }\n", "no servers are inside upstream"),
        ("events {}\nworker_processes many;\n", "\"worker_processes\" directive invalid value"),
    ] {
        assert_refused(text, message);
    }
}

#[test]
fn a_zone_that_nobody_defines_is_told() {
    let text = "events {}\nhttp { server { location / { limit_req zone=z; } } }\n";
    if check(text).stderr.contains("not supported yet") {
        return println!("skipped: needs limit_req");
    }
    refusal(text, "zero size shared memory zone \"z\"");
}

#[test]
fn a_configuration_without_events_is_refused() {
    refusal("http {}\n", "no \"events\" section in configuration");
}

#[test]
fn mail_needs_to_know_whom_to_ask() {
    assert_refused(
        "events {}\nmail { server { listen 127.0.0.1:1; protocol imap; } }\n",
        "no \"auth_http\" is defined for server",
    );
    assert_refused("events {}\nmail { server { listen 127.0.0.1:1; } }\n", "unknown mail protocol for server");
}

#[test]
fn servers_of_stream_and_mail_need_an_address() {
    assert_refused("events {}\nstream { server { return x; } }\n", "no \"listen\" is defined for server");
    assert_refused(
        "events {}\nmail { auth_http 127.0.0.1:1; server { protocol imap; } }\n",
        "no \"listen\" is defined for server",
    );
}

#[test]
fn an_error_in_an_included_file_names_that_file() {
    let outcome =
        Server::config("events {}\ninclude inner.conf;\n").bare().file("inner.conf", "\n\nnonsense;\n").run(&["-t"]);
    assert!(matches(r#"unknown directive "nonsense" in /.*/inner\.conf:3"#, &outcome.stderr), "{outcome:?}");
}

// Differs from nginx, which stops at the first error.
#[test]
fn every_error_is_told_at_once() {
    if skip_on_nginx("only the first error of a file is told") {
        return;
    }
    let outcome = check(
        "events {}\nhttp {\n sendfile maybe;\n nonsense 1;\n keepalive_timeout soon;\n server {\n  listen 127.0.0.1:99999;\n  location ~ ( { }\n }\n}\n",
    );
    assert!(!outcome.status.success());
    for line in [3, 4, 5, 7, 8] {
        let pattern = format!(r"\[emerg\] .* in /.*/nginx\.conf:{line}(:\d+)?$");
        assert!(
            outcome.stderr.lines().any(|text| matches(&pattern, text)),
            "line {line} is not in\n{}",
            outcome.stderr
        );
    }
}

#[test]
fn the_version_is_told() {
    let server = Server::config("events {}\n").bare();
    let outcome = server.run(&["-v"]);
    assert!(outcome.status.success());
    assert!(matches(r"version: \S+/\d+\.\d+", &outcome.stderr), "{outcome:?}");
}

#[test]
fn an_unknown_option_is_told() {
    let outcome = Server::config("events {}\n").bare().run(&["-Z"]);
    assert_eq!(outcome.status.code(), Some(1));
    assert!(outcome.stderr.contains("invalid option: \"Z\""), "{outcome:?}");
}
