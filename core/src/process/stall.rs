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
struct Turn {
    doing: Cell<&'static str>,
    since: Cell<u64>,
    /// What took longest so far, and how long.
    longest: Cell<(&'static str, u64)>,
    /// How long is too long.
    limit: Cell<u64>,
    /// It is known for whom the longest part was.
    known: Cell<bool>,
}

thread_local! {
    static TURN: Turn = const {
        Turn {
            doing: Cell::new(""),
            since: Cell::new(0),
            longest: Cell::new(("", 0)),
            limit: Cell::new(u64::MAX),
            known: Cell::new(false),
        }
    };
    /// For whom the part of the turn was that took too long.
    static FOR_WHOM: RefCell<Option<String>> = const { RefCell::new(None) };
    static LAST_LOGGED: Cell<u64> = const { Cell::new(0) };
}

/// Says what is being done from here on, in the words of the error log: `running phase handlers`.
pub fn doing(what: &'static str) {
    TURN.with(|turn| {
        turn.look(clock::monotonic());
        turn.doing.set(what);
    });
}

/// Says for whom the turn has been up to here: `subject` gives what is appended to a line of the log about it
/// (`, client: ..`). It is asked for that only if something has taken too long.
pub fn was_for(subject: &dyn Display) {
    TURN.with(|turn| {
        turn.look(clock::monotonic());
        if turn.longest.get().1 >= turn.limit.get() && !turn.known.replace(true) {
            FOR_WHOM.set(Some(subject.to_string()));
        }
    });
}

impl Turn {
    fn begin(&self, limit: u64, now: u64) {
        self.doing.set("serving a connection");
        self.since.set(now);
        self.longest.set(("serving a connection", 0));
        self.limit.set(limit);
        self.known.set(false);
    }

    /// Takes note of how long the present part has taken.
    #[inline]
    fn look(&self, now: u64) {
        let taken = now.saturating_sub(self.since.replace(now));
        // By a clock that mostly stands still.
        if taken > self.longest.get().1 {
            self.longest.set((self.doing.get(), taken));
            self.known.set(false);
        }
    }
}

/// Runs one turn of the connection of `peer`, and tells in `log` if it takes `limit` milliseconds or longer.
pub fn watched<R>(limit: u64, peer: &PeerInfo, log: &ErrorLog, turn: impl FnOnce() -> R) -> R {
    let begun = clock::monotonic();
    TURN.with(|turn| turn.begin(limit, begun));
    let result = turn();
    let ended = clock::monotonic();
    if ended.saturating_sub(begun) >= limit {
        stalled(begun, ended, peer, log);
    }
    result
}

#[cold]
fn stalled(begun: u64, ended: u64, peer: &PeerInfo, log: &ErrorLog) {
    counters::of_worker().count(Total::Stalls);
    let ((longest, _), is_known) = TURN.with(|turn| {
        turn.look(ended);
        (turn.longest.get(), turn.known.get())
    });
    let for_whom = FOR_WHOM.take().filter(|_| is_known);
    let now = clock::monotonic();
    if now.saturating_sub(LAST_LOGGED.get()) < 1000 {
        return;
    }
    LAST_LOGGED.set(now);
    let taken = ended.saturating_sub(begun);
    let for_whom = for_whom.unwrap_or_else(|| format!(", client: {}, server: {}", peer.client.host(), peer.local));
    let log = Logger::of(log, peer);
    crate::log!(log, Warn, "worker was held up for {taken} ms while {longest}{for_whom}");
}
