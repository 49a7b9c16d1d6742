//! Counts kept in a zone per worker, so that what a killed worker still held can be taken back.
//!
//! A table has one row per worker slot and one column per thing counted. The sum of a column is the count.

use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{Region, Span, Zone, always_sound, store};
use crate::process::worker::SLOTS;

/// Counts per worker.
pub struct PerWorker {
    region: Region,
    columns: usize,
}

/// Tables in a zone are found again by this name and a number.
const NAME: &str = "per worker table";
const TABLES: usize = 8;
const LIST: &str = "per worker tables";

impl PerWorker {
    /// A table private to the process.
    pub fn private(columns: usize) -> Self {
        PerWorker { region: Region::private(columns), columns }
    }

    /// A table in a zone, known by `key`.
    ///
    /// # Errors
    /// The zone is too small.
    pub fn shared(zone: &Rc<Zone>, key: &str, columns: usize) -> Result<Self, String> {
        let region = zone.region(&format!("{NAME} {key}"), columns.saturating_mul(SLOTS), always_sound)?;
        if let Region::Shared { span: Span { start, words, .. }, .. } = &region {
            let list = zone.region(LIST, TABLES * 2, always_sound)?;
            let (start, words) = (u64::try_from(*start).unwrap_or(0), u64::try_from(*words).unwrap_or(0));
            let pairs: Vec<&[AtomicU64]> = list.words().chunks_exact(2).collect();
            let known = pairs.iter().any(|pair| matches!(pair, [at, _] if at.load(Relaxed) == start));
            let free = pairs.iter().find_map(|pair| match pair {
                [at, length] if at.load(Relaxed) == 0 => Some((at, length)),
                _ => None,
            });
            match (known, free) {
                (true, _) => {}
                (false, Some((at, length))) => {
                    store(length, words);
                    store(at, start);
                }
                (false, None) => return Err(format!("zone \"{}\" has no room for another table", zone.name())),
            }
        }
        Ok(PerWorker { region, columns })
    }

    /// The count of a column.
    pub fn sum(&self, column: usize) -> u64 {
        self.by_worker(column).fold(0, u64::saturating_add)
    }

    /// The count of a column for each worker slot.
    pub fn by_worker(&self, column: usize) -> impl Iterator<Item = u64> + '_ {
        self.region.words().iter().skip(column).step_by(self.columns.max(1)).map(|word| word.load(Relaxed))
    }

    /// Adds one for this worker.
    pub fn increment(&self, column: usize) {
        if let Some(word) = self.own(column) {
            word.fetch_add(1, Relaxed);
        }
    }

    /// Takes one back for this worker; never below zero.
    pub fn decrement(&self, column: usize) {
        if let Some(word) = self.own(column) {
            let _ = word.fetch_update(Relaxed, Relaxed, |count| count.checked_sub(1));
        }
    }

    fn own(&self, column: usize) -> Option<&AtomicU64> {
        let row = if self.region.is_shared() { crate::process::worker::slot() } else { 0 };
        self.region.words().get(row * self.columns + column)
    }
}

/// Forgets everything that the worker of this slot counted in the tables of a zone.
pub fn forget(zone: &Rc<Zone>, slot: usize) {
    let Some(list) = zone.find(LIST, TABLES * 2, always_sound) else { return };
    for pair in list.words().chunks_exact(2) {
        let [at, length] = pair else { continue };
        let read = |word: &AtomicU64| usize::try_from(word.load(Relaxed)).unwrap_or(usize::MAX);
        let (start, words) = (read(at), read(length));
        if start == 0 {
            continue;
        }
        let columns = words / SLOTS;
        if let Ok(table) = zone.checked(Span { start, words, entry: 0, repair: always_sound }) {
            table.words().iter().skip(slot * columns).take(columns).for_each(|word| word.store(0, Relaxed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conf::Place;

    #[test]
    fn what_a_dead_worker_held_is_forgotten() {
        let zones = super::super::Zones::default();
        let at = Place { file: "f".into(), line: 1, column: 1 };
        let zone = zones.declare("z", Some(64 << 10), &at).unwrap();
        let table = PerWorker::shared(&zone, "peers", 3).unwrap();
        table.increment(1);
        table.increment(1);
        table.decrement(2);
        assert_eq!((table.sum(0), table.sum(1), table.sum(2)), (0, 2, 0));
        forget(&zone, 5);
        assert_eq!(table.sum(1), 2);
        forget(&zone, 0);
        assert_eq!(table.sum(1), 0);
    }
}
