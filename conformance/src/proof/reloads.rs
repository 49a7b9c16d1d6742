//! Clients of HTTP/2 that open nothing more once they are told that a connection ends lose no request over reloads.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use h2::client::SendRequest;
use nix::sys::signal::Signal;

use crate::backend::EchoBackend;
use crate::client::{Http2, request};
use crate::{Server, wait_until};

use super::Verdict;

/// What is done.
#[derive(Debug)]
pub struct Options {
    /// Requests in all.
    pub requests: usize,
    /// Reloads while they are under way.
    pub reloads: usize,
    /// Connections at once.
    pub clients: usize,
    /// Requests at once on each.
    pub streams: usize,
}

/// What the clients have come to.
#[derive(Debug, Default)]
struct Shared {
    requests: usize,
    begun: AtomicUsize,
    answered: AtomicUsize,
    connections: AtomicUsize,
    /// Requests that the server refused before it had begun them, or that could not be sent: they are asked again.
    again: Mutex<Vec<usize>>,
    refused: AtomicUsize,
    lost: Mutex<Vec<String>>,
}

/// Asks everything, over all reloads.
pub fn run(options: &Options) -> bool {
    let mut verdict = Verdict::default();
    let backend = EchoBackend::start();
    let server = Server::config(
        "worker_processes 2; events {} http { access_log off; keepalive_requests 1000000; server {
            listen 127.0.0.1:%%PORT_0%%; http2 on; location / { proxy_pass http://%%TO%%; } } }",
    )
    .set("TO", backend.address())
    .start();
    let shared = Shared { requests: options.requests, ..Shared::default() };
    let begun = Instant::now();
    thread::scope(|scope| {
        for _ in 0..options.clients {
            scope.spawn(|| shared.ask_all(server.port(0), options.streams));
        }
        for number in 1..=options.reloads {
            let due = options.requests * number / (options.reloads + 1);
            while shared.answered.load(Ordering::Relaxed) < due && shared.lost.lock().expect("a list").is_empty() {
                thread::sleep(Duration::from_millis(1));
            }
            let old = server.workers();
            server.signal(Signal::SIGHUP);
            wait_until("new workers run", || server.workers().iter().any(|pid| !old.contains(pid)).then_some(()));
        }
    });
    let took = begun.elapsed();
    let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    let (answered, lost) = (count(&shared.answered), shared.lost.into_inner().expect("a list"));
    verdict.note(&format!(
        "{} reloads in {took:.1?}, {} connections, {} requests asked again because they had not been begun",
        options.reloads,
        count(&shared.connections),
        count(&shared.refused)
    ));
    verdict.check(lost.is_empty(), &format!("{} requests lost {:?}", lost.len(), lost.first()));
    verdict.check(answered == options.requests, &format!("{answered} of {} answered", options.requests));
    let (came, twice) = (backend.requests(), backend.repeated().len());
    verdict.check(came == answered && twice == 0, &format!("{came} came to the backend, {twice} of them twice"));
    verdict.check(count(&shared.connections) > options.clients, "connections ended for the reloads");
    verdict.is_good()
}

/// What became of one request.
enum Outcome {
    Answered,
    NotBegun,
    Lost(String),
}

impl Shared {
    fn ask_all(&self, port: u16, streams: usize) {
        while self.answered.load(Ordering::Relaxed) < self.requests && self.lost.lock().expect("a list").is_empty() {
            let mut client = Http2::connect(port);
            self.connections.fetch_add(1, Ordering::Relaxed);
            client.run_within(Duration::from_secs(600), async |send| {
                join_all((0..streams).map(|_| self.ask_in_turn(send.clone()))).await
            });
        }
    }

    /// Asks one after the other, until the connection is to be left or nothing is to be asked.
    async fn ask_in_turn(&self, send: SendRequest<Bytes>) {
        while let Some(number) = self.next() {
            match ask(&send, number).await {
                Outcome::Answered => drop(self.answered.fetch_add(1, Ordering::Relaxed)),
                Outcome::Lost(error) => return self.lost.lock().expect("a list").push(error),
                Outcome::NotBegun => {
                    self.refused.fetch_add(1, Ordering::Relaxed);
                    return self.again.lock().expect("a list").push(number);
                }
            }
        }
    }

    fn next(&self) -> Option<usize> {
        let again = self.again.lock().expect("a list").pop();
        again.or_else(|| Some(self.begun.fetch_add(1, Ordering::Relaxed)).filter(|number| *number < self.requests))
    }
}

async fn ask(send: &SendRequest<Bytes>, number: usize) -> Outcome {
    let Ok(mut send) = send.clone().ready().await else { return Outcome::NotBegun };
    let Ok((response, _)) = send.send_request(request("GET", &format!("/?id={number}"), &[]), true) else {
        return Outcome::NotBegun;
    };
    drop(send);
    let answer = async {
        let mut body = response.await?.into_body();
        let mut text = Vec::new();
        while let Some(data) = body.data().await {
            let data = data?;
            body.flow_control().release_capacity(data.len())?;
            text.extend_from_slice(&data);
        }
        Ok::<_, h2::Error>(text)
    };
    match answer.await {
        Ok(text) if text == number.to_string().as_bytes() => Outcome::Answered,
        Ok(text) => Outcome::Lost(format!("{number} is answered with {}", String::from_utf8_lossy(&text))),
        // RFC 9113 section 6.8: a stream beyond the last one that is named has not been begun.
        Err(error) if error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR) => {
            Outcome::NotBegun
        }
        Err(error) if error.reason() == Some(h2::Reason::REFUSED_STREAM) => Outcome::NotBegun,
        Err(error) => Outcome::Lost(format!("{number}: {error:?}")),
    }
}
