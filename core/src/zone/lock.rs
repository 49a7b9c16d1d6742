//! A lock between processes: a word that holds its owner's pid, so that a dead owner can be told from a slow one.

use std::sync::atomic::{AtomicU32, Ordering::*};
use std::time::Duration;

use rustix::thread::futex;

/// Tries before sleeping; a critical section is a few dozen instructions.
const SPINS: u32 = 200;
/// Set in the word while somebody sleeps on it.
const WAITED_FOR: u32 = 1 << 31;
/// How long to sleep before looking whether the owner is still alive.
const PATIENCE: Duration = Duration::from_millis(20);

/// A view of a lock word.
#[derive(Clone, Copy)]
pub struct Lock<'a> {
    word: &'a AtomicU32,
}

/// The lock, held until dropped.
pub struct Held<'a> {
    word: &'a AtomicU32,
}

impl<'a> Lock<'a> {
    /// The lock that lives in this word; 0 is free.
    pub fn new(word: &'a AtomicU32) -> Self {
        Lock { word }
    }

    /// Waits for the lock. An owner that has died is succeeded; one that is merely stopped is waited for.
    pub fn hold(self) -> Held<'a> {
        let me = std::process::id();
        let mut spins = 0;
        loop {
            let seen = match self.word.compare_exchange_weak(0, me, Acquire, Relaxed) {
                Ok(_) => return Held { word: self.word },
                Err(seen) => seen,
            };
            if spins < SPINS {
                spins += 1;
                std::hint::spin_loop();
                continue;
            }
            if seen == 0 {
                continue;
            }
            let marked = seen | WAITED_FOR;
            if seen != marked && self.word.compare_exchange(seen, marked, Relaxed, Relaxed).is_err() {
                continue;
            }
            let timeout = futex::Timespec { tv_sec: 0, tv_nsec: i64::from(PATIENCE.subsec_nanos()) };
            let _ = futex::wait(self.word, futex::Flags::empty(), marked, Some(&timeout));
            if is_dead(marked & !WAITED_FOR)
                && self.word.compare_exchange(marked, me | WAITED_FOR, Acquire, Relaxed).is_ok()
            {
                return Held { word: self.word };
            }
        }
    }

    /// Frees the lock if `pid`, which is known to be dead, holds it.
    pub fn release_dead(self, pid: u32) -> bool {
        let seen = self.word.load(Relaxed);
        let released =
            seen & !WAITED_FOR == pid && pid != 0 && self.word.compare_exchange(seen, 0, Release, Relaxed).is_ok();
        if released {
            let _ = futex::wake(self.word, futex::Flags::empty(), 1);
        }
        released
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if self.word.swap(0, Release) & WAITED_FOR != 0 {
            let _ = futex::wake(self.word, futex::Flags::empty(), 1);
        }
    }
}

fn is_dead(pid: u32) -> bool {
    let Ok(pid) = i32::try_from(pid) else { return true };
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None) == Err(nix::errno::Errno::ESRCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn threads_exclude_each_other() {
        static WORD: AtomicU32 = AtomicU32::new(0);
        static COUNT: AtomicU64 = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        let _held = Lock::new(&WORD).hold();
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
    fn a_dead_owner_is_succeeded() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        child.wait().unwrap();
        let word = AtomicU32::new(pid);
        drop(Lock::new(&word).hold());
        assert_eq!(word.load(Relaxed), 0);
        word.store(pid, Relaxed);
        assert!(Lock::new(&word).release_dead(pid));
        assert!(!Lock::new(&word).release_dead(pid));
    }
}
