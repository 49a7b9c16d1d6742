//! A lock between processes: a word that holds its owner, so that a dead owner can be told from a slow one.

use std::sync::atomic::Ordering::*;
use std::time::Duration;

use super::owner::Owner;
use super::sync::{AtomicU32, AtomicU64, SPINS, Slept, sleep, wake_one};

/// Set in the word while somebody sleeps.
pub(super) const WAITED_FOR: u64 = 1 << 63;
/// How long to sleep before looking whether the owner is still alive.
pub(super) const PATIENCE: Duration = Duration::from_millis(20);

/// A view of a lock: the word with its owner, and the bell that is rung when it becomes free.
#[derive(Clone, Copy)]
pub struct Lock<'a> {
    word: &'a AtomicU64,
    bell: &'a AtomicU32,
}

/// The lock, held until dropped.
pub struct Held<'a> {
    lock: Lock<'a>,
}

impl<'a> Lock<'a> {
    /// The lock that lives in these words; 0 is free.
    pub fn new(word: &'a AtomicU64, bell: &'a AtomicU32) -> Self {
        Lock { word, bell }
    }

    /// Waits for the lock. An owner that has died is succeeded, whether or not its parent has noticed; one that is
    /// merely stopped is waited for.
    pub fn hold(self) -> Held<'a> {
        let me = Owner::me().word();
        for _ in 0..SPINS {
            if self.word.compare_exchange_weak(0, me, Acquire, Relaxed).is_ok() {
                return Held { lock: self };
            }
            super::sync::spin();
        }
        self.wait(me)
    }

    fn wait(self, me: u64) -> Held<'a> {
        loop {
            let rung = self.bell.load(Acquire);
            let seen = self.word.load(Relaxed);
            if seen == 0 {
                // Others may be asleep too: they must be woken in their turn.
                if self.word.compare_exchange(0, me | WAITED_FOR, Acquire, Relaxed).is_ok() {
                    return Held { lock: self };
                }
                continue;
            }
            let marked = seen | WAITED_FOR;
            if seen != marked && self.word.compare_exchange(seen, marked, Relaxed, Relaxed).is_err() {
                continue;
            }
            if sleep(self.bell, rung, PATIENCE) == Slept::Woken {
                continue;
            }
            if Owner::from_word(marked).is_dead()
                && self.word.compare_exchange(marked, me | WAITED_FOR, Acquire, Relaxed).is_ok()
            {
                return Held { lock: self };
            }
        }
    }

    /// Takes the lock over if `pid`, which is known to be dead, holds it.
    pub fn succeed(self, pid: u32) -> Option<Held<'a>> {
        let seen = self.word.load(Relaxed);
        let mine = Owner::me().word() | seen & WAITED_FOR;
        let taken = pid != 0
            && Owner::from_word(seen).pid() == pid
            && self.word.compare_exchange(seen, mine, Acquire, Relaxed).is_ok();
        taken.then_some(Held { lock: self })
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if self.lock.word.swap(0, Release) & WAITED_FOR != 0 {
            super::kill_point();
            self.lock.bell.fetch_add(1, Release);
            wake_one(self.lock.bell);
        }
    }
}
