//! What has been read a moment ago and is therefore cached, where the file system itself cannot say so.
//!
//! preadv2(2) with `RWF_NOWAIT` is refused by overlays, on which the files of most containers lie. Without a memory each
//! piece of such a file would be read by a thread, cached or not, at twice the price. So a thread notes what it has read,
//! and for a few seconds the worker reads that itself.
//!
//! The memory is small, shared by the worker's threads, and may forget: then a thread reads once more.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::clock;
use crate::zone::hash;

/// How long what was read counts as cached, in seconds.
const LASTS: u64 = 10;
/// Places to remember a window of a file in.
const PLACES: usize = 4096;
/// Bits of an entry that hold the second; the others hold what tells windows apart.
const SECONDS: u64 = 0xffff;

static MEMORY: [AtomicU64; PLACES] = [const { AtomicU64::new(0) }; PLACES];

/// A file, as far as its reads are remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The mount that it lies on, by its number in the kernel.
    pub mount: u64,
    /// Its number on the file system.
    pub inode: u64,
}

impl Identity {
    /// The place for a window of the file, and what is noted there.
    fn entry(self, window: u64) -> (Option<&'static AtomicU64>, u64) {
        let hash = hash::of_parts(&[&self.mount.to_le_bytes(), &self.inode.to_le_bytes(), &window.to_le_bytes()]);
        let place = usize::try_from(hash >> 1).unwrap_or(0) % PLACES;
        (MEMORY.get(place), hash & !SECONDS)
    }

    /// Notes that a window has been read.
    pub fn note(self, window: u64) {
        self.note_at(window, clock::monotonic() / 1000);
    }

    /// True when a window has been read a moment ago.
    pub fn is_warm(self, window: u64) -> bool {
        self.is_warm_at(window, clock::monotonic() / 1000)
    }

    fn note_at(self, window: u64, second: u64) {
        if let (Some(place), noted) = self.entry(window) {
            place.store(noted | second & SECONDS, Relaxed);
        }
    }

    fn is_warm_at(self, window: u64, second: u64) -> bool {
        let (Some(place), noted) = self.entry(window) else { return false };
        let found = place.load(Relaxed);
        let age = second.wrapping_sub(found) & SECONDS;
        found & !SECONDS == noted && age < LASTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_is_warm_for_a_while_and_nothing_else_is() {
        let file = Identity { mount: 1, inode: 2 };
        assert!(!file.is_warm_at(0, 100));
        // Also across the end of the seconds that an entry can hold.
        for second in [100, 65_530] {
            file.note_at(0, second);
            assert!(file.is_warm_at(0, second) && file.is_warm_at(0, second + LASTS - 1));
            assert!(!file.is_warm_at(0, second + LASTS) && !file.is_warm_at(1, second));
            assert!(!Identity { mount: 1, inode: 3 }.is_warm_at(0, second));
        }
        file.note(5);
        assert!(file.is_warm(5));
    }
}
