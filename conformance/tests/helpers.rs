//! Processes beside the workers: started, replaced and ended by the master, and never given a connection.

use nix::sys::signal::Signal;
use tidegate_conformance::server::signal_to;
use tidegate_conformance::{Server, processes, wait_until};

const CONFIGURATION: &str = "worker_processes 1; events {}
    http { access_log access.log; server { listen 127.0.0.1:%%PORT_0%%; location / { return 200 $pid; } } }
    stand_ins { loader once; manager stays; }";

fn pids(server: &Server, name: &str) -> Vec<i32> {
    let start = format!("start {name} ");
    let lines = server.log_lines();
    lines.iter().filter_map(|line| line.split_once(&start)?.1.parse().ok()).collect()
}

fn wait_for_start(server: &Server, name: &str, count: usize) -> i32 {
    wait_until(&format!("{name} is started {count} times"), || pids(server, name).get(count - 1).copied())
}

#[test]
fn one_that_is_done_rests_until_the_next_reload_and_one_that_dies_is_replaced() {
    let Some(setup) = Server::config(CONFIGURATION).faulty() else { return };
    let mut server = setup.start();
    let (loader, manager) =
        (wait_for_start(&server, "loader process", 1), wait_for_start(&server, "manager process", 1));
    server.wait_for_log("the loader process works");
    server.wait_for_log(&format!("loader process {loader} is done"));
    let worker = wait_for_start(&server, "worker process", 1);
    for _ in 0..20 {
        assert_eq!(server.http(0).get("/").text(), worker.to_string(), "helpers accept nothing");
    }

    signal_to(manager, Signal::SIGKILL);
    server.wait_for_log(&format!(r"\[alert\] .* manager process {manager} exited on signal 9"));
    let second = wait_for_start(&server, "manager process", 2);
    assert_eq!(pids(&server, "loader process"), [loader], "it has done what it was for");
    // One that is told to end by somebody else has not done its work.
    signal_to(second, Signal::SIGTERM);
    let second = wait_for_start(&server, "manager process", 3);
    assert!(processes::is_alive(worker));

    server.signal(Signal::SIGHUP);
    let third = wait_for_start(&server, "manager process", 4);
    wait_for_start(&server, "loader process", 2);
    server.wait_until_gone(&[second, worker]);
    assert!(processes::is_alive(third));

    server.signal(Signal::SIGQUIT);
    assert!(server.wait().success());
    server.wait_until_gone(&[third]);
}

#[test]
fn one_that_panics_is_replaced_once_a_second_and_harms_nobody() {
    let Some(setup) = Server::config(&CONFIGURATION.replace("manager stays", "other panics")).faulty() else { return };
    let server = setup.start();
    let first = wait_for_start(&server, "other process", 1);
    server.wait_for_log(&format!(r"\[alert\] {first}#{first}: panic.*a helper's fault"));
    server.wait_for_log(&format!(r"other process {first} exited with code 2"));
    wait_for_start(&server, "other process", 3);
    let started = pids(&server, "other process").len();
    assert!(started <= 4, "{started}");
    assert_eq!(server.http(0).get("/").status, 200);
}

#[test]
fn winch_retires_them_and_hup_brings_them_back() {
    let Some(setup) = Server::config(CONFIGURATION).faulty() else { return };
    let server = setup.start();
    let manager = wait_for_start(&server, "manager process", 1);
    server.signal(Signal::SIGWINCH);
    server.wait_until_gone(&[manager]);
    server.signal(Signal::SIGHUP);
    wait_for_start(&server, "manager process", 2);
}
