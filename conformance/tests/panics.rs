//! A panic costs the connection that it happens on, and nothing else.

use std::io;
use std::thread;
use std::time::Instant;

use tidegate_conformance::processes::resident_bytes;
use tidegate_conformance::{Http, Server, wait_until};

const CONFIGURATION: &str = "worker_processes 2; events { worker_connections 1024; }
    http { access_log off; keepalive_requests 100000; keepalive_time 1h;
        server { listen 127.0.0.1:%%PORT_0%%;
            location / { return 200 well; }
            location /panic { fault panic; } } }";

/// Sends a request that panics, behind one that does not if the connection is to be an old one. True if the connection
/// ends without a byte of an answer.
fn loses_its_connection(server: &Server, kept: bool) -> bool {
    let mut client = server.http(0);
    if kept {
        assert_eq!(client.get("/").text(), "well");
    }
    client.send("GET /panic HTTP/1.1\r\nHost: localhost\r\n\r\n");
    match client.wire.try_rest() {
        Ok(rest) => rest.is_empty(),
        Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
    }
}

/// So many panics, by this many clients at a time. Gives how many connections they have cost.
fn panics(server: &Server, count: usize, clients: usize, kept: bool) -> usize {
    thread::scope(|scope| {
        let one = || (0..count / clients).filter(|_| loses_its_connection(server, kept)).count();
        let clients: Vec<_> = (0..clients).map(|_| scope.spawn(one)).collect();
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    })
}

#[test]
fn a_thousand_panics_cost_a_thousand_connections() {
    let Some(setup) = Server::config(CONFIGURATION).faulty() else { return };
    let server = setup.start();
    wait_until("both workers run", || (server.workers().len() == 2).then_some(()));
    let workers = server.workers();
    let mut others: Vec<Http> = (0..16).map(|_| server.http(0)).collect();
    let others_are_well = |others: &mut Vec<Http>| others.iter_mut().all(|other| other.get("/").text() == "well");
    assert!(others_are_well(&mut others));

    let begun = Instant::now();
    let mut lost = 0;
    let mut memory = Vec::new();
    for _ in 0..2 {
        for (count, clients) in [(50, 1), (100, 4), (100, 20)] {
            lost += panics(&server, count, clients, false);
            lost += panics(&server, count, clients, true);
            assert!(others_are_well(&mut others));
        }
        memory.push(workers.iter().map(|pid| resident_bytes(*pid)).sum::<u64>());
    }
    let took = begun.elapsed();

    assert_eq!(lost, 1000);
    assert_eq!(server.workers(), workers, "a worker has ended");
    let alerts: Vec<String> = server.log_lines().into_iter().filter(|line| line.contains("[alert]")).collect();
    assert_eq!(alerts.len(), 1000, "{:?}", alerts.last());
    let tells_the_place = |line: &String| {
        line.contains("panic, one connection is lost: ")
            && line.contains("fault.rs:")
            && line.contains("fault of /panic")
    };
    assert!(alerts.iter().all(tells_the_place), "{:?}", alerts.first());
    println!(
        "1000 panics in {took:?}: 1000 connections lost, 16 others served on, the same 2 workers; memory of both after 500 \
         {} KiB, after 1000 {} KiB",
        memory[0] / 1024,
        memory[1] / 1024
    );
    assert!(memory[1] <= memory[0] + memory[0] / 20, "memory grows: {memory:?}");
}
