//! Signals in odd places and orders, and the two ways in which systemd talks to a server.

use std::fs;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tidegate_conformance::backend::{HttpBackend, Reply, TcpBackend};
use tidegate_conformance::client::head;
use tidegate_conformance::load::sized;
use tidegate_conformance::server::{signal_to, skip_on_nginx};
use tidegate_conformance::{Port, Server, Setup, Wire, processes, wait_until};

const PID: &str = "events {} http { access_log access.log; server { listen 127.0.0.1:%%PORT_0%%; return 200 $pid; } }";
const ONE: &str =
    "events {} http { access_log off; server { listen 127.0.0.1:%%PORT_0%%; location / { return 200 one; } } }";
const ECHO: &str = "stream { server { listen 127.0.0.1:%%PORT_1%%; proxy_pass %%BACKEND%%; } }";

fn get(server: &Server) -> i32 {
    server.http(0).get("/").text().parse().expect("a worker's number")
}

/// A server with a session that goes on.
fn busy(backend: &TcpBackend) -> (Server, Wire) {
    let server = Server::config(&format!("{PID} {ECHO}")).set("BACKEND", backend.address()).start();
    let mut session = server.connect(1);
    assert_eq!(session.ask("hello"), "hello");
    (server, session)
}

#[test]
fn a_worker_that_is_told_to_end_is_replaced() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT] {
        let server = Server::start(PID);
        let old = get(&server);
        signal_to(old, signal);
        server.wait_until_gone(&[old]);
        assert_ne!(get(&server), old, "{signal}");
        server.wait_for_log(&format!("worker process {old} exited with code 0"));
    }
}

#[test]
fn a_worker_told_to_quit_finishes_what_it_has_begun() {
    let backend = TcpBackend::echo();
    let (server, mut session) = busy(&backend);
    let old = server.workers();
    signal_to(old[0], Signal::SIGQUIT);
    server.wait_for_log(&format!("{}#.*gracefully shutting down", old[0]));
    assert_eq!(session.ask("still"), "still");
    drop(session);
    server.wait_until_gone(&old);
    assert_ne!(get(&server), old[0]);
}

#[test]
fn a_worker_opens_its_logs_anew_by_itself() {
    let server = Server::start(PID);
    let worker = get(&server);
    server.wait_for_lines("access.log", 1);
    fs::rename(server.folder().join("access.log"), server.folder().join("access.log.1")).unwrap();
    // The worker may not create files in a folder of root's.
    let uid = fs::metadata(format!("/proc/{worker}")).map(|data| std::os::unix::fs::MetadataExt::uid(&data)).unwrap();
    fs::write(server.folder().join("access.log"), "").unwrap();
    std::os::unix::fs::chown(server.folder().join("access.log"), Some(uid), None).unwrap();
    signal_to(worker, Signal::SIGUSR1);
    wait_until("lines go into the new log", || {
        assert_eq!(get(&server), worker);
        (!server.read("access.log").is_empty()).then_some(())
    });
}

#[test]
fn a_worker_ignores_what_is_meant_for_the_master() {
    let server = Server::start(PID);
    let worker = get(&server);
    for signal in [Signal::SIGPIPE, Signal::SIGHUP, Signal::SIGWINCH, Signal::SIGUSR2] {
        signal_to(worker, signal);
        // A signal with a handler or an ignored one is gone from the set of pending ones.
        wait_until("the signal has been delivered", || {
            let status = fs::read_to_string(format!("/proc/{worker}/status")).unwrap_or_default();
            let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:"))?.trim().to_owned();
            (u64::from_str_radix(&pending, 16) == Ok(0)).then_some(())
        });
        (0..5).for_each(|_| assert_eq!(get(&server), worker, "{signal}"));
    }
    assert_eq!(server.workers(), [worker]);
    assert!(!server.folder().join("nginx.pid.oldbin").exists());
}

#[test]
fn terms_may_be_many() {
    let mut server = Server::start(&format!("worker_processes 4; {PID}"));
    let workers = server.workers();
    (0..5).for_each(|_| server.signal(Signal::SIGTERM));
    server.signal(Signal::SIGINT);
    assert!(server.wait().success());
    server.wait_until_gone(&workers);
    assert_eq!(server.pid_in_file(), None);
}

#[test]
fn term_does_not_wait_for_what_quit_waits_for() {
    let backend = TcpBackend::echo();
    let (mut server, mut session) = busy(&backend);
    let workers = server.workers();
    server.signal(Signal::SIGQUIT);
    server.wait_for_log("gracefully shutting down");
    assert_eq!(session.ask("still"), "still");
    assert!(server.is_running());
    server.signal(Signal::SIGTERM);
    assert!(server.wait().success());
    assert!(session.at_end());
    server.wait_until_gone(&workers);
    assert_eq!(server.pid_in_file(), None);
}

#[test]
fn a_server_that_is_quitting_does_not_reload() {
    let backend = TcpBackend::echo();
    let (mut server, mut session) = busy(&backend);
    let workers = server.workers();
    server.signal(Signal::SIGQUIT);
    server.wait_for_log("gracefully shutting down");
    server.signal(Signal::SIGHUP);
    server.wait_for_log("signal 1 .*received");
    assert_eq!(session.ask("still"), "still");
    assert_eq!(server.workers(), workers);
    assert!(!processes::is_listening(server.port(0)));
    drop(session);
    assert!(server.wait().success());
    assert_eq!(server.pid_in_file(), None);
}

#[test]
fn signals_during_a_reload_are_all_heeded() {
    for (others, ends) in [
        (&[Signal::SIGUSR1][..], false),
        (&[Signal::SIGHUP, Signal::SIGUSR1], false),
        (&[Signal::SIGQUIT], true),
        (&[Signal::SIGTERM], true),
        (&[Signal::SIGQUIT, Signal::SIGTERM], true),
    ] {
        let mut server = Server::start(&format!("worker_processes 2; {PID}"));
        server.signal(Signal::SIGHUP);
        // The same signal twice before the first is seen is one signal; so it waits for the reload to begin.
        server.wait_for_log("reconfiguring");
        others.iter().for_each(|signal| server.signal(*signal));
        if ends {
            assert!(server.wait().success(), "{others:?}");
            assert_eq!(server.pid_in_file(), None, "{others:?}");
            let left =
                || processes::all().into_iter().any(|process| process.group == server.pid() && process.state != 'Z');
            wait_until("nothing is left", || (!left()).then_some(()));
        } else {
            wait_until("two workers run, and one of them answers", || {
                let workers = server.workers();
                (workers.len() == 2 && workers.contains(&get(&server))).then_some(())
            });
        }
    }
}

#[test]
fn a_second_start_ends_with_one_and_says_why() {
    let mut server = Server::start(PID);
    let (master, worker) = (server.pid(), get(&server));
    let outcome = server.control(&[]);
    assert_eq!(outcome.status.code(), Some(1));
    let expected = format!("bind() to {} failed (98: Address already in use)", server.address(0));
    assert!(outcome.stderr.contains("[emerg]") && outcome.stderr.contains(&expected), "{outcome:?}");
    assert_eq!((server.pid_in_file(), get(&server)), (Some(master), worker));
    assert!(server.stop().success());
}

#[test]
fn a_server_in_the_background_starts_and_stops_again_and_again() {
    let text = format!("daemon on; pid nginx.pid; error_log error.log info; {PID}");
    let mut server = Server::config(&text).detached().start();
    assert!(server.wait().success());
    let mut slowest = Duration::ZERO;
    for turn in 0..sized(20, 5) {
        let master = wait_until("the pid is written", || server.pid_in_file());
        let worker = get(&server);
        let began = Instant::now();
        assert!(server.control(&["-s", if turn % 2 == 0 { "stop" } else { "quit" }]).status.success());
        server.wait_until_gone(&[master, worker]);
        assert_eq!(server.pid_in_file(), None);
        assert!(!processes::is_listening(server.port(0)));
        let outcome = server.control(&[]);
        assert!(outcome.status.success() && outcome.stderr.is_empty(), "{outcome:?}");
        wait_until("it listens again", || processes::is_listening(server.port(0)).then_some(()));
        slowest = slowest.max(began.elapsed());
    }
    println!("stopped and started again within {slowest:?}");
}

/// The sockets that a process has open, as `socket:[INODE]`.
fn sockets(pid: i32) -> Vec<String> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let links = entries.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    links.map(|link| link.display().to_string()).filter(|link| link.starts_with("socket:")).collect()
}

#[test]
fn a_socket_of_systemd_is_served_and_stays_over_reloads_and_upgrades() {
    if skip_on_nginx("it knows sockets from another nginx only") {
        return;
    }
    let port = Port::claim();
    let socket = TcpListener::bind(port.address()).unwrap();
    let name = fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap().display().to_string();
    let text = "events {} http { access_log off; server { listen %%ADDRESS%%; return 200 $pid; } }";
    let mut server = Server::config(text).set("ADDRESS", port.address()).socket(socket).start();
    let ask = || tidegate_conformance::Http::over(Wire::connect(port.number())).get("/").text();
    let (first, worker) = (server.pid(), ask());
    assert!(sockets(first).contains(&name), "{:?}", sockets(first));
    server.signal(Signal::SIGHUP);
    wait_until("a new worker serves", || (ask() != worker).then_some(()));
    assert!(sockets(first).contains(&name));
    server.signal(Signal::SIGUSR2);
    let second = wait_until("the new master runs", || server.pid_in_file().filter(|pid| *pid != first));
    signal_to(first, Signal::SIGQUIT);
    assert!(server.wait().success());
    assert!(sockets(second).contains(&name));
    assert!(processes::children(second).contains(&ask().parse().unwrap()));
    signal_to(second, Signal::SIGTERM);
    server.wait_until_gone(&[second]);
    wait_until("the address is free", || (!processes::is_listening(port.number())).then_some(()));
}

/// A server that is asked to tell us how it is.
fn telling(text: &str) -> (Setup, UnixDatagram) {
    let setup = Server::config(text).environment("NOTIFY_SOCKET", "%%DIR%%/notify");
    let socket = UnixDatagram::bind(setup.folder().join("notify")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    (setup, socket)
}

/// The assignments of the next message.
fn hear(socket: &UnixDatagram) -> Vec<String> {
    let mut message = [0; 4096];
    let count = socket.recv(&mut message).expect("a message");
    String::from_utf8_lossy(&message[..count]).lines().map(str::to_owned).collect()
}

#[test]
fn systemd_is_told_of_start_reload_and_upgrade() {
    if skip_on_nginx("it tells systemd nothing") {
        return;
    }
    let (setup, socket) = telling(PID);
    let mut server = setup.start();
    let is_ready = |message: &[String], pid: i32| {
        message.contains(&"READY=1".to_owned()) && message.contains(&format!("MAINPID={pid}"))
    };
    let first = server.pid();
    let message = hear(&socket);
    assert!(is_ready(&message, first), "{message:?}");

    server.signal(Signal::SIGHUP);
    let message = hear(&socket);
    assert!(message.contains(&"RELOADING=1".to_owned()), "{message:?}");
    let message = hear(&socket);
    assert!(message.contains(&"READY=1".to_owned()), "{message:?}");

    server.signal(Signal::SIGUSR2);
    let second = wait_until("the new master runs", || server.pid_in_file().filter(|pid| *pid != first));
    let message = hear(&socket);
    assert!(is_ready(&message, second), "{message:?}");
    signal_to(first, Signal::SIGQUIT);
    assert!(server.wait().success());
}

/// The next message that has an assignment of this name.
fn hear_of(socket: &UnixDatagram, name: &str) -> Vec<String> {
    loop {
        let message = hear(socket);
        if message.iter().any(|line| line.starts_with(name)) {
            return message;
        }
    }
}

// sd_notify(3): RELOADING=1 comes with the time, which Type=notify-reload waits for.
#[test]
fn systemd_is_told_when_a_reload_has_begun() {
    if skip_on_nginx("it tells systemd nothing") {
        return;
    }
    let (setup, socket) = telling(PID);
    let server = setup.start();
    hear_of(&socket, "READY=1");
    let reload = || {
        server.signal(Signal::SIGHUP);
        let message = hear_of(&socket, "RELOADING=1");
        hear_of(&socket, "READY=1");
        let time = message.iter().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")?.parse::<u64>().ok());
        time.unwrap_or_else(|| panic!("no time in {message:?}"))
    };
    let began = Instant::now();
    let times = [reload(), reload()];
    let passed = began.elapsed().as_micros() as u64;
    assert!(times[0] < times[1] && times[1] - times[0] <= passed, "{times:?} within {passed} microseconds");
}

#[test]
fn systemd_is_told_of_the_end() {
    if skip_on_nginx("it tells systemd nothing") {
        return;
    }
    for signal in [Signal::SIGTERM, Signal::SIGQUIT] {
        let (setup, socket) = telling(PID);
        let mut server = setup.start();
        hear_of(&socket, "READY=1");
        server.signal(signal);
        assert_eq!(hear(&socket), ["STOPPING=1"]);
        assert!(server.wait().success());
    }
}

#[test]
fn systemd_is_told_who_the_main_process_is_when_an_upgrade_is_taken_back_or_made() {
    if skip_on_nginx("it tells systemd nothing") {
        return;
    }
    let (setup, socket) = telling(PID);
    let mut server = setup.start();
    let first = server.pid();
    hear_of(&socket, "READY=1");
    server.signal(Signal::SIGUSR2);
    let second = wait_until("the new master runs", || server.pid_in_file().filter(|pid| *pid != first));
    assert!(hear_of(&socket, "MAINPID=").contains(&format!("MAINPID={second}")));
    signal_to(second, Signal::SIGQUIT);
    // Whoever goes while the other stays does not say that the service stops.
    assert_eq!(hear(&socket), [format!("MAINPID={first}")]);
    server.signal(Signal::SIGUSR2);
    let third =
        wait_until("the new master runs", || server.pid_in_file().filter(|pid| *pid != first && *pid != second));
    assert!(hear_of(&socket, "MAINPID=").contains(&format!("MAINPID={third}")));
    server.signal(Signal::SIGQUIT);
    assert!(server.wait().success());
    signal_to(third, Signal::SIGTERM);
    assert_eq!(hear(&socket), ["STOPPING=1"]);
}

#[test]
fn a_roll_back_needs_no_configuration_that_this_binary_understands() {
    if skip_on_nginx("the lines of its log are others") {
        return;
    }
    let text = format!("worker_processes 1; {ONE}");
    let mut server = Server::start(&text);
    let first = server.pid();
    server.signal(Signal::SIGUSR2);
    let second = wait_until("the new master runs", || server.pid_in_file().filter(|pid| *pid != first));
    server.signal(Signal::SIGWINCH);
    wait_until("the old workers are gone", || {
        processes::children(first).iter().all(|pid| *pid == second).then_some(())
    });
    server.rewrite(&text.replace("return", "only_the_new_binary_knows"));
    server.signal(Signal::SIGHUP);
    wait_until("the old master has a worker again", || {
        processes::children(first).iter().any(|pid| *pid != second).then_some(())
    });
    signal_to(second, Signal::SIGQUIT);
    server.wait_until_gone(&[second]);
    assert_eq!(server.http(0).get("/").text(), "one");
}

#[test]
fn term_again_and_again_does_not_put_off_the_end() {
    let mut server = Server::start(&format!("worker_processes 1; {ONE}"));
    let worker = server.workers()[0];
    signal_to(worker, Signal::SIGSTOP);
    let begun = Instant::now();
    wait_until("the server has ended", || {
        server.signal(Signal::SIGTERM);
        (!server.is_running()).then_some(())
    });
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}

#[test]
fn a_pid_file_that_cannot_be_written_leaves_the_old_one() {
    let text = format!("daemon on; worker_processes 1; pid nginx.pid; error_log error.log info; {ONE}");
    let mut server = Server::config(&text).detached().start();
    let pid = server.pid();
    server.rewrite(&text.replace("nginx.pid", "missing/nginx.pid"));
    server.signal(Signal::SIGHUP);
    server.wait_for_log(r#"missing/nginx.pid" failed \(2: No such file or directory\)"#);
    assert_eq!(server.pid_in_file(), Some(pid));
    assert_eq!(server.http(0).get("/").text(), "one");
}

#[test]
fn without_a_master_nothing_is_begun_after_quit() {
    let backend = HttpBackend::start(|_| Reply::ok("at last").after(Duration::from_millis(500)));
    let mut server = Server::config(
        "master_process off; events {} http { access_log off;
         server { listen 127.0.0.1:%%PORT_0%%; location / { proxy_pass http://%%BACKEND%%; } } }",
    )
    .set("BACKEND", backend.address())
    .start();
    let mut slow = server.http(0);
    slow.send(head("GET", "/", &[]));
    wait_until("the backend is asked", || (!backend.requests().is_empty()).then_some(()));
    server.signal(Signal::SIGQUIT);
    wait_until("nobody listens any more", || (!processes::is_listening(server.port(0))).then_some(()));
    server.signal(Signal::SIGHUP);
    assert_eq!(slow.response().text(), "at last");
    assert!(!processes::is_listening(server.port(0)));
    assert!(server.wait().success());
}
