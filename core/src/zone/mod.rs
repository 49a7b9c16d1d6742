//! State that worker processes share: named zones of memory, made by the master before it forks.
//!
//! A zone is an array of atomic words. Nothing in it is a pointer; a region is found by its key, and what is read from
//! it is checked like input. A lock is held for the length of a closure, so it can never be held across a wait.
//!
//! While a closure runs the zone is marked. Who takes the lock and finds the mark knows that a process has died in the
//! middle of a change: from then on every region is checked by its user before it is used again.
//!
//! Regions are only ever added to a zone: workers that finish go on using theirs. A configuration that asks for more than
//! is left begins the zone anew in other memory, and what a configuration that was given up has added is taken back.

pub mod counters;
pub mod hash;
#[cfg(any(test, feature = "kill-points"))]
pub mod kill;
#[cfg(any(test, feature = "kill-points"))]
mod kill_point;
pub mod lock;
#[cfg(test)]
mod lock_test;
pub mod memory;
pub mod owner;
pub mod per_worker;
mod region;
mod sync;
pub mod table;
mod zones;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering, Ordering::Relaxed};

use lock::{Held, Lock};
use memory::Memory;
use owner::Owner;
use region::Kind;
pub use region::{Forget, Need, Region, Repair, Span, always_sound};
pub use zones::Zones;

const MAGIC: u64 = 0x7469_6465_7a6f_6e65; // "tidezone"
/// Changes when the meaning of the words below, or of any region, does.
const LAYOUT: u64 = 4;
/// Words before the first region: magic, layout, size, directory length, next free word, the four below, the directory.
const OWNER: usize = 5;
/// Who is in the middle of a change; zero when nobody is.
const CHANGING: usize = 6;
/// How often a process has died in the middle of a change.
const ACCIDENTS: usize = 7;
/// Counts up whenever another load than the one before looks for regions.
const VISITS: usize = 8;
const DIRECTORY_AT: usize = 9;
/// Key, first word, length, the number of accidents after which the region was found sound, and what is in it.
const DIRECTORY_ENTRY: usize = 5;
/// Words of a zone for each entry of its directory: less than what two regions of the smallest user take.
const WORDS_PER_ENTRY: usize = 32;
const MOST_ENTRIES: usize = 64 << 10;
/// nginx: a zone is at least eight pages.
pub const SMALLEST: u64 = 8 * 4096;

/// What a generation uses of a named piece of memory that all workers see.
pub struct Zone {
    name: String,
    size: u64,
    /// Which load of this process it belongs to.
    load: u64,
    body: Rc<Body>,
    /// What the zone is for, where it is not for everybody.
    purpose: RefCell<Option<String>>,
    forgetting: RefCell<Vec<(Span, Forget)>>,
}

/// The memory, in which several generations of this process may have an interest.
struct Body {
    memory: Memory,
    latest: Cell<Visit>,
}

/// What the latest load of this process has done to the directory.
#[derive(Clone, Copy, Default)]
struct Visit {
    load: u64,
    /// The number of the visit.
    number: u64,
    /// Entries made at the end of the directory.
    made: usize,
    /// Another process came in between, and may use what was made.
    disturbed: bool,
}

impl Zone {
    fn create(name: &str, size: u64) -> std::io::Result<Zone> {
        let words = words_of(size).ok_or(std::io::ErrorKind::OutOfMemory)?;
        let memory = Memory::create(name, words.saturating_mul(8))?;
        let zone = Zone::of(name, size, memory);
        let next = as_word(zone.first_region());
        for (at, value) in [(0, MAGIC), (1, LAYOUT), (2, size), (3, 0), (4, next)] {
            zone.word(at).store(value, Relaxed);
        }
        Ok(zone)
    }

    fn of(name: &str, size: u64, memory: Memory) -> Zone {
        Zone::over(name, size, Rc::new(Body { memory, latest: Cell::default() }))
    }

    fn over(name: &str, size: u64, body: Rc<Body>) -> Zone {
        Zone { name: name.to_owned(), size, load: 0, body, purpose: RefCell::default(), forgetting: RefCell::default() }
    }

    /// The same memory for another load.
    fn again(&self) -> Zone {
        let zone = Zone::over(&self.name, self.size, self.body.clone());
        zone.purpose.replace(self.purpose.borrow().clone());
        zone
    }

    /// The zone behind a descriptor that another process has left us. `None` if it has another layout, or is no zone:
    /// then it is begun anew.
    pub fn adopt(name: &str, file: std::os::fd::OwnedFd) -> Option<Rc<Zone>> {
        let memory = Memory::adopt(file).ok()?;
        let read = |at: usize| memory.words().get(at).map(|word| word.load(Relaxed));
        let size = read(2)?;
        let fits = words_of(size) == Some(memory.words().len());
        (read(0) == Some(MAGIC) && read(1) == Some(LAYOUT) && fits).then(|| Rc::new(Zone::of(name, size, memory)))
    }

    /// The zone's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn all_words(&self) -> &[AtomicU64] {
        self.body.memory.words()
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        static NONE: AtomicU64 = AtomicU64::new(0);
        // The words before the regions are there: the smallest zone is larger.
        self.all_words().get(at).unwrap_or(&NONE)
    }

    fn number(&self, at: usize) -> usize {
        usize::try_from(self.word(at).load(Relaxed)).unwrap_or(usize::MAX)
    }

    fn lock(&self) -> Lock<'_> {
        Lock::new(self.word(OWNER), self.body.memory.bell())
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
            crate::log::process::of_process(|log| {
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
        self.region_of(Kind::Plain, key, words, repair)
    }

    fn region_of(self: &Rc<Self>, kind: Kind, key: &str, words: usize, repair: Repair) -> Result<Region, String> {
        self.exclusively(|| {
            self.visit();
            let need = Need::region(key, words);
            let span = match self.find(&need) {
                Some((entry, start)) => Span { start, words, entry, repair },
                None => self.add(kind, &need, repair)?,
            };
            self.checked(span)
        })
    }

    /// Where there is a region already: its entry and its first word.
    fn find(&self, need: &Need) -> Option<(usize, usize)> {
        let entry = self.entries().find(|at| self.word(*at).load(Ordering::Acquire) == need.key)?;
        Some((entry, self.number(entry + 1)))
    }

    /// Where the entries of the directory begin.
    fn entries(&self) -> impl Iterator<Item = usize> + use<> {
        (0..self.number(3).min(entries_of(self.size))).map(|entry| DIRECTORY_AT + entry * DIRECTORY_ENTRY)
    }

    fn first_region(&self) -> usize {
        DIRECTORY_AT + entries_of(self.size) * DIRECTORY_ENTRY
    }

    fn add(&self, kind: Kind, need: &Need, repair: Repair) -> Result<Span, String> {
        self.room_for(std::slice::from_ref(need))?;
        let (entries, start) = (self.number(3), self.number(4));
        let entry = DIRECTORY_AT + entries * DIRECTORY_ENTRY;
        // The entry counts from the moment when the number of entries says so.
        for (at, value) in [
            (entry, need.key),
            (entry + 1, as_word(start)),
            (entry + 2, as_word(need.words)),
            (entry + 3, self.word(ACCIDENTS).load(Relaxed)),
            (entry + 4, u64::from(kind == Kind::PerWorker)),
            (4, as_word(start.saturating_add(need.words))),
            (3, as_word(entries + 1)),
        ] {
            kill_point();
            self.word(at).store(value, Ordering::Release);
        }
        let visit = self.body.latest.get();
        self.body.latest.set(Visit { made: visit.made + 1, ..visit });
        Ok(Span { start, words: need.words, entry, repair })
    }

    /// Looks whether those of `needs` that are not there yet can be added.
    fn room_for(&self, needs: &[Need]) -> Result<(), String> {
        let missing = || needs.iter().filter(|need| self.find(need).is_none());
        let words = missing().fold(0, |sum: usize, need| sum.saturating_add(need.words));
        let free = self.all_words().len().saturating_sub(self.number(4));
        if words > free {
            let more = (words - free).saturating_mul(8);
            return Err(format!("zone \"{}\" is too small: {more} bytes more are needed", self.name));
        }
        if missing().count() > entries_of(self.size).saturating_sub(self.number(3)) {
            return Err(format!("zone \"{}\" has no room for so many users, divide them among several", self.name));
        }
        Ok(())
    }

    /// Notes that this load looks at the directory, and whether another process has since the last time.
    fn visit(&self) {
        let mut visit = self.body.latest.get();
        if visit.load != self.load {
            visit = Visit { load: self.load, ..Visit::default() };
        }
        let word = self.word(VISITS);
        let latest = word.load(Relaxed);
        if visit.number != latest || latest == 0 {
            visit.disturbed |= visit.number != 0;
            visit.number = latest.wrapping_add(1).max(1);
            store(word, visit.number);
        }
        self.body.latest.set(visit);
    }

    /// Takes back what loads after this zone's have added, and given up: no worker was started that uses it. What another
    /// process may have seen (the master of another binary) stays.
    fn take_back(&self) {
        self.exclusively(|| {
            let visit = self.body.latest.get();
            if visit.load <= self.load {
                return;
            }
            self.body.latest.set(Visit::default());
            if visit.disturbed || self.word(VISITS).load(Relaxed) != visit.number {
                return;
            }
            let Some(entries) = self.number(3).checked_sub(visit.made) else { return };
            let start = self.number(DIRECTORY_AT + entries * DIRECTORY_ENTRY + 1);
            let end = self.number(4);
            if visit.made == 0 || start < self.first_region() {
                return;
            }
            // Regions begin as zeroes. A death in between costs room and nothing else.
            store(self.word(3), as_word(entries));
            if let Some(words) = self.all_words().get(start..end) {
                words.iter().for_each(|word| word.store(0, Relaxed));
                store(self.word(4), as_word(start));
            }
        });
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
        let words = self.all_words().len().saturating_sub(self.first_region());
        let region = self
            .region(purpose, words, repair)
            .map_err(|_| format!("the shared memory zone \"{}\" is already declared for a different use", self.name))?;
        *mine = Some(purpose.to_owned());
        Ok(region)
    }

    fn checked(self: &Rc<Self>, span: Span) -> Result<Region, String> {
        let Span { start, words, .. } = span;
        let inside =
            start >= self.first_region() && start.checked_add(words).is_some_and(|end| end <= self.all_words().len());
        if inside {
            Ok(Region::Shared { zone: self.clone(), span })
        } else {
            Err(format!("zone \"{}\" is damaged: a region lies outside of it", self.name))
        }
    }

    /// Takes back what the worker of this slot, which has ended, had in the zone.
    pub fn forget(self: &Rc<Self>, slot: usize) {
        for entry in self.entries().filter(|entry| self.word(entry + 4).load(Relaxed) != 0) {
            let (start, words) = (self.number(entry + 1), self.number(entry + 2));
            if let Ok(table) = self.checked(Span { start, words, entry, repair: always_sound }) {
                per_worker::forget(table.words(), slot);
            }
        }
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
    kill_point::point();
}

fn as_word(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

/// How many regions a zone of this size may have.
fn entries_of(size: u64) -> usize {
    (usize::try_from(size / 8).unwrap_or(usize::MAX) / WORDS_PER_ENTRY).min(MOST_ENTRIES)
}

/// The words of a zone: its size is what users have, so the directory and what stands before it come on top.
fn words_of(size: u64) -> Option<usize> {
    let own = DIRECTORY_AT + entries_of(size) * DIRECTORY_ENTRY;
    usize::try_from(size.div_ceil(8)).ok()?.checked_add(own)
}

fn hash(key: &str, words: usize) -> u64 {
    hash::of_parts(&[key.as_bytes(), &as_word(words).to_le_bytes()])
}

impl std::os::fd::AsFd for Zone {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.body.memory.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conf::Place;

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
    fn the_directory_has_room_for_as_many_as_the_memory() {
        for (size, upstreams) in [(32 << 10, 56), (64 << 10, 113), (1 << 20, 1820)] {
            let zone = Zones::default().declare("z", Some(size), &place()).unwrap();
            for number in 0..upstreams {
                zone.region(&format!("a{number}"), 8, always_sound).unwrap();
                zone.region(&format!("b{number}"), 64, always_sound).unwrap();
            }
            let error = zone.region("another", 72, always_sound).err().unwrap();
            assert!(error.contains("too small"), "{error}");
        }
    }

    #[test]
    fn a_directory_that_points_outside_is_an_error() {
        let zones = Zones::default();
        let zone = zones.declare("z", Some(64 << 10), &place()).unwrap();
        zone.region("a", 10, always_sound).unwrap();
        zone.all_words()[DIRECTORY_AT + 1].store(u64::MAX, Relaxed);
        assert!(zone.region("a", 10, always_sound).is_err());
    }
}
