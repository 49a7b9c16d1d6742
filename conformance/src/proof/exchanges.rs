//! Every byte arrives, at the exchange to which it belongs: bodies both ways of sizes around every buffer's edge, cut and
//! stalled by chance, over HTTP/1 and HTTP/2, buffered and not.
//!
//! What one exchange is like follows from the seed and its number, so that the client and the backend know it without being
//! told, and a run can be had again. Of each body every eight bytes name the exchange and their place.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::{Certificate, Server, Setup};

use super::Verdict;
use super::chance::{Chance, Content};

mod backend;
mod one;
mod two;

/// What is exchanged.
#[derive(Debug)]
pub struct Options {
    /// How many exchanges.
    pub count: u64,
    /// What chance begins with.
    pub seed: u64,
    /// Clients at once.
    pub clients: u64,
    /// No body is larger.
    pub largest: u64,
}

/// How a body is framed in HTTP/1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length,
    Chunked,
    Close,
}

/// One exchange.
#[derive(Debug, Clone)]
struct Plan {
    number: u64,
    location: &'static str,
    up: Content,
    down: Content,
    up_framing: Framing,
    down_framing: Framing,
    /// For how both sides cut and stall.
    client: Chance,
    backend: Chance,
}

/// How bodies are buffered: the name, and what the location says.
const LOCATIONS: &[(&str, &str)] = &[
    ("on", ""),
    ("off", "proxy_buffering off; proxy_request_buffering off;"),
    ("in", "proxy_buffering off;"),
    ("out", "proxy_request_buffering off;"),
    ("small", "client_body_buffer_size 1k; proxy_buffer_size 1k; proxy_buffers 4 1k; http2_chunk_size 200;"),
    ("large", "client_body_buffer_size 128k; proxy_buffer_size 64k; proxy_buffers 8 64k; http2_chunk_size 16k;"),
];

/// Sizes at which a buffer, a frame or a window is full.
const EDGES: &[u64] =
    &[1, 200, 1024, 4096, 8192, 16_384, 20_480, 32_768, 36_864, 65_535, 65_536, 73_728, 131_072, 524_288];

impl Plan {
    fn of(options: &Options, number: u64) -> Plan {
        let mut chance = Chance::new(options.seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let (location, _) = *chance.of(LOCATIONS);
        let (mut up, mut down) = (size(&mut chance), size(&mut chance));
        // A few are large, one way or the other.
        let large = match number {
            number if number % 2500 == 77 => 100_000_000,
            number if number % 500 == 77 => 10_000_000,
            number if number % 50 == 27 => 1_000_000 + chance.below(100_000),
            _ => 0,
        };
        if large > 0 {
            *(if chance.once_in(2) { &mut up } else { &mut down }) = large;
        }
        if chance.once_in(4) {
            up = 0;
        }
        let up_framing = *chance.of(&[Framing::Length, Framing::Chunked]);
        let down_framing = *chance.of(&[Framing::Length, Framing::Length, Framing::Chunked, Framing::Close]);
        let content = |way: u64, length: u64| Content { name: number * 2 + way, length: length.min(options.largest) };
        Plan {
            number,
            location,
            up: content(0, up),
            down: content(1, down),
            up_framing,
            down_framing,
            client: Chance::new(chance.number()),
            backend: Chance::new(chance.number()),
        }
    }

    fn target(&self) -> String {
        format!("/{}?id={}", self.location, self.number)
    }
}

/// A size at an edge or beside it, or any.
fn size(chance: &mut Chance) -> u64 {
    match chance.below(3) {
        0 => chance.below(100_000),
        _ => (*chance.of(EDGES) + chance.below(3)).saturating_sub(1),
    }
}

/// What comes next of a body: how many bytes, and whether nothing happens for a while before. Of a large body large pieces.
fn next_piece(chance: &mut Chance, length: u64) -> (usize, Option<Duration>) {
    let most = if length > 500_000 { 200_000 } else { *chance.of(&[10, 1000, 20_000, 100_000]) };
    // A body in small pieces has many.
    let stall =
        chance.once_in(if length > 500_000 { 100 } else { 30 }).then(|| Duration::from_millis(chance.below(20)));
    (chance.below(most) as usize + 1, stall)
}

/// What the clients and the backend share.
struct Run<'a> {
    options: &'a Options,
    next: AtomicU64,
    good: AtomicU64,
    bytes: AtomicU64,
    wrong: Mutex<Vec<String>>,
}

impl Run<'_> {
    /// The next exchanges for one connection, up to this many.
    fn take(&self, many: u64) -> Vec<Plan> {
        let first = self.next.fetch_add(many, Ordering::Relaxed);
        (first..self.options.count.min(first + many)).map(|number| Plan::of(self.options, number)).collect()
    }

    fn note(&self, plan: &Plan, how: &str, result: Result<(), String>) {
        match result {
            Ok(()) => {
                self.good.fetch_add(1, Ordering::Relaxed);
                self.bytes.fetch_add(plan.up.length + plan.down.length, Ordering::Relaxed);
            }
            Err(error) => {
                let text = format!("{how} {} {:?} {:?}: {error}", plan.target(), plan.up_framing, plan.down_framing);
                println!("WRONG  {text}");
                self.wrong.lock().expect("a list").push(text);
            }
        }
    }
}

/// Does them all.
pub fn run(options: &Options) -> bool {
    let mut verdict = Verdict::default();
    println!("{} exchanges with seed {}", options.count, options.seed);
    let backend = backend::start(Options { ..*options });
    let server = setup().set("BACKEND", backend.address()).start();
    let run = Run {
        options,
        next: AtomicU64::new(0),
        good: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
        wrong: Mutex::default(),
    };
    let begun = Instant::now();
    thread::scope(|scope| {
        for client in 0..options.clients {
            let (run, server) = (&run, &server);
            scope.spawn(move || converse(run, server, Chance::new(options.seed.wrapping_add(client))));
        }
    });
    let (good, bytes) = (run.good.load(Ordering::Relaxed), run.bytes.load(Ordering::Relaxed));
    let wrong = run.wrong.into_inner().expect("a list");
    verdict.note(&format!("{bytes} bytes of bodies in {:.1?}", begun.elapsed()));
    verdict.check(good == options.count, &format!("{good} of {} exchanges whole", options.count));
    verdict.check(wrong.is_empty(), &format!("{} wrong or crossed", wrong.len()));
    verdict.is_good()
}

/// Exchanges on one connection after the other, of whatever kind.
fn converse(run: &Run<'_>, server: &Server, mut chance: Chance) {
    loop {
        let plans = run.take(1 + chance.below(16));
        if plans.is_empty() {
            return;
        }
        let is_secure = chance.once_in(2);
        if chance.once_in(2) {
            one::converse(run, server, is_secure, &plans);
        } else {
            two::converse(run, server, is_secure, &plans, &mut chance);
        }
    }
}

fn setup() -> Setup {
    let location =
        |(name, inside): &(&str, &str)| format!("location /{name} {{ proxy_pass http://%%BACKEND%%; {inside} }} ");
    let locations: String = LOCATIONS.iter().map(location).collect();
    Server::config(&format!(
        "worker_processes 2; events {{}} http {{ access_log off; client_max_body_size 0; proxy_http_version 1.1;
            keepalive_requests 100000; ssl_certificate a.crt; ssl_certificate_key a.key; server {{
            listen 127.0.0.1:%%PORT_0%%; listen 127.0.0.1:%%PORT_1%% ssl; http2 on; {locations} }} }}"
    ))
    .certificate("a", &Certificate::for_names(&["a.example"]))
}
