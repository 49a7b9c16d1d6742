//! What sessions cost that only wait, and how often workers wake for nothing: printed beside another server's figures, of
//! one run on one machine.
//!
//! Memory is the proportional set size of all processes of a server. What the kernel keeps for sockets is not in it.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::backend::{AuthAnswer, AuthHttp, ImapBackend, TcpBackend};
use crate::client::head;
use crate::{Server, Setup, Wire, wait_until};

/// What is measured, and beside what.
#[derive(Debug)]
pub struct Options {
    /// Sessions that wait at once.
    pub sessions: usize,
    /// The other server's binary.
    pub beside: Option<PathBuf>,
    /// Only rows whose names contain this.
    pub only: Option<String>,
}

/// A figure: what it is called, its unit, how it is measured.
type Row = (&'static str, &'static str, fn(&Bench) -> f64);

const ROWS: &[Row] = &[
    ("a stream session that is silent", "kB", silent_stream),
    ("an IMAP session before the login", "kB", before_login),
    ("an IMAP session after the login", "kB", after_login),
    ("an HTTP client between two requests", "kB", kept_http),
    ("an HTTP client that does not read a proxied reply", "kB", unread_reply),
    ("a stream client that does not read", "kB", unread_stream),
    ("500 heads of 31 KB that are not finished", "kB each", unfinished_heads),
    ("500 heads of 31 KB two seconds after they are gone", "MB in all", heads_that_are_gone),
    ("wake-ups of 8 workers for a connection that says nothing", "", wakes_for_silence),
    ("wake-ups of 8 workers for a connection and a request", "", wakes_for_request),
    ("wake-ups of 8 workers that have nothing to do", "/s", wakes_for_nothing),
];

/// Prints all figures.
pub fn run(options: &Options) {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
    println!("{} sessions at once", options.sessions);
    let other = if options.beside.is_some() { "other" } else { "" };
    println!("{:60} {:>9} {other:>9}", "", "ours");
    for (name, unit, measure) in ROWS {
        if options.only.as_ref().is_some_and(|only| !name.contains(only.as_str())) {
            continue;
        }
        let of = |program: Option<&PathBuf>| measure(&Bench { sessions: options.sessions, program: program.cloned() });
        let ours = of(None);
        let other = options.beside.as_ref().map(|path| format!("{:9.2}", of(Some(path)))).unwrap_or_default();
        println!("{name:60} {ours:9.2} {other} {unit}");
    }
}

/// One figure of the binary under test.
///
/// # Panics
/// There is no figure of this name.
pub fn figure(name: &str, sessions: usize) -> f64 {
    let (_, _, measure) = ROWS.iter().find(|row| row.0 == name).unwrap_or_else(|| panic!("no figure {name}"));
    measure(&Bench { sessions, program: None })
}

/// A server to be measured.
struct Bench {
    sessions: usize,
    program: Option<PathBuf>,
}

impl Bench {
    fn setup(&self, text: &str) -> Setup {
        let text = format!("worker_rlimit_nofile 20000; {text}");
        let setup = Server::config(&text.replace("events {}", "events { worker_connections 8192; }"));
        match &self.program {
            Some(program) => setup.program(program),
            None => setup,
        }
    }

    /// The memory that each of `count` sessions takes, in kB. Some are begun and ended before, so that what is made once
    /// is not counted.
    fn each<S>(&self, server: &Server, count: usize, begin: impl Fn() -> S, settled: impl Fn(usize) -> bool) -> f64 {
        let begun: Vec<S> = (0..20).map(|_| begin()).collect();
        wait_until("the first sessions wait", || settled(begun.len()).then_some(()));
        drop(begun);
        thread::sleep(Duration::from_millis(200));
        let before = memory(server);
        let mut sessions: Vec<S> = Vec::new();
        while sessions.len() < count {
            sessions.push(begin());
            // No queue of a socket may overflow.
            if sessions.len().is_multiple_of(50) {
                wait_until("the sessions wait", || settled(20 + sessions.len()).then_some(()));
            }
        }
        thread::sleep(Duration::from_millis(500));
        let after = memory(server);
        drop(sessions);
        (after - before) / count as f64
    }
}

/// The proportional set size of the server's processes in kB.
fn memory(server: &Server) -> f64 {
    let pids = server.workers().into_iter().chain([server.pid()]);
    let of = |pid: i32| -> f64 {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap_or("0");
        line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0.0)
    };
    pids.map(of).sum()
}

const STREAM: &str =
    "worker_processes 1; events {} stream { server { listen 127.0.0.1:%%PORT_0%%; proxy_pass %%TO%%; } }";
const MAIL: &str = "worker_processes 1; events {} mail { auth_http %%TO%%/auth; imap_capabilities IMAP4rev1;
    server { listen 127.0.0.1:%%PORT_0%%; protocol imap; } }";

fn silent_stream(bench: &Bench) -> f64 {
    let backend = TcpBackend::start(|mut wire, _| {
        wire.set_patience(Duration::from_secs(600));
        let _ = wire.try_line();
    });
    let server = bench.setup(STREAM).set("TO", backend.address()).start();
    let port = server.port(0);
    bench.each(&server, bench.sessions, || Wire::connect(port), |count| backend.accepted() >= count)
}

fn greeted(port: u16) -> Wire {
    let mut wire = Wire::connect(port);
    assert!(wire.line().starts_with("* OK"), "the server greets");
    wire
}

fn before_login(bench: &Bench) -> f64 {
    let server = bench.setup(MAIL).set("TO", "127.0.0.1:1").start();
    let port = server.port(0);
    bench.each(&server, bench.sessions, || greeted(port), |_| true)
}

fn after_login(bench: &Bench) -> f64 {
    let backend = ImapBackend::start("backend");
    let port = backend.port();
    let auth =
        AuthHttp::start(move |_| AuthAnswer::Backend { server: "127.0.0.1".to_owned(), port, lines: Vec::new() });
    let server = bench.setup(MAIL).set("TO", auth.address()).start();
    let port = server.port(0);
    let begin = || {
        let mut wire = greeted(port);
        assert!(wire.ask("a LOGIN alice pw").starts_with("a OK"), "the login is taken");
        wire
    };
    bench.each(&server, bench.sessions.min(2000), begin, |_| true)
}

const HTTP: &str = "worker_processes 1; events {} http { access_log off; keepalive_timeout 600s;
    server { listen 127.0.0.1:%%PORT_0%%; location / { proxy_pass http://%%TO%%; } location = /one { return 200 one; } } }";

fn kept_http(bench: &Bench) -> f64 {
    let server = bench.setup(HTTP).set("TO", "127.0.0.1:1").start();
    let begin = || {
        let mut http = server.http(0);
        assert_eq!(http.get("/one").text(), "one");
        http
    };
    bench.each(&server, bench.sessions, begin, |_| true)
}

/// Sends without end to whoever connects, or to whoever has sent a line.
fn flood(after_a_line: bool, first: &'static str) -> TcpBackend {
    TcpBackend::start(move |mut wire, _| {
        if after_a_line {
            while wire.try_line().is_ok_and(|line| line.is_some_and(|line| !line.is_empty())) {}
        }
        let _ = wire.socket().set_write_timeout(Some(Duration::from_secs(120)));
        let _ = wire.try_send(first);
        let piece = vec![b'x'; 16 << 10];
        while wire.try_send(&piece).is_ok() {}
    })
}

/// A few hundred: each of them moves as much as the sockets' buffers take.
fn few(bench: &Bench) -> usize {
    bench.sessions.min(200)
}

/// Until nothing has moved for a while: the memory of the server no longer grows.
fn quiet(server: &Server) {
    let mut last = (memory(server), Instant::now());
    wait_until("nothing moves any more", || {
        let now = memory(server);
        if (now - last.0).abs() > 64.0 {
            last = (now, Instant::now());
        }
        (last.1.elapsed() > Duration::from_secs(1)).then_some(())
    });
}

fn unread_reply(bench: &Bench) -> f64 {
    let backend = flood(true, "HTTP/1.0 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
    let text = HTTP.replace("proxy_pass", "proxy_max_temp_file_size 0; proxy_pass");
    let server = bench.setup(&text).set("TO", backend.address()).start();
    let begin = || {
        let mut http = server.http(0);
        http.send(head("GET", "/", &[]));
        http
    };
    unread(bench, &server, begin)
}

fn unread_stream(bench: &Bench) -> f64 {
    let backend = flood(false, "");
    let server = bench.setup(STREAM).set("TO", backend.address()).start();
    let port = server.port(0);
    unread(bench, &server, || Wire::connect(port))
}

fn unread<S>(bench: &Bench, server: &Server, begin: impl Fn() -> S) -> f64 {
    drop(begin());
    quiet(server);
    let before = memory(server);
    let sessions: Vec<S> = (0..few(bench)).map(|_| begin()).collect();
    quiet(server);
    (memory(server) - before) / sessions.len() as f64
}

/// Clients that have sent most of a head.
fn half_heads(server: &Server, count: usize) -> Vec<TcpStream> {
    let line = format!("X-Filler: {}\r\n", "x".repeat(7700));
    let text = format!("GET / HTTP/1.1\r\nHost: x\r\n{}", line.repeat(4));
    let begin = |_| {
        let mut socket = TcpStream::connect(("127.0.0.1", server.port(0))).expect("somebody listens");
        socket.write_all(text.as_bytes()).expect("the head is taken");
        socket
    };
    (0..count).map(begin).collect()
}

fn unfinished_heads(bench: &Bench) -> f64 {
    let server = bench.setup(HTTP).set("TO", "127.0.0.1:1").start();
    assert_eq!(server.http(0).get("/one").text(), "one");
    let before = memory(&server);
    let clients = half_heads(&server, 500);
    quiet(&server);
    (memory(&server) - before) / clients.len() as f64
}

fn heads_that_are_gone(bench: &Bench) -> f64 {
    let server = bench.setup(HTTP).set("TO", "127.0.0.1:1").start();
    assert_eq!(server.http(0).get("/one").text(), "one");
    let before = memory(&server);
    let clients = half_heads(&server, 500);
    quiet(&server);
    drop(clients);
    thread::sleep(Duration::from_secs(2));
    (memory(&server) - before) / 1024.0
}

/// How often the workers have gone to sleep so far, and so how often they were woken.
fn sleeps(server: &Server) -> u64 {
    let of = |pid: i32| -> u64 {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap_or("0");
        line.trim().parse().unwrap_or(0)
    };
    server.workers().into_iter().map(of).sum()
}

fn eight(bench: &Bench) -> Server {
    let server =
        bench.setup(&HTTP.replace("worker_processes 1", "worker_processes 8")).set("TO", "127.0.0.1:1").start();
    wait_until("eight workers run", || (server.workers().len() == 8).then_some(()));
    for _ in 0..64 {
        assert_eq!(server.http(0).ask("GET", "/one", &["Connection: close"]).text(), "one");
    }
    thread::sleep(Duration::from_secs(2));
    server
}

const CONNECTIONS: usize = 100;

fn wakes(server: &Server, mut connect: impl FnMut()) -> f64 {
    let before = sleeps(server);
    for _ in 0..CONNECTIONS {
        connect();
        thread::sleep(Duration::from_millis(5));
    }
    thread::sleep(Duration::from_millis(100));
    (sleeps(server) - before) as f64 / CONNECTIONS as f64
}

fn wakes_for_silence(bench: &Bench) -> f64 {
    let server = eight(bench);
    let mut kept = Vec::new();
    wakes(&server, || kept.push(server.connect(0)))
}

fn wakes_for_request(bench: &Bench) -> f64 {
    let server = eight(bench);
    wakes(&server, || {
        assert_eq!(server.http(0).ask("GET", "/one", &["Connection: close"]).text(), "one");
    })
}

fn wakes_for_nothing(bench: &Bench) -> f64 {
    let server = eight(bench);
    let before = sleeps(&server);
    thread::sleep(Duration::from_secs(10));
    (sleeps(&server) - before) as f64 / 10.0
}
