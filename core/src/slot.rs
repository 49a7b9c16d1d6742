//! Which of the processes that serve this one is: a number among those alive, for what is kept per worker in zones, and its
//! place among those of its generation.

use std::cell::Cell;

/// Workers that can be told apart in a zone at once, those of two masters during an upgrade. More of them share: then
/// what a killed one had counted is forgotten when the last of its slot has ended.
pub const SLOTS: usize = 64;

thread_local! {
    static SLOT: Cell<usize> = const { Cell::new(0) };
    static INDEX: Cell<usize> = const { Cell::new(0) };
}

/// This worker's number among those alive; for state kept per worker in zones.
pub fn slot() -> usize {
    SLOT.get()
}

/// This worker's place among those of its generation: which of the sockets with `reuseport` is its own.
pub fn index() -> usize {
    INDEX.get()
}

/// Gives this process its slot and its place.
pub fn set(slot: usize, index: usize) {
    SLOT.set(slot);
    INDEX.set(index);
}

/// The slot for one more worker of a master whose slots begin at `first`: the first one that is free, else the one that
/// fewest share.
pub fn choose(first: usize, taken: impl Iterator<Item = usize> + Clone) -> usize {
    let sharing = |slot: &usize| taken.clone().filter(|other| other == slot).count();
    (0..SLOTS / 2).map(|slot| (first + slot) % SLOTS).min_by_key(sharing).unwrap_or(first % SLOTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_shared_only_when_all_are_taken() {
        let all: Vec<usize> = (0..32).collect();
        for (first, taken, expected) in [
            (0, &[][..], 0),
            (0, &[0, 1, 3], 2),
            (0, &all[..], 0),
            (0, &[&all[..], &[0]].concat(), 1),
            (32, &[], 32),
            (32, &[32], 33),
            (40, &(40..64).collect::<Vec<_>>(), 0),
        ] {
            assert_eq!(choose(first, taken.iter().copied()), expected, "{first} {taken:?}");
        }
    }
}
