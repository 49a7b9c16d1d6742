//! Kills in a row: workers young and old, one at a time and all at once. The server is never without a worker for long,
//! and only requests that a killed worker held fail.
//!
//! Figures are printed with `--nocapture`; debug builds run the same in a smaller size, and leave room for a machine that
//! has no core free.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tidegate_conformance::load::{self, sized};
use tidegate_conformance::server::{signal_to, skip_on_nginx};
use tidegate_conformance::wait::PATIENCE;
use tidegate_conformance::{Server, processes, wait_until};

const CONFIG: &str = "worker_processes %%WORKERS%%; events {} http { access_log off;
    server { listen 127.0.0.1:%%PORT_0%% %%OPTION%%; location / { return 200 here; } } }";

/// The number of clients that send one request after the other, each request on a connection of its own.
const PROBERS: usize = 4;

fn start(workers: usize, option: &str) -> Server {
    let server = Server::config(CONFIG).set("WORKERS", workers).set("OPTION", option).start();
    wait_until("all workers run", || (server.workers().len() == workers).then_some(()));
    server
}

/// One request of a prober.
struct Asked {
    begun: Instant,
    ended: Instant,
    answered: bool,
}

struct Probers {
    done: Arc<AtomicBool>,
    asked: Arc<Mutex<Vec<Asked>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Probers {
    fn start(port: u16) -> Probers {
        let (done, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let probe = |_| {
            let (done, asked) = (Arc::clone(&done), Arc::clone(&asked));
            thread::spawn(move || {
                while !done.load(SeqCst) {
                    let begun = Instant::now();
                    let answered = is_answered(port);
                    asked.lock().expect("the lock is whole").push(Asked { begun, ended: Instant::now(), answered });
                    thread::sleep(Duration::from_millis(2));
                }
            })
        };
        let threads = (0..PROBERS).map(probe).collect();
        Probers { done, asked, threads }
    }

    fn finish(self) -> Vec<Asked> {
        self.done.store(true, SeqCst);
        self.threads.into_iter().for_each(|thread| thread.join().expect("a prober goes on"));
        Arc::into_inner(self.asked).expect("the probers have ended").into_inner().expect("the lock is whole")
    }
}

fn is_answered(port: u16) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut socket = TcpStream::connect(("127.0.0.1", port))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        socket.read_to_string(&mut text)?;
        Ok(text)
    };
    ask().is_ok_and(|text| text.starts_with("HTTP/1.1 200 ") && text.ends_with("here"))
}

/// The workers to kill next.
#[derive(Clone, Copy, Debug)]
enum Victims {
    Youngest,
    Oldest,
    All,
}

/// Kills workers so many times, a tenth to half a second apart, while probers ask.
fn kill(server: &Server, workers: usize, times: usize, victims: &[Victims], signal: Signal) {
    let probers = Probers::start(server.port(0));
    let mut kills: Vec<(Instant, Instant)> = Vec::new();
    // The master replaces them in the order of their ages, and process numbers may begin again: remembered here.
    let mut ages: Vec<i32> = server.workers();
    for (number, victims) in (0..times).zip(victims.iter().cycle()) {
        thread::sleep(Duration::from_millis([100, 310, 150, 500, 100, 220][number % 6]));
        ages.retain(|pid| processes::is_alive(*pid));
        let new: Vec<i32> = server.workers().into_iter().filter(|pid| !ages.contains(pid)).collect();
        ages.extend(new);
        let chosen: Vec<i32> = match victims {
            Victims::Youngest => ages.last().copied().into_iter().collect(),
            Victims::Oldest => ages.first().copied().into_iter().collect(),
            Victims::All => ages.clone(),
        };
        let at = Instant::now();
        chosen.iter().for_each(|pid| signal_to(*pid, signal));
        server.wait_until_gone(&chosen);
        kills.push((at, Instant::now()));
    }
    wait_until("all workers run", || (server.workers().len() == workers).then_some(()));
    let asked = probers.finish();
    let lost = asked.iter().filter(|asked| !asked.answered).count();
    let longest = asked.iter().filter(|asked| asked.answered).map(|asked| asked.ended - asked.begun).max();
    let longest = longest.expect("a prober is answered");
    println!(
        "{times} times {victims:?} of {workers} by {signal}: {} asked, {lost} lost, no answer took longer than {longest:?}",
        asked.len()
    );
    for asked in asked.iter().filter(|asked| !asked.answered) {
        let met = kills.iter().any(|(at, dead)| asked.begun <= *dead && asked.ended >= *at);
        assert!(met, "a request is lost although no worker was killed while it ran");
    }
    assert!(lost <= PROBERS * kills.len(), "more are lost than can have been in the hands of the killed");
    let limit = sized(Duration::from_millis(100), Duration::from_secs(2));
    assert!(longest <= limit, "there was no worker for {longest:?}");
}

const SINGLY: &[Victims] = &[Victims::Youngest, Victims::Youngest, Victims::Youngest, Victims::Oldest];

#[test]
fn there_is_always_a_worker_while_two_are_killed_singly() {
    let _alone = load::alone();
    for option in ["", "reuseport"] {
        kill(&start(2, option), 2, sized(100, 12), SINGLY, Signal::SIGKILL);
    }
}

#[test]
fn there_is_always_a_worker_while_eight_are_killed_singly() {
    let _alone = load::alone();
    for option in ["", "reuseport"] {
        kill(&start(8, option), 8, sized(100, 12), SINGLY, Signal::SIGKILL);
    }
}

#[test]
fn there_is_soon_a_worker_when_all_are_killed_at_once() {
    let _alone = load::alone();
    for (workers, option) in [(2, ""), (2, "reuseport"), (8, ""), (8, "reuseport")] {
        kill(&start(workers, option), workers, sized(100, 8), &[Victims::All], Signal::SIGKILL);
    }
}

#[test]
fn whatever_the_signal_there_is_always_a_worker() {
    let _alone = load::alone();
    for signal in [Signal::SIGTERM, Signal::SIGILL, Signal::SIGABRT] {
        kill(&start(2, ""), 2, sized(30, 8), &[Victims::Youngest, Victims::All], signal);
    }
}

#[test]
fn a_place_whose_workers_crash_again_and_again_keeps_no_other_waiting() {
    if skip_on_nginx("a worker that crashes is replaced at once, however often") {
        return;
    }
    let server = start(2, "reuseport");
    let crash = |pid: i32| {
        signal_to(pid, Signal::SIGABRT);
        server.wait_until_gone(&[pid]);
    };
    let started = |server: &Server| -> Vec<i32> {
        let lines = server.log_lines();
        lines.iter().filter_map(|line| line.split_once("start worker process ")?.1.parse().ok()).collect()
    };
    // The newest worker crashes until its place has to wait.
    let unlucky = server.workers()[1];
    crash(unlucky);
    for number in 3..7 {
        let newest = wait_until("the place is filled", || started(&server).get(number - 1).copied());
        crash(newest);
    }
    let before = started(&server).len();
    let other = server.workers()[0];
    let killed = Instant::now();
    signal_to(other, Signal::SIGKILL);
    wait_until("the other place is filled", || (started(&server).len() > before).then_some(()));
    let took = killed.elapsed();
    println!("beside a place that waits, another was filled after {took:?}");
    assert!(took <= sized(Duration::from_millis(100), Duration::from_secs(2)), "{took:?}");
}
