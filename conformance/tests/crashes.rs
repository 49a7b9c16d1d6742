//! Crashes under load: a worker that is killed takes with it what was in its hands, and nothing else.
//!
//! Figures are printed with `--nocapture`; debug builds run the same in a smaller size.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tidegate_conformance::backend::EchoBackend;
use tidegate_conformance::client::head;
use tidegate_conformance::load::{self, Failure, Kind, Load, Shape, Snapshot, sized};
use tidegate_conformance::server::{signal_to, skip_on_nginx};
use tidegate_conformance::{Http, Server, processes, wait_until};

const CONFIG: &str = "worker_processes 2; events {} http { access_log off; keepalive_requests 1000000;
    limit_req_zone $arg_k zone=z:1m rate=1r/m;
    upstream app { zone app 256k; keepalive 16; server %%ONE%%; server %%TWO%%; }
    server { listen 127.0.0.1:%%PORT_0%% %%OPTION%%; add_header X-Worker $pid always;
        location / { proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection \"\"; }
        location = /pid { return 200 $pid; }
        location = /limited { limit_req zone=z; try_files /n =204; } } }";

fn start(option: &str) -> (Server, [EchoBackend; 2]) {
    let backends = [EchoBackend::start(), EchoBackend::start()];
    let server = Server::config(CONFIG)
        .set("ONE", backends[0].address())
        .set("TWO", backends[1].address())
        .set("OPTION", option)
        .start();
    wait_until("both workers run", || (server.workers().len() == 2).then_some(()));
    (server, backends)
}

fn get(server: &Server, target: &str) -> (u16, String) {
    let response = server.http(0).ask("GET", target, &["Connection: close"]);
    (response.status, response.text())
}

/// A worker killed in the middle of its work.
struct Killed {
    pid: i32,
    at: Instant,
    /// When it was seen to be dead; whoever came later cannot have met it.
    dead: Instant,
    /// What may have been in its hands.
    held: Snapshot,
    /// From the signal to an answer of the worker in its place.
    replaced: Duration,
}

fn kill(server: &Server, load: &Load, pid: i32) -> Killed {
    let others = server.workers();
    let at = Instant::now();
    signal_to(pid, Signal::SIGKILL);
    let held = load.snapshot(pid);
    let dead = wait_until("the worker is dead", || (!processes::is_alive(pid)).then(Instant::now));
    let new = wait_until("a new worker runs", || server.workers().into_iter().find(|pid| !others.contains(pid)));
    let new = new.to_string();
    let answered = wait_until("the new worker answers", || (get(server, "/pid").1 == new).then(Instant::now));
    Killed { pid, at, dead, held, replaced: answered - at }
}

/// A kept connection was the killed worker's whenever something was sent on it: a client learns of the end only when the
/// kernel comes to tell it.
fn is_of(failure: &Failure, killed: &Killed) -> bool {
    let may_have_met = failure.worker.map_or(failure.begun <= killed.dead, |worker| worker == killed.pid);
    failure.kind == Kind::Lost && may_have_met && failure.failed >= killed.at
}

#[test]
fn a_killed_worker_loses_what_it_held_and_no_more() {
    let _alone = load::alone();
    let (server, backends) = start("");
    assert_eq!(get(&server, "/limited?k=a").0, 204);
    let load = Load::start(Shape::mixed(server.port(0)));
    load.wait_for(200);
    let mut killed: Vec<Killed> = Vec::new();
    let mut turns: Vec<(i32, Instant)> = server.workers().into_iter().map(|pid| (pid, Instant::now())).collect();
    while killed.len() < sized(20, 4) {
        // One that dies young is replaced later, and is not what this is about.
        let (pid, since) = turns.remove(0);
        thread::sleep((since + Duration::from_millis(1100)).saturating_duration_since(Instant::now()));
        let others = server.workers();
        killed.push(kill(&server, &load, pid));
        let new = server.workers().into_iter().find(|pid| !others.contains(pid)).expect("it has answered");
        turns.push((new, Instant::now()));
        assert_eq!(get(&server, "/limited?k=a").0, 503, "a key at its limit stays there");
    }
    let report = load.finish();
    let slowest = killed.iter().map(|killed| killed.replaced).max().unwrap_or_default();
    println!("{} workers killed, replaced within {slowest:?}: {report}", killed.len());
    for killed in &killed {
        let lost = report.failures.iter().filter(|failure| is_of(failure, killed)).count();
        println!(
            "worker {}: {lost} lost of {} on the way, {} connections; replaced after {:?}",
            killed.pid, killed.held.outstanding, killed.held.connections, killed.replaced
        );
        assert!(lost <= killed.held.connections, "more requests are lost than connections were there");
    }
    for failure in &report.failures {
        assert!(killed.iter().any(|killed| is_of(failure, killed)), "nobody was killed for this: {failure:#?}");
    }
    let limit = sized(Duration::from_millis(100), Duration::from_secs(1));
    assert!(slowest <= limit, "a worker was replaced after {slowest:?} only");
    let told = server
        .log_lines()
        .iter()
        .filter(|line| line.contains("[alert]") && line.contains("exited on signal 9"))
        .count();
    assert_eq!(told, killed.len());
    let repeated: Vec<u64> = backends.iter().flat_map(EchoBackend::repeated).collect();
    assert!(repeated.is_empty(), "requests came to a backend twice: {repeated:x?}");
}

/// Clients that have asked.
fn clients(server: &Server, count: usize) -> Vec<Http> {
    let ask = |number| {
        let mut http = server.http(0);
        http.send(head("GET", &format!("/?id={number}"), &["Connection: close"]));
        http
    };
    (0..count).map(ask).collect()
}

fn assert_all_served(clients: Vec<Http>) {
    for (number, mut client) in clients.into_iter().enumerate() {
        let response = client.response();
        assert_eq!((response.status, response.text()), (200, number.to_string()));
    }
}

#[test]
fn who_waits_in_the_queue_is_served_by_the_next_worker() {
    for option in ["", "reuseport"] {
        let (server, _backends) = start(option);
        let old = server.freeze_workers();
        let clients = clients(&server, 50);
        old.iter().for_each(|pid| signal_to(*pid, Signal::SIGKILL));
        assert_all_served(clients);
        assert!(server.workers().iter().all(|pid| !old.contains(pid)));
    }
}

#[test]
fn a_worker_that_cannot_start_is_tried_once_a_second_until_it_can() {
    if skip_on_nginx("a worker that cannot start is not tried again") {
        return;
    }
    let setup = Server::config(
        "working_directory %%DIR%%/here; events {}
         http { access_log off; server { listen 127.0.0.1:%%PORT_0%%; location / { return 200 ok; } } }",
    )
    .file("here/.keep", "");
    let server = setup.start();
    assert_eq!(get(&server, "/").1, "ok");
    let folder = server.folder().join("here");
    fs::rename(&folder, server.folder().join("elsewhere")).unwrap();
    let started = || server.log_lines().iter().filter(|line| line.contains("start worker process ")).count();
    let before = started();
    let began = Instant::now();
    signal_to(server.workers()[0], Signal::SIGKILL);
    wait_until("some have been tried", || (started() >= before + sized(5, 4)).then_some(()));
    let took = began.elapsed();
    let tried = started() - before;
    println!("{tried} workers tried in {took:?}");
    // The first two at once: nobody knows yet that they will die young, and the first that does may be an accident.
    assert!(took >= Duration::from_millis(950) * (tried as u32 - 3), "{tried} workers were tried in {took:?}");
    assert!(took <= Duration::from_millis(1500) * (tried as u32 - 1), "{tried} workers were tried in {took:?}");
    let told = server.wait_for_log(r#"\[emerg\].*chdir\("/.*/here"\) failed \(2: No such file or directory\)"#);
    println!("{told}");
    fs::rename(server.folder().join("elsewhere"), &folder).unwrap();
    assert_eq!(get(&server, "/").1, "ok", "who has come meanwhile is served as soon as a worker starts");
}

#[test]
fn workers_go_on_serving_when_the_master_is_killed() {
    let _alone = load::alone();
    let (server, _backends) = start("");
    let load = Load::start(Shape::mixed(server.port(0)));
    load.wait_for(200);
    signal_to(server.pid(), Signal::SIGKILL);
    server.wait_until_gone(&[server.pid()]);
    let gone = Instant::now();
    let full = sized(Duration::from_secs(2), Duration::from_millis(500));
    wait_until("the load goes on for a while", || (gone.elapsed() >= full).then_some(()));
    let report = load.finish();
    println!("without a master for {full:?}: {report}");
    report.assert_clean();
}
