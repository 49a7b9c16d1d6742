//! What an administrator sees of the processes: signals, reloads, crashes and files.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tidegate_conformance::backend::{HttpBackend, Reply, TcpBackend};
use tidegate_conformance::client::head;
use tidegate_conformance::server::{signal_to, skip_on_nginx};
use tidegate_conformance::{Port, Server, processes, wait_until};

const ONE: &str =
    "events {} http { access_log off; server { listen 127.0.0.1:%%PORT_0%%; location / { return 200 one; } } }";
const TWO: &str =
    "events {} http { access_log off; server { listen 127.0.0.1:%%PORT_0%%; location / { return 200 two; } } }";

fn answer(server: &Server) -> String {
    server.http(0).get("/").text()
}

fn wait_for_answer(server: &Server, expected: &str) {
    wait_until(&format!("the answer is {expected}"), || (answer(server) == expected).then_some(()));
}

#[test]
fn the_pid_file_names_the_master_and_goes_with_it() {
    let mut server = Server::start(ONE);
    assert_eq!(server.pid_in_file(), Some(server.pid()));
    assert!(server.stop().success());
    assert_eq!(server.pid_in_file(), None);
}

#[test]
fn as_many_workers_run_as_told() {
    let server = Server::start(&format!("worker_processes 3; {ONE}"));
    wait_until("three workers run", || (server.workers().len() == 3).then_some(()));
    assert_eq!(answer(&server), "one");
}

#[test]
fn a_single_process_serves_without_a_master() {
    let server = Server::start(&format!("master_process off; {ONE}"));
    assert_eq!(answer(&server), "one");
    assert!(server.workers().is_empty());
}

#[test]
fn the_server_goes_to_the_background() {
    let mut server =
        Server::config(&format!("daemon on; pid nginx.pid; error_log error.log info; {ONE}")).detached().start();
    assert_eq!(answer(&server), "one");
    assert!(server.wait().success(), "the process that was started ends well");
    assert_ne!(processes::process(server.pid()).unwrap().group, 0);
}

#[test]
fn term_ends_everything_at_once() {
    let mut server = Server::start(ONE);
    let workers = server.workers();
    assert!(server.stop().success());
    server.wait_until_gone(&workers);
}

#[test]
fn quit_lets_what_has_begun_come_to_its_end() {
    let gate = Port::claim();
    let backend = HttpBackend::start({
        let gate = gate.address();
        move |_| {
            wait_until("the gate opens", || std::net::TcpStream::connect(gate).ok());
            Reply::ok("at last")
        }
    });
    let mut server =
        Server::config("events {} http { access_log off; server { listen 127.0.0.1:%%PORT_0%%; location / { proxy_pass http://%%BACKEND%%; } } }")
            .set("BACKEND", backend.address())
            .start();
    let mut slow = server.http(0);
    slow.send(head("GET", "/", &[]));
    wait_until("the backend is asked", || (!backend.requests().is_empty()).then_some(()));
    server.signal(Signal::SIGQUIT);
    wait_until("nobody listens any more", || (!processes::is_listening(server.port(0))).then_some(()));
    let _open = TcpBackend::start_on(&gate, |_, _| {});
    let response = slow.response();
    assert_eq!(response.text(), "at last");
    assert!(!response.keeps_alive());
    assert!(server.wait().success());
}

#[test]
fn a_reload_changes_what_is_answered() {
    let mut server = Server::start(ONE);
    let (master, old) = (server.pid(), server.workers());
    assert_eq!(answer(&server), "one");
    server.reload_with(TWO);
    wait_for_answer(&server, "two");
    server.wait_until_gone(&old);
    assert_eq!(server.pid_in_file(), Some(master));
}

#[test]
fn a_reload_opens_new_addresses_and_closes_old_ones() {
    let mut server = Server::start(ONE);
    assert_eq!(answer(&server), "one");
    server.reload_with(&ONE.replace("PORT_0", "PORT_1"));
    assert_eq!(server.http(1).get("/").text(), "one");
    wait_until("the old address is closed", || (!processes::is_listening(server.port(0))).then_some(()));
}

#[test]
fn a_reload_of_nonsense_changes_nothing() {
    let mut server = Server::start(ONE);
    let workers = server.workers();
    server.rewrite(&TWO.replace("return", "nonsense"));
    server.signal(Signal::SIGHUP);
    server.wait_for_log(r#"\[emerg\].*unknown directive "nonsense" in /.*/nginx\.conf:1"#);
    assert_eq!(answer(&server), "one");
    assert_eq!(server.workers(), workers);
}

#[test]
fn a_reload_lets_a_stream_session_live_on() {
    let backend = TcpBackend::echo();
    let config = "events {} stream { server { listen 127.0.0.1:%%PORT_0%%; proxy_pass %%BACKEND%%; } }";
    let mut server = Server::config(config).set("BACKEND", backend.address()).start();
    let mut session = server.connect(0);
    assert_eq!(session.ask("before"), "before");
    server.reload();
    assert_eq!(session.ask("after"), "after");
    assert_eq!(server.connect(0).ask("new"), "new");
}

#[test]
fn no_client_is_refused_during_a_reload() {
    let mut server = Server::start(&format!("worker_processes 2; {ONE}"));
    let done = std::sync::atomic::AtomicBool::new(false);
    let port = server.port(0);
    let clients = std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            let mut count = 0;
            while !done.load(std::sync::atomic::Ordering::SeqCst) || count < 50 {
                let mut http = tidegate_conformance::Http::over(tidegate_conformance::Wire::connect(port));
                assert_eq!(http.ask("GET", "/", &["Connection: close"]).status, 200);
                count += 1;
            }
            count
        });
        (0..3).for_each(|_| server.reload());
        done.store(true, std::sync::atomic::Ordering::SeqCst);
        client.join()
    });
    assert!(clients.unwrap() >= 50);
}

#[test]
fn the_command_line_sends_signals() {
    let mut server = Server::start(ONE);
    let old = server.workers();
    assert!(server.control(&["-s", "reload"]).status.success());
    server.wait_until_gone(&old);
    assert!(server.control(&["-s", "quit"]).status.success());
    assert!(server.wait().success());
    let outcome = server.control(&["-s", "stop"]);
    assert!(!outcome.status.success(), "{outcome:?}");
}

#[test]
fn a_killed_worker_is_replaced() {
    let server = Server::start(ONE);
    let old = server.workers();
    signal_to(old[0], Signal::SIGKILL);
    wait_until("a new worker runs", || server.workers().iter().any(|pid| !old.contains(pid)).then_some(()));
    assert_eq!(answer(&server), "one");
    server.wait_for_log(&format!(r"\[alert\].*worker process {} exited on signal 9", old[0]));
}

#[test]
fn usr1_opens_the_logs_anew() {
    let server = Server::start(
        "events {} http { access_log access.log; server { listen 127.0.0.1:%%PORT_0%%; location / { return 200; } } }",
    );
    server.http(0).get("/first");
    server.wait_for_line("access.log", "/first");
    fs::rename(server.folder().join("access.log"), server.folder().join("access.log.1")).unwrap();
    server.signal(Signal::SIGUSR1);
    wait_until("the log is there again", || server.folder().join("access.log").exists().then_some(()));
    wait_until("new lines go into the new log", || {
        server.http(0).get("/second");
        server.read("access.log").contains("/second").then_some(())
    });
    assert!(server.read("access.log.1").contains("/first"));
}

#[test]
fn winch_ends_the_workers_and_hup_brings_them_back() {
    let mut server =
        Server::config(&format!("daemon on; pid nginx.pid; error_log error.log info; {ONE}")).detached().start();
    let old = server.workers();
    server.signal(Signal::SIGWINCH);
    server.wait_until_gone(&old);
    assert!(server.is_running());
    server.signal(Signal::SIGHUP);
    wait_until("workers run again", || (!server.workers().is_empty()).then_some(()));
    assert_eq!(answer(&server), "one");
}

#[test]
fn usr2_starts_a_new_binary_beside_the_old() {
    let mut server =
        Server::config(&format!("daemon on; pid nginx.pid; error_log error.log info; {ONE}")).detached().start();
    assert!(server.wait().success());
    let old = server.pid();
    server.signal(Signal::SIGUSR2);
    wait_until("the new master has written its pid", || server.pid_in_file().filter(|&pid| pid != old));
    assert_eq!(server.read("nginx.pid.oldbin").trim(), old.to_string());
    wait_until("the new master has workers", || (!server.workers().is_empty()).then_some(()));
    assert_eq!(answer(&server), "one");
    signal_to(old, Signal::SIGQUIT);
    server.wait_until_gone(&[old]);
    assert_eq!(answer(&server), "one");
}

#[test]
fn an_address_in_use_is_told() {
    let backend = TcpBackend::echo();
    let setup = Server::config("events {} http { access_log off; server { listen %%BACKEND%%; } }")
        .set("BACKEND", backend.address());
    let outcome = setup.run(&[]);
    assert!(!outcome.status.success());
    let expected = format!("bind() to {} failed (98: Address already in use)", backend.address());
    assert!(outcome.stderr.contains(&expected), "{outcome:?}");
}

#[test]
fn shutdown_is_not_held_up_longer_than_allowed() {
    let backend = TcpBackend::echo();
    let mut server =
        Server::config("worker_shutdown_timeout 1s; events {} stream { server { listen 127.0.0.1:%%PORT_0%%; proxy_pass %%BACKEND%%; } }")
            .set("BACKEND", backend.address())
            .start();
    let mut session = server.connect(0);
    assert_eq!(session.ask("hello"), "hello");
    server.signal(Signal::SIGQUIT);
    assert!(session.at_end());
    assert!(server.wait().success());
}

#[test]
fn what_is_cut_at_the_shutdown_timeout_is_logged() {
    let backend = HttpBackend::start(|_| Reply::silence());
    let mut server = Server::config(
        "worker_shutdown_timeout 500ms; events {} error_log error.log info; http { log_format f '$status $request_uri';
         access_log access.log f; server { listen 127.0.0.1:%%PORT_0%%; location / { proxy_pass http://%%BACKEND%%; } } }",
    )
    .set("BACKEND", backend.address())
    .start();
    let mut waiting = server.http(0);
    waiting.send(head("GET", "/slow", &[]));
    wait_until("the backend is asked", || (!backend.requests().is_empty()).then_some(()));
    server.signal(Signal::SIGQUIT);
    assert!(server.wait().success());
    assert_eq!(server.lines("access.log"), ["499 /slow"]);
}

#[test]
fn workers_with_sockets_of_their_own_survive_a_change_of_their_number_and_of_the_option() {
    let text = |workers: usize, option: &str| {
        format!(
            "worker_processes {workers}; events {{}} http {{ access_log off;
                server {{ listen 127.0.0.1:%%PORT_0%% {option}; location / {{ return 200 one; }} }} }}"
        )
    };
    let mut server = Server::start(&text(2, "reuseport"));
    for (workers, option) in [(3, "reuseport"), (1, "reuseport"), (2, ""), (2, "reuseport")] {
        server.reload_with(&text(workers, option));
        wait_until("the workers have changed", || (server.workers().len() == workers).then_some(()));
        (0..20).for_each(|_| assert_eq!(answer(&server), "one"));
    }
}

#[test]
fn a_worker_that_is_held_up_says_by_whom() {
    if tidegate_conformance::server::skip_on_nginx("nginx has no watchdog") {
        return;
    }
    // A pattern that backtracks to its limit takes a while, twenty of them take longer.
    let slow = "if ($arg_x ~ ^(?=(a+)+$)(a+)+(a+)+\\2b$) { return 201; } ".repeat(20);
    let server = Server::start(&format!(
        "worker_stall_threshold 4ms; events {{}} http {{ access_log off;
            server {{ listen 127.0.0.1:%%PORT_0%%; location / {{ {slow} return 200 ok; }} }} }}"
    ));
    let target = format!("/?x={}", "a".repeat(4000));
    let held_up = || {
        server.http(0).get(&target);
        server
            .log_lines()
            .iter()
            .any(|line| line.contains("held up for") && line.contains("while running phase handlers"))
    };
    wait_until("the watchdog names the phase", || held_up().then_some(()));
}

// nginx: as with `keepalive_min_timeout 1s`, which is the default here; its own default is to close at once.
#[test]
fn an_idle_connection_may_ask_once_more_when_its_worker_leaves() {
    let mut server = Server::start(&ONE.replace("access_log off;", "access_log off; keepalive_min_timeout 1s;"));
    let old = server.workers();
    let mut idle = server.http(0);
    assert!(idle.get("/").keeps_alive());
    server.reload_with(&TWO.replace("access_log off;", "access_log off; keepalive_min_timeout 1s;"));
    server.wait_for_log("gracefully shutting down");
    let last = idle.get("/");
    assert_eq!((last.text().as_str(), last.keeps_alive()), ("one", false));
    assert!(idle.wire.at_end());
    server.wait_until_gone(&old);
}

#[test]
fn an_idle_connection_does_not_keep_its_worker() {
    let mut server = Server::start(ONE);
    let old = server.workers();
    let mut idle = server.http(0);
    assert!(idle.get("/").keeps_alive());
    server.reload();
    assert!(idle.wire.at_end());
    server.wait_until_gone(&old);
}

#[test]
fn a_client_that_has_said_nothing_yet_is_served_by_a_leaving_worker() {
    let mut server = Server::start(ONE);
    let mut silent = server.http(0);
    assert_eq!(answer(&server), "one", "and so the connection before it has been accepted");
    server.reload_with(TWO);
    server.wait_for_log("gracefully shutting down");
    let response = silent.get("/");
    assert_eq!((response.text().as_str(), response.keeps_alive()), ("one", false));
}

#[test]
fn no_kept_connection_fails_during_reloads() {
    let config =
        format!("worker_processes 2; {}", ONE.replace("access_log off;", "access_log off; keepalive_min_timeout 1s;"));
    let mut server = Server::start(&config);
    let done = std::sync::atomic::AtomicBool::new(false);
    let port = server.port(0);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    while !done.load(std::sync::atomic::Ordering::SeqCst) {
                        let mut http = tidegate_conformance::Http::over(tidegate_conformance::Wire::connect(port));
                        while http.get("/").keeps_alive() {}
                    }
                })
            })
            .collect();
        (0..5).for_each(|_| server.reload());
        done.store(true, std::sync::atomic::Ordering::SeqCst);
        // The last reload ends what is still being kept.
        server.reload();
        clients.into_iter().for_each(|client| client.join().unwrap());
    });
}

#[test]
fn a_killed_worker_is_replaced_at_once() {
    let server = Server::start(ONE);
    let old = server.workers();
    let killed = Instant::now();
    signal_to(old[0], Signal::SIGKILL);
    assert_eq!(answer(&server), "one");
    // Some tens of milliseconds; the limit leaves room for a busy machine, but not for a delay before the fork.
    assert!(killed.elapsed() < Duration::from_millis(500), "{:?}", killed.elapsed());
}

#[test]
fn workers_that_are_killed_young_are_replaced_at_once_however_often() {
    let server = Server::start(ONE);
    let began = Instant::now();
    for _ in 0..10 {
        let worker = wait_until("a worker runs", || server.workers().first().copied());
        signal_to(worker, Signal::SIGKILL);
        server.wait_until_gone(&[worker]);
    }
    assert_eq!(answer(&server), "one");
    // A twentieth of a second each, where they are killed before they have begun, and room for a busy machine.
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

#[test]
fn a_second_start_leaves_the_first_alone() {
    let server = Server::start(ONE);
    let outcome = server.control(&[]);
    assert!(!outcome.status.success());
    assert!(outcome.stderr.contains("failed (98: Address already in use)"), "{outcome:?}");
    assert_eq!(server.pid_in_file(), Some(server.pid()));
    assert_eq!(answer(&server), "one");
}

#[test]
fn a_stale_pid_file_is_no_obstacle() {
    let mut child = Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    let stale = format!("{}\n", child.id());
    let mut server = Server::config(ONE).file("nginx.pid", &stale).start();
    wait_until("the pid file is written", || (server.pid_in_file() == Some(server.pid())).then_some(()));
    assert!(server.stop().success());
    server.write("nginx.pid", &stale);
    let outcome = server.control(&["-s", "stop"]);
    assert!(!outcome.status.success() && outcome.stderr.contains("No such process"), "{outcome:?}");
}

// Differs from nginx, which sends the signal to whatever process has the number.
#[test]
fn a_process_of_another_program_is_not_signalled() {
    if skip_on_nginx("the signal is sent to whatever process has the number") {
        return;
    }
    let server = Server::start(ONE);
    let mut other = Command::new("sleep").arg("60").spawn().unwrap();
    server.write("nginx.pid", other.id().to_string());
    let outcome = server.control(&["-s", "stop"]);
    let lives = other.try_wait().unwrap().is_none();
    other.kill().unwrap();
    other.wait().unwrap();
    assert!(lives && !outcome.status.success() && outcome.stderr.contains("is no tidegate but sleep"), "{outcome:?}");
}

#[test]
fn a_single_process_heeds_signals() {
    let mut server = Server::start(&format!("master_process off; {ONE}"));
    fs::rename(server.folder().join("error.log"), server.folder().join("error.log.1")).unwrap();
    server.signal(Signal::SIGUSR1);
    wait_until("the log is there again", || server.folder().join("error.log").exists().then_some(()));
    assert_eq!(answer(&server), "one");
    server.signal(Signal::SIGQUIT);
    assert!(server.wait().success());
    assert_eq!(server.pid_in_file(), None);
}

#[test]
fn a_local_socket_goes_with_the_listen_that_made_it() {
    let config = ONE.replace("listen 127", "listen unix:%%DIR%%/here.sock; listen 127");
    let mut server = Server::start(&config);
    let socket = server.folder().join("here.sock");
    assert!(socket.exists());
    server.reload();
    assert!(socket.exists(), "it is listened on as before");
    server.reload_with(ONE);
    wait_until("the socket is removed", || (!socket.exists()).then_some(()));
}

#[test]
fn workers_outlive_their_master_and_a_new_start_names_them() {
    if skip_on_nginx("its workers do not notice, and bind() only fails") {
        return;
    }
    let server = Server::start(&format!("worker_processes 2; error_log error.log info; {ONE}"));
    let workers = wait_until("two workers run", || Some(server.workers()).filter(|pids| pids.len() == 2));
    let mut kept = server.http(0);
    assert_eq!(kept.get("/").text(), "one");
    signal_to(server.pid(), Signal::SIGKILL);
    for worker in &workers {
        server.wait_for_log(&format!(r"\[alert\] {worker}#{worker}: the master process has died"));
    }
    assert_eq!(kept.get("/").text(), "one");
    assert_eq!(answer(&server), "one");
    let outcome = server.control(&[]);
    assert!(!outcome.status.success());
    for worker in &workers {
        assert!(outcome.stderr.contains("Address already in use"), "{}", outcome.stderr);
        assert!(outcome.stderr.contains(&format!("process {worker} tidegate")), "{}", outcome.stderr);
    }
    workers.iter().for_each(|pid| signal_to(*pid, Signal::SIGQUIT));
    server.wait_until_gone(&workers);
}

#[test]
fn a_storm_of_reloads_becomes_a_few() {
    let mut server = Server::start(&format!("worker_processes 1; error_log error.log notice; {ONE}"));
    for round in 0..50 {
        if round == 49 {
            server.rewrite(&format!("worker_processes 1; error_log error.log notice; {TWO}"));
        }
        server.signal(Signal::SIGHUP);
        wait_until("it is received", || {
            let signals = server.log_lines().iter().filter(|line| line.contains("signal 1 ")).count();
            (signals > round).then_some(())
        });
    }
    wait_for_answer(&server, "two");
    let reloads = server.log_lines().iter().filter(|line| line.contains("reconfiguring")).count();
    println!("50 times HUP: {reloads} reloads");
    if !skip_on_nginx("it reloads every time") {
        assert!(reloads < 25, "{reloads}");
    }
}

#[test]
fn a_single_process_reads_its_configuration_again() {
    let mut server = Server::start(&format!("master_process off; {ONE}"));
    let mut kept = server.http(0);
    assert_eq!(kept.get("/").text(), "one");
    server.rewrite(&format!("master_process off; {}", TWO.replace("return", "nonsense")));
    server.signal(Signal::SIGHUP);
    server.wait_for_log(r#"\[emerg\].*unknown directive "nonsense" in /.*/nginx\.conf:1"#);
    assert_eq!(answer(&server), "one");
    server.rewrite(&format!("master_process off; {}", TWO.replace("PORT_0", "PORT_1")));
    server.signal(Signal::SIGHUP);
    wait_until("the new address is served", || processes::is_listening(server.port(1)).then_some(()));
    assert_eq!(server.http(1).get("/").text(), "two");
    wait_until("the old address is closed", || (!processes::is_listening(server.port(0))).then_some(()));
    if !skip_on_nginx("it closes idle connections at once") {
        let last = kept.get("/");
        assert_eq!((last.text().as_str(), last.keeps_alive()), ("one", false));
    }
    server.signal(Signal::SIGQUIT);
    assert!(server.wait().success());
    assert_eq!(server.pid_in_file(), None);
}
