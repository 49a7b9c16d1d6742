//! Counts kept in a zone per worker, so that what a killed worker still held can be taken back.
//!
//! A table has one row per worker slot and one column per thing counted. The sum of a column is the count.

use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{Kind, Need, Region, Zone, always_sound};
use crate::slot::SLOTS;

/// Counts per worker.
pub struct PerWorker {
    region: Region,
    columns: usize,
}

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
        let (key, words) = place(key, columns);
        Ok(PerWorker { region: zone.region_of(Kind::PerWorker, &key, words, always_sound)?, columns })
    }

    /// What such a table needs of the zone.
    pub fn need(key: &str, columns: usize) -> Need {
        let (key, words) = place(key, columns);
        Need::region(&key, words)
    }

    /// The count of a column.
    pub fn sum(&self, column: usize) -> u64 {
        self.by_worker(column).fold(0, u64::saturating_add)
    }

    /// The count of a column for each worker slot.
    pub fn by_worker(&self, column: usize) -> impl Iterator<Item = u64> + '_ {
        self.region.words().iter().skip(column).step_by(self.columns.max(1)).map(|word| word.load(Relaxed))
    }

    /// The counts of each worker slot.
    pub fn rows(&self) -> std::slice::ChunksExact<'_, AtomicU64> {
        self.region.words().chunks_exact(self.columns.max(1))
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
            take_one(word);
        }
    }

    /// Takes one back from a column, never below zero, and adds it to another, for this worker.
    pub fn shift(&self, from: usize, to: usize) {
        let row = self.row();
        if let (Some(from), Some(to)) = (row.get(from), row.get(to)) {
            take_one(from);
            to.fetch_add(1, Relaxed);
        }
    }

    fn own(&self, column: usize) -> Option<&AtomicU64> {
        self.row().get(column)
    }

    fn row(&self) -> &[AtomicU64] {
        let row = if self.region.is_shared() { crate::slot::slot() } else { 0 };
        let start = row * self.columns;
        self.region.words().get(start..start + self.columns).unwrap_or_default()
    }
}

fn take_one(word: &AtomicU64) {
    let _ = word.fetch_update(Relaxed, Relaxed, |count| count.checked_sub(1));
}

/// The key of a table, and its words.
fn place(key: &str, columns: usize) -> (String, usize) {
    (format!("per worker table {key}"), columns.saturating_mul(SLOTS))
}

/// Forgets everything that the worker of this slot counted in a table.
pub(super) fn forget(table: &[AtomicU64], slot: usize) {
    let columns = table.len() / SLOTS;
    table.iter().skip(slot.saturating_mul(columns)).take(columns).for_each(|word| word.store(0, Relaxed));
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
        zone.forget(5);
        assert_eq!(table.sum(1), 2);
        zone.forget(0);
        assert_eq!(table.sum(1), 0);
    }
}
