//! Floods of HTTP/2, and sequences that are meant to hurt: each ends its own connection within a budget, and a good client
//! on another connection of the same worker hardly notices.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::client::{Frames, frame};
use crate::wait::PATIENCE;
use crate::{Server, Setup, Wire};

use super::{Verdict, percentile};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;

/// A flood.
#[derive(Debug)]
pub struct Flood {
    /// Its name.
    pub name: &'static str,
    /// What the log says of its end: a limit of ours by its name, or what the library says.
    pub said: Said,
    /// The settings that it begins with.
    pub settings: &'static [(u16, u32)],
    /// What it begins with.
    pub begin: fn() -> Vec<u8>,
    /// What it repeats, told how often it has.
    pub repeat: fn(u32) -> Vec<u8>,
    /// How often the connection takes that at most.
    pub most: u32,
}

/// How the log tells of an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// A limit of ours, by its name.
    Limit(&'static str),
    /// A limit of the library's own, or whichever of ours comes before it.
    Library,
}

const fn flood(name: &'static str, said: Said, begin: fn() -> Vec<u8>, repeat: fn(u32) -> Vec<u8>, most: u32) -> Flood {
    Flood { name, said, settings: &[], begin, repeat, most }
}

fn nothing() -> Vec<u8> {
    Vec::new()
}

fn stream(turn: u32) -> u32 {
    2 * turn + 1
}

/// A request whose head puts 4000 bytes into the table of fields, so that another octet stands for them from then on.
fn stuffed(name: &str) -> Vec<u8> {
    let mut block = Frames::head("GET", "/", &[]);
    // A literal that is kept, with a new name: its length in one octet, that of its value in three.
    block.extend([0x40, name.len() as u8]);
    block.extend(name.as_bytes());
    block.extend([0x7f, 0xa1, 0x1e]);
    block.extend(vec![b'x'; 4000]);
    frame(HEADERS, 5, 1, block)
}

/// A request with so many references to the newest field of the table.
fn references(turn: u32, count: usize) -> Vec<u8> {
    frame(HEADERS, 5, stream(turn + 1), [Frames::head("GET", "/", &[]), vec![0xbe; count]].concat())
}

/// All of them.
pub const FLOODS: &[Flood] = &[
    flood("PING", Said::Limit("pings"), nothing, |_| frame(PING, 0, 0, b"12345678"), 250),
    flood("SETTINGS", Said::Limit("settings"), nothing, |_| frame(SETTINGS, 0, 0, []), 150),
    flood("settings in one frame", Said::Limit("settings_entries"), nothing, |_| Frames::settings(&[(3, 100); 33]), 1),
    flood(
        "rapid reset",
        Said::Limit("rapid_resets"),
        nothing,
        |turn| [Frames::get(stream(turn), "/hang"), Frames::reset(stream(turn))].concat(),
        700,
    ),
    flood(
        "rapid reset of what is answered",
        Said::Limit("rapid_resets"),
        nothing,
        |turn| [Frames::get(stream(turn), "/file"), Frames::reset(stream(turn))].concat(),
        700,
    ),
    flood(
        "made you reset: a window too large",
        Said::Limit("own_resets"),
        nothing,
        |turn| [Frames::post(stream(turn), "/hang"), Frames::window(stream(turn), 0x7fff_ffff)].concat(),
        200,
    ),
    flood(
        "made you reset: DATA behind the end",
        Said::Library,
        nothing,
        |turn| [Frames::get(stream(turn), "/hang"), frame(DATA, 0, stream(turn), b"x")].concat(),
        200,
    ),
    flood(
        "made you reset: more than was announced",
        Said::Limit("own_resets"),
        nothing,
        |turn| {
            let head = Frames::head("POST", "/hang", &[("content-length", "1")]);
            [frame(HEADERS, 4, stream(turn), head), frame(DATA, 0, stream(turn), b"xx")].concat()
        },
        200,
    ),
    flood("CONTINUATION", Said::Library, || frame(HEADERS, 0, 1, []), |_| frame(CONTINUATION, 0, 1, []), 100),
    flood(
        "a head without end",
        Said::Library,
        || frame(HEADERS, 0, 1, []),
        |_| frame(CONTINUATION, 0, 1, vec![0; 16_000]),
        10,
    ),
    flood("empty DATA", Said::Library, || Frames::post(1, "/hang"), |_| frame(DATA, 0, 1, []), 150),
    flood("padding", Said::Library, || Frames::post(1, "/hang"), |_| frame(DATA, 8, 1, [1, 0]), 150),
    flood("WINDOW_UPDATE", Said::Limit("window_updates"), nothing, |_| Frames::window(0, 100), 1500),
    flood("tiny windows", Said::Limit("tiny_window_updates"), nothing, |_| Frames::window(0, 1), 800),
    Flood {
        name: "an answer byte by byte",
        said: Said::Limit("tiny_window_updates"),
        settings: &[(4, 1)],
        begin: || Frames::get(1, "/file"),
        repeat: |_| Frames::window(1, 1),
        most: 5000,
    },
    Flood {
        name: "windows that stay shut",
        said: Said::Limit("stalled_streams"),
        settings: &[(4, 0)],
        begin: || (0..40).flat_map(|turn| Frames::get(stream(turn), "/file")).collect(),
        repeat: |_| nothing(),
        most: 0,
    },
    flood(
        "PRIORITY",
        Said::Limit("priorities"),
        nothing,
        |turn| frame(PRIORITY, 0, stream(turn), [0, 0, 0, 0, 15]),
        300,
    ),
    flood("unknown frames", Said::Limit("unknown_frames"), nothing, |_| frame(0x42, 0, 0, b"what is it"), 300),
    flood("streams", Said::Limit("refused_streams"), nothing, |turn| Frames::get(stream(turn), "/hang"), 600),
    flood(
        "acknowledgements of nothing",
        Said::Limit("stray_frames"),
        nothing,
        |_| frame(PING, 1, 0, b"12345678"),
        1500,
    ),
    flood("cookie crumbs", Said::Library, || stuffed("cookie"), |turn| references(turn, 12_000), 300),
    flood("a bomb of references", Said::Library, || stuffed("x"), |turn| references(turn, 16_000), 300),
];

/// What is measured.
#[derive(Debug)]
pub struct Options {
    /// Requests of the good client for each percentile.
    pub requests: usize,
    /// By how much its 99th percentile may grow.
    pub most: f64,
    /// How often both are measured.
    pub rounds: usize,
    /// Only floods whose names contain this.
    pub only: Option<String>,
}

/// Runs every flood beside a good client.
pub fn run(options: &Options) -> bool {
    let mut verdict = Verdict::default();
    let is_wanted = |flood: &&Flood| options.only.as_ref().is_none_or(|only| flood.name.contains(only.as_str()));
    println!("p99 of {} requests of a good client without and with each flood", options.requests);
    for flood in FLOODS.iter().filter(is_wanted) {
        let (server, _backend) = serve("worker_processes 1;");
        let mut good = Good::over(server.connect(0));
        good.p99(options.requests);
        // What else runs on the machine only ever adds to a figure: the smallest of each says the most.
        let (mut without, mut with, mut figures) = (Duration::MAX, Duration::MAX, String::new());
        for _ in 0..options.rounds {
            without = without.min(good.p99(options.requests));
            let (p99, ends) = beside(&server, flood, &mut good, options.requests);
            if p99 < with {
                (with, figures) = (p99, ends);
            }
        }
        let ratio = with.as_secs_f64() / without.as_secs_f64();
        let text = format!("{}: {ratio:.2} times ({without:?}, {with:?}; {figures})", flood.name);
        verdict.check(ratio <= options.most, &text);
        let lines = server.log_lines();
        let told: Vec<_> = lines.iter().filter(|line| flood.is_told(line)).collect();
        let line = told.first().or(lines.last().as_ref()).map_or("", |line| line.as_str());
        let line = line.split_once(" *").map_or(line, |(_, line)| line);
        verdict.check(!told.is_empty(), &format!("{}: told in the log {} times: {line}", flood.name, told.len()));
    }
    verdict.is_good()
}

/// The server that is flooded, and the backend that never answers.
pub fn serve(more: &str) -> (Server, Silent) {
    let backend = Silent::start();
    (setup(more).set("HANG", backend.address).start(), backend)
}

fn setup(more: &str) -> Setup {
    Server::config(&format!(
        "{more} events {{ worker_connections 8000; }} http {{ access_log off; keepalive_requests 1000000000; server {{
            listen 127.0.0.1:%%PORT_0%%; http2 on; http2_limits stall=1; root %%DIR%%;
            location /hang {{ proxy_pass http://%%HANG%%; }} location /file {{ }} location / {{ return 200 well; }} }} }}"
    ))
    .file("file", vec![b'x'; 200_000])
}

impl Flood {
    /// Does it once, until the connection ends; the code of the GOAWAY if it came through.
    pub fn once(&self, wire: Wire) -> Option<u32> {
        let mut client = Frames::over(wire, self.settings);
        client.send((self.begin)());
        // A server that has had enough takes no more.
        let _ = (0..self.most).try_for_each(|turn| client.wire.try_send((self.repeat)(turn)));
        client.end()
    }

    /// Whether a line of the log tells of it.
    pub fn is_told(&self, line: &str) -> bool {
        let is_ours = line.contains("http2 flood detected: ");
        match self.said {
            Said::Limit(limit) => is_ours && line.contains(&format!("({limit})")),
            Said::Library => is_ours || line.contains("connection error detected: "),
        }
    }
}

/// The 99th percentile of the good client, while the flood begins again as soon as it has ended.
fn beside(server: &Server, flood: &Flood, good: &mut Good, requests: usize) -> (Duration, String) {
    let (stop, ends) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let flooding = scope.spawn(|| {
            stand_back();
            let mut longest = Duration::ZERO;
            while !stop.load(Ordering::Relaxed) {
                let since = Instant::now();
                flood.once(server.connect(0));
                longest = longest.max(since.elapsed());
                ends.fetch_add(1, Ordering::Relaxed);
            }
            longest
        });
        let begun = Instant::now();
        let mut times = Vec::new();
        // A flood that has hardly begun says nothing.
        while times.len() < requests || (ends.load(Ordering::Relaxed) < ENDS && begun.elapsed() < PATIENCE) {
            times.push(good.ask());
        }
        let (during, ended) = (begun.elapsed(), ends.load(Ordering::Relaxed));
        stop.store(true, Ordering::Relaxed);
        let longest = flooding.join().expect("the flood ends");
        (percentile(&mut times, 0.99), format!("{ended} connections ended in {during:.1?}, each within {longest:.1?}"))
    })
}

/// How many connections a flood must have lost for its figure to count.
const ENDS: usize = 5;

/// Lets those who are measured go first. A real attacker, and a real backend, have machines of their own, and do not take the
/// processor from those who are flooded.
fn stand_back() {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap_or_default();
    let mut fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
    let nice: i32 = fields.nth(16).and_then(|nice| nice.parse().ok()).unwrap_or(0);
    let own = nix::unistd::gettid().to_string();
    let _ = Command::new("renice").args(["-n", &(nice + 5).to_string(), "-p", &own]).stdout(Stdio::null()).status();
}

/// A client that asks for one thing after the other.
struct Good {
    frames: Frames,
    next: u32,
}

impl Good {
    fn over(wire: Wire) -> Good {
        Good { frames: Frames::over(wire, &[]), next: 1 }
    }

    fn p99(&mut self, requests: usize) -> Duration {
        let mut times: Vec<Duration> = (0..requests).map(|_| self.ask()).collect();
        percentile(&mut times, 0.99)
    }

    fn ask(&mut self) -> Duration {
        let stream = self.next;
        self.next += 2;
        let since = Instant::now();
        self.frames.send([Frames::get(stream, "/"), Frames::window(0, 4)].concat());
        self.frames.until(|frame| frame.stream == stream && frame.is_end());
        since.elapsed()
    }
}

/// A backend that takes connections and says nothing, for as little as that can cost: one thread that only accepts.
#[derive(Debug)]
pub struct Silent {
    address: SocketAddr,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Silent {
    /// How many connections are kept at most: the oldest have long been closed by the server.
    const KEPT: usize = 4000;

    fn start() -> Silent {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind a port");
        let address = listener.local_addr().expect("a bound socket");
        let stopping = Arc::new(AtomicBool::new(false));
        let is_over = stopping.clone();
        let thread = thread::spawn(move || {
            stand_back();
            let mut kept = VecDeque::new();
            while !is_over.load(Ordering::Relaxed) {
                kept.extend(listener.accept());
                if kept.len() == Silent::KEPT {
                    kept.drain(..Silent::KEPT / 2);
                }
            }
        });
        Silent { address, stopping, thread: Some(thread) }
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
