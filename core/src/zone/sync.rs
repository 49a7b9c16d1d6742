//! What the lock is made of: atomics, and sleeping in the kernel until another process rings. A model of these takes their
//! place where all orders of steps are tried.

use std::time::Duration;

use rustix::thread::futex;

pub use std::hint::spin_loop as spin;
pub use std::sync::atomic::{AtomicU32, AtomicU64};

/// Tries before sleeping; a critical section is a few dozen instructions.
pub const SPINS: u32 = 200;

/// How a sleep has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slept {
    /// Somebody rang, or had rung before; or nobody knows.
    Woken,
    /// The time is over.
    TimedOut,
}

/// Sleeps until the bell is rung, unless it has been since `rung` was read from it; no longer than `limit`, which is less
/// than a second.
pub fn sleep(bell: &AtomicU32, rung: u32, limit: Duration) -> Slept {
    let limit = futex::Timespec { tv_sec: 0, tv_nsec: i64::from(limit.subsec_nanos()) };
    match futex::wait(bell, futex::Flags::empty(), rung, Some(&limit)) {
        Err(rustix::io::Errno::TIMEDOUT) => Slept::TimedOut,
        _ => Slept::Woken,
    }
}

/// Wakes one who sleeps.
pub fn wake_one(bell: &AtomicU32) {
    let _ = futex::wake(bell, futex::Flags::empty(), 1);
}
