//! Load: clients that know of every request what has become of it.
//!
//! Half of the clients keep their connections, half make one for each request. Every request has a number that its reply
//! must bring back, in the order of the connection. A request is lost when its connection ends, or cannot be made, before
//! the reply is there, unless the connection had been announced to close (RFC 9112, section 9.6); nothing is asked twice.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::socket::{MsgFlags, recv};
use std::os::fd::AsRawFd;

use crate::client::{Http, Offer, Wire, head};
use crate::message::Response;

/// What the clients do.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Ports that speak HTTP in clear; clients take them in turn.
    pub ports: Vec<u16>,
    /// Ports that speak HTTP under TLS, taken in turn together with the others.
    pub tls_ports: Vec<u16>,
    /// Clients that keep their connection as long as the server does.
    pub kept: usize,
    /// Clients that make a connection for each request.
    pub fresh: usize,
    /// The longest pause of a client between two requests; the pauses are spread evenly from nothing up to it.
    pub pause: Duration,
    /// How many requests a client that keeps its connection sends at once.
    pub depth: usize,
    /// The path that is asked for; `?id=NUMBER` is added.
    pub path: String,
}

impl Shape {
    /// Sixty-four clients in clear on this port, half of them keeping their connections.
    pub fn mixed(port: u16) -> Shape {
        Shape {
            ports: vec![port],
            tls_ports: Vec::new(),
            kept: 32,
            fresh: 32,
            pause: Duration::from_millis(20),
            depth: 1,
            path: "/".to_owned(),
        }
    }

    /// With these TLS ports as well.
    pub fn and_tls(mut self, ports: &[u16]) -> Shape {
        self.tls_ports = ports.to_vec();
        self
    }
}

/// What has gone wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// No reply, or half of one.
    Lost,
    /// The reply to a request of another connection, or to a later one of this.
    Crossed,
    /// A reply that had come already, or bytes behind the last reply.
    Doubled,
    /// Not 200.
    Status,
}

/// One request that went wrong.
#[derive(Debug, Clone)]
pub struct Failure {
    /// What was wrong.
    pub kind: Kind,
    /// Whether the client keeps its connections.
    pub kept: bool,
    /// When the request was begun, which for a fresh connection is before connecting.
    pub begun: Instant,
    /// When it was known to have failed.
    pub failed: Instant,
    /// The worker that the connection was known to be with (`X-Worker`).
    pub worker: Option<i32>,
    /// In words.
    pub detail: String,
}

/// Clients at work.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<Counts>>,
}

#[derive(Debug)]
struct Shared {
    shape: Shape,
    began: Instant,
    stopping: AtomicBool,
    answered: AtomicUsize,
    /// How often [`Load::mark`] has been called.
    marks: AtomicUsize,
    failures: Mutex<Vec<Failure>>,
    places: Vec<Mutex<Place>>,
}

/// Where a client is.
#[derive(Debug, Clone, Default)]
struct Place {
    connected: bool,
    worker: Option<i32>,
    outstanding: usize,
}

/// What is on the way at a moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Snapshot {
    /// Requests begun and not answered.
    pub outstanding: usize,
    /// Open connections that are not known to be with another worker.
    pub connections: usize,
}

#[derive(Debug, Default)]
struct Counts {
    kept: usize,
    fresh: usize,
    connections: usize,
    announced: usize,
    announced_over_mark: usize,
    dropped: usize,
    latencies: Vec<u32>,
}

/// What came of the load.
#[derive(Debug)]
pub struct Report {
    /// Replies on kept connections.
    pub kept: usize,
    /// Replies on fresh connections.
    pub fresh: usize,
    /// Connections made by clients that keep them.
    pub connections: usize,
    /// Kept connections that were closed with `Connection: close`.
    pub announced: usize,
    /// Those of them that had been opened before the last [`Load::mark`].
    pub announced_over_mark: usize,
    /// Kept connections that were closed unannounced while no request was on the way. No request was lost by it.
    pub dropped: usize,
    /// Everything that went wrong, in order.
    pub failures: Vec<Failure>,
    /// How long it all took.
    pub elapsed: Duration,
    latencies: Vec<u32>,
}

impl Load {
    /// Sets clients to work.
    pub fn start(shape: Shape) -> Load {
        let count = shape.kept + shape.fresh;
        let shared = Arc::new(Shared {
            shape,
            began: Instant::now(),
            stopping: AtomicBool::new(false),
            answered: AtomicUsize::new(0),
            marks: AtomicUsize::new(0),
            failures: Mutex::new(Vec::new()),
            places: (0..count).map(|_| Mutex::new(Place::default())).collect(),
        });
        let clients = (0..count)
            .map(|index| {
                let client = Client::new(Arc::clone(&shared), index);
                // Hundreds of these may run at once; none of them needs much.
                thread::Builder::new().stack_size(512 * 1024).spawn(|| client.run()).expect("a thread")
            })
            .collect();
        Load { shared, clients }
    }

    /// Replies so far.
    pub fn answered(&self) -> usize {
        self.shared.answered.load(SeqCst)
    }

    /// Notes that the server is told to change now: connections from before are counted apart.
    pub fn mark(&self) {
        self.shared.marks.fetch_add(1, SeqCst);
    }

    /// What is on the way to this worker, or to nobody knows whom.
    pub fn snapshot(&self, worker: i32) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for place in &self.shared.places {
            let place = place.lock().expect("the lock is whole").clone();
            if place.connected && place.worker.is_none_or(|known| known == worker) {
                snapshot.outstanding += place.outstanding;
                snapshot.connections += 1;
            }
        }
        snapshot
    }

    /// Everything that has gone wrong so far.
    pub fn failures(&self) -> Vec<Failure> {
        self.shared.failures.lock().expect("the lock is whole").clone()
    }

    /// Waits until this many more requests have been answered.
    #[track_caller]
    pub fn wait_for(&self, count: usize) {
        let wanted = self.answered() + count;
        crate::wait_until("the load goes on", || (self.answered() >= wanted).then_some(()));
    }

    /// Lets every client finish what it has begun, and sums up.
    pub fn finish(mut self) -> Report {
        let counts = self.stop();
        let mut report = Report {
            kept: 0,
            fresh: 0,
            connections: 0,
            announced: 0,
            announced_over_mark: 0,
            dropped: 0,
            failures: self.failures(),
            elapsed: self.shared.began.elapsed(),
            latencies: Vec::new(),
        };
        for counts in counts {
            report.kept += counts.kept;
            report.fresh += counts.fresh;
            report.connections += counts.connections;
            report.announced += counts.announced;
            report.announced_over_mark += counts.announced_over_mark;
            report.dropped += counts.dropped;
            report.latencies.extend(counts.latencies);
        }
        report.latencies.sort_unstable();
        report
    }

    fn stop(&mut self) -> Vec<Counts> {
        self.shared.stopping.store(true, SeqCst);
        self.clients.drain(..).filter_map(|client| client.join().ok()).collect()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Report {
    /// Replies in all.
    pub fn answered(&self) -> usize {
        self.kept + self.fresh
    }

    /// How many requests failed so.
    pub fn count(&self, kind: Kind) -> usize {
        self.failures.iter().filter(|failure| failure.kind == kind).count()
    }

    /// The latency below which this share of the replies lie, from 0 to 1.
    pub fn percentile(&self, share: f64) -> Duration {
        let last = self.latencies.len().saturating_sub(1);
        let at = (last as f64 * share).round() as usize;
        Duration::from_micros(self.latencies.get(at).copied().unwrap_or(0).into())
    }

    /// Fails the test unless every request was answered, rightly and once.
    #[track_caller]
    pub fn assert_clean(&self) {
        assert!(
            self.failures.is_empty(),
            "{self}\nfirst failures: {:#?}",
            &self.failures[..self.failures.len().min(8)]
        );
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = self.answered() as f64 / self.elapsed.as_secs_f64();
        write!(
            f,
            "{} requests in {:.1} s ({rate:.0}/s): {} kept, {} fresh; {} kept connections, {} closed as announced, {} of \
             them from before a change, {} closed while idle; lost {}, crossed {}, doubled {}, status {}; \
             latency 50 % {:?}, 90 % {:?}, 99 % {:?}, all {:?}",
            self.answered(),
            self.elapsed.as_secs_f64(),
            self.kept,
            self.fresh,
            self.connections,
            self.announced,
            self.announced_over_mark,
            self.dropped,
            self.count(Kind::Lost),
            self.count(Kind::Crossed),
            self.count(Kind::Doubled),
            self.count(Kind::Status),
            self.percentile(0.5),
            self.percentile(0.9),
            self.percentile(0.99),
            self.percentile(1.0),
        )
    }
}

struct Client {
    shared: Arc<Shared>,
    index: usize,
    keeps: bool,
    port: u16,
    offer: Option<Offer>,
    counts: Counts,
    sent: u64,
    chance: u64,
}

/// A connection that is kept.
struct Held {
    http: Http,
    mark: usize,
}

impl Client {
    fn new(shared: Arc<Shared>, index: usize) -> Client {
        let shape = &shared.shape;
        let ports = shape.ports.len() + shape.tls_ports.len();
        // The first half and the second half go round the ports alike.
        let turn = if index < shape.kept { index } else { index - shape.kept } % ports;
        let tls = turn.checked_sub(shape.ports.len()).map(|turn| shape.tls_ports[turn]);
        let port = tls.unwrap_or_else(|| shape.ports[turn]);
        let keeps = index < shape.kept;
        let offer = tls.map(|_| Offer::name("localhost"));
        let chance = (index as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        Client { shared, index, keeps, port, offer, counts: Counts::default(), sent: 0, chance }
    }

    fn run(mut self) -> Counts {
        let mut held = None;
        while !self.shared.stopping.load(SeqCst) {
            if self.keeps {
                held = self.ask_kept(held);
            } else {
                self.ask_fresh();
            }
            self.pause();
        }
        self.counts
    }

    fn pause(&mut self) {
        // xorshift: the pauses need no more than to differ.
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        let longest = self.shared.shape.pause.as_micros() as u64;
        thread::sleep(Duration::from_micros(self.chance % longest.max(1)));
    }

    fn connect(&self) -> io::Result<Http> {
        let wire = Wire::try_connect(("127.0.0.1", self.port))?;
        Ok(Http::over(match &self.offer {
            None => wire,
            Some(offer) => wire.try_start_tls(offer)?,
        }))
    }

    fn ask_fresh(&mut self) {
        let begun = Instant::now();
        self.place(|place| *place = Place { connected: true, worker: None, outstanding: 1 });
        if let Err((kind, detail)) = self.fresh(begun) {
            self.fail(kind, begun, detail);
        }
        self.place(|place| *place = Place::default());
    }

    fn fresh(&mut self, begun: Instant) -> Result<(), (Kind, String)> {
        let lost = |what: &str, error: io::Error| (Kind::Lost, format!("{what}: {error}"));
        let mut http = self.connect().map_err(|error| lost("connect", error))?;
        let number = self.next_number();
        http.wire.try_send(self.request(number, true)).map_err(|error| lost("send", error))?;
        let response = http.try_response_to("GET").map_err(|error| lost("read", error))?;
        self.judge(number, &response, begun)?;
        let rest = http.wire.try_rest().unwrap_or_default();
        if !rest.is_empty() {
            return Err((Kind::Doubled, format!("{} bytes behind the reply", rest.len())));
        }
        self.counts.fresh += 1;
        Ok(())
    }

    fn ask_kept(&mut self, held: Option<Held>) -> Option<Held> {
        let begun = Instant::now();
        let held = match held {
            Some(held) if has_ended(&held.http.wire) => {
                self.counts.dropped += 1;
                None
            }
            held => held,
        };
        self.place(|place| {
            place.connected = true;
            place.outstanding = 1;
            if held.is_none() {
                place.worker = None;
            }
        });
        let held = match held {
            Some(held) => Ok(held),
            None => {
                self.counts.connections += 1;
                let mark = self.shared.marks.load(SeqCst);
                self.connect()
                    .map(|http| Held { http, mark })
                    .map_err(|error| (Kind::Lost, format!("connect: {error}")))
            }
        };
        let kept = match held.and_then(|held| self.batch(held, begun)) {
            Ok(kept) => kept,
            Err((kind, detail)) => {
                self.fail(kind, begun, detail);
                None
            }
        };
        self.place(|place| {
            place.outstanding = 0;
            place.connected = kept.is_some();
        });
        kept
    }

    /// Sends as many requests as the shape says and reads their replies. What is unanswered when the server announces the
    /// end has not been processed, and is no loss.
    fn batch(&mut self, mut held: Held, begun: Instant) -> Result<Option<Held>, (Kind, String)> {
        let numbers: Vec<u64> = (0..self.shared.shape.depth.max(1)).map(|_| self.next_number()).collect();
        let requests: String = numbers.iter().map(|number| self.request(*number, false)).collect();
        let sent = held.http.wire.try_send(requests);
        for number in numbers {
            let response = held.http.try_response_to("GET").map_err(|error| {
                let sent = sent.as_ref().err().map(|error| format!(", after send: {error}")).unwrap_or_default();
                (Kind::Lost, format!("read: {error}{sent}"))
            })?;
            self.judge(number, &response, begun)?;
            self.counts.kept += 1;
            if !response.keeps_alive() {
                self.counts.announced += 1;
                self.counts.announced_over_mark += usize::from(self.shared.marks.load(SeqCst) != held.mark);
                return Ok(None);
            }
        }
        Ok(Some(held))
    }

    fn judge(&mut self, number: u64, response: &Response, begun: Instant) -> Result<(), (Kind, String)> {
        let worker = response.field("X-Worker").parse().ok();
        self.place(|place| place.worker = worker);
        if response.status != 200 {
            return Err((Kind::Status, format!("{} {}", response.status, response.text())));
        }
        let text = response.text();
        match text.trim().parse::<u64>() {
            Ok(echoed) if echoed == number => {}
            // Numbers of a client only grow.
            Ok(echoed) if echoed >> 32 == number >> 32 && echoed < number => {
                return Err((Kind::Doubled, format!("{echoed:x} again, in place of {number:x}")));
            }
            _ => return Err((Kind::Crossed, format!("{text:?} in place of {number:x}"))),
        }
        self.counts.latencies.push(u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX));
        self.shared.answered.fetch_add(1, SeqCst);
        Ok(())
    }

    fn request(&self, number: u64, close: bool) -> String {
        let target = format!("{}?id={number}", self.shared.shape.path);
        let lines: &[&str] = if close { &["Connection: close"] } else { &[] };
        // Every fourth has a body.
        if !number.is_multiple_of(4) {
            return head("GET", &target, lines);
        }
        let lines: Vec<&str> = lines.iter().copied().chain(["Content-Length: 5"]).collect();
        head("POST", &target, &lines) + "hello"
    }

    fn next_number(&mut self) -> u64 {
        self.sent += 1;
        ((self.index as u64 + 1) << 32) + self.sent
    }

    fn place(&self, change: impl FnOnce(&mut Place)) {
        change(&mut self.shared.places[self.index].lock().expect("the lock is whole"));
    }

    fn fail(&mut self, kind: Kind, begun: Instant, detail: String) {
        let worker = self.shared.places[self.index].lock().expect("the lock is whole").worker;
        let failure = Failure { kind, kept: self.keeps, begun, failed: Instant::now(), worker, detail };
        self.shared.failures.lock().expect("the lock is whole").push(failure);
    }
}

/// Whether the server has closed a connection on which nothing was asked; looks without waiting.
fn has_ended(wire: &Wire) -> bool {
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    match recv(wire.socket().as_raw_fd(), &mut [0], flags) {
        Ok(count) => count == 0,
        Err(error) => error != nix::errno::Errno::EAGAIN,
    }
}

/// Keeps tests that measure from disturbing one another: one at a time holds it.
pub fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Whether to run at full size: in release builds, or when `TIDEGATE_FULL_LOAD` is set. Debug builds check the same in a
/// smaller size.
pub fn is_full() -> bool {
    !cfg!(debug_assertions) || std::env::var_os("TIDEGATE_FULL_LOAD").is_some()
}

/// The size of something at full size, or else in debug builds.
pub fn sized<T>(full: T, debug: T) -> T {
    if is_full() { full } else { debug }
}

#[cfg(test)]
mod tests {
    use crate::backend::{EchoBackend, HttpBackend, Reply};
    use crate::message::Request;

    use super::*;

    fn run(port: u16, requests: usize) -> Report {
        let load = Load::start(Shape { kept: 2, fresh: 2, pause: Duration::from_millis(1), ..Shape::mixed(port) });
        crate::wait_until("enough has happened", || {
            (load.answered() + load.failures().len() >= requests).then_some(())
        });
        load.finish()
    }

    #[test]
    fn a_good_server_has_a_clean_report() {
        let backend = EchoBackend::start();
        let port = backend.address().rsplit_once(':').unwrap().1.parse().unwrap();
        let load = Load::start(Shape { kept: 4, fresh: 0, depth: 3, ..Shape::mixed(port) });
        load.wait_for(20);
        load.finish().assert_clean();
        let report = run(port, 50);
        report.assert_clean();
        assert!(report.kept > 0 && report.fresh > 0 && report.percentile(0.5) <= report.percentile(1.0), "{report}");
    }

    /// Answers the fifth and every later request so.
    fn failing(reply: fn(&str) -> Reply) -> Report {
        let backend = HttpBackend::start(move |request: &Request| {
            let number = request.target.split_once("id=").map_or("", |(_, number)| number).to_owned();
            let sent = number.parse::<u64>().unwrap_or(0) & 0xFFFF_FFFF;
            if sent < 5 { Reply::ok(number) } else { reply(&number) }
        });
        run(backend.port(), 40)
    }

    #[test]
    fn every_kind_of_failure_is_told_apart() {
        for (kind, reply) in [
            (Kind::Lost, (|_| Reply::hang_up()) as fn(&str) -> Reply),
            (Kind::Lost, |_| Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf").closing()),
            (Kind::Crossed, |_| Reply::ok("123456789123456789")),
            (Kind::Doubled, |number| Reply::ok((number.parse::<u64>().unwrap() - 1).to_string())),
            (Kind::Status, |number| Reply::status("502 Bad Gateway", &[], number)),
        ] {
            let report = failing(reply);
            assert!(report.count(kind) > 5, "{kind:?}: {report}");
            assert_eq!(report.count(kind), report.failures.len(), "{kind:?}: {report} {:?}", report.failures);
        }
    }

    #[test]
    fn an_announced_end_is_no_loss() {
        let report = failing(|number| Reply::status("200 OK", &["Connection: close"], number).closing());
        report.assert_clean();
        assert!(report.announced > 5, "{report}");
    }

    #[test]
    fn nobody_there_is_a_loss() {
        let port = crate::Port::claim();
        let report = run(port.number(), 10);
        assert_eq!(report.count(Kind::Lost), report.failures.len());
    }
}
