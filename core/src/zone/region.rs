//! Regions: the words of one user, in a zone or private to the process.

use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering, Ordering::Relaxed};

use super::{ACCIDENTS, Zone, hash, kill_point};

/// Looks whether a region is as its user left it, and makes it so. False when something had to be given up.
pub type Repair = fn(&[AtomicU64]) -> bool;
/// Takes back what the worker of this slot, which has ended, had in a region.
pub type Forget = fn(&[AtomicU64], usize);

/// For regions in which every value is a plain number that may be anything.
pub fn always_sound(_: &[AtomicU64]) -> bool {
    true
}

/// What is in a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only its user knows.
    Plain,
    /// A row for each worker slot, zeroed when the worker ends.
    PerWorker,
}

/// A region that somebody is going to ask for.
#[derive(Clone, Debug)]
pub struct Need {
    pub(super) key: u64,
    pub(super) words: usize,
}

impl Need {
    /// The region kept under `key`.
    pub fn region(key: &str, words: usize) -> Need {
        Need { key: hash(key, words), words }
    }
}

/// Where a region lies.
#[derive(Clone, Copy)]
pub struct Span {
    pub(super) start: usize,
    pub(super) words: usize,
    pub(super) entry: usize,
    pub(super) repair: Repair,
}

/// Words that belong to one user: in a zone, or private to the process for users without one.
pub enum Region {
    /// Seen by this process only.
    Private(Box<[AtomicU64]>),
    /// Seen by all workers.
    Shared {
        /// The zone.
        zone: Rc<Zone>,
        /// Where in it.
        span: Span,
    },
}

impl Region {
    /// A region for a user without a zone.
    pub fn private(words: usize) -> Region {
        Region::Private((0..words).map(|_| AtomicU64::new(0)).collect())
    }

    /// The words.
    pub fn words(&self) -> &[AtomicU64] {
        match self {
            Region::Private(words) => words,
            Region::Shared { zone, span } => {
                zone.all_words().get(span.start..span.start.saturating_add(span.words)).unwrap_or_default()
            }
        }
    }

    /// True when other processes see it.
    pub fn is_shared(&self) -> bool {
        matches!(self, Region::Shared { .. })
    }

    /// Runs `act` while no other process is in such a closure on the same zone, after a check of the region if a process
    /// has died in the middle of a change.
    pub fn locked<R>(&self, act: impl FnOnce(&[AtomicU64]) -> R) -> R {
        match self {
            Region::Private(words) => act(words),
            Region::Shared { zone, span } => zone.exclusively(|| {
                self.check(zone, span);
                act(self.words())
            }),
        }
    }

    fn check(&self, zone: &Zone, span: &Span) {
        let (accidents, checked) = (zone.word(ACCIDENTS).load(Relaxed), zone.word(span.entry + 3));
        if checked.load(Relaxed) == accidents {
            return;
        }
        if !(span.repair)(self.words()) {
            crate::log::process::of_process(|log| {
                crate::log!(log, Alert, "shared memory zone \"{}\" was damaged and has been reset", zone.name);
            });
        }
        kill_point();
        checked.store(accidents, Ordering::Release);
    }

    /// Has `forget` called, in the master, for every worker that ends.
    pub fn when_a_worker_ends(&self, forget: Forget) {
        if let Region::Shared { zone, span } = self {
            let mut list = zone.forgetting.borrow_mut();
            if list.iter().all(|(other, _)| other.start != span.start) {
                list.push((*span, forget));
            }
        }
    }
}
