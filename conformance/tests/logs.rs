//! Where lines of error logs and access logs go: syslog, memory, and more of it for some clients.

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use tidegate_conformance::server::skip_on_nginx;
use tidegate_conformance::{Server, is_nginx, matches, wait_until};

/// What a reader is sent next.
fn receive(reader: &UdpSocket) -> String {
    let mut buffer = [0; 4096];
    let length = reader.recv(&mut buffer).expect("a message within ten seconds");
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

fn reader(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket
}

#[test]
fn mistakes_are_told_in_nginx_words() {
    let tag = "a".repeat(33);
    for (logs, message) in [
        ("error_log syslog:facility=user;", "no syslog server specified"),
        ("access_log syslog:server=127.0.0.1,port=5;", "unknown syslog parameter \"port=5\""),
        ("error_log syslog:server=127.0.0.1,facility=local9;", "unknown syslog facility \"local9\""),
        ("error_log syslog:server=127.0.0.1,severity=err;", "unknown syslog severity \"err\""),
        (&format!("error_log syslog:server=127.0.0.1,tag={tag};"), "syslog tag length exceeds 32"),
        ("error_log syslog:server=127.0.0.1,tag=a-b;", "syslog \"tag\" only allows alphanumeric characters"),
        ("error_log syslog:server=127.0.0.1,server=127.0.0.2;", "duplicate syslog \"server\""),
        ("error_log syslog:server=[::;", "in syslog server \"[::\""),
        ("error_log syslog:server=127.0.0.1 loud;", "invalid log level \"loud\""),
        ("error_log e.log info warn;", "duplicate log level \"warn\""),
        ("access_log syslog:server=127.0.0.1 combined buffer=1k;", "logs to syslog cannot be buffered"),
        ("access_log off combined;", "invalid parameter \"combined\""),
        ("access_log a.log combined flush=1s;", "no buffer is defined for access_log \"a.log\""),
        (
            "access_log a.log combined buffer=1k; access_log a.log combined buffer=2k;",
            "access_log \"a.log\" already defined with conflicting parameters",
        ),
    ] {
        let outcome =
            Server::config(&format!("events {{}}\nhttp {{\n{logs} server {{ listen 127.0.0.1:%%PORT_0%%; }} }}"))
                .run(&["-t"]);
        assert!(!outcome.status.success(), "{logs}");
        assert!(
            outcome.stderr.contains(message) && outcome.stderr.contains("nginx.conf:3"),
            "{logs}: {}",
            outcome.stderr
        );
    }
    let sizes: &[&str] = if is_nginx() { &[] } else { &["1k", "many", "9g"] };
    for size in sizes {
        let outcome = Server::config(&format!("error_log memory:{size} debug; events {{}}")).run(&["-t"]);
        assert!(outcome.stderr.contains(&format!("invalid buffer size \"{size}\"")), "{}", outcome.stderr);
    }
}

#[test]
fn error_and_access_lines_go_to_readers_of_both_families() {
    let (four, six) = (reader("127.0.0.1:0"), reader("[::1]:0"));
    let server = Server::config(
        "events {} http { log_format path '$uri'; access_log off; server { listen 127.0.0.1:%%PORT_0%%;
            location /access { access_log syslog:server=%%SIX%%,facility=mail,severity=alert,tag=Here path if=$arg_log; return 200; }
            location / { error_log syslog:server=%%FOUR%%,facility=user,nohostname; error_log e.log; root html; } } }",
    )
    .set("FOUR", four.local_addr().unwrap())
    .set("SIX", six.local_addr().unwrap())
    .start();
    server.http(0).get("/access/no");
    server.http(0).get("/access/yes?log=1");
    let message = receive(&six);
    assert!(matches(r"^<17>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \S+ Here: /access/yes$", &message), "{message}");
    assert_eq!(server.http(0).get("/nothing").status, 404);
    let message = receive(&four);
    // As in nginx the line has its own time behind that of the message.
    let form = r#"^<11>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d nginx: (\d{4}/.* \[error\] \d+#\d+: \*\d+ open\(\) ".*/nothing" failed .*)$"#;
    assert!(matches(form, &message), "{message}");
    let (_, line) = message.split_once("nginx: ").unwrap();
    server.wait_for_lines("e.log", 1);
    assert_eq!(server.read("e.log").trim_end(), line);
}

#[test]
fn a_session_of_a_stream_is_told_to_syslog() {
    let reader = reader("127.0.0.1:0");
    let server = Server::config(
        "events {} stream { log_format s '$status $bytes_sent'; server { listen 127.0.0.1:%%PORT_0%%; return hello;
            access_log syslog:server=%%READER%% s; } }",
    )
    .set("READER", reader.local_addr().unwrap())
    .start();
    assert_eq!(server.connect(0).rest(), b"hello");
    let message = receive(&reader);
    assert!(message.ends_with(" nginx: 200 5"), "{message}");
}

#[test]
fn syslog_alone_in_the_main_block_leaves_the_default_file() {
    let setup = Server::config(
        "pid nginx.pid; daemon off; error_log syslog:server=unix:%%DIR%%/reader info; events {}
         http { access_log off; server { listen 127.0.0.1:%%PORT_0%%; root html; } }",
    )
    .bare();
    let path = setup.folder().join("reader");
    let reader = UnixDatagram::bind(&path).unwrap();
    reader.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    let server = setup.start();
    server.http(0).get("/nothing");
    server.wait_for_log(r"\[error\].*nothing");
    let mut buffer = [0; 4096];
    wait_until("the reader is told too", || {
        let length = reader.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).contains("/nothing").then_some(())
    });
    let errors = server.log_lines();
    assert!(errors.iter().all(|line| !line.contains("[notice]") && !line.contains("[info]")), "{errors:?}");
}

#[test]
fn a_log_in_memory_can_be_read_and_outlives_the_worker() {
    if skip_on_nginx("it needs --with-debug, and a debugger to read it") {
        return;
    }
    let server = Server::start(
        "worker_processes 2; error_log memory:64k debug; events {} http { access_log off;
            server { listen 127.0.0.1:%%PORT_0%%; location / { return 204; } } }",
    );
    (0..2000).for_each(|number| drop(server.http(0).get(&format!("/request-{number}"))));
    let read = || {
        let folder = format!("/proc/{}/fd", server.pid());
        let open = fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path());
        let mut of_log = open.filter(|path| {
            fs::read_link(path).is_ok_and(|target| target.to_string_lossy().contains("memfd:tidegate-error_log"))
        });
        String::from_utf8_lossy(&fs::read(of_log.next().unwrap()).unwrap()).into_owned()
    };
    for worker in server.workers() {
        tidegate_conformance::server::signal_to(worker, nix::sys::signal::Signal::SIGKILL);
        server.wait_until_gone(&[worker]);
    }
    let text = read();
    assert!(text.contains("[debug]") && text.contains("http request line: \"GET /request-1999 HTTP/1.1\""));
    assert!(!text.contains("/request-1 "), "the oldest lines are gone");
    assert!(text.len() < 80 << 10, "{}", text.len());
    assert!(!server.read("error.log").contains("[debug]"));
}

#[test]
fn everything_is_logged_of_the_clients_that_are_named() {
    if skip_on_nginx("it may be built without --with-debug") {
        return;
    }
    for (clients, expected) in [("127.0.0.0/8", true), ("localhost", true), ("10.0.0.0/8", false), ("unix:", false)] {
        let server = Server::config(
            "events { debug_connection %%CLIENTS%%; } http { error_log quiet.log crit; access_log off;
                server { listen 127.0.0.1:%%PORT_0%%; location / { return 204; } } }",
        )
        .set("CLIENTS", clients)
        .start();
        server.http(0).get("/asked");
        if expected {
            server.wait_for_line("quiet.log", r#"\[debug\] .*\*\d+ http request line: "GET /asked HTTP/1.1"$"#);
        }
        // The end of the first request is logged before the second is read.
        server.http(0).get("/again");
        assert_eq!(!server.read("quiet.log").is_empty(), expected, "{clients}");
    }
}

#[test]
fn names_of_clients_that_are_wrong() {
    if skip_on_nginx("it may be built without --with-debug") {
        return;
    }
    // Longer than a label may be, so nobody is asked for it.
    let long = "a".repeat(64);
    for (clients, message) in [
        (&*long, &*format!("host not found in debug_connection \"{long}\"")),
        ("10.1.2.3/8", "low address bits of 10.1.2.3/8 are meaningless"),
    ] {
        let outcome = Server::config(&format!("events {{ debug_connection {clients}; }}")).run(&["-t"]);
        assert!(outcome.stderr.contains(message), "{}", outcome.stderr);
    }
}
