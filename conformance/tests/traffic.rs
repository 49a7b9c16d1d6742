//! Traffic that goes on while backends, workers and configurations come and go. Figures are printed with `--nocapture`.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tidegate_conformance::backend::HttpBackend;
use tidegate_conformance::peers::{Redis, find};
use tidegate_conformance::server::signal_to;
use tidegate_conformance::{Http, Port, Server, Wire, backend, wait_until};

/// Two backends of unequal weight; one rests for a second after a failure.
const WEIGHTED: &str = "worker_processes 1; events {}
    http {
        access_log off;
        upstream app {
            zone app 64k;
            server 127.0.0.1:%%FIRST%% weight=3 fail_timeout=1s;
            server 127.0.0.1:%%SECOND%% weight=1 fail_timeout=1s;
        }
        server { listen 127.0.0.1:%%PORT_0%%; keepalive_requests 100000; location / { proxy_pass http://app; } }
    }";

/// Asks `count` times on one connection; how often each of the two answered.
fn ask(http: &mut Http, count: usize) -> (usize, usize) {
    let mut answers = (0, 0);
    for _ in 0..count {
        let response = http.get("/");
        assert_eq!(response.status, 200);
        match response.text().as_str() {
            "first" => answers.0 += 1,
            "second" => answers.1 += 1,
            other => panic!("unexpected answer {other:?}"),
        }
    }
    answers
}

#[test]
fn ten_thousand_requests_follow_the_weights_and_survive_the_loss_of_a_backend() {
    let (first, port) = (HttpBackend::saying("first"), Port::claim());
    let say_second = |_: &tidegate_conformance::message::Request| backend::Reply::ok("second");
    let second = HttpBackend::start_on(&port, say_second);
    let text =
        WEIGHTED.replace("%%FIRST%%", &first.port().to_string()).replace("%%SECOND%%", &port.number().to_string());
    let server = Server::start(&text);
    let mut http = server.http(0);
    assert_eq!(ask(&mut http, 10_000), (7500, 2500));

    drop(second);
    assert_eq!(ask(&mut http, 1000), (1000, 0), "no request fails while a backend is gone");

    let _second = HttpBackend::start_on(&port, say_second);
    let back = Instant::now();
    wait_until("the backend that is back is asked again", || (ask(&mut http, 8).1 > 0).then_some(()));
    println!("the backend was asked again after {:?}", back.elapsed());
    assert!(back.elapsed() < Duration::from_secs(2), "within fail_timeout and a second");
}

#[test]
fn redis_benchmark_runs_through_a_stream_and_survives_the_loss_of_a_server() {
    let Some(benchmark) = find("redis-benchmark") else { return };
    let (Some(one), Some(two)) = (Redis::start(), Redis::start()) else { return };
    let server = Server::start(&format!(
        "events {{}} stream {{
            upstream redis {{ server 127.0.0.1:{}; server 127.0.0.1:{} backup; }}
            server {{ listen 127.0.0.1:%%PORT_0%%; proxy_pass redis; proxy_connect_timeout 1s; }}
        }}",
        one.port(),
        two.port()
    ));
    let run = || {
        let mut command = Command::new(&benchmark);
        command.args([
            "-h",
            "127.0.0.1",
            "-p",
            &server.port(0).to_string(),
            "-n",
            "100000",
            "-P",
            "16",
            "-q",
            "-t",
            "set,get,lpush",
        ]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let output = run().output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.contains("requests per second"), "{text}");
    assert!(!text.to_ascii_lowercase().contains("error"), "{text}");
    println!(
        "{}",
        text.replace('\r', "\n").lines().filter(|line| line.contains("per second")).collect::<Vec<_>>().join("\n")
    );

    let mut interrupted = run().spawn().unwrap();
    drop(one);
    // The benchmark gives up when its connections break; what counts is that new connections are served.
    let _ = interrupted.kill();
    let _ = interrupted.wait();
    for _ in 0..50 {
        let mut wire = server.connect(0);
        wire.send("PING\r\n");
        assert_eq!(wire.line(), "+PONG");
    }
}

const TWO_WORKERS: &str = "worker_processes 2; events {} http {
    access_log off;
    upstream app { server 127.0.0.1:%%A%%; }
    server { listen 127.0.0.1:%%PORT_0%%; location / { proxy_pass http://app; } }
}";

/// Clients that each open a connection a request until told to stop. Requests done, and failures.
fn fresh_clients<R>(port: u16, clients: usize, meanwhile: impl FnOnce() -> R) -> (usize, usize, R) {
    let (done, asked, failed) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let result = std::thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| {
                while !done.load(SeqCst) {
                    let answered = Wire::try_connect(("127.0.0.1", port)).ok().and_then(|mut wire| {
                        wire.try_send("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
                        wire.try_rest().ok().filter(|bytes| bytes.starts_with(b"HTTP/1.1 200"))
                    });
                    asked.fetch_add(1, SeqCst);
                    failed.fetch_add(usize::from(answered.is_none()), SeqCst);
                }
            });
        }
        let result = meanwhile();
        done.store(true, SeqCst);
        result
    });
    (asked.load(SeqCst), failed.load(SeqCst), result)
}

#[test]
fn twenty_reloads_with_changing_upstreams_fail_no_new_connection() {
    let (first, second) = (HttpBackend::saying("first"), HttpBackend::saying("second"));
    let text = |backend: &HttpBackend| TWO_WORKERS.replace("%%A%%", &backend.port().to_string());
    let mut server = Server::start(&text(&first));
    let port = server.port(0);
    let (asked, failed, ()) = fresh_clients(port, 8, || {
        for round in 0..20 {
            server.reload_with(&text(if round % 2 == 0 { &second } else { &first }));
        }
    });
    println!("20 reloads: {failed} of {asked} requests failed");
    assert_eq!(failed, 0, "of {asked}");
    assert!(!first.requests().is_empty() && !second.requests().is_empty());
}

#[test]
fn a_killed_worker_costs_only_what_was_in_flight_in_it() {
    const CLIENTS: usize = 8;
    let backend = HttpBackend::saying("first");
    let server = Server::start(&TWO_WORKERS.replace("%%A%%", &backend.port().to_string()));
    let kills = 5;
    let (asked, failed, slowest) = fresh_clients(server.port(0), CLIENTS, || {
        let mut slowest = Duration::ZERO;
        for _ in 0..kills {
            let workers = wait_until("two workers run", || Some(server.workers()).filter(|workers| workers.len() == 2));
            let killed = Instant::now();
            signal_to(workers[0], Signal::SIGKILL);
            wait_until("the worker is replaced", || {
                let now = server.workers();
                (now.len() == 2 && !now.contains(&workers[0])).then_some(())
            });
            slowest = slowest.max(killed.elapsed());
            // A worker that dies within its first second is replaced only after a pause, so that a crash loop is slow.
            wait_until("the new worker is a second old", || {
                (killed.elapsed() > Duration::from_millis(1200)).then_some(())
            });
        }
        slowest
    });
    println!("{kills} kills: {failed} of {asked} requests failed, slowest replacement {slowest:?}");
    assert!(failed <= kills * CLIENTS, "{failed} of {asked}");
    assert!(asked > 20 * kills * CLIENTS);
    server.wait_for_log("worker process \\d+ exited on signal 9");
}
