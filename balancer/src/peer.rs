//! One server of a group: what the configuration says of it, and the words of its shared state.

use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tidegate_core::net::Address;
use tidegate_core::zone;

/// What the configuration says of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Where it is.
    pub address: Address,
    /// How the configuration and the logs call it.
    pub name: Rc<str>,
    /// `weight`
    pub weight: u32,
    /// `backup`: used only when no other server can be.
    pub backup: bool,
    /// `down`: never used.
    pub down: bool,
    /// `max_fails`: this many failures within `fail_timeout` rest the server; 0 never does.
    pub max_fails: u32,
    /// `fail_timeout`: the time failures are counted in, and the time a failed server rests.
    pub fail_timeout: Duration,
    /// `max_conns`: connections at once; 0 is any number.
    pub max_conns: u32,
}

impl Peer {
    /// A server with the defaults of the `server` directive.
    pub fn new(address: Address) -> Peer {
        let name = address.to_string().into();
        Peer {
            address,
            name,
            weight: 1,
            backup: false,
            down: false,
            max_fails: 1,
            fail_timeout: Duration::from_secs(10),
            max_conns: 0,
        }
    }
}

/// Words of state per peer.
pub const WORDS: usize = 8;

/// A peer's state: five words that all workers may share. Every value read is used as a plain number, whatever it is.
#[derive(Clone, Copy)]
pub struct State<'a> {
    words: &'a [AtomicU64],
}

impl<'a> State<'a> {
    /// The state of the peer at `index` in the words of its group.
    pub fn of(words: &'a [AtomicU64], index: usize) -> Self {
        State { words: words.get(index * WORDS..(index + 1) * WORDS).unwrap_or_default() }
    }

    fn read(&self, at: usize) -> u64 {
        self.words.get(at).map_or(0, |word| word.load(Relaxed))
    }

    fn write(&self, at: usize, value: u64) {
        if let Some(word) = self.words.get(at) {
            zone::store(word, value);
        }
    }

    /// Which server this is: a change of the configuration must not inherit another's failures.
    pub fn identity(&self) -> u64 {
        self.read(0)
    }

    /// Begins the state of another server.
    pub fn reset(&self, identity: u64, weight: u32) {
        self.words.iter().for_each(|word| zone::store(word, 0));
        self.write(4, weight.into());
        self.write(0, identity);
    }

    /// Failures counted.
    pub fn fails(&self) -> u64 {
        self.read(1)
    }

    /// Sets the failures counted.
    pub fn set_fails(&self, fails: u64) {
        self.write(1, fails);
    }

    /// When it last failed, in milliseconds of the monotonic clock.
    pub fn failed_at(&self) -> u64 {
        self.read(2)
    }

    /// Sets when it last failed.
    pub fn set_failed_at(&self, now: u64) {
        self.write(2, now);
    }

    /// The beginning of the period in which failures are counted.
    pub fn checked_at(&self) -> u64 {
        self.read(3)
    }

    /// Begins a period.
    pub fn set_checked_at(&self, now: u64) {
        self.write(3, now);
    }

    /// The weight in force: less than configured after failures.
    pub fn effective_weight(&self) -> i64 {
        i64::try_from(self.read(4)).unwrap_or(0)
    }

    /// Sets the weight in force.
    pub fn set_effective_weight(&self, weight: i64) {
        self.write(4, u64::try_from(weight).unwrap_or(0));
    }

    /// The credit of smooth weighted round robin.
    pub fn current_weight(&self) -> i64 {
        self.read(5).cast_signed()
    }

    /// Sets the credit.
    pub fn set_current_weight(&self, weight: i64) {
        self.write(5, weight.cast_unsigned());
    }
}

/// Values that no peer can have become the best that a peer can have: a group must not be lost to a worker's death.
pub fn repair(words: &[AtomicU64]) -> bool {
    let (mut sound, now) = (true, tidegate_core::clock::monotonic());
    for index in 0..words.len() / WORDS {
        let state = State::of(words, index);
        let most = i64::from(u32::MAX);
        if state.fails() > u64::from(u32::MAX) || state.failed_at() > now || state.checked_at() > now {
            state.set_fails(0);
            state.set_failed_at(0);
            state.set_checked_at(0);
            sound = false;
        }
        if state.effective_weight() > most || state.current_weight().checked_abs().is_none_or(|credit| credit > 1 << 48)
        {
            state.set_effective_weight(1);
            state.set_current_weight(0);
            sound = false;
        }
    }
    sound
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_impossible_values_are_repaired() {
        let words: Vec<AtomicU64> = (0..2 * WORDS).map(|_| AtomicU64::new(0)).collect();
        let (a, b) = (State::of(&words, 0), State::of(&words, 1));
        a.reset(7, 3);
        a.set_fails(2);
        b.reset(9, 5);
        assert!(repair(&words));
        b.set_failed_at(u64::MAX);
        b.set_current_weight(i64::MIN);
        assert!(!repair(&words));
        assert!(repair(&words));
        assert_eq!((a.fails(), a.effective_weight(), a.identity()), (2, 3, 7));
        assert_eq!((b.failed_at(), b.current_weight(), b.identity()), (0, 0, 9));
    }
}
