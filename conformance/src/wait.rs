//! Waiting for a condition, never for luck.

use std::thread;
use std::time::{Duration, Instant};

/// How long anything that should happen at once may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(15);

const POLL: Duration = Duration::from_millis(5);

/// Asks again and again until `condition` gives a value; panics, naming `what`, after [`PATIENCE`].
#[track_caller]
pub fn wait_until<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    match poll_for(PATIENCE, condition) {
        Some(value) => value,
        None => panic!("waited {PATIENCE:?} in vain: {what}"),
    }
}

/// Asks again and again until `condition` gives a value or `limit` has passed.
pub fn poll_for<T>(limit: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = condition() {
            return Some(value);
        }
        if Instant::now() >= deadline {
            return None;
        }
        thread::sleep(POLL);
    }
}
