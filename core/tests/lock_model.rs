//! The lock of a zone in every order that its steps can take, within bounds: nobody is ever inside together with another,
//! nobody sleeps for ever, and a dead owner is succeeded by exactly one.
//!
//! It is the same file that the zones use; atomics, sleeping and owners are models here.
#![allow(dead_code, missing_docs, unused_imports, clippy::unwrap_used)]

mod sync {
    use std::time::Duration;

    use loom::sync::atomic::Ordering::SeqCst;
    use loom::sync::{Condvar, Mutex};

    pub use loom::sync::atomic::{AtomicU32, AtomicU64};
    pub use loom::thread::yield_now as spin;

    pub const SPINS: u32 = 1;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Slept {
        Woken,
        TimedOut,
    }

    loom::lazy_static! {
        static ref KERNEL: (Mutex<()>, Condvar) = (Mutex::new(()), Condvar::new());
    }

    pub fn sleep(bell: &AtomicU32, rung: u32, _: Duration) -> Slept {
        let asleep = KERNEL.0.lock().unwrap();
        if bell.load(SeqCst) != rung {
            return Slept::Woken;
        }
        // Time is over only where somebody has died: without that, being woken is the only way out.
        if super::owner::somebody_is_dead() {
            drop(asleep);
            loom::thread::yield_now();
            return Slept::TimedOut;
        }
        drop(KERNEL.1.wait(asleep).unwrap());
        Slept::Woken
    }

    pub fn wake_one(_: &AtomicU32) {
        let _asleep = KERNEL.0.lock().unwrap();
        KERNEL.1.notify_one();
    }
}

mod owner {
    use std::cell::Cell;

    loom::thread_local! {
        static ME: Cell<u64> = Cell::new(0);
    }

    /// In every model with a death, it has happened before anybody waits.
    const DEAD: u64 = 7;
    thread_local! {
        static DEATH: Cell<bool> = const { Cell::new(false) };
    }

    #[derive(Clone, Copy, PartialEq, Eq)]
    pub struct Owner(u64);

    pub fn become_number(number: u64) {
        ME.with(|me| me.set(number));
    }

    /// Says whether owner 7 is dead in the models that follow.
    pub fn set_death(is_dead: bool) {
        DEATH.set(is_dead);
    }

    pub fn somebody_is_dead() -> bool {
        DEATH.get()
    }

    impl Owner {
        pub fn me() -> Owner {
            Owner(ME.with(Cell::get))
        }

        pub fn from_word(word: u64) -> Owner {
            Owner(word & !(1 << 63))
        }

        pub fn word(self) -> u64 {
            self.0
        }

        pub fn pid(self) -> u32 {
            u32::try_from(self.0).unwrap()
        }

        pub fn is_dead(self) -> bool {
            self.0 == DEAD && somebody_is_dead()
        }
    }
}

fn kill_point() {}

#[path = "../src/zone/lock.rs"]
mod lock;

use std::sync::atomic::Ordering::Relaxed;

use lock::Lock;
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;
use owner::{become_number, set_death};
use sync::{AtomicU32, AtomicU64};

struct Shared {
    word: AtomicU64,
    bell: AtomicU32,
    /// Plain memory: two of whose users at once are an error that the model finds.
    inside: UnsafeCell<()>,
    /// Counted without an atomic operation.
    total: AtomicU32,
}

impl Shared {
    fn new(owner: u64) -> Arc<Shared> {
        Arc::new(Shared {
            word: AtomicU64::new(owner),
            bell: AtomicU32::new(0),
            inside: UnsafeCell::new(()),
            total: AtomicU32::new(0),
        })
    }

    fn add_one(&self) {
        self.inside.with_mut(|_| self.total.store(self.total.load(Relaxed) + 1, Relaxed));
    }

    fn count(&self) -> u32 {
        self.total.load(Relaxed)
    }
}

fn enter(shared: &Shared, number: u64, times: u32) {
    become_number(number);
    for _ in 0..times {
        let held = Lock::new(&shared.word, &shared.bell).hold();
        shared.add_one();
        drop(held);
    }
}

fn model(threads: u64, times: u32, owner: u64) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(move || {
        let shared = Shared::new(owner);
        let others: Vec<_> = (1..threads)
            .map(|number| {
                let shared = shared.clone();
                thread::spawn(move || enter(&shared, number, times))
            })
            .collect();
        enter(&shared, threads, times);
        others.into_iter().for_each(|other| other.join().unwrap());
        assert_eq!(shared.count(), u32::try_from(threads).unwrap() * times);
        assert_eq!(shared.word.load(Relaxed), 0);
    });
}

#[test]
fn two_exclude_each_other_and_neither_sleeps_for_ever() {
    set_death(false);
    model(2, 2, 0);
}

#[test]
fn three_exclude_each_other_and_nobody_sleeps_for_ever() {
    set_death(false);
    model(3, 1, 0);
}

#[test]
fn a_dead_owner_is_succeeded_by_one_after_the_other() {
    set_death(true);
    model(2, 1, 7);
}

#[test]
fn a_parent_that_buries_the_owner_does_not_come_between() {
    set_death(true);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(|| {
        let shared = Shared::new(7);
        let waiting = {
            let shared = shared.clone();
            thread::spawn(move || enter(&shared, 1, 1))
        };
        become_number(2);
        let buried = Lock::new(&shared.word, &shared.bell).succeed(7);
        let by_parent = u32::from(buried.is_some());
        if let Some(held) = buried {
            shared.add_one();
            drop(held);
        }
        waiting.join().unwrap();
        assert_eq!(shared.count(), 1 + by_parent);
    });
}
