//! Sessions that only wait cost little, and workers that have nothing to do do nothing.
//!
//! `tidegate-conformance idle --beside NGINX` prints the figures beside those of another server.

use std::time::Duration;

use tidegate_conformance::idle::figure;
use tidegate_conformance::load;
use tidegate_conformance::server::skip_on_nginx;
use tidegate_conformance::{Server, wait_until};

/// The limits are what nginx 1.31 takes, or a little more where nginx has allocated all memory beforehand. Futures of
/// debug builds are larger.
#[test]
fn what_waits_takes_little_memory() {
    if skip_on_nginx("these are the limits of this server") {
        return;
    }
    let _alone = load::alone();
    for (name, most) in [
        ("a stream session that is silent", 6.0),
        ("an IMAP session before the login", 4.0),
        ("an IMAP session after the login", 9.4),
        ("an HTTP client between two requests", 3.0),
        ("an HTTP client that does not read a proxied reply", 49.8),
        ("a stream client that does not read", 21.5),
    ] {
        let found = figure(name, 300);
        println!("{name}: {found:.2} kB, at most {most}");
        assert!(found <= most, "{name} takes {found:.2} kB, more than {most}");
    }
}

#[test]
fn what_a_rush_of_clients_has_taken_is_given_back() {
    if skip_on_nginx("these are the limits of this server") {
        return;
    }
    let _alone = load::alone();
    let left = figure("500 heads of 31 KB two seconds after they are gone", 500);
    println!("{left:.2} MB of 18 are left");
    assert!(left <= 6.0, "{left:.2} MB are left");
}

#[test]
fn a_connection_wakes_the_worker_that_takes_it() {
    let _alone = load::alone();
    for (name, most) in [
        ("wake-ups of 8 workers for a connection that says nothing", 3.0),
        ("wake-ups of 8 workers for a connection and a request", 4.0),
        ("wake-ups of 8 workers that have nothing to do", 0.5),
    ] {
        let found = figure(name, 100);
        println!("{name}: {found:.2}");
        assert!(found <= most, "{name}: {found:.2}");
    }
}

#[test]
fn connections_spread_over_eight_workers() {
    if skip_on_nginx("a worker takes sixteen before it lets another") {
        return;
    }
    let server = Server::start(
        "worker_processes 8; events {} http { access_log off; server { listen 127.0.0.1:%%PORT_0%%; return 200 $pid; } }",
    );
    wait_until("eight workers run", || (server.workers().len() == 8).then_some(()));
    let mut clients: Vec<_> = (0..160).map(|_| server.http(0)).collect();
    let mut by_worker = std::collections::BTreeMap::new();
    for client in &mut clients {
        *by_worker.entry(client.get("/").text()).or_insert(0) += 1;
        std::thread::sleep(Duration::from_millis(1));
    }
    println!("{by_worker:?}");
    assert_eq!(by_worker.len(), 8);
    assert!(by_worker.values().all(|count| (12..=28).contains(count)), "{by_worker:?}");
}
