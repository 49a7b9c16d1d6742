//! Who gets in, by which worker, and what becomes of those for whom there is no room.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tidegate_conformance::backend::{HttpBackend, Reply};
use tidegate_conformance::client::head;
use tidegate_conformance::server::{signal_to, skip_on_nginx};
use tidegate_conformance::{Server, processes, wait_until};

const ONE: &str =
    "events {} http { access_log off; server { listen 127.0.0.1:%%PORT_0%%; location / { return 200 one; } } }";

#[test]
fn idle_connections_make_room_for_new_ones() {
    if skip_on_nginx("it closes idle connections long before there is no room") {
        return;
    }
    let server = Server::start(
        "worker_processes 1; error_log error.log info; events { worker_connections 20; } http { access_log off;
         server { listen 127.0.0.1:%%PORT_0%%; location / { return 200 one; } } }",
    );
    let mut kept: Vec<_> = (0..20).map(|_| server.http(0)).collect();
    for http in &mut kept {
        assert_eq!(http.get("/").text(), "one");
    }
    let mut fresh: Vec<_> = (0..10).map(|_| server.http(0)).collect();
    for http in &mut fresh {
        assert_eq!(http.get("/").text(), "one");
    }
    server.wait_for_log(r"\[warn\] .* 20 worker_connections are not enough, reusing connections, \d+ so far");
    // Those that were asked last are still there.
    assert_eq!(kept[19].get("/").text(), "one");
    assert!(kept[0].try_response_to("GET").is_err(), "the one that was idle longest has been closed");
}

#[test]
fn without_room_new_clients_wait_and_are_served_in_their_turn() {
    if skip_on_nginx("it closes what it cannot serve") {
        return;
    }
    let server = Server::start(
        "worker_processes 1; error_log error.log info; events { worker_connections 4; } http { access_log off;
         server { listen 127.0.0.1:%%PORT_0%%; location / { return 200 one; } } }",
    );
    // The beginning of a head: none of them is idle.
    let mut busy: Vec<_> = (0..4).map(|_| server.http(0)).collect();
    for http in &mut busy {
        http.send("GET / HT");
    }
    let mut waiting = server.http(0);
    waiting.send(head("GET", "/", &[]));
    server.wait_for_log(r"\[alert\] .* 4 worker_connections are not enough, \d+ times so far");
    assert!(server.log_lines().iter().filter(|line| line.contains("not enough")).count() <= 2);
    busy[0].send("TP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert_eq!(waiting.response().text(), "one");
}

#[test]
fn a_deferred_connection_is_accepted_when_it_has_said_something() {
    let server = Server::start(
        "worker_processes 1; events {} http { access_log off;
         server { listen 127.0.0.1:%%PORT_0%% deferred fastopen=16; location / { return 200 one; } }
         server { listen 127.0.0.1:%%PORT_1%%; location / { stub_status; } } }",
    );
    let mut silent = server.http(0);
    let mut status = server.http(1);
    assert!(status.get("/").text().starts_with("Active connections: 1 "));
    let _open = server.http(1);
    wait_until("another is accepted at once", || {
        status.get("/").text().starts_with("Active connections: 2 ").then_some(())
    });
    assert_eq!(silent.get("/").text(), "one");
}

#[test]
fn workers_take_turns_where_accept_mutex_is_on() {
    let server = Server::start(
        "worker_processes 3; events { accept_mutex on; accept_mutex_delay 5ms; multi_accept on; } http { access_log off;
         server { listen 127.0.0.1:%%PORT_0%%; listen 127.0.0.1:%%PORT_1%%; location / { return 200 $pid; } } }",
    );
    let mut kept: Vec<_> = (0..60).map(|at| server.http(at % 2)).collect();
    let pids: std::collections::BTreeSet<String> = kept.iter_mut().map(|http| http.get("/").text()).collect();
    assert!(!pids.is_empty());
    // A worker that dies while it is its turn takes the turn with it to nobody's harm.
    for _ in 0..3 {
        let workers = wait_until("three workers run", || Some(server.workers()).filter(|pids| pids.len() == 3));
        signal_to(workers[0], Signal::SIGKILL);
        server.wait_until_gone(&workers[..1]);
        for at in 0..20 {
            assert!(!server.http(at % 2).get("/").text().is_empty());
        }
    }
}

#[test]
fn connections_spread_over_the_workers() {
    let inner = "location = /pid { return 200 $pid; } location = /status { stub_status; } location /";
    let server = Server::start(&format!("worker_processes 2; {}", ONE.replace("location /", inner)));
    // A worker that has only just been started does not accept yet, and those that come then are the other's.
    let mut early = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    wait_until("two workers accept", || {
        early.push(server.http(0));
        seen.insert(early.last_mut()?.get("/pid").text());
        (seen.len() == 2).then_some(())
    });
    drop(early);
    let mut status = server.http(0);
    wait_until("the early ones are gone", || status.get("/status").text().contains("connections: 1 ").then_some(()));
    drop(status);
    let mut clients: Vec<_> = (0..50).map(|_| server.http(0)).collect();
    let mut by_worker = std::collections::BTreeMap::new();
    for client in &mut clients {
        *by_worker.entry(client.get("/pid").text()).or_insert(0) += 1;
    }
    let most = by_worker.values().max().copied().unwrap_or_default();
    println!("{by_worker:?}");
    assert!(most <= 30, "the busier of two workers holds at most 60 % of the connections: {by_worker:?}");
}

#[test]
fn a_connection_that_becomes_idle_makes_room_for_who_waits() {
    if skip_on_nginx("it closes what it cannot serve") {
        return;
    }
    let backend = HttpBackend::start(|_| Reply::ok("done").after(Duration::from_millis(300)));
    let server = Server::config(
        "worker_processes 1; events { worker_connections 2; } http { access_log off;
         server { listen 127.0.0.1:%%PORT_0%%; location / { proxy_pass http://%%BACKEND%%; } } }",
    )
    .set("BACKEND", backend.address())
    .start();
    let mut busy: Vec<_> = (0..2).map(|_| server.http(0)).collect();
    busy.iter_mut().for_each(|http| http.send(head("GET", "/", &[])));
    wait_until("both are busy", || (backend.requests().len() == 2).then_some(()));
    let mut waiting = server.http(0);
    waiting.send(head("GET", "/", &[]));
    let begun = Instant::now();
    // The others stay open, and ask for nothing more.
    assert_eq!(waiting.response().text(), "done");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn an_idle_connection_that_is_asked_in_the_moment_it_is_to_make_room_is_answered_and_another_goes() {
    if skip_on_nginx("it closes what it cannot serve") {
        return;
    }
    let server =
        Server::start(&format!("worker_processes 1; {}", ONE.replace("events {}", "events { worker_connections 8; }")));
    let worker = server.workers()[0];
    let mut kept: Vec<_> = (0..8).map(|_| server.http(0)).collect();
    kept.iter_mut().for_each(|http| assert_eq!(http.get("/").text(), "one"));
    signal_to(worker, Signal::SIGSTOP);
    let mut fresh: Vec<_> = (0..4).map(|_| server.http(0)).collect();
    fresh.iter_mut().for_each(|http| http.send(head("GET", "/", &[])));
    kept.iter_mut().for_each(|http| http.send(head("GET", "/", &[])));
    signal_to(worker, Signal::SIGCONT);
    for http in &mut fresh {
        assert_eq!(http.response().text(), "one");
    }
}

#[test]
fn a_worker_that_is_stuck_does_not_slow_the_others_down() {
    let server = Server::start(&format!("worker_processes 2; {ONE}"));
    let workers = wait_until("two workers run", || Some(server.workers()).filter(|pids| pids.len() == 2));
    let mut kept: Vec<_> = (0..16).map(|_| server.http(0)).collect();
    kept.iter_mut().for_each(|http| assert_eq!(http.get("/").text(), "one"));
    signal_to(workers[0], Signal::SIGSTOP);
    let begun = Instant::now();
    // As many as the kernel may leave to the stopped one before the other wakes.
    let mut served = 0;
    while served < 40 && begun.elapsed() < Duration::from_secs(10) {
        let mut http = server.http(0);
        http.send(head("GET", "/", &["Connection: close"]));
        assert_eq!(http.response().text(), "one");
        served += 1;
    }
    println!("40 connections beside a stopped worker in {:?}", begun.elapsed());
    assert!(served == 40 && begun.elapsed() < Duration::from_secs(3), "{served} in {:?}", begun.elapsed());
    signal_to(workers[0], Signal::SIGCONT);
}

/// Clients one after the other, each with a pause behind it: no other comes that could wake a worker for it.
#[test]
fn no_client_is_forgotten_when_the_worker_that_was_woken_for_it_goes() {
    for (workers, option) in [(2, ""), (8, ""), (2, "reuseport")] {
        let text = ONE.replace("%%PORT_0%%", &format!("%%PORT_0%% {option}"));
        let mut server = Server::start(&format!("worker_processes {workers}; {text}"));
        let mut slowest = Duration::ZERO;
        for number in 0..24 {
            // Worker after worker, in the moment in which it may be about to accept.
            let running = wait_until("all workers run", || Some(server.workers()).filter(|pids| pids.len() >= workers));
            let chosen = running[number % running.len()];
            let begun = Instant::now();
            let mut http = server.http(0);
            let signal = [Signal::SIGKILL, Signal::SIGQUIT, Signal::SIGHUP, Signal::SIGTERM][number % 4];
            signal_to(if signal == Signal::SIGHUP { server.pid() } else { chosen }, signal);
            // One that is leaving may be killed before it has looked who waits.
            let killed = signal == Signal::SIGHUP && number % 8 >= 4;
            if killed {
                signal_to(chosen, Signal::SIGKILL);
            }
            http.send(head("GET", "/", &["Connection: close"]));
            // A worker that ends at once may have had it in its hands.
            let may_be_lost = killed || matches!(signal, Signal::SIGKILL | Signal::SIGTERM);
            let answer = http.try_response_to("GET");
            assert!(answer.is_ok() || may_be_lost, "{signal}: {answer:?}");
            slowest = slowest.max(begun.elapsed());
            server.wait_until_gone(&if signal == Signal::SIGHUP { running } else { vec![chosen] });
        }
        println!("{workers} {option}: the slowest took {slowest:?}");
        assert!(slowest < Duration::from_secs(4), "{slowest:?}");
        server.stop();
    }
}

/// A worker may be in the middle of accept(2) when it is told to stop, and stops with the client in its hands. That client
/// is its own; it must not be mistaken for one that nobody has taken, of whom only the stopped worker knows.
#[test]
fn a_worker_that_is_stopped_in_the_moment_it_was_woken_keeps_no_client() {
    let server = Server::start(&format!("worker_processes 2; {ONE}"));
    let workers = wait_until("two workers run", || Some(server.workers()).filter(|pids| pids.len() == 2));
    let (mut slowest, mut held) = (Duration::ZERO, 0);
    for number in 0..40 {
        let pid = workers[number % 2];
        let begun = Instant::now();
        // It is still waiting when the client comes, and is woken only to stop.
        signal_to(pid, Signal::SIGSTOP);
        let mut http = server.http(0);
        http.send(head("GET", "/", &["Connection: close"]));
        http.wire.set_patience(Duration::from_secs(4));
        let answer = http.try_response_to("GET").map(|response| response.text());
        if answer.is_err() {
            let client = http.wire.local_address().port();
            assert!(processes::has_accepted(pid, server.port(0), client), "{number}: nobody has taken it: {answer:?}");
            held += 1;
        } else {
            assert_eq!(answer.ok().as_deref(), Some("one"));
            slowest = slowest.max(begun.elapsed());
        }
        signal_to(pid, Signal::SIGCONT);
        let goes_on = || processes::process(pid).is_some_and(|process| process.state != 'T');
        wait_until("it goes on", || goes_on().then_some(()));
    }
    println!("the slowest took {slowest:?}, {held} were in the hands of a stopped worker");
    assert!(slowest < Duration::from_secs(4), "{slowest:?}");
    assert!(held < 4, "a worker is rarely stopped in the middle of accept(2): {held} of 40");
}

/// States of TCP in which a server may hold a connection: established, on its way out, or closed by the client.
const HELD: [u8; 4] = [1, 4, 5, 8];

#[test]
fn a_worker_without_room_leaves_clients_to_one_that_has() {
    if skip_on_nginx("it closes what it cannot serve") {
        return;
    }
    let server = Server::start(
        "worker_processes 2; error_log error.log info; events { worker_connections 8; } http { access_log off;
         server { listen 127.0.0.1:%%PORT_0%%; listen 127.0.0.1:%%PORT_1%%; location / { return 200 $pid; } } }",
    );
    let workers = wait_until("two workers run", || Some(server.workers()).filter(|pids| pids.len() == 2));
    let ports = [server.port(0), server.port(1)];
    let is_open = |(local, _, state): (u16, u16, u8)| ports.contains(&local) && HELD.contains(&state);
    for round in 0..4 {
        // A connection that a worker has yet to let go of takes the place of one of those that are to fill it.
        wait_until("those of the last round are closed", || (!processes::connections().any(is_open)).then_some(()));
        // One of the two takes all that there are while the other stands still.
        signal_to(workers[round % 2], Signal::SIGSTOP);
        let is_stopped = || processes::process(workers[round % 2]).is_some_and(|process| process.state == 'T');
        wait_until("it stands still", || is_stopped().then_some(()));
        let mut busy: Vec<_> = (0..8).map(|at| server.http(at % 2)).collect();
        busy.iter_mut().for_each(|http| http.send("GET / HT"));
        // From here on every client is the other's, whichever of the sockets it comes to.
        signal_to(workers[round % 2], Signal::SIGCONT);
        let mut more: Vec<_> = (0..8).map(|at| server.http(at % 2)).collect();
        for http in busy.iter_mut() {
            http.send("TP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        }
        for http in more.iter_mut() {
            http.send(head("GET", "/", &["Connection: close"]));
        }
        for http in busy.iter_mut().chain(&mut more) {
            assert_eq!(http.response().status, 200);
        }
    }
}
