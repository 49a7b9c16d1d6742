//! Lines that a log could not take: counted where they are lost, and told of once a minute in the logs that still work.

use std::cell::Cell;
use std::fmt;
use std::io;

use std::time::Duration;

use super::error::ErrorLog;
use super::{Level, Logger, bell};
use crate::clock;
use crate::zone::counters::{self, Total};

/// nginx: a log that cannot be written to is complained about once a minute. Milliseconds.
const ONCE_A: u64 = 60_000;
/// The first are told of together with those that are lost within this time. Milliseconds.
const TOGETHER: u64 = 1000;

/// What one file or one reader of syslog messages has lost.
#[derive(Default)]
pub struct Losses {
    untold: Cell<u64>,
    why: Cell<Option<i32>>,
    told_at: Cell<Option<u64>>,
    muted: Cell<bool>,
}

impl Losses {
    /// Counts lines that are lost, here and in what all workers count.
    pub fn add(&self, lines: u64, why: &io::Error) {
        counters::of_worker().add(Total::LogDrops, lines);
        if self.untold.get() == 0 {
            bell::ring();
        }
        self.untold.set(self.untold.get().saturating_add(lines));
        self.why.set(why.raw_os_error());
    }

    /// How long until they are to be told of; `None` when there is nothing to tell.
    pub fn due(&self) -> Option<Duration> {
        let waited = self.told_at.get().map_or(ONCE_A, |at| clock::monotonic().saturating_sub(at));
        (self.untold.get() > 0).then(|| Duration::from_millis(ONCE_A.saturating_sub(waited).max(TOGETHER)))
    }

    /// True while the complaint about these losses is written: it must not go where lines are being lost.
    pub fn is_muted(&self) -> bool {
        self.muted.get()
    }

    /// Tells of what has been lost since the last time: if that is a minute ago, or `now` in any case. The line goes to
    /// the other targets of `log`, or to the standard error stream when none of them takes it.
    ///
    /// `what` is what has failed, `write() to "access.log"`, and `context` what belongs behind the reason.
    pub fn tell(&self, level: Level, what: fmt::Arguments<'_>, context: fmt::Arguments<'_>, log: &ErrorLog, now: bool) {
        let time = clock::monotonic();
        let waits = self.told_at.get().is_some_and(|at| time.saturating_sub(at) < ONCE_A);
        let lines = self.untold.get();
        if lines == 0 || waits && !now {
            return;
        }
        self.untold.set(0);
        self.told_at.set(Some(time));
        let why = self.why.get().map_or_else(|| io::Error::other("closed"), io::Error::from_raw_os_error);
        let why = super::os_error(&why);
        let total = counters::of_worker().total(Total::LogDrops);
        let message =
            format_args!("{what} failed ({why}){context}, {lines} lines are lost, {total} in all logs so far");
        self.muted.set(true);
        if !Logger::new(log).write(level, message) {
            Logger::new(&ErrorLog::stderr(level)).write(level, message);
        }
        self.muted.set(false);
    }
}
