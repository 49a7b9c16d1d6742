//! State that worker processes share: named zones of memory, made by the master before it forks.
//!
//! A zone is an array of atomic words. Nothing in it is a pointer; a region is found by its key, and what is read from
//! it is checked like input. A lock is held for the length of a closure, so it can never be held across a wait.

pub mod counters;
pub mod lock;
pub mod memory;
pub mod per_worker;

use std::cell::RefCell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::conf::{ConfigError, Place};
use lock::Lock;
use memory::Memory;

const MAGIC: u64 = 0x7469_6465_7a6f_6e65; // "tidezone"
/// Changes when the meaning of the words below, or of any region, does.
const LAYOUT: u64 = 1;
/// Words before the first region: magic, layout, size, directory length, next free word, then the directory.
const DIRECTORY_AT: usize = 8;
const DIRECTORY_ENTRIES: usize = 64;
const DIRECTORY_ENTRY: usize = 3;
const FIRST_FREE: usize = DIRECTORY_AT + DIRECTORY_ENTRIES * DIRECTORY_ENTRY;
/// nginx: a zone is at least eight pages.
const SMALLEST: u64 = 8 * 4096;

/// A named piece of memory that all workers see.
pub struct Zone {
    name: String,
    size: u64,
    memory: Memory,
}

impl Zone {
    fn create(name: &str, size: u64) -> std::io::Result<Zone> {
        let bytes = usize::try_from(size).map_err(|_| std::io::ErrorKind::OutOfMemory)?;
        let memory = Memory::create(name, bytes)?;
        for (at, value) in [(0, MAGIC), (1, LAYOUT), (2, size), (3, 0), (4, u64::try_from(FIRST_FREE).unwrap_or(0))] {
            if let Some(word) = memory.words().get(at) {
                word.store(value, Relaxed);
            }
        }
        Ok(Zone { name: name.to_owned(), size, memory })
    }

    /// The zone behind a descriptor that another process has left us. `None` if it has another layout, or is no zone:
    /// then it is begun anew.
    pub fn adopt(name: &str, file: std::os::fd::OwnedFd) -> Option<Rc<Zone>> {
        let memory = Memory::adopt(file).ok()?;
        let read = |at: usize| memory.words().get(at).map(|word| word.load(Relaxed));
        let size = read(2)?;
        let fits = usize::try_from(size).is_ok_and(|size| size.div_ceil(8) == memory.words().len());
        (read(0) == Some(MAGIC) && read(1) == Some(LAYOUT) && fits)
            .then(|| Rc::new(Zone { name: name.to_owned(), size, memory }))
    }

    /// The zone's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The zone's lock.
    pub fn lock(&self) -> Lock<'_> {
        Lock::new(self.memory.lock_word())
    }

    /// The region of `words` words kept under `key`; made on first use, found again by a later generation.
    ///
    /// # Errors
    /// The zone is too small.
    pub fn region(self: &Rc<Self>, key: &str, words: usize) -> Result<Region, String> {
        let _held = self.lock().hold();
        if let Some(found) = self.find(key, words) {
            return Ok(found);
        }
        let memory = self.memory.words();
        let full = || format!("zone \"{}\" is too small: {} bytes more are needed", self.name, words * 8);
        let read =
            |at: usize| memory.get(at).map_or(0, |word| usize::try_from(word.load(Relaxed)).unwrap_or(usize::MAX));
        let entries = read(3).min(DIRECTORY_ENTRIES);
        let start = read(4);
        let end = start.checked_add(words).filter(|end| *end <= memory.len()).ok_or_else(full)?;
        let at = DIRECTORY_AT + entries * DIRECTORY_ENTRY;
        if entries >= DIRECTORY_ENTRIES {
            return Err(format!("zone \"{}\" has no room for another user", self.name));
        }
        let as_word = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
        for (at, value) in [
            (at, hash(key, words)),
            (at + 1, as_word(start)),
            (at + 2, as_word(words)),
            (4, as_word(end)),
            (3, as_word(entries + 1)),
        ] {
            if let Some(word) = memory.get(at) {
                word.store(value, Relaxed);
            }
        }
        self.checked(start, words)
    }

    /// The region kept under `key`, if there is one already.
    pub fn find(self: &Rc<Self>, key: &str, words: usize) -> Option<Region> {
        let memory = self.memory.words();
        let read =
            |at: usize| memory.get(at).map_or(0, |word| usize::try_from(word.load(Relaxed)).unwrap_or(usize::MAX));
        let key = hash(key, words);
        let at = (0..read(3).min(DIRECTORY_ENTRIES))
            .map(|entry| DIRECTORY_AT + entry * DIRECTORY_ENTRY)
            .find(|at| memory.get(*at).is_some_and(|word| word.load(Relaxed) == key))?;
        self.checked(read(at + 1), words).ok()
    }

    fn checked(self: &Rc<Self>, start: usize, words: usize) -> Result<Region, String> {
        let inside =
            start >= FIRST_FREE && start.checked_add(words).is_some_and(|end| end <= self.memory.words().len());
        if inside {
            Ok(Region::Shared { zone: self.clone(), start, words })
        } else {
            Err(format!("zone \"{}\" is damaged: a region lies outside of it", self.name))
        }
    }
}

fn hash(key: &str, words: usize) -> u64 {
    let mut hasher = DefaultHasher::new();
    (key, words).hash(&mut hasher);
    hasher.finish() | 1
}

impl std::os::fd::AsFd for Zone {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.memory.as_fd()
    }
}

/// Words that belong to one user: in a zone, or private to the process for users without one.
pub enum Region {
    /// Seen by this process only.
    Private(Box<[AtomicU64]>),
    /// Seen by all workers.
    Shared {
        /// The zone.
        zone: Rc<Zone>,
        /// The first word.
        start: usize,
        /// How many.
        words: usize,
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
            Region::Shared { zone, start, words } => {
                zone.memory.words().get(*start..start.saturating_add(*words)).unwrap_or_default()
            }
        }
    }

    /// True when other processes see it.
    pub fn is_shared(&self) -> bool {
        matches!(self, Region::Shared { .. })
    }

    /// Runs `act` while no other process is in such a closure on the same zone.
    pub fn locked<R>(&self, act: impl FnOnce(&[AtomicU64]) -> R) -> R {
        match self {
            Region::Private(words) => act(words),
            Region::Shared { zone, .. } => {
                let _held = zone.lock().hold();
                act(self.words())
            }
        }
    }
}

/// The zones of a generation.
#[derive(Default)]
pub struct Zones {
    list: RefCell<Vec<(Rc<Zone>, Place)>>,
    previous: Vec<Rc<Zone>>,
}

impl Zones {
    /// No zones yet; those of `previous` are found again under the same name and size.
    pub fn after(previous: Option<&Zones>) -> Zones {
        let previous = previous
            .map(|zones| zones.list.borrow().iter().map(|(zone, _)| zone.clone()).collect())
            .unwrap_or_default();
        Zones { list: RefCell::default(), previous }
    }

    /// No zones yet; these, which another process has left us, are found again under the same name and size.
    pub fn after_upgrade(inherited: Vec<Rc<Zone>>) -> Zones {
        Zones { list: RefCell::default(), previous: inherited }
    }

    /// The zone of this name. Several users may share one; `size` may be left out by all but one of them.
    ///
    /// # Errors
    /// A size below the least, sizes that disagree, a size that differs from the running generation's, or no memory.
    pub fn declare(&self, name: &str, size: Option<u64>, at: &Place) -> Result<Rc<Zone>, ConfigError> {
        let fail = |message: String| Err(ConfigError::new(at, message));
        let declared = self.list.borrow().iter().find(|(zone, _)| zone.name == name).cloned();
        if let Some((zone, first)) = declared {
            return match size {
                Some(size) if size != zone.size => fail(format!(
                    "the size {size} of shared memory zone \"{name}\" conflicts with already declared size {} at {first}",
                    zone.size
                )),
                _ => Ok(zone),
            };
        }
        let Some(size) = size else { return fail(format!("zone \"{name}\" is not declared with a size")) };
        if size < SMALLEST {
            return fail(format!("zone \"{name}\" is too small, it needs at least {SMALLEST} bytes"));
        }
        let zone = match self.previous.iter().find(|zone| zone.name == name && zone.size == size) {
            Some(zone) => zone.clone(),
            None => match Zone::create(name, size) {
                Ok(zone) => Rc::new(zone),
                Err(error) => {
                    return fail(format!(
                        "zone \"{name}\" of {size} bytes cannot be made ({})",
                        crate::log::os_error(&error)
                    ));
                }
            },
        };
        self.list.borrow_mut().push((zone.clone(), at.clone()));
        Ok(zone)
    }

    /// Releases every lock that `pid`, which has died, still holds. Returns the zones concerned.
    pub fn release(&self, pid: u32) -> Vec<String> {
        self.list
            .borrow()
            .iter()
            .filter(|(zone, _)| zone.lock().release_dead(pid))
            .map(|(zone, _)| zone.name.clone())
            .collect()
    }

    /// Every zone.
    pub fn all(&self) -> Vec<Rc<Zone>> {
        self.list.borrow().iter().map(|(zone, _)| zone.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place { file: "f".into(), line: 3, column: 1 }
    }

    #[test]
    fn regions_are_found_again_and_never_overlap() {
        let zones = Zones::default();
        let zone = zones.declare("z", Some(64 << 10), &place()).unwrap();
        let a = zone.region("a", 10).unwrap();
        let b = zone.region("b", 10).unwrap();
        a.words()[0].store(7, Relaxed);
        assert_eq!(b.words()[0].load(Relaxed), 0);
        let next = Zones::after(Some(&zones));
        let again = next.declare("z", Some(64 << 10), &place()).unwrap().region("a", 10).unwrap();
        assert_eq!(again.words()[0].load(Relaxed), 7);
    }

    #[test]
    fn wrong_sizes_are_refused() {
        let zones = Zones::default();
        assert!(zones.declare("z", Some(64 << 10), &place()).is_ok());
        assert!(zones.declare("z", None, &place()).is_ok());
        for (name, size, expected) in
            [("z", Some(65 << 10), "conflicts"), ("y", Some(100), "too small"), ("x", None, "not declared")]
        {
            let error = zones.declare(name, size, &place()).err().unwrap().to_string();
            assert!(error.contains(expected) && error.ends_with("in f:3"), "{error}");
        }
        let zone = zones.declare("z", None, &place()).unwrap();
        assert!(zone.region("big", 1 << 20).is_err());
    }

    #[test]
    fn a_directory_that_points_outside_is_an_error() {
        let zones = Zones::default();
        let zone = zones.declare("z", Some(64 << 10), &place()).unwrap();
        zone.region("a", 10).unwrap();
        zone.memory.words()[DIRECTORY_AT + 1].store(u64::MAX, Relaxed);
        assert!(zone.find("a", 10).is_none());
    }
}
