//! Processes beside the workers: started, replaced and ended by the master, and never given a connection. And chores in the
//! workers, which last as long as they say.

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

/// The processes that have said so, each once.
fn who_said(server: &Server, what: &str) -> std::collections::BTreeSet<i32> {
    let lines = server.log_lines();
    let said = lines.iter().filter(|line| line.ends_with(what));
    said.filter_map(|line| line.split_once("] ")?.1.split_once('#')?.0.parse().ok()).collect()
}

#[test]
fn chores_are_done_in_each_worker_as_long_as_its_generation_lasts() {
    let text = CONFIGURATION.replace("worker_processes 1", "worker_processes 2");
    let text = text.replace("manager stays; ", "manager stays; keeper waits; other watches; ");
    let Some(setup) = Server::config(&text).faulty() else { return };
    let mut server = setup.start();
    let begun = |what: &str, count: usize| {
        wait_until(what, || Some(who_said(&server, what)).filter(|pids| pids.len() == count))
    };
    let old = begun("waiting begins", 2);
    assert_eq!(old, begun("watching begins", 2), "not in helpers");
    // A client stays with one of the old workers.
    let mut client = server.http(0);
    client.send("GET / HT");
    let holder = wait_until("it has been accepted", || {
        let client = client.wire.local_address().port();
        old.iter().copied().find(|pid| processes::has_accepted(*pid, server.port(0), client))
    });
    server.signal(Signal::SIGHUP);
    assert!(begun("waiting begins", 4).is_superset(&old));
    // While the last connection goes on, so does what lasts to the end.
    assert!(begun("waiting ends", 2).contains(&holder));
    assert!(!who_said(&server, "watching ends").contains(&holder));
    client.send("TP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert_eq!(client.response().text(), holder.to_string());
    server.wait_until_gone(&old.into_iter().collect::<Vec<_>>());
    server.signal(Signal::SIGQUIT);
    assert!(server.wait().success());
}

#[test]
fn a_chore_that_panics_is_begun_again_and_costs_no_connection() {
    let text = CONFIGURATION.replace("manager stays; ", "other breaks; ");
    let Some(setup) = Server::config(&text).faulty() else { return };
    let server = setup.start();
    let mut client = server.http(0);
    let worker = client.get("/").text();
    server.wait_for_log(&format!(
        r"\[alert\] {worker}#{worker}: panic in breaking, which is begun again: .*a chore's fault"
    ));
    wait_until("it has begun again", || {
        (server.log_lines().iter().filter(|line| line.ends_with("breaking begins")).count() == 2).then_some(())
    });
    assert_eq!(client.get("/").text(), worker);
}
