//! Where a process may be made to die: at every store, for the tests of `kill.rs`.

use std::cell::Cell;

use nix::sys::signal::{Signal, raise};

thread_local! {
    /// How many more stores the process lives for.
    pub(super) static STORES_LEFT: Cell<Option<u32>> = const { Cell::new(None) };
}

/// Ends the process if its time has come.
pub(super) fn point() {
    match STORES_LEFT.get() {
        None => {}
        Some(0) => {
            let _ = raise(Signal::SIGKILL);
        }
        Some(left) => STORES_LEFT.set(Some(left - 1)),
    }
}
