//! Clients that read a little at a time of large replies: they tie up no backend, take no more memory than the buffers that the
//! directives name, and leave no file behind, not even when the server is killed. And bodies larger than any buffer.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::statvfs::statvfs;

use crate::backend::TcpBackend;
use crate::server::signal_to;
use crate::temporary::{self, FOLDERS, files, temporary};
use crate::wait::poll_for;
use crate::{Server, binary, processes};

use super::Verdict;

/// What is done.
#[derive(Debug)]
pub struct Options {
    /// Clients at once.
    pub clients: usize,
    /// What each asks for, in bytes.
    pub length: u64,
    /// How long they read, once the backend is done.
    pub time: Duration,
    /// What is sent in one body each way, in bytes.
    pub large: u64,
    /// Another server, whose figures are printed first.
    pub beside: Option<PathBuf>,
}

/// `proxy_buffer_size` and `proxy_buffers` as they are by default.
const BUFFERS: u64 = (4 << 10) + 8 * (4 << 10);

/// Longer than anything takes.
const LIMIT: Duration = Duration::from_secs(1200);

/// What came of the slow clients of one server.
struct Figures {
    /// Until the backend was rid of all of them.
    took: Duration,
    /// What all processes took more, for each client: at most, and while the files were read back.
    most: u64,
    later: u64,
    files: usize,
    is_clean: bool,
}

/// Measures all of it.
pub fn run(options: &Options) -> bool {
    let mut verdict = Verdict::default();
    let needed = options.length * options.clients as u64 + (2 << 30);
    let free = statvfs(&std::env::temp_dir()).map_or(0, |disk| disk.blocks_available() * disk.fragment_size());
    if free < needed {
        println!("{} MB are free for temporary files, and {} are needed", free >> 20, needed >> 20);
        return false;
    }
    println!("{} clients at 1 KB a second of {} MB each", options.clients, options.length / 1_000_000);
    let other = options.beside.as_deref().map(|program| slow(options, program));
    if let Some(other) = &other {
        verdict.note(&format!("the other: {}", other.text()));
    }
    let ours = slow(options, binary::path());
    verdict.note(&ours.text());
    let allowed = BUFFERS * 11 / 10;
    verdict.check(ours.files == options.clients, &format!("{} temporary files", ours.files));
    if let Some(other) = &other {
        let most = other.took.mul_f64(1.5) + Duration::from_secs(1);
        verdict.check(ours.took <= most, &format!("the backend is free after {:.1?}, at most {most:.1?}", ours.took));
    }
    for (when, bytes) in [("at most", ours.most), ("while files are read back", ours.later)] {
        verdict.check(bytes <= allowed, &format!("{} KiB a client {when}, {} allowed", bytes >> 10, allowed >> 10));
    }
    verdict.check(ours.is_clean, "no file is left when the clients have gone");
    killed(&mut verdict);
    if options.large > 0 {
        large(options, &mut verdict);
    }
    verdict.is_good()
}

impl Figures {
    fn text(&self) -> String {
        format!(
            "the backend is free after {:.1?}; {} KiB a client at most, {} while files are read back",
            self.took,
            self.most >> 10,
            self.later >> 10
        )
    }
}

fn serve(program: &Path, backend: &TcpBackend) -> Server {
    Server::config(&format!(
        "worker_processes 1; worker_rlimit_nofile 20000; events {{ worker_connections 8192; }} http {{ access_log off;
            {} proxy_http_version 1.1; client_max_body_size 0; server {{ listen 127.0.0.1:%%PORT_0%%;
            location / {{ proxy_pass http://%%BACKEND%%; }}
            location /off {{ proxy_pass http://%%BACKEND%%; proxy_buffering off; proxy_request_buffering off; }} }} }}",
        temporary::PATHS
    ))
    .set("BACKEND", backend.address())
    .program(program)
    .start()
}

/// Reads what it is sent, and sends as much as it is asked for (`X-Length`), as fast as it goes.
fn fountain() -> (TcpBackend, Arc<AtomicU64>) {
    let came = Arc::new(AtomicU64::new(0));
    let count = came.clone();
    let backend = TcpBackend::start(move |mut wire, _| {
        let Ok(Some(head)) = wire.try_head() else { return };
        wire.set_patience(LIMIT);
        let _ = wire.socket().set_write_timeout(Some(LIMIT));
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let field = |name: &str| {
            let line = head.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|value| value.trim().parse::<u64>().ok()).unwrap_or(0)
        };
        let mut left = field("content-length:");
        while left > 0 {
            let Ok(piece) = wire.try_exactly(left.min(64 << 10) as usize) else { return };
            left -= piece.len() as u64;
            count.fetch_add(piece.len() as u64, Ordering::Relaxed);
        }
        let length = field("x-length:");
        let _ = wire.try_send(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"));
        let _ = pour(wire.socket(), length);
    });
    (backend, came)
}

fn pour(mut socket: &TcpStream, length: u64) -> std::io::Result<()> {
    let piece = vec![b'x'; 256 << 10];
    let mut left = length;
    while left > 0 {
        let count = socket.write(&piece[..left.min(piece.len() as u64) as usize])?;
        left -= count as u64;
    }
    Ok(())
}

/// A client that has asked.
fn asking(server: &Server, target: &str, length: u64) -> TcpStream {
    let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, server.port(0))).expect("the server accepts");
    let head = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nX-Length: {length}\r\n\r\n");
    socket.write_all(head.as_bytes()).expect("a request is sent");
    socket
}

/// Resident memory of all processes of a server.
fn memory(server: &Server) -> u64 {
    server.workers().into_iter().chain([server.pid()]).map(processes::resident_bytes).sum()
}

fn slow(options: &Options, program: &Path) -> Figures {
    let (backend, _) = fountain();
    let server = serve(program, &backend);
    // What the first of everything takes is not what is measured.
    let first: Vec<TcpStream> = (0..8).map(|_| asking(&server, "/", 30_000_000)).collect();
    wait(|| temporary(&server) == 8 && backend.open() == 0);
    drop(first);
    wait(|| temporary(&server) == 0);
    let before = memory(&server);
    let grown = || memory(&server).saturating_sub(before) / options.clients as u64;
    let begun = Instant::now();
    let mut clients: Vec<TcpStream> = (0..options.clients).map(|_| asking(&server, "/", options.length)).collect();
    let mut most = 0;
    wait(|| {
        most = most.max(grown());
        backend.accepted() == 8 + options.clients && backend.open() == 0
    });
    let took = begun.elapsed();
    let count = temporary(&server);
    let mut later = 0;
    let since = Instant::now();
    while since.elapsed() < options.time {
        let next = Instant::now() + Duration::from_secs(1);
        for client in &mut clients {
            client.read_exact(&mut [0; 1024]).expect("a kilobyte is there");
        }
        later = later.max(grown());
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    drop(clients);
    let is_clean = poll_for(Duration::from_secs(60), || (temporary(&server) == 0).then_some(())).is_some();
    Figures { took, most: most.max(later), later, files: count, is_clean }
}

fn wait(mut is_so: impl FnMut() -> bool) {
    poll_for(LIMIT, || is_so().then_some(())).expect("the backend is done in time");
}

/// Kills every process of a server while there are files, and starts it again.
fn killed(verdict: &mut Verdict) {
    let (backend, _) = fountain();
    let server = serve(binary::path(), &backend);
    let clients: Vec<TcpStream> = (0..20).map(|_| asking(&server, "/", 20_000_000)).collect();
    wait(|| temporary(&server) == 20);
    let pids: Vec<i32> = server.workers().into_iter().chain([server.pid()]).collect();
    // The master first: it would start another worker.
    pids.iter().rev().for_each(|pid| signal_to(*pid, Signal::SIGKILL));
    server.wait_until_gone(&pids);
    let again = server.control(&["-t"]);
    let left: usize = FOLDERS.iter().map(|name| files(&server.folder().join(name)).len()).sum();
    verdict.check(again.status.success() && left == 0, &format!("{left} files are left by a server that was killed"));
    drop(clients);
}

/// One body that is larger than everything, each way, buffered and not.
fn large(options: &Options, verdict: &mut Verdict) {
    let length = options.large;
    for target in ["/off", "/"] {
        let (backend, came) = fountain();
        let server = serve(binary::path(), &backend);
        let mut small = asking(&server, target, 1_000_000);
        drain(&mut small, 1_000_000);
        let before = memory(&server);
        let (stop, most) = (AtomicBool::new(false), AtomicU64::new(before));
        thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    most.fetch_max(memory(&server), Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(20));
                }
            });
            let begun = Instant::now();
            let got = drain(&mut asking(&server, target, length), length);
            let down = begun.elapsed();
            let mut up = TcpStream::connect((Ipv4Addr::LOCALHOST, server.port(0))).expect("the server accepts");
            let head = format!("POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n");
            let sent = up.write_all(head.as_bytes()).and_then(|()| pour(&up, length));
            let answered = sent.and_then(|()| up.read_exact(&mut [0; 12])).is_ok();
            verdict.check(got, &format!("{length} bytes down by {target} in {down:.1?}"));
            let arrived = came.load(Ordering::Relaxed);
            let all = begun.elapsed() - down;
            verdict.check(answered && arrived == length, &format!("{arrived} bytes up by {target} in {all:.1?}"));
            stop.store(true, Ordering::Relaxed);
        });
        let more = most.into_inner().saturating_sub(before) >> 10;
        verdict.check(more <= 4096, &format!("{more} KiB more of memory by {target}, 4096 allowed"));
    }
}

/// Reads so much and a head in front of it.
fn drain(socket: &mut TcpStream, length: u64) -> bool {
    let mut room = vec![0; 256 << 10];
    let mut count = 0;
    while count < length {
        match socket.read(&mut room) {
            Ok(0) | Err(_) => return false,
            Ok(read) => count += read as u64,
        }
    }
    true
}
