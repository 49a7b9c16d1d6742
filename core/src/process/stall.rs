//! The watchdog of a worker: names what has kept the loop busy for too long.
//!
//! A worker does one thing at a time, so one thing that takes long holds up everything else. Each turn of a connection is
//! timed by the coarse clock; one longer than `worker_stall_threshold` is logged, once a second at most, and counted.
//!
//! A protocol may say for whom a turn was: it is asked for words only once something has taken too long.

use std::cell::{Cell, RefCell};
use std::fmt::Display;

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
    /// How long is too long.
    limit: u64,
    /// It is known for whom the longest part was.
    known: bool,
}

thread_local! {
    static TURN: Cell<Turn> = const { Cell::new(Turn { doing: "", since: 0, longest: ("", 0), limit: u64::MAX, known: false }) };
    /// For whom the part of the turn was that took too long.
    static FOR_WHOM: RefCell<Option<String>> = const { RefCell::new(None) };
    static LAST_LOGGED: Cell<u64> = const { Cell::new(0) };
}

/// Says what is being done from here on, in the words of the error log: `running phase handlers`.
pub fn doing(what: &'static str) {
    let now = clock::monotonic();
    TURN.set(TURN.get().next(what, now));
}

/// Says for whom the turn has been up to here: `subject` gives what is appended to a line of the log about it
/// (`, client: ..`). It is asked for that only if something has taken too long.
pub fn was_for(subject: &dyn Display) {
    let turn = TURN.get();
    let mut turn = turn.next(turn.doing, clock::monotonic());
    if turn.longest.1 >= turn.limit && !turn.known {
        turn.known = true;
        FOR_WHOM.set(Some(subject.to_string()));
    }
    TURN.set(turn);
}

impl Turn {
    fn next(self, doing: &'static str, now: u64) -> Turn {
        let taken = now.saturating_sub(self.since);
        if taken <= self.longest.1 {
            return Turn { doing, since: now, ..self };
        }
        Turn { doing, since: now, longest: (self.doing, taken), known: false, ..self }
    }
}

/// Runs one turn of the connection of `peer`, and tells in `log` if it takes `limit` milliseconds or longer.
pub fn watched<R>(limit: u64, peer: &PeerInfo, log: &ErrorLog, turn: impl FnOnce() -> R) -> R {
    let begun = clock::monotonic();
    TURN.set(Turn {
        doing: "serving a connection",
        since: begun,
        longest: ("serving a connection", 0),
        limit,
        known: false,
    });
    let result = turn();
    let ended = clock::monotonic();
    let taken = ended.saturating_sub(begun);
    if taken >= limit {
        stalled(taken, TURN.get().next("", ended), peer, log);
    }
    result
}

fn stalled(taken: u64, turn: Turn, peer: &PeerInfo, log: &ErrorLog) {
    counters::of_worker().count(Total::Stalls);
    let for_whom = FOR_WHOM.take().filter(|_| turn.known);
    let now = clock::monotonic();
    if now.saturating_sub(LAST_LOGGED.get()) < 1000 {
        return;
    }
    LAST_LOGGED.set(now);
    let for_whom = for_whom.unwrap_or_else(|| format!(", client: {}, server: {}", peer.client.host(), peer.local));
    let log = Logger::of(log, peer);
    crate::log!(log, Warn, "worker was held up for {taken} ms while {}{for_whom}", turn.longest.0);
}
