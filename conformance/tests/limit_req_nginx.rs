//! `limit_req` beside a real nginx: the same requests at the same times, and as many of them admitted.
//!
//! Figures are printed with `--nocapture`; debug builds run the same for a shorter time.

use std::collections::VecDeque;
use std::thread;
use std::time::{Duration, Instant};

use tidegate_conformance::client::head;
use tidegate_conformance::load::{self, sized};
use tidegate_conformance::peers::Nginx;
use tidegate_conformance::{Http, Server, Wire};

const CONFIG: &str = "worker_processes 4; events {} http { access_log off; limit_req_status 429;
    limit_req_zone $arg_k zone=strict:1m rate=10r/s;
    limit_req_zone $arg_k zone=burst:1m rate=10r/s;
    limit_req_zone $arg_k zone=nodelay:1m rate=10r/s;
    limit_req_zone $arg_k zone=partly:1m rate=10r/s;
    server { listen 127.0.0.1:%%PORT_0%%;
        location /strict { limit_req zone=strict; try_files /n =204; }
        location /burst { limit_req zone=burst burst=5; try_files /n =204; }
        location /nodelay { limit_req zone=nodelay burst=5 nodelay; try_files /n =204; }
        location /partly { limit_req zone=partly burst=5 delay=2; try_files /n =204; } } }";

/// One key of one location, at both servers.
struct Stream {
    target: String,
    ports: [u16; 2],
    /// Requests on the way, and when they were sent.
    waiting: VecDeque<(usize, Instant, Http)>,
    admitted: [u32; 2],
    refused: [u32; 2],
}

impl Stream {
    fn ask_both(&mut self) {
        for (server, port) in self.ports.iter().enumerate() {
            let mut http = Http::over(Wire::connect(*port));
            http.send(head("GET", &self.target, &["Connection: close"]));
            self.waiting.push_back((server, Instant::now(), http));
        }
    }

    /// Reads the answers that are due by now: nothing is delayed by more than half a second.
    fn collect(&mut self, due: Duration) {
        while self.waiting.front().is_some_and(|(_, sent, _)| sent.elapsed() >= due) {
            let Some((server, _, mut http)) = self.waiting.pop_front() else { return };
            match http.response().status {
                204 => self.admitted[server] += 1,
                429 => self.refused[server] += 1,
                other => panic!("{}: {other}", self.target),
            }
        }
    }
}

/// Compares what both have admitted, and begins anew.
fn compare(streams: &mut [Stream], what: &str, expected: fn(&str) -> std::ops::RangeInclusive<u32>) {
    for stream in streams {
        stream.collect(Duration::ZERO);
        let [ours, theirs] = std::mem::take(&mut stream.admitted);
        let refused = std::mem::take(&mut stream.refused);
        println!(
            "{what}, {}: {ours} admitted, nginx {theirs}; refused {} and {}",
            stream.target, refused[0], refused[1]
        );
        assert!(ours.abs_diff(theirs) <= 1, "{what}, {}: {ours} admitted, nginx {theirs}", stream.target);
        let expected = expected(&stream.target);
        assert!(expected.contains(&theirs), "{what}, {}: nginx admitted {theirs}, not {expected:?}", stream.target);
    }
}

#[test]
fn as_many_requests_are_admitted_as_by_nginx() {
    let _alone = load::alone();
    let Some(nginx) = Nginx::start(CONFIG) else { return };
    let server = Server::start(CONFIG);
    let ports = [server.port(0), nginx.port()];
    let mut streams: Vec<Stream> = ["strict", "burst", "nodelay", "partly"]
        .iter()
        .flat_map(|place| ["a", "b", "c"].map(|key| format!("/{place}?k={key}")))
        .map(|target| Stream { target, ports, waiting: VecDeque::new(), admitted: [0; 2], refused: [0; 2] })
        .collect();
    // Twenty-five a second; the clock is what is tested.
    let tick = Duration::from_millis(40);
    let began = Instant::now();
    for turn in 0..sized(100, 50) {
        thread::sleep((began + tick * turn).saturating_duration_since(Instant::now()));
        streams.iter_mut().for_each(Stream::ask_both);
        streams.iter_mut().for_each(|stream| stream.collect(Duration::from_secs(1)));
    }
    compare(&mut streams, "25/s", |_| sized(30, 15)..=sized(50, 30));
    for burst in 0..sized(3, 1) {
        // Every bucket runs dry in 600 ms.
        thread::sleep(Duration::from_millis(800));
        for stream in &mut streams {
            (0..15).for_each(|_| stream.ask_both());
        }
        let name = format!("burst {burst}");
        compare(&mut streams, &name, |target| if target.starts_with("/strict") { 1..=2 } else { 6..=8 });
    }
}
