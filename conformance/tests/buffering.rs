//! Bodies that wait in memory and in files: every byte arrives whatever is slow, nobody is tied up for it, and nothing is
//! left behind.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use tidegate_conformance::backend::{HttpBackend, Reply, TcpBackend};
use tidegate_conformance::client::head;
use tidegate_conformance::load::sized;
use tidegate_conformance::server::{signal_to, skip_on_nginx};
use tidegate_conformance::temporary::{files, temporary};
use tidegate_conformance::{Http, Port, Server, Setup, is_nginx, processes, wait_until};

/// More than what the kernel keeps for a client that does not read.
const LARGE: usize = 20 << 20;

/// A server with this inside its http block. Its folders are its own.
fn http(inside: &str) -> Setup {
    Server::config(&format!(
        "worker_processes 1; error_log error.log info; events {{}} http {{ access_log off; client_max_body_size 0;
            client_body_temp_path body 1 2; proxy_temp_path reply 1 2; proxy_http_version 1.1; {inside} }}"
    ))
}

/// A server that passes everything to one backend, with this inside the location.
fn proxy(address: &str, inside: &str) -> Setup {
    http(&format!("server {{ listen 127.0.0.1:%%PORT_0%%; location / {{ proxy_pass http://{address}; {inside} }} }}"))
}

/// Bytes that repeat only after a length which no buffer has, and other ones for another length.
fn content(length: usize) -> Vec<u8> {
    const PERIOD: usize = 99_991;
    let mut state = 0x9e37_79b9_7f4a_7c15 ^ u64::try_from(length).unwrap();
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_ne_bytes()
    });
    let period: Vec<u8> = words.flatten().take(PERIOD).collect();
    let mut bytes = period.repeat(length / PERIOD + 1);
    bytes.truncate(length);
    bytes
}

/// A body in chunks of this size.
fn chunked(body: &[u8], size: usize) -> Vec<u8> {
    let mut framed = Vec::new();
    for chunk in body.chunks(size) {
        framed.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        framed.extend_from_slice(chunk);
        framed.extend_from_slice(b"\r\n");
    }
    framed.extend_from_slice(b"0\r\n\r\n");
    framed
}

fn wait_until_clean(server: &Server) {
    wait_until("no temporary file is left", || (temporary(server) == 0).then_some(()));
}

/// A backend that sends a body of this length as fast as it is taken, to whoever asks.
struct Fountain {
    tcp: TcpBackend,
    done: Arc<AtomicUsize>,
}

impl Fountain {
    fn start(length: usize, lines: &str) -> Fountain {
        let (done, body) = (Arc::new(AtomicUsize::new(0)), content(length));
        let (count, lines) = (done.clone(), lines.to_owned());
        let tcp = TcpBackend::start(move |mut wire, _| {
            while let Ok(Some(_)) = wire.try_head() {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{lines}\r\n", body.len());
                if wire.try_send(head).is_err() || wire.try_send(&body).is_err() {
                    return;
                }
                count.fetch_add(1, SeqCst);
            }
        });
        Fountain { tcp, done }
    }

    fn done(&self) -> usize {
        self.done.load(SeqCst)
    }
}

/// A client that has asked, and reads when it is told to.
fn asking(server: &Server) -> Http {
    let mut http = server.http(0);
    http.wire.set_patience(Duration::from_secs(60));
    http.send(head("GET", "/", &[]));
    http
}

#[test]
fn bodies_of_every_size_arrive_whole_both_ways() {
    let backend = HttpBackend::start(|request| Reply::ok(&request.body));
    const BUFFER: usize = 8192;
    let server = http(
        "client_body_buffer_size 8k; server { listen 127.0.0.1:%%PORT_0%%;
            location /on { proxy_pass http://%%BACKEND%%; }
            location /off { proxy_pass http://%%BACKEND%%; proxy_request_buffering off; }
            location /old { proxy_pass http://%%BACKEND%%; proxy_request_buffering off; proxy_http_version 1.0; }
            location /clean { proxy_pass http://%%BACKEND%%; client_body_in_file_only clean; }
            location /flat { proxy_pass http://%%BACKEND%%; client_body_temp_path flat; }
            location /unbuffered { proxy_pass http://%%BACKEND%%; proxy_buffering off; } }",
    )
    .set("BACKEND", backend.address())
    .start();
    let sizes = [
        0,
        1,
        BUFFER - 1,
        BUFFER,
        BUFFER + 1,
        BUFFER * 5 / 4 - 1,
        BUFFER * 5 / 4,
        BUFFER * 5 / 4 + 1,
        2 * BUFFER + 1,
        (32 << 10) - 1,
        32 << 10,
        (32 << 10) + 1,
        (64 << 10) + 1,
        (3 << 20) + 7,
    ];
    for location in ["/on", "/off", "/old", "/clean", "/flat", "/unbuffered"] {
        let mut http = server.http(0);
        for size in sizes {
            let body = content(size);
            let answer = http.post(location, &body, &[]);
            assert!(answer.status == 200 && answer.body == body, "{location}, {size} bytes");
            for chunk in [size.max(1), 1000, BUFFER] {
                http.send(head("PUT", location, &["Transfer-Encoding: chunked"]));
                http.send(chunked(&body, chunk));
                let answer = http.response_to("PUT");
                assert!(answer.status == 200 && answer.body == body, "{location}, {size} bytes in chunks of {chunk}");
            }
        }
    }
    for request in backend.requests() {
        // What is read whole has a length, whatever the client's framing.
        let has_length =
            request.fields.get("Content-Length").is_some_and(|length| length == request.body.len().to_string());
        let may_be_chunked = request.target == "/off" && request.method == "PUT";
        assert!(has_length || may_be_chunked, "{} {}", request.target, request.body.len());
    }
    wait_until_clean(&server);
}

#[test]
fn replies_of_every_size_arrive_whole_at_a_slow_client() {
    let body_of = |target: &str| content(target.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().unwrap());
    let backend = HttpBackend::start(move |request| {
        let body = body_of(&request.target);
        match request.target.chars().nth(1) {
            Some('c') => Reply::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").then(chunked(&body, 5000)),
            Some('e') => Reply::raw("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").then(&body).closing(),
            _ => Reply::ok(&body),
        }
    });
    for inside in [
        "",
        "proxy_buffers 4 8k; proxy_busy_buffers_size 8k;",
        "proxy_max_temp_file_size 64k;",
        "proxy_max_temp_file_size 0;",
    ] {
        let server = proxy(&backend.address(), inside).start();
        for size in [0, 1, 4095, 4096, 4097, (32 << 10) - 1, 32 << 10, (32 << 10) + 1, (36 << 10) + 1, 12 << 20] {
            for framing in ["length", "chunks", "end"] {
                let mut http = server.http(0);
                http.wire.set_patience(Duration::from_secs(60));
                http.send(head("GET", &format!("/{framing}{size}"), &["Connection: close"]));
                if size > 1 << 20 {
                    // Long enough for everything to be full that can be.
                    thread::sleep(Duration::from_millis(300));
                }
                let answer = http.response();
                assert!(answer.status == 200 && answer.body == content(size), "{inside} {framing} {size}");
            }
        }
        wait_until_clean(&server);
    }
}

#[test]
fn slow_clients_do_not_tie_up_a_backend() {
    const CLIENTS: usize = 20;
    let clients = sized(CLIENTS, 10);
    let fountain = Fountain::start(LARGE, "");
    let server = proxy(&fountain.tcp.address(), "proxy_set_header Connection '';").start();
    // What the first of everything takes is not what is measured.
    let mut first = asking(&server);
    assert_eq!(first.response().body.len(), LARGE);
    let worker = server.workers()[0];
    let before = processes::resident_bytes(worker);
    let since = Instant::now();
    let mut waiting: Vec<Http> = (0..clients).map(|_| asking(&server)).collect();
    let mut most = 0;
    wait_until("the backend is done", || {
        most = most.max(processes::resident_bytes(worker));
        (fountain.done() == clients + 1).then_some(())
    });
    let took = since.elapsed();
    println!(
        "{clients} replies of {LARGE} bytes: the backend is done in {took:?}, {} KiB more",
        most.saturating_sub(before) >> 10
    );
    assert!(temporary(&server) > 0);
    server.wait_for_log(
        r"\[warn\].* an upstream response is buffered to a temporary file .*/reply/.* while reading upstream",
    );
    // The buffers of the directives, twice over for what the allocator keeps, and for the threads that write files, of which
    // a busy machine has more at once. The replies are two hundred megabytes.
    if !is_nginx() {
        assert!(most < before + u64::try_from(clients).unwrap() * (128 << 10) + (4 << 20), "{before} {most}");
    }
    let expected = content(LARGE);
    for http in &mut waiting {
        assert!(http.response().body == expected);
    }
    drop(waiting);
    wait_until_clean(&server);
}

#[test]
fn a_client_that_keeps_up_costs_no_file() {
    let fountain = Fountain::start(1 << 20, "");
    let server = proxy(&fountain.tcp.address(), "").start();
    if skip_on_nginx("it writes files as soon as its buffers are full") {
        return;
    }
    let mut http = asking(&server);
    assert_eq!(http.response().body.len(), 1 << 20);
    assert!(!server.read("error.log").contains("buffered to a temporary file"));
}

#[test]
fn who_buffers_is_told_by_the_configuration_and_by_the_reply() {
    for (inside, line, is_buffered) in [
        ("", "", true),
        ("proxy_buffering off;", "", false),
        ("proxy_max_temp_file_size 0;", "", false),
        ("", "X-Accel-Buffering: no\r\n", false),
        ("", "X-Accel-Buffering: NO\r\n", false),
        ("proxy_buffering off;", "X-Accel-Buffering: yes\r\n", true),
        ("", "X-Accel-Buffering: maybe\r\n", true),
        ("proxy_ignore_headers X-Accel-Buffering;", "X-Accel-Buffering: no\r\n", true),
        ("proxy_ignore_headers X-Accel-Buffering; proxy_buffering off;", "X-Accel-Buffering: yes\r\n", false),
    ] {
        let fountain = Fountain::start(LARGE, line);
        let server = proxy(&fountain.tcp.address(), inside).start();
        let mut http = asking(&server);
        if is_buffered {
            wait_until("the backend is done", || (fountain.done() == 1).then_some(()));
        } else {
            // It is full after a moment, and stays so.
            thread::sleep(Duration::from_millis(400));
            assert_eq!((fountain.done(), temporary(&server)), (0, 0), "{inside} {line}");
        }
        let answer = http.response();
        assert!(answer.body == content(LARGE), "{inside} {line}");
        assert_eq!(answer.fields.get("X-Accel-Buffering"), None);
        wait_until_clean(&server);
    }
}

#[test]
fn beyond_the_largest_file_the_backend_waits() {
    let fountain = Fountain::start(60 << 20, "");
    let server = proxy(&fountain.tcp.address(), "proxy_max_temp_file_size 1m;").start();
    let mut http = asking(&server);
    wait_until("a file is begun", || (temporary(&server) > 0).then_some(()));
    thread::sleep(Duration::from_millis(500));
    assert_eq!(fountain.done(), 0);
    assert!(http.response().body == content(60 << 20));
    wait_until_clean(&server);
}

#[test]
fn a_request_whose_first_peer_fails_is_sent_whole_to_the_next() {
    let failing = HttpBackend::start(|_| Reply::hang_up());
    let good = HttpBackend::start(|request| Reply::ok(&request.body));
    let server = http(
        "upstream u { server %%FAILING%% max_fails=0; server %%GOOD%% backup; } client_body_buffer_size 8k;
        server { listen 127.0.0.1:%%PORT_0%%; location / { proxy_pass http://u; }
            location /clean { proxy_pass http://u; client_body_in_file_only clean; } }",
    )
    .set("FAILING", failing.address())
    .set("GOOD", good.address())
    .start();
    let mut asked = 0;
    for target in ["/", "/clean"] {
        for size in [1, 8192, 8193, 20_000, (3 << 20) + 1] {
            let body = content(size);
            let mut http = server.http(0);
            http.send(head("PUT", target, &[&format!("Content-Length: {size}")]));
            http.send(&body);
            assert!(http.response_to("PUT").body == body, "{size}");
            http.send(head("PUT", target, &["Transfer-Encoding: chunked"]));
            http.send(chunked(&body, 3000));
            assert!(http.response_to("PUT").body == body, "{size} in chunks");
            asked += 2;
        }
    }
    let (failed, answered) = (failing.requests(), good.requests());
    assert_eq!((failed.len(), answered.len()), (asked, asked));
    assert!(failed.iter().zip(&answered).all(|(first, second)| first.body == second.body));
    wait_until_clean(&server);
}

#[test]
fn a_reply_that_sends_the_exchange_elsewhere_takes_the_body_along() {
    let first = HttpBackend::start(|_| Reply::status("200 OK", &["X-Accel-Redirect: /second"], ""));
    let second = HttpBackend::start(|request| Reply::ok(&request.body));
    let server = http(
        "client_body_buffer_size 8k; server { listen 127.0.0.1:%%PORT_0%%;
            location / { proxy_pass http://%%FIRST%%; }
            location /refused { proxy_pass http://%%REFUSED%%; error_page 502 = @second; }
            location /second { internal; proxy_pass http://%%SECOND%%; }
            location @second { proxy_pass http://%%SECOND%%; } }",
    )
    .set("FIRST", first.address())
    .set("SECOND", second.address())
    .set("REFUSED", Port::claim().address())
    .start();
    for target in ["/", "/refused"] {
        for size in [1, 8192, 8193, 100_000] {
            let body = content(size);
            let answer = server.http(0).post(target, &body, &[]);
            assert!(answer.status == 200 && answer.body == body, "{target} {size}: {}", answer.status);
        }
    }
    wait_until_clean(&server);
}

#[test]
fn a_slow_uploader_ties_up_no_backend() {
    let backend = HttpBackend::start(|request| Reply::ok(&request.body));
    let server = proxy(&backend.address(), "client_body_buffer_size 8k;").start();
    for (count, framing) in ["Content-Length: 100000", "Transfer-Encoding: chunked"].into_iter().enumerate() {
        let body = content(100_000);
        let message = if count == 0 { body.clone() } else { chunked(&body, 1000) };
        let (most, rest) = message.split_at(message.len() - 10);
        let mut http = server.http(0);
        http.send(head("POST", "/", &[framing]));
        http.send(most);
        wait_until("a file is begun", || (temporary(&server) > 0).then_some(()));
        server.wait_for_log(r"\[warn\].* a client request body is buffered to a temporary file .*/body/");
        assert_eq!(backend.connections(), count, "the backend must not know of it yet");
        http.send(rest);
        assert!(http.response().body == body);
    }
    wait_until_clean(&server);
}

#[test]
fn what_is_kept_in_files_is_told_and_kept_or_cleaned() {
    let backend = HttpBackend::start(|request| {
        let file = request.field("X-File").to_owned();
        // A backend on the same machine may read it from there.
        let read = fs::read(&file).map_or_else(|_| "none".into(), |bytes| bytes.len().to_string());
        Reply::ok(format!("{}|{read}|{}", request.field("X-Body"), file.is_empty()))
    });
    let server = http(
        "client_body_buffer_size 8k; proxy_set_header X-File $request_body_file; proxy_set_header X-Body $request_body;
        server { listen 127.0.0.1:%%PORT_0%%;
            location /off { proxy_pass http://%%BACKEND%%; }
            location /on { proxy_pass http://%%BACKEND%%; client_body_in_file_only on; }
            location /clean { proxy_pass http://%%BACKEND%%; client_body_in_file_only clean; } }",
    )
    .set("BACKEND", backend.address())
    .start();
    let long = "x".repeat(20_000);
    for (target, body, expected, kept) in [
        ("/off", "short", "short|none|true", 0),
        // nginx: it has a name, but not one that leads to it.
        ("/off", &long, "|none|false", 0),
        ("/clean", "short", "|5|false", 0),
        ("/clean", &long, "|20000|false", 0),
        ("/on", "short", "|5|false", 1),
        ("/on", &long, "|20000|false", 2),
        ("/on", "", "|0|false", 3),
    ] {
        let answer = server.http(0).post(target, body.as_bytes(), &[]);
        assert_eq!(answer.text(), expected, "{target} {}", body.len());
        wait_until("all but what is kept is gone", || {
            (files(&server.folder().join("body")).len() == kept && temporary(&server) == kept).then_some(())
        });
    }
    let mut lengths: Vec<u64> = files(&server.folder().join("body"))
        .iter()
        .map(|file| {
            let about = fs::metadata(file).unwrap();
            assert_eq!(about.permissions().mode() & 0o777, 0o600);
            about.len()
        })
        .collect();
    lengths.sort_unstable();
    assert_eq!(lengths, [0, 5, 20_000]);
    server.wait_for_log(r"\[notice\].* a client request body is buffered to a temporary file");
    // No body, no file.
    server.http(0).get("/on");
    assert_eq!(files(&server.folder().join("body")).len(), 3);
}

#[test]
fn a_client_that_leaves_leaves_nothing() {
    let fountain = Fountain::start(LARGE, "");
    let server = http(
        "client_body_buffer_size 8k; server { listen 127.0.0.1:%%PORT_0%%;
            location / { proxy_pass http://%%BACKEND%%; }
            location /clean { proxy_pass http://%%BACKEND%%; client_body_in_file_only clean; } }",
    )
    .set("BACKEND", fountain.tcp.address())
    .start();
    let worker = server.workers()[0];
    let mut first = asking(&server);
    assert_eq!(first.response().body.len(), LARGE);
    drop(first);
    wait_until_clean(&server);
    wait_until("the first connections are gone", || (fountain.tcp.open() <= 1).then_some(()));
    let before = processes::descriptors(worker);
    for round in 0..5 {
        let mut uploading = server.http(0);
        uploading.send(head("POST", if round % 2 == 0 { "/" } else { "/clean" }, &["Content-Length: 1000000"]));
        uploading.send(content(500_000));
        let reading = asking(&server);
        wait_until("both have a file", || (temporary(&server) >= 2).then_some(()));
        if round < 3 {
            uploading.wire.abort();
            reading.wire.abort();
        }
    }
    wait_until_clean(&server);
    wait_until("the descriptors are back", || (processes::descriptors(worker) <= before + 1).then_some(()));
}

#[test]
fn a_killed_worker_leaves_nothing() {
    if skip_on_nginx("it leaves its files") {
        return;
    }
    let backend = HttpBackend::saying("x");
    for (name, in_file) in [("nameless", "off"), ("named", "clean")] {
        let inside = format!("client_body_buffer_size 8k; client_body_in_file_only {in_file};");
        let mut server = proxy(&backend.address(), &inside).start();
        let folder = server.folder().join("body");
        fs::write(folder.join("0000000001"), "somebody's").unwrap();
        let uploads: Vec<Http> = (0..4)
            .map(|_| {
                let mut http = server.http(0);
                http.send(head("POST", "/", &["Content-Length: 1000000"]));
                http.send(content(100_000));
                http
            })
            .collect();
        let has = if name == "named" { 9 } else { 5 };
        wait_until("all have files", || (temporary(&server) == has).then_some(()));
        assert_eq!(files(&folder).len(), if name == "named" { 5 } else { 1 }, "{name}");
        let worker = server.workers()[0];
        signal_to(worker, Signal::SIGKILL);
        wait_until("nothing is left but what is somebody else's", || {
            let is_new = server.workers().iter().any(|pid| *pid != worker);
            (is_new && files(&folder) == [folder.join("0000000001")]).then_some(())
        });
        drop(uploads);
        assert_eq!(server.http(0).post("/", b"abc", &[]).status, 200);
        assert!(server.stop().success());
    }
}

/// Runs a test in a thread with a disk of one megabyte on the folder `disk`.
fn with_small_disk(setup: Setup, test: impl FnOnce(Server) + Send) {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let disk = setup.folder().join("disk");
    fs::create_dir(&disk).unwrap();
    thread::scope(|scope| {
        let run = || {
            let none = None::<&str>;
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            let mounted = unshare(CloneFlags::CLONE_NEWNS).is_ok()
                && mount(none, "/", none, private, none).is_ok()
                && mount(Some("tmpfs"), &disk, Some("tmpfs"), MsFlags::empty(), Some("size=1m,mode=755")).is_ok();
            if !mounted {
                println!("skipped: needs a mount namespace");
                return;
            }
            test(setup.start());
        };
        scope.spawn(run).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

#[test]
fn a_full_disk_is_an_error_of_one_request() {
    let fountain = Fountain::start(LARGE, "");
    let echo = HttpBackend::start(|request| Reply::ok(&request.body));
    let setup = Server::config(
        "worker_processes 1; error_log error.log info; events {} http { access_log off; client_max_body_size 0;
        client_body_temp_path disk/body; proxy_temp_path disk/reply; client_body_buffer_size 8k; proxy_http_version 1.1;
        server { listen 127.0.0.1:%%PORT_0%%; location / { proxy_pass http://%%FOUNTAIN%%; }
            location /echo { proxy_pass http://%%ECHO%%; }
            location /clean { proxy_pass http://%%ECHO%%; client_body_in_file_only clean; } } }",
    );
    let setup = setup.set("FOUNTAIN", fountain.tcp.address()).set("ECHO", echo.address());
    with_small_disk(setup, |mut server| {
        let workers = server.workers();
        for target in ["/echo", "/clean"] {
            let body = content(3 << 20);
            let answer = server.http(0).post(target, &body, &[]);
            assert_eq!(answer.status, 500, "{target}");
            // nginx: the file of the first stays as long as its connection lingers.
            if !is_nginx() {
                assert_eq!(server.http(0).post(target, b"small", &[]).text(), "small");
            }
        }
        server.wait_for_log(
            r#"\[crit\].* pwritev?\(\) ".*disk/body/.*" (failed \(28: No space left on device\)|has written only)"#,
        );
        // The answer has begun: it is cut, and the client can tell.
        let mut http = asking(&server);
        server.wait_for_log(
            r#"\[crit\].* pwritev?\(\) ".*disk/reply/.*" (failed \(28: No space left on device\)|has written only)"#,
        );
        assert!(http.try_response_to("GET").is_err());
        // What fits is served as ever.
        let body = content(1 << 20);
        let fits = &body[..100_000];
        assert!(server.http(0).post("/echo", fits, &[]).body == fits);
        assert_eq!(server.workers(), workers);
        assert!(server.stop().success());
    });
}

#[test]
fn folders_are_made_at_start_and_their_faults_are_told_by_a_test_too() {
    let text = |folder: &str| {
        format!(
            "events {{}} http {{ client_body_temp_path {folder} 2; proxy_temp_path other/;
                server {{ listen 127.0.0.1:%%PORT_0%%; location / {{ proxy_pass http://127.0.0.1:1; }} }} }}"
        )
    };
    let config = |folder: &str| Server::config(&text(folder));
    let mut server = config("body").start();
    for name in ["body", "other"] {
        let about = fs::metadata(server.folder().join(name)).unwrap();
        assert_eq!(about.permissions().mode() & 0o7777, 0o700, "{name}");
        wait_until("the worker is the folder's owner", || {
            let worker = *server.workers().first()?;
            (fs::metadata(format!("/proc/{worker}")).ok()?.uid() == about.uid()).then_some(())
        });
    }
    server.reload_with(&text("later"));
    assert!(server.folder().join("later").is_dir());
    server.rewrite(&text("missing/later"));
    server.signal(Signal::SIGHUP);
    server.wait_for_log(r#"\[emerg\].* mkdir\(\) ".*missing/later" failed \(2: No such file or directory\)"#);
    for arguments in [&["-t"][..], &[]] {
        let outcome = config("missing/body").run(arguments);
        assert!(!outcome.status.success());
        assert!(
            outcome.stderr.contains("[emerg] mkdir() \"")
                && outcome.stderr.contains("missing/body\" failed (2: No such file or directory)"),
            "{}",
            outcome.stderr
        );
    }
}

#[test]
fn sizes_and_folders_that_do_not_fit_are_refused() {
    let largest = "the maximum of the value of \"proxy_buffer_size\" and one of the \"proxy_buffers\"";
    for (inside, expected) in [
        (
            "proxy_busy_buffers_size 2k;",
            format!("\"proxy_busy_buffers_size\" must be equal to or greater than {largest}"),
        ),
        ("proxy_busy_buffers_size 30k;", "must be less than the size of all \"proxy_buffers\" minus one buffer".into()),
        ("proxy_buffer_size 32k;", "must be less than the size of all \"proxy_buffers\" minus one buffer".into()),
        (
            "proxy_temp_file_write_size 2k;",
            format!("\"proxy_temp_file_write_size\" must be equal to or greater than {largest}"),
        ),
        ("proxy_max_temp_file_size 2k;", "\"proxy_max_temp_file_size\" must be equal to zero to disable".into()),
        ("proxy_temp_path a 0;", "invalid value".into()),
        ("proxy_temp_path a 9 9 9;", "invalid value".into()),
        ("client_body_in_file_only maybe;", "invalid value \"maybe\"".into()),
        ("proxy_limit_rate fast;", "invalid ".into()),
    ] {
        let outcome = proxy("127.0.0.1:1", inside).run(&["-t"]);
        assert!(!outcome.status.success() && outcome.stderr.contains(&expected), "{inside}: {}", outcome.stderr);
    }
    for inside in ["proxy_busy_buffers_size 28k;", "proxy_max_temp_file_size 0;", "proxy_max_temp_file_size 4k;"] {
        let outcome = proxy("127.0.0.1:1", inside).run(&["-t"]);
        assert!(outcome.status.success(), "{inside}: {}", outcome.stderr);
    }
}

#[test]
fn an_upstream_is_read_at_a_rate() {
    let fountain = Fountain::start(40_000, "");
    for (inside, least, most) in [
        ("proxy_limit_rate 20000;", 900, 5000),
        ("proxy_limit_rate 0;", 0, 500),
        ("proxy_limit_rate 20000; proxy_buffering off;", 0, 500),
        ("set $rate 20000; proxy_limit_rate $rate;", 900, 5000),
        ("limit_rate 20000;", 900, 5000),
        ("limit_rate 20000; proxy_buffering off;", 0, 500),
    ] {
        let server = proxy(&fountain.tcp.address(), inside).start();
        let since = Instant::now();
        assert!(asking(&server).response().body == content(40_000));
        let took = since.elapsed();
        assert!(took >= Duration::from_millis(least) && took < Duration::from_millis(most), "{inside}: {took:?}");
    }
}

#[test]
fn a_wire_that_is_cut_by_the_backend_is_cut_for_the_slow_client_too() {
    let backend = TcpBackend::start(|mut wire, _| {
        let Ok(Some(_)) = wire.try_head() else { return };
        let _ = wire.try_send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", LARGE + 1));
        let _ = wire.try_send(content(LARGE));
    });
    let server = proxy(&backend.address(), "").start();
    let mut http = asking(&server);
    server.wait_for_log("upstream prematurely closed connection while reading upstream");
    let head = http.wire.try_head().unwrap().unwrap();
    assert!(head.starts_with(b"HTTP/1.1 200"));
    // Everything that came, and then no proper end.
    assert!(http.wire.exactly(LARGE) == content(LARGE));
    assert!(http.wire.try_exactly(1).is_err());
    wait_until_clean(&server);
}
