//! A lock between processes: a word that holds its owner, so that a dead owner can be told from a slow one.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};
use std::time::Duration;

use rustix::thread::futex;

use super::owner::Owner;

/// Tries before sleeping; a critical section is a few dozen instructions.
const SPINS: u32 = 200;
/// Set in the word while somebody sleeps.
const WAITED_FOR: u64 = 1 << 63;
/// How long to sleep before looking whether the owner is still alive.
const PATIENCE: Duration = Duration::from_millis(20);

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
            std::hint::spin_loop();
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
            let timeout = futex::Timespec { tv_sec: 0, tv_nsec: i64::from(PATIENCE.subsec_nanos()) };
            let slept = futex::wait(self.bell, futex::Flags::empty(), rung, Some(&timeout));
            if slept != Err(rustix::io::Errno::TIMEDOUT) {
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
            let _ = futex::wake(self.lock.bell, futex::Flags::empty(), 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_exclude_each_other() {
        static WORD: AtomicU64 = AtomicU64::new(0);
        static BELL: AtomicU32 = AtomicU32::new(0);
        static COUNT: AtomicU64 = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        let _held = Lock::new(&WORD, &BELL).hold();
                        let seen = COUNT.load(Relaxed);
                        std::hint::spin_loop();
                        COUNT.store(seen + 1, Relaxed);
                    }
                });
            }
        });
        assert_eq!((COUNT.load(Relaxed), WORD.load(Relaxed)), (4000, 0));
    }

    #[test]
    fn a_dead_owner_is_succeeded_and_so_is_one_whose_pid_another_process_has() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let dead = Owner::living(child.id());
        child.wait().unwrap();
        let (word, bell) = (AtomicU64::new(dead.word()), AtomicU32::new(0));
        drop(Lock::new(&word, &bell).hold());
        assert_eq!(word.load(Relaxed), 0);
        word.store(Owner::me().word() ^ 1, Relaxed);
        drop(Lock::new(&word, &bell).hold());
        assert_eq!(word.load(Relaxed), 0);
        word.store(dead.word() | WAITED_FOR, Relaxed);
        assert!(Lock::new(&word, &bell).succeed(dead.pid()).is_some());
        assert!(Lock::new(&word, &bell).succeed(dead.pid()).is_none());
    }

    #[test]
    fn a_stopped_owner_is_not_robbed() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
        let owner = Owner::living(child.id());
        let (word, bell) = (AtomicU64::new(owner.word()), AtomicU32::new(0));
        let taken = AtomicU32::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _held = Lock::new(&word, &bell).hold();
                taken.store(1, Relaxed);
            });
            let mark = || word.load(Relaxed) & WAITED_FOR != 0;
            while !mark() {
                std::thread::yield_now();
            }
            // Several rounds of patience.
            std::thread::sleep(PATIENCE * 4);
            let robbed = taken.load(Relaxed);
            child.kill().unwrap();
            child.wait().unwrap();
            assert_eq!(robbed, 0);
        });
        assert_eq!((taken.load(Relaxed), word.load(Relaxed)), (1, 0));
    }
}
