//! Reloads under load: no request may fail, whatever is changed, and nothing may be left over.
//!
//! Figures are printed with `--nocapture`; debug builds run the same in a smaller size.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tidegate_conformance::backend::{AuthHttp, EchoBackend, HttpBackend, ImapBackend, Reply, TcpBackend};
use tidegate_conformance::client::{Offer, head};
use tidegate_conformance::load::{self, Load, Report, Shape, sized};
use tidegate_conformance::server::signal_to;
use tidegate_conformance::{Certificate, Http, Server, Setup, Wire, processes, wait_until};

/// Two workers before two backends. `%WORKERS%` and the others are for what a test changes.
const CONFIG: &str = "worker_processes %WORKERS%; events {} http { access_log %LOG%; keepalive_requests 1000000;
    upstream app { zone app 256k; keepalive 16; %UPSTREAM% }
    server { listen 127.0.0.1:%%PORT_0%% %OPTION%; %MORE%
        location / { proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection \"\";
                     add_header X-Worker $pid always; }
        location = /status { stub_status; } } }";

/// What may change in the configuration.
#[derive(Clone)]
struct Text {
    workers: usize,
    log: &'static str,
    upstream: String,
    option: &'static str,
    more: String,
}

impl Text {
    fn before(backends: &[EchoBackend]) -> Text {
        Text { workers: 2, log: "off", upstream: servers(backends), option: "", more: String::new() }
    }

    fn write(&self) -> String {
        CONFIG
            .replace("%WORKERS%", &self.workers.to_string())
            .replace("%LOG%", self.log)
            .replace("%UPSTREAM%", &self.upstream)
            .replace("%OPTION%", self.option)
            .replace("%MORE%", &self.more)
    }
}

fn servers(backends: &[EchoBackend]) -> String {
    backends.iter().map(|backend| format!("server {};", backend.address())).collect()
}

fn two_backends() -> Vec<EchoBackend> {
    (0..2).map(|_| EchoBackend::start()).collect()
}

/// Sends HUP so many times, this far apart by the clock, and returns how often the server has begun to reload.
fn reload_by_the_clock(server: &Server, load: &Load, count: u32, apart: Duration) -> usize {
    let before = reloads(server);
    let began = Instant::now();
    for turn in 1..=count {
        load.mark();
        server.signal(Signal::SIGHUP);
        // The rhythm is what is tested.
        thread::sleep((began + apart * turn).saturating_duration_since(Instant::now()));
    }
    reloads(server) - before
}

fn reloads(server: &Server) -> usize {
    server.log_lines().iter().filter(|line| line.ends_with("reconfiguring")).count()
}

fn assert_whole(report: &Report, backends: &[EchoBackend]) {
    report.assert_clean();
    let repeated: Vec<u64> = backends.iter().flat_map(EchoBackend::repeated).collect();
    assert!(repeated.is_empty(), "requests came to a backend twice: {repeated:x?}");
}

/// Waits until just these workers are there, and no process that has ended and is not waited for.
fn wait_for_workers(server: &Server, count: usize) {
    wait_until(&format!("{count} workers are left"), || (server.workers().len() == count).then_some(()));
    wait_until("no child is a zombie", || {
        let zombie = processes::all().into_iter().any(|child| child.parent == server.pid() && child.state == 'Z');
        (!zombie).then_some(())
    });
}

fn stub_status(server: &Server) -> Vec<u64> {
    let text = server.http(0).ask("GET", "/status", &["Connection: close"]).text();
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

#[test]
fn nothing_is_lost_over_fifty_reloads() {
    let _alone = load::alone();
    let backends = two_backends();
    let server = Server::start(&Text::before(&backends).write());
    let load = Load::start(Shape::mixed(server.port(0)));
    load.wait_for(200);
    let count = sized(50, 15);
    let begun = reload_by_the_clock(&server, &load, count, Duration::from_millis(200));
    let report = load.finish();
    println!("{count} reloads 200 ms apart ({begun} begun): {report}");
    assert_whole(&report, &backends);
    assert!(report.answered() >= sized(20_000, 1000), "too few requests to say anything");
    assert!(report.announced_over_mark > 0, "no connection was kept over a reload");
    wait_for_workers(&server, 2);
}

#[test]
fn nothing_is_lost_or_left_over_by_a_storm_of_reloads() {
    let _alone = load::alone();
    let backends = two_backends();
    let server = Server::start(&Text::before(&backends).write());
    let load = Load::start(Shape::mixed(server.port(0)));
    load.wait_for(200);
    let settled = || {
        wait_for_workers(&server, 2);
        (processes::resident_bytes(server.pid()), processes::descriptors(server.pid()))
    };
    reload_by_the_clock(&server, &load, 5, Duration::from_millis(50));
    let (memory, descriptors) = settled();
    let count = sized(200, 60);
    let begun = reload_by_the_clock(&server, &load, count, Duration::from_millis(10));
    let most = server.workers().len();
    let (memory_after, descriptors_after) = settled();
    load.wait_for(200);
    let report = load.finish();
    println!("{count} reloads 10 ms apart ({begun} begun, {most} workers at the end of it): {report}");
    println!("master: {memory} bytes and {descriptors} descriptors, then {memory_after} and {descriptors_after}");
    assert_whole(&report, &backends);
    assert!(memory_after <= memory + memory / 20, "the master grows");
    assert!(descriptors_after.abs_diff(descriptors) <= 2, "descriptors are left over");
    // "Active connections: 1 .. Reading: 0 Writing: 1 Waiting: 0": ours alone.
    wait_until("the counts of ended workers are taken back", || {
        let status = stub_status(&server);
        (status.first() == Some(&1) && status[status.len() - 3..] == [0, 1, 0]).then_some(())
    });
}

/// Freezes the workers of one configuration, has clients queue up, goes over to another configuration, and lets go.
fn queue_over_a_reload(before: &Text, after: &Text) {
    let mut server = Server::start(&before.write());
    wait_for_workers(&server, before.workers);
    let old = server.freeze_workers();
    let ask = |number: usize| {
        let mut http = server.http(0);
        http.send(head("GET", &format!("/?id={number}"), &["Connection: close"]));
        http
    };
    let clients: Vec<Http> = (0..60).map(ask).collect();
    server.rewrite(&after.write());
    server.signal(Signal::SIGHUP);
    wait_until("new workers run", || (server.workers().len() == old.len() + after.workers).then_some(()));
    old.iter().for_each(|pid| signal_to(*pid, Signal::SIGCONT));
    for (number, mut client) in clients.into_iter().enumerate() {
        let response = client.try_response_to("GET");
        let answer = response.map(|response| (response.status, response.text())).map_err(|error| error.to_string());
        assert_eq!(answer, Ok((200, number.to_string())), "client {number} of 60");
    }
    server.wait_until_gone(&old);
}

#[test]
fn who_waits_in_the_queue_is_served_after_a_reload() {
    let backends = two_backends();
    let of = |workers, option| Text { workers, option, ..Text::before(&backends) };
    queue_over_a_reload(&of(2, ""), &of(1, ""));
    queue_over_a_reload(&of(2, "reuseport"), &of(4, "reuseport"));
}

/// Reloads with each text in turn under load, and waits until what was there before is gone.
fn change_under_load(setup: Setup, shape: impl Fn(&Server) -> Shape, texts: &[String], what: &str) -> (Server, Report) {
    let mut server = setup.start();
    let load = Load::start(shape(&server));
    load.wait_for(100);
    for round in 0..sized(3, 1) {
        for text in texts {
            load.mark();
            server.reload_with(text);
            load.wait_for(sized(300, 60));
        }
        println!("{what}, round {round}: {} requests, {} failures", load.answered(), load.failures().len());
    }
    let report = load.finish();
    println!("{what}: {report}");
    (server, report)
}

#[test]
fn nothing_is_lost_when_a_listener_comes_and_goes() {
    let _alone = load::alone();
    let backends = two_backends();
    let text = Text::before(&backends);
    let more = Text { more: "listen 127.0.0.1:%%PORT_1%%;".to_owned(), ..text.clone() };
    let shape = |server: &Server| Shape::mixed(server.port(0));
    let texts = [more.write(), text.write()];
    let (server, report) = change_under_load(Server::config(&text.write()), shape, &texts, "a listener");
    assert_whole(&report, &backends);
    wait_until("the address is closed", || (!processes::is_listening(server.port(1))).then_some(()));
}

#[test]
fn nothing_is_lost_when_the_number_of_workers_changes() {
    let _alone = load::alone();
    let backends = two_backends();
    let of = |workers| Text { workers, ..Text::before(&backends) }.write();
    let shape = |server: &Server| Shape::mixed(server.port(0));
    let (server, report) = change_under_load(Server::config(&of(1)), shape, &[of(8), of(2), of(1)], "workers 1, 8, 2");
    assert_whole(&report, &backends);
    wait_for_workers(&server, 1);
}

#[test]
fn nothing_is_lost_when_workers_get_sockets_of_their_own_and_lose_them() {
    let _alone = load::alone();
    let backends = two_backends();
    let text = Text::before(&backends);
    let own = Text { option: "reuseport", ..text.clone() };
    let shape = |server: &Server| Shape::mixed(server.port(0));
    let texts = [own.write(), text.write()];
    let (_, report) = change_under_load(Server::config(&text.write()), shape, &texts, "reuseport");
    assert_whole(&report, &backends);
}

#[test]
fn nothing_is_lost_when_the_number_of_workers_with_sockets_of_their_own_changes() {
    let _alone = load::alone();
    let backends = two_backends();
    let of = |workers| Text { workers, option: "reuseport", ..Text::before(&backends) }.write();
    let shape = |server: &Server| Shape::mixed(server.port(0));
    let texts = [of(8), of(2), of(1)];
    let (server, report) = change_under_load(Server::config(&of(1)), shape, &texts, "workers 1, 8, 2 with reuseport");
    assert_whole(&report, &backends);
    wait_for_workers(&server, 1);
}

#[test]
fn who_waits_in_the_queue_of_a_socket_that_is_one_too_many_is_served_after_a_reload() {
    let backends = two_backends();
    let of = |workers, option| Text { workers, option, ..Text::before(&backends) };
    queue_over_a_reload(&of(4, "reuseport"), &of(2, "reuseport"));
    queue_over_a_reload(&of(4, "reuseport"), &of(4, ""));
    queue_over_a_reload(&of(2, ""), &of(2, "reuseport"));
}

#[test]
fn nothing_is_lost_when_the_log_moves() {
    let _alone = load::alone();
    let backends = two_backends();
    let of = |log| Text { log, ..Text::before(&backends) }.write();
    let shape = |server: &Server| Shape::mixed(server.port(0));
    let texts = [of("two.log"), of("one.log")];
    let (server, report) = change_under_load(Server::config(&of("one.log")), shape, &texts, "the log");
    assert_whole(&report, &backends);
    let logged = || server.lines("one.log").len() + server.lines("two.log").len();
    wait_until("every request is in one of the logs", || (logged() == report.answered()).then_some(()));
}

#[test]
fn nothing_is_lost_when_the_backends_change() {
    let _alone = load::alone();
    let backends: Vec<EchoBackend> = (0..4).map(|_| EchoBackend::start()).collect();
    let of = |backends: &[EchoBackend]| Text::before(backends).write();
    let shape = |server: &Server| Shape::mixed(server.port(0));
    let texts = [of(&backends[1..]), of(&backends[2..]), of(&backends[..2])];
    let (_, report) = change_under_load(Server::config(&of(&backends[..2])), shape, &texts, "the backends");
    assert_whole(&report, &backends);
    backends.iter().for_each(|backend| assert!(backend.requests() > 0, "a backend was never asked"));
}

#[test]
fn nothing_is_lost_when_the_certificate_changes() {
    let _alone = load::alone();
    let backends = two_backends();
    let (one, two) = (Certificate::for_names(&["localhost"]), Certificate::for_names(&["localhost"]));
    let of = |name: &str| {
        let tls =
            format!("listen 127.0.0.1:%%PORT_1%% ssl; ssl_certificate {name}.crt; ssl_certificate_key {name}.key;");
        Text { more: tls, ..Text::before(&backends) }.write()
    };
    let setup = Server::config(&of("one")).certificate("one", &one).certificate("two", &two);
    let shape =
        |server: &Server| Shape { kept: 16, fresh: 16, ..Shape::mixed(server.port(0)) }.and_tls(&[server.port(1)]);
    let (server, report) = change_under_load(setup, shape, &[of("one"), of("two")], "the certificate");
    assert_whole(&report, &backends);
    let shown = server.connect(1).start_tls(&Offer::name("localhost")).tls().certificate.clone();
    assert_eq!(shown, two.der, "the certificate of the last reload is shown");
}

#[test]
fn nothing_is_lost_when_a_configuration_is_tested() {
    let _alone = load::alone();
    let backends = two_backends();
    for option in ["", "reuseport"] {
        let server = Server::start(&Text { option, ..Text::before(&backends) }.write());
        let load = Load::start(Shape::mixed(server.port(0)));
        load.wait_for(100);
        for _ in 0..sized(30, 10) {
            let outcome = server.control(&["-t"]);
            assert!(outcome.status.success(), "{outcome:?}");
            load.wait_for(20);
        }
        let report = load.finish();
        println!("-t, {option}: {report}");
        report.assert_clean();
    }
}

#[test]
fn what_has_begun_ends_on_the_old_worker() {
    let (release, released) = mpsc::channel::<()>();
    let released = std::sync::Mutex::new(released);
    let slow = HttpBackend::start(move |request| {
        if request.target == "/poll" {
            let _ = released.lock().map(|released| released.recv_timeout(Duration::from_secs(15)));
        }
        Reply::ok(format!("{} bytes", request.body.len()))
    });
    let (echo, imap) = (TcpBackend::echo(), ImapBackend::start("one"));
    let auth = AuthHttp::one_user("alice", "pw", imap.port());
    let certificate = Certificate::for_names(&["localhost"]);
    let mut server = Server::config(
        "worker_processes 2; events {}
         http { access_log off; server { listen 127.0.0.1:%%PORT_0%%; listen 127.0.0.1:%%PORT_1%% ssl;
                ssl_certificate one.crt; ssl_certificate_key one.key; add_header X-Worker $pid always;
                location / { proxy_pass http://%%SLOW%%; proxy_request_buffering off; }
                location = /pid { return 200 $pid; } location = /status { stub_status; } } }
         stream { server { listen 127.0.0.1:%%PORT_2%%; proxy_pass %%ECHO%%; } }
         mail { auth_http http://%%AUTH%%/; server_name localhost;
                server { listen 127.0.0.1:%%PORT_3%%; protocol imap; } }",
    )
    .set("SLOW", slow.address())
    .set("ECHO", echo.address())
    .set("AUTH", auth.address())
    .certificate("one", &certificate)
    .start();
    let old: Vec<String> = server.workers().iter().map(i32::to_string).collect();
    let is_old = |worker: &str| old.iter().any(|pid| pid == worker);

    let mut upload = server.http(0);
    upload.send(head("POST", "/upload", &["Content-Length: 300000", "Connection: close"]));
    upload.send(vec![b'x'; 100_000]);
    let mut poll = server.http(0);
    poll.send(head("GET", "/poll", &["Connection: close"]));
    wait_until("the upload and the long poll are with the backend", || (slow.connections() == 2).then_some(()));
    let (finish_hello, gate) = half_a_handshake(server.port(1));
    let handshake = thread::spawn({
        let port = gate.port();
        move || Http::over(Wire::connect(port).start_tls(&Offer::name("localhost"))).get("/pid").text()
    });
    let mut logged_in = server.connect(3);
    logged_in.line();
    assert!(logged_in.ask("a1 LOGIN alice pw").starts_with("a1 OK"));
    let mut stream = server.connect(2);
    assert_eq!(stream.ask("before"), "before");
    // Upload, long poll, handshake, IMAP, stream, and the one that asks.
    wait_until("everybody has been accepted", || (stub_status(&server).first() == Some(&6)).then_some(()));

    server.reload();
    wait_until("every old worker is leaving", || {
        let leaving = server.log_lines().iter().filter(|line| line.ends_with("gracefully shutting down")).count();
        (leaving >= old.len()).then_some(())
    });
    assert!(!is_old(&server.http(0).get("/pid").text()), "a new client is served by a new worker");

    assert_eq!(stream.ask("after"), "after");
    assert_eq!((logged_in.ask("a2 NOOP"), logged_in.line()), ("* OK one".to_owned(), "a2 OK done".to_owned()));
    upload.send(vec![b'x'; 200_000]);
    let response = upload.response();
    assert_eq!((response.status, response.text().as_str()), (200, "300000 bytes"));
    assert!(is_old(response.field("X-Worker")), "the upload went on where it had begun");
    release.send(()).unwrap();
    let response = poll.response();
    assert_eq!((response.status, is_old(response.field("X-Worker"))), (200, true));
    finish_hello.send(()).unwrap();
    assert!(is_old(&handshake.join().unwrap()), "the handshake went on where it had begun");
    drop((logged_in, stream));
    server.wait_until_gone(&old.iter().map(|pid| pid.parse().unwrap()).collect::<Vec<i32>>());
}

/// A relay to a port that holds back the second half of a client's first message until it is told to go on.
fn half_a_handshake(port: u16) -> (mpsc::Sender<()>, TcpBackend) {
    let (go_on, told) = mpsc::channel::<()>();
    let told = std::sync::Mutex::new(told);
    let relay = TcpBackend::start(move |client, _| {
        let (mut client, mut server) = (client.socket(), TcpStream::connect(("127.0.0.1", port)).unwrap());
        let mut hello = [0; 4096];
        let count = client.read(&mut hello).unwrap();
        let (first, second) = hello[..count].split_at(count / 2);
        server.write_all(first).unwrap();
        let _ = told.lock().map(|told| told.recv_timeout(Duration::from_secs(15)));
        server.write_all(second).unwrap();
        let (mut from_client, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        let forth = thread::spawn(move || {
            let _ = std::io::copy(&mut from_client, &mut to_server);
            let _ = to_server.shutdown(Shutdown::Write);
        });
        let _ = std::io::copy(&mut server, &mut client);
        let _ = client.shutdown(Shutdown::Both);
        let _ = forth.join();
    });
    (go_on, relay)
}
