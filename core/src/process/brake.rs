//! The brake on starting processes again. It belongs to one place whose processes keep dying young, never to all: while
//! one place waits, every other that is empty is filled at once.
//!
//! How long a place waits depends on what ended its processes. One that was killed says nothing about the next. One that
//! has crashed may have met a client that will come again. One that could not even start has said why, and the next will
//! most likely say the same.

use std::time::{Duration, Instant};

/// A process that has lived for so long was well: what ended it is no reason to wait.
const HEALTHY: Duration = Duration::from_secs(1);
/// So many that died young, one after the other, may be accidents.
const ACCIDENTS: u32 = 2;
/// The least time between two starts in a place whose processes are killed again and again, and also between two starts
/// where no worker is left: a client who waits does not wait longer for being unlucky.
const SHORTEST: Duration = Duration::from_millis(50);
/// The most.
const LONGEST: Duration = Duration::from_secs(1);

/// What ended a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// Another process: it was killed, or told to end.
    Killed,
    /// A fault of its own.
    Crashed,
    /// It could not begin its work.
    Unable,
}

/// When a place may be filled again.
#[derive(Clone, Copy, Debug, Default)]
pub struct Brake {
    /// Processes that died young, one after the other.
    young: u32,
    /// Not before this.
    until: Option<Instant>,
    /// Not before this where no other worker is left.
    in_need: Option<Instant>,
}

impl Brake {
    /// A process of the place, started at `started`, has ended `now`.
    pub fn ended(&mut self, how: Death, started: Instant, now: Instant) {
        if now.saturating_duration_since(started) >= HEALTHY {
            *self = Brake::default();
            return;
        }
        self.young = self.young.saturating_add(1);
        let repeated = self.young.saturating_sub(ACCIDENTS);
        if repeated == 0 {
            return;
        }
        let soon = started + SHORTEST;
        let (until, in_need) = match how {
            Death::Killed => (soon, soon),
            Death::Crashed => {
                let doubled = SHORTEST.saturating_mul(1 << repeated.min(10));
                (started + doubled.min(LONGEST), soon)
            }
            Death::Unable => (started + LONGEST, started + LONGEST),
        };
        (self.until, self.in_need) = (Some(until), Some(in_need));
    }

    /// When the place may be filled; `None` is at once. `in_need`: no worker is left.
    pub fn until(&self, in_need: bool) -> Option<Instant> {
        if in_need { self.in_need } else { self.until }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long after the death of a process, which has lived for so many milliseconds, the next may start: the first
    /// time, the second, and so on.
    fn waits(how: Death, lived: u64, in_need: bool) -> Vec<u128> {
        let (mut brake, mut now) = (Brake::default(), Instant::now());
        let mut wait = || {
            let started = now;
            now += Duration::from_millis(lived);
            brake.ended(how, started, now);
            let wait = brake.until(in_need).map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
            now += wait;
            wait.as_millis()
        };
        (0..8).map(|_| wait()).collect()
    }

    #[test]
    fn a_place_waits_for_what_its_own_processes_have_done() {
        for (how, lived, in_need, expected) in [
            (Death::Killed, 0, false, [0, 0, 50, 50, 50, 50, 50, 50]),
            (Death::Killed, 30, true, [0, 0, 20, 20, 20, 20, 20, 20]),
            (Death::Killed, 100, false, [0; 8]),
            (Death::Killed, 1000, false, [0; 8]),
            (Death::Crashed, 0, false, [0, 0, 100, 200, 400, 800, 1000, 1000]),
            (Death::Crashed, 0, true, [0, 0, 50, 50, 50, 50, 50, 50]),
            (Death::Crashed, 500, false, [0, 0, 0, 0, 0, 300, 500, 500]),
            (Death::Crashed, 2000, false, [0; 8]),
            (Death::Unable, 10, false, [0, 0, 990, 990, 990, 990, 990, 990]),
            (Death::Unable, 10, true, [0, 0, 990, 990, 990, 990, 990, 990]),
        ] {
            assert_eq!(waits(how, lived, in_need), expected, "{how:?} after {lived} ms, in need: {in_need}");
        }
    }

    #[test]
    fn a_process_that_was_well_ends_the_waiting() {
        let (mut brake, now) = (Brake::default(), Instant::now());
        (0..9).for_each(|_| brake.ended(Death::Crashed, now, now));
        assert!(brake.until(false).is_some());
        brake.ended(Death::Crashed, now, now + HEALTHY);
        assert_eq!((brake.until(false), brake.until(true)), (None, None));
    }
}
