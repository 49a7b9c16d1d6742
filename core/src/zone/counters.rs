//! What all workers count together: totals since the start, and how many connections are in which state now.
//!
//! Every worker writes to its own row, which no other processor wants at the same time; readers add the rows up.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::per_worker::PerWorker;
use super::{Region, Zones, always_sound};
use crate::conf::{ConfigError, Place};
use crate::slot::SLOTS;

/// The zone that holds them; no configuration can name it.
const ZONE: &str = "process counters";
const SIZE: u64 = 64 << 10;

/// Something that only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Total {
    /// Connections accepted.
    Accepted,
    /// Of those, connections that were served: the others came at the limit.
    Handled,
    /// Exchanges begun.
    Exchanges,
    /// Panics caught.
    Panics,
    /// Turns of a worker's loop that took longer than `worker_stall_threshold`.
    Stalls,
    /// Idle connections closed to make room for others.
    Reclaimed,
    /// Times that a connection had to wait because there were `worker_connections` already, none of them idle.
    Exhausted,
    /// Lines that a log could not take: a full disk, a reader that is slow or gone.
    LogDrops,
}

/// A state that a connection is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Open, in whatever state.
    Active,
    /// Something of a head is awaited or read.
    Reading,
    /// An exchange is under way.
    Writing,
    /// Idle between two exchanges.
    Waiting,
    /// No connection: the worker itself, while it accepts.
    Accepting,
}

/// Sockets whose rows can be told apart.
const ROWS: usize = 256;
const TOTALS: usize = 8;
const STATES: usize = 5;

/// The counters of all workers.
pub struct Counters {
    turn: Region,
    rows: Region,
    totals: Region,
    states: PerWorker,
}

impl Counters {
    /// The counters of a generation; they go on where the previous generation's stand.
    ///
    /// # Errors
    /// No memory.
    pub fn shared(zones: &Zones) -> Result<Counters, ConfigError> {
        let at = Place { file: ZONE.into(), line: 0, column: 0 };
        let zone = zones.declare(ZONE, Some(SIZE), &at)?;
        let build = || {
            Ok(Counters {
                turn: zone.region("turn", 1, always_sound)?,
                rows: zone.region("ends of rows", ROWS, always_sound)?,
                totals: zone.region("totals", TOTALS * SLOTS, always_sound)?,
                states: PerWorker::shared(&zone, "states", STATES)?,
            })
        };
        build().map_err(|message: String| ConfigError::general(message))
    }

    /// Counters that only this process sees, for tests.
    pub fn private() -> Counters {
        Counters {
            turn: Region::private(1),
            rows: Region::private(ROWS),
            totals: Region::private(TOTALS * SLOTS),
            states: PerWorker::private(STATES),
        }
    }

    /// The word that tells which worker accepts, where one does at a time.
    pub fn turn(&self) -> &AtomicU64 {
        static NONE: AtomicU64 = AtomicU64::new(0);
        self.turn.words().first().unwrap_or(&NONE)
    }

    /// The word that tells which worker stands last in the row at a socket.
    pub fn last_in_row(&self, socket: u64) -> &AtomicU64 {
        static NONE: AtomicU64 = AtomicU64::new(0);
        let at = usize::try_from(socket).unwrap_or(0) % ROWS;
        self.rows.words().get(at).unwrap_or(&NONE)
    }

    /// Counts one more.
    pub fn count(&self, what: Total) {
        self.add(what, 1);
    }

    /// Counts so many more.
    pub fn add(&self, what: Total, count: u64) {
        let row = crate::slot::slot();
        if let Some(word) = self.totals.words().get(row * TOTALS + index_of_total(what)) {
            word.fetch_add(count, Relaxed);
        }
    }

    /// The total over all workers, those that have ended included.
    pub fn total(&self, what: Total) -> u64 {
        let column = |word: &AtomicU64| word.load(Relaxed);
        self.totals.words().iter().skip(index_of_total(what)).step_by(TOTALS).map(column).fold(0, u64::wrapping_add)
    }

    /// How many connections are in this state.
    pub fn now(&self, state: State) -> u64 {
        self.states.sum(index_of_state(state))
    }
}

impl Counters {
    /// The slots of workers that accept and have clearly fewer connections than this one: the next should be theirs.
    pub fn behind(&self) -> impl Iterator<Item = usize> + '_ {
        let own = crate::slot::slot();
        let (accepting, active) = (index_of_state(State::Accepting), index_of_state(State::Active));
        let count = |row: &[AtomicU64], column: usize| row.get(column).map_or(0, |word| word.load(Relaxed));
        let mine = self.states.rows().nth(own).map_or(0, |row| count(row, active));
        // With fewer than two nobody has clearly fewer.
        let rows = if mine > 1 { self.states.rows() } else { [].chunks_exact(1) };
        rows.enumerate().filter_map(move |(slot, row)| {
            let fewer = || mine > count(row, active).saturating_add(1).saturating_add(count(row, active) / 8);
            (slot != own && count(row, accepting) > 0 && fewer()).then_some(slot)
        })
    }

    /// Some other worker that accepts has fewer connections than this one: where this one is full, it has room.
    pub fn others_have_fewer(&self) -> bool {
        let own = crate::slot::slot();
        let (accepting, active) = (index_of_state(State::Accepting), index_of_state(State::Active));
        let count = |row: &[AtomicU64], column: usize| row.get(column).map_or(0, |word| word.load(Relaxed));
        let mine = self.states.rows().nth(own).map_or(0, |row| count(row, active));
        let mut others = self.states.rows().enumerate().filter(|(slot, _)| *slot != own);
        others.any(|(_, row)| count(row, accepting) > 0 && count(row, active) < mine)
    }

    /// How many connections the worker of a slot, and those before it, have accepted.
    pub fn accepted_by(&self, slot: usize) -> u64 {
        let at = slot.saturating_mul(TOTALS).saturating_add(index_of_total(Total::Accepted));
        self.totals.words().get(at).map_or(0, |word| word.load(Relaxed))
    }
}

fn index_of_total(what: Total) -> usize {
    match what {
        Total::Accepted => 0,
        Total::Handled => 1,
        Total::Exchanges => 2,
        Total::Panics => 3,
        Total::Stalls => 4,
        Total::Reclaimed => 5,
        Total::Exhausted => 6,
        Total::LogDrops => 7,
    }
}

fn index_of_state(state: State) -> usize {
    match state {
        State::Active => 0,
        State::Reading => 1,
        State::Writing => 2,
        State::Waiting => 3,
        State::Accepting => 4,
    }
}

thread_local! {
    static COUNTERS: RefCell<Option<Rc<Counters>>> = const { RefCell::new(None) };
}

/// Makes these the counters of this worker.
pub fn install(counters: Rc<Counters>) {
    COUNTERS.set(Some(counters));
}

/// The counters of this worker; private ones where none were installed.
pub fn of_worker() -> Rc<Counters> {
    COUNTERS.with_borrow_mut(|counters| counters.get_or_insert_with(|| Rc::new(Counters::private())).clone())
}

/// A connection in a state; it leaves the state when this is dropped, however the connection ends.
pub struct Standing {
    counters: Rc<Counters>,
    state: State,
}

impl Standing {
    /// Enters a state.
    pub fn enter(counters: Rc<Counters>, state: State) -> Standing {
        counters.states.increment(index_of_state(state));
        Standing { counters, state }
    }

    /// Changes to another state.
    pub fn change(&mut self, state: State) {
        if self.state != state {
            self.counters.states.shift(index_of_state(self.state), index_of_state(state));
            self.state = state;
        }
    }

    /// The counters.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        self.counters.states.decrement(index_of_state(self.state));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_grow_over_generations_and_states_are_left() {
        let zones = Zones::default();
        let counters = Rc::new(Counters::shared(&zones).unwrap());
        counters.count(Total::Exchanges);
        let mut standing = Standing::enter(counters.clone(), State::Reading);
        standing.change(State::Waiting);
        assert_eq!((counters.now(State::Reading), counters.now(State::Waiting)), (0, 1));
        drop(standing);
        assert_eq!(counters.now(State::Waiting), 0);
        let next = Counters::shared(&Zones::after(Some(&zones))).unwrap();
        next.count(Total::Exchanges);
        assert_eq!((next.total(Total::Exchanges), next.total(Total::Panics)), (2, 0));
    }
}
