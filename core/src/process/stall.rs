//! The watchdog of a worker: names what has kept the loop busy for too long.
//!
//! A worker does one thing at a time, so one thing that takes long holds up everything else. Each turn of a connection is
//! timed by the coarse clock; one longer than `worker_stall_threshold` is logged, once a second at most, and counted.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::time::Duration;

use crate::clock;
use crate::log::{ErrorLog, Logger};
use crate::net::PeerInfo;
use crate::zone::counters::{self, Total};

/// What a turn has been doing, by the coarse clock.
#[derive(Clone, Copy)]
struct Turn {
    doing: &'static str,
    since: u64,
    /// What took longest so far, and how long.
    longest: (&'static str, u64),
}

thread_local! {
    static TURN: Cell<Turn> = const { Cell::new(Turn { doing: "", since: 0, longest: ("", 0) }) };
    static LAST_LOGGED: Cell<u64> = const { Cell::new(0) };
}

/// Says what is being done from here on, in the words of the error log: `running phase handlers`.
pub fn doing(what: &'static str) {
    let now = clock::monotonic();
    TURN.set(TURN.get().next(what, now));
}

impl Turn {
    fn next(self, doing: &'static str, now: u64) -> Turn {
        let taken = now.saturating_sub(self.since);
        let longest = if taken > self.longest.1 { (self.doing, taken) } else { self.longest };
        Turn { doing, since: now, longest }
    }
}

/// Runs `work` for the connection of `peer` and watches each of its turns.
pub async fn watched<F: Future>(work: F, peer: &PeerInfo, threshold: Duration, log: &ErrorLog) -> F::Output {
    let limit = u64::try_from(threshold.as_millis()).unwrap_or(u64::MAX);
    let mut work = pin!(work);
    poll_fn(|cx| {
        let begun = clock::monotonic();
        TURN.set(Turn { doing: "serving a connection", since: begun, longest: ("serving a connection", 0) });
        let polled = work.as_mut().poll(cx);
        let ended = clock::monotonic();
        let taken = ended.saturating_sub(begun);
        if taken >= limit {
            stalled(taken, TURN.get().next("", ended).longest.0, peer, log);
        }
        polled
    })
    .await
}

fn stalled(taken: u64, doing: &str, peer: &PeerInfo, log: &ErrorLog) {
    counters::of_worker().count(Total::Stalls);
    let now = clock::monotonic();
    if now.saturating_sub(LAST_LOGGED.get()) < 1000 {
        return;
    }
    LAST_LOGGED.set(now);
    let (client, server) = (peer.client.host(), &peer.local);
    let log = Logger::of(log, peer);
    crate::log!(log, Warn, "worker was held up for {taken} ms while {doing}, client: {client}, server: {server}");
}
