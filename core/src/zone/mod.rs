//! State that worker processes share: named zones of memory, made by the master before it forks.
//!
//! A zone is an array of atomic words. Nothing in it is a pointer; a region is found by its key, and what is read from
//! it is checked like input. A lock is held for the length of a closure, so it can never be held across a wait.
//!
//! While a closure runs the zone is marked. Who takes the lock and finds the mark knows that a process has died in the
//! middle of a change: from then on every region is checked by its user before it is used again.

pub mod counters;
pub mod hash;
#[cfg(any(test, feature = "kill-points"))]
pub mod kill;
pub mod lock;
#[cfg(test)]
mod lock_test;
pub mod memory;
pub mod owner;
pub mod per_worker;
mod sync;
pub mod table;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering, Ordering::Relaxed};

use crate::conf::{ConfigError, Place};
use lock::{Held, Lock};
use memory::Memory;
use owner::Owner;

const MAGIC: u64 = 0x7469_6465_7a6f_6e65; // "tidezone"
/// Changes when the meaning of the words below, or of any region, does.
const LAYOUT: u64 = 3;
/// Words before the first region: magic, layout, size, directory length, next free word, the three below, the directory.
const OWNER: usize = 5;
/// Who is in the middle of a change; zero when nobody is.
const CHANGING: usize = 6;
/// How often a process has died in the middle of a change.
const ACCIDENTS: usize = 7;
const DIRECTORY_AT: usize = 8;
const DIRECTORY_ENTRIES: usize = 64;
/// Key, first word, length, and the number of accidents after which the region was found sound.
const DIRECTORY_ENTRY: usize = 4;
const FIRST_FREE: usize = DIRECTORY_AT + DIRECTORY_ENTRIES * DIRECTORY_ENTRY;
/// nginx: a zone is at least eight pages.
pub const SMALLEST: u64 = 8 * 4096;

/// Looks whether a region is as its user left it, and makes it so. False when something had to be given up.
pub type Repair = fn(&[AtomicU64]) -> bool;
/// Takes back what the worker of this slot, which has ended, had in a region.
pub type Forget = fn(&[AtomicU64], usize);

/// A named piece of memory that all workers see.
pub struct Zone {
    name: String,
    size: u64,
    memory: Memory,
    /// What a zone with a single user is for.
    purpose: RefCell<Option<String>>,
    forgetting: RefCell<Vec<(Span, Forget)>>,
}

/// Where a region lies.
#[derive(Clone, Copy)]
pub struct Span {
    start: usize,
    words: usize,
    entry: usize,
    repair: Repair,
}

impl Zone {
    fn create(name: &str, size: u64) -> std::io::Result<Zone> {
        let bytes = usize::try_from(size).map_err(|_| std::io::ErrorKind::OutOfMemory)?;
        let memory = Memory::create(name, bytes)?;
        for (at, value) in [(0, MAGIC), (1, LAYOUT), (2, size), (3, 0), (4, as_word(FIRST_FREE))] {
            if let Some(word) = memory.words().get(at) {
                word.store(value, Relaxed);
            }
        }
        Ok(Zone::of(name, size, memory))
    }

    fn of(name: &str, size: u64, memory: Memory) -> Zone {
        Zone { name: name.to_owned(), size, memory, purpose: RefCell::default(), forgetting: RefCell::default() }
    }

    /// The zone behind a descriptor that another process has left us. `None` if it has another layout, or is no zone:
    /// then it is begun anew.
    pub fn adopt(name: &str, file: std::os::fd::OwnedFd) -> Option<Rc<Zone>> {
        let memory = Memory::adopt(file).ok()?;
        let read = |at: usize| memory.words().get(at).map(|word| word.load(Relaxed));
        let size = read(2)?;
        let fits = usize::try_from(size).is_ok_and(|size| size.div_ceil(8) == memory.words().len());
        (read(0) == Some(MAGIC) && read(1) == Some(LAYOUT) && fits).then(|| Rc::new(Zone::of(name, size, memory)))
    }

    /// The zone's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        static NONE: AtomicU64 = AtomicU64::new(0);
        // The words before the regions are there: the smallest zone is larger.
        self.memory.words().get(at).unwrap_or(&NONE)
    }

    fn number(&self, at: usize) -> usize {
        usize::try_from(self.word(at).load(Relaxed)).unwrap_or(usize::MAX)
    }

    fn lock(&self) -> Lock<'_> {
        Lock::new(self.word(OWNER), self.memory.bell())
    }

    /// Runs `act` while no other process is in such a closure on the zone.
    fn exclusively<R>(&self, act: impl FnOnce() -> R) -> R {
        self.change(self.lock().hold(), act)
    }

    fn change<R>(&self, held: Held<'_>, act: impl FnOnce() -> R) -> R {
        let changing = self.word(CHANGING);
        let died = Some(changing.load(Relaxed)).filter(|left| *left != 0).map(Owner::from_word);
        if died.is_some() {
            let accidents = self.word(ACCIDENTS);
            store(accidents, accidents.load(Relaxed).wrapping_add(1));
        }
        store(changing, Owner::me().word());
        // The mark is there before anything is changed, and goes when everything has been.
        std::sync::atomic::fence(Ordering::Release);
        let unwinding = Unwinding;
        let result = act();
        std::mem::forget(unwinding);
        kill_point();
        changing.store(0, Ordering::Release);
        kill_point();
        drop(held);
        if let Some(died) = died {
            crate::log::error::of_process(|log| {
                crate::log!(
                    log,
                    Alert,
                    "shared memory zone \"{}\" was locked by {} in the middle of a change, it is checked",
                    self.name,
                    died.pid()
                );
            });
        }
        result
    }

    /// Frees the lock if `pid`, which is known to be dead, holds it.
    fn release(&self, pid: u32) -> bool {
        self.lock().succeed(pid).map(|held| self.change(held, || ())).is_some()
    }

    /// The region of `words` words kept under `key`; made on first use, found again by a later generation.
    ///
    /// # Errors
    /// The zone is too small.
    pub fn region(self: &Rc<Self>, key: &str, words: usize, repair: Repair) -> Result<Region, String> {
        self.exclusively(|| {
            if let Some(found) = self.find(key, words, repair) {
                return Ok(found);
            }
            let full = || format!("zone \"{}\" is too small: {} bytes more are needed", self.name, words * 8);
            let entries = self.number(3).min(DIRECTORY_ENTRIES);
            let start = self.number(4);
            let end = start.checked_add(words).filter(|end| *end <= self.memory.words().len()).ok_or_else(full)?;
            if entries >= DIRECTORY_ENTRIES {
                return Err(format!("zone \"{}\" has no room for another user", self.name));
            }
            let entry = DIRECTORY_AT + entries * DIRECTORY_ENTRY;
            // The entry counts from the moment when the number of entries says so.
            for (at, value) in [
                (entry, hash(key, words)),
                (entry + 1, as_word(start)),
                (entry + 2, as_word(words)),
                (entry + 3, self.word(ACCIDENTS).load(Relaxed)),
                (4, as_word(end)),
                (3, as_word(entries + 1)),
            ] {
                kill_point();
                self.word(at).store(value, Ordering::Release);
            }
            self.checked(Span { start, words, entry, repair })
        })
    }

    /// All of the zone, for a user that shares it with nobody.
    ///
    /// # Errors
    /// Somebody else uses the zone, or used it before the configuration was read again.
    pub fn whole(self: &Rc<Self>, purpose: &str, repair: Repair) -> Result<Region, String> {
        let mut mine = self.purpose.borrow_mut();
        match &*mine {
            Some(other) if other != purpose => {
                return Err(format!("shared memory zone \"{}\" is in use for {other}, not for {purpose}", self.name));
            }
            _ => {}
        }
        let words = self.memory.words().len().saturating_sub(FIRST_FREE);
        let region = self
            .region(purpose, words, repair)
            .map_err(|_| format!("the shared memory zone \"{}\" is already declared for a different use", self.name))?;
        *mine = Some(purpose.to_owned());
        Ok(region)
    }

    /// The region kept under `key`, if there is one already.
    pub fn find(self: &Rc<Self>, key: &str, words: usize, repair: Repair) -> Option<Region> {
        let key = hash(key, words);
        let entry = (0..self.number(3).min(DIRECTORY_ENTRIES))
            .map(|entry| DIRECTORY_AT + entry * DIRECTORY_ENTRY)
            .find(|at| self.word(*at).load(Ordering::Acquire) == key)?;
        self.checked(Span { start: self.number(entry + 1), words, entry, repair }).ok()
    }

    fn checked(self: &Rc<Self>, span: Span) -> Result<Region, String> {
        let Span { start, words, .. } = span;
        let inside =
            start >= FIRST_FREE && start.checked_add(words).is_some_and(|end| end <= self.memory.words().len());
        if inside {
            Ok(Region::Shared { zone: self.clone(), span })
        } else {
            Err(format!("zone \"{}\" is damaged: a region lies outside of it", self.name))
        }
    }

    /// Takes back what the worker of this slot, which has ended, had in the zone.
    pub fn forget(self: &Rc<Self>, slot: usize) {
        per_worker::forget(self, slot);
        for (span, forget) in &*self.forgetting.borrow() {
            if let Ok(region) = self.checked(*span) {
                region.locked(|words| forget(words, slot));
            }
        }
    }
}

/// Dropped only by a panic in the middle of a change: what others see is half done, and this process cannot repair it.
/// Its end makes everybody check.
struct Unwinding;

impl Drop for Unwinding {
    fn drop(&mut self) {
        std::process::abort();
    }
}

/// Writes a word of a zone: what lives in zones writes by this, so that tests can end the process before any store.
pub fn store(word: &AtomicU64, value: u64) {
    kill_point();
    word.store(value, Relaxed);
}

/// Where tests can end the process.
fn kill_point() {
    #[cfg(any(test, feature = "kill-points"))]
    kill::point();
}

fn as_word(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

/// For regions in which every value is a plain number that may be anything.
pub fn always_sound(_: &[AtomicU64]) -> bool {
    true
}

fn hash(key: &str, words: usize) -> u64 {
    hash::of_parts(&[key.as_bytes(), &as_word(words).to_le_bytes()])
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
                zone.memory.words().get(span.start..span.start.saturating_add(span.words)).unwrap_or_default()
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
            crate::log::error::of_process(|log| {
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
        self.list.borrow().iter().filter(|(zone, _)| zone.release(pid)).map(|(zone, _)| zone.name.clone()).collect()
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
        let a = zone.region("a", 10, always_sound).unwrap();
        let b = zone.region("b", 10, always_sound).unwrap();
        a.words()[0].store(7, Relaxed);
        assert_eq!(b.words()[0].load(Relaxed), 0);
        let next = Zones::after(Some(&zones));
        let again = next.declare("z", Some(64 << 10), &place()).unwrap().region("a", 10, always_sound).unwrap();
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
        assert!(zone.region("big", 1 << 20, always_sound).is_err());
    }

    #[test]
    fn a_directory_that_points_outside_is_an_error() {
        let zones = Zones::default();
        let zone = zones.declare("z", Some(64 << 10), &place()).unwrap();
        zone.region("a", 10, always_sound).unwrap();
        zone.memory.words()[DIRECTORY_AT + 1].store(u64::MAX, Relaxed);
        assert!(zone.find("a", 10, always_sound).is_none());
    }
}
