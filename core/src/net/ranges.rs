//! Values by address: networks within networks, or ranges, looked up in a sorted table.

use std::collections::BTreeMap;

/// Networks, the narrowest of which that an address lies in decides; or ranges, which may lie within each other but not
/// overlap. `K` is an address as a number.
#[derive(Debug)]
pub struct Ranges<K, V> {
    /// By their first address, with their last. None overlaps another.
    pieces: BTreeMap<K, (K, V)>,
}

/// An address as a number.
pub trait Number: Copy + Ord {
    /// The next one, if there is one.
    fn next(self) -> Option<Self>;
    /// The one before, if there is one.
    fn previous(self) -> Option<Self>;
}

macro_rules! number {
    ($type:ty) => {
        impl Number for $type {
            fn next(self) -> Option<Self> {
                self.checked_add(1)
            }

            fn previous(self) -> Option<Self> {
                self.checked_sub(1)
            }
        }
    };
}

number!(u32);
number!(u128);

/// What became of a range that was added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Added<K, V> {
    /// It is there.
    Fresh,
    /// It was there already, with another value, which is no more.
    Replaced(V),
    /// A part of it, and something else, lies in this one: nothing was added.
    Overlaps(K, K),
}

impl<K, V> Default for Ranges<K, V> {
    fn default() -> Self {
        Ranges { pieces: BTreeMap::new() }
    }
}

impl<K: Number, V: Clone> Ranges<K, V> {
    /// Adds a range. One that lies within another takes its part of that.
    pub fn add(&mut self, first: K, last: K, value: V) -> Added<K, V> {
        let touched = self.pieces.range(..=last).next_back().map(|(start, (end, value))| (*start, *end, value.clone()));
        match touched {
            Some((start, end, around)) if end >= first => {
                if start == first && end == last {
                    self.pieces.insert(first, (last, value));
                    return Added::Replaced(around);
                }
                if start > first || end < last {
                    return Added::Overlaps(start, end);
                }
                self.split(start, end, &around, first, last);
                self.pieces.insert(first, (last, value));
            }
            _ => _ = self.pieces.insert(first, (last, value)),
        }
        Added::Fresh
    }

    /// Leaves of a range what lies in front of `first` and behind `last`.
    fn split(&mut self, start: K, end: K, value: &V, first: K, last: K) {
        self.pieces.remove(&start);
        if let Some(before) = first.previous().filter(|_| start < first) {
            self.pieces.insert(start, (before, value.clone()));
        }
        if let Some(behind) = last.next().filter(|_| last < end) {
            self.pieces.insert(behind, (end, value.clone()));
        }
    }

    /// Removes a range: a whole one, or a part of one that is cut where `may_cut` allows it. False when there is none.
    pub fn remove(&mut self, first: K, last: K, may_cut: impl Fn(K) -> bool) -> bool {
        let Some((start, end, value)) =
            self.pieces.range(..=first).next_back().map(|(start, (end, value))| (*start, *end, value.clone()))
        else {
            return false;
        };
        let begins = start == first || may_cut(first);
        let ends = end == last || last.next().is_some_and(may_cut);
        if end < last || !begins || !ends {
            return false;
        }
        self.split(start, end, &value, first, last);
        true
    }

    /// The table to look values up in.
    pub fn into_table(self) -> Table<K, V> {
        Table { rows: self.pieces.into_iter().map(|(first, (last, value))| (first, last, value)).collect() }
    }
}

/// Ranges in order, to look values up in.
#[derive(Debug)]
pub struct Table<K, V> {
    rows: Vec<(K, K, V)>,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Table { rows: Vec::new() }
    }
}

impl<K: Number, V: Clone> Table<K, V> {
    /// The table of networks: of those that an address lies in, the narrowest decides. They lie within each other or
    /// apart.
    pub fn of_networks(mut networks: Vec<(K, K, V)>) -> Table<K, V> {
        // The wider of two that begin together is first.
        networks.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
        let mut rows: Vec<(K, K, V)> = Vec::with_capacity(networks.len());
        // Those that the next one may lie in, the narrowest last, each with the first address that is still to be told of;
        // behind the last of all addresses there is none.
        let mut open: Vec<(Option<K>, K, V)> = Vec::new();
        let mut close = |open: &mut Vec<(Option<K>, K, V)>, until: Option<K>| {
            while let Some((from, last, value)) = open.pop_if(|(_, last, _)| until.is_none_or(|until| *last < until)) {
                rows.extend(from.filter(|from| *from <= last).map(|from| (from, last, value)));
                if let Some((from, _, _)) = open.last_mut() {
                    *from = last.next();
                }
            }
            if let (Some((Some(from), _, value)), Some(before)) = (open.last(), until.and_then(K::previous))
                && *from <= before
            {
                rows.push((*from, before, value.clone()));
            }
        };
        for (first, last, value) in networks {
            close(&mut open, Some(first));
            open.push((Some(first), last, value));
        }
        close(&mut open, None);
        Table { rows }
    }

    /// The value of an address.
    pub fn get(&self, address: K) -> Option<&V> {
        let at = self.rows.partition_point(|(first, _, _)| *first <= address).checked_sub(1)?;
        self.rows.get(at).filter(|(_, last, _)| *last >= address).map(|(_, _, value)| value)
    }

    /// How many different stretches there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// True when no address has a value.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every network of three bits by itself, in pairs and in threes, against looking through all of them.
    #[test]
    fn the_narrowest_network_decides() {
        let mut networks = Vec::new();
        for bits in 0..=3u32 {
            for prefix in 0..(1u32 << bits) {
                let size = 1u64 << (32 - bits);
                let first = u64::from(prefix) * size;
                networks.push((u32::try_from(first).unwrap(), u32::try_from(first + size - 1).unwrap()));
            }
        }
        let probes: Vec<u32> = (0..16).flat_map(|at| [at << 28, (at << 28) | 0x0fff_ffff]).collect();
        for a in 0..networks.len() {
            for b in 0..networks.len() {
                for c in 0..networks.len() {
                    let mut chosen: Vec<usize> = vec![a, b, c];
                    chosen.sort_unstable();
                    chosen.dedup();
                    let rows = chosen.iter().map(|at| (networks[*at].0, networks[*at].1, *at)).collect();
                    let table = Table::of_networks(rows);
                    for probe in &probes {
                        let inside = chosen.iter().filter(|at| (networks[**at].0..=networks[**at].1).contains(probe));
                        let expected = inside.min_by_key(|at| networks[**at].1 - networks[**at].0);
                        assert_eq!(table.get(*probe), expected, "{chosen:?} {probe:x} {table:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn ranges_lie_within_each_other_and_do_not_overlap() {
        let mut ranges = Ranges::default();
        for (first, last, value, expected) in [
            (10u32, 19, 'a', Added::Fresh),
            (30, 39, 'b', Added::Fresh),
            (12, 13, 'c', Added::Fresh),
            (10, 10, 'd', Added::Fresh),
            (19, 19, 'e', Added::Fresh),
            (12, 13, 'f', Added::Replaced('c')),
            (5, 10, 'x', Added::Overlaps(10, 10)),
            (35, 45, 'x', Added::Overlaps(30, 39)),
            (0, 100, 'x', Added::Overlaps(30, 39)),
            (18, 19, 'x', Added::Overlaps(19, 19)),
            (0, 9, 'g', Added::Fresh),
            (u32::MAX, u32::MAX, 'h', Added::Fresh),
        ] {
            assert_eq!(ranges.add(first, last, value), expected, "{first}-{last}");
        }
        assert!(!ranges.remove(31, 38, |_| false) && ranges.remove(32, 35, |at| at % 4 == 0));
        assert!(ranges.remove(0, 9, |_| false) && !ranges.remove(0, 9, |_| true) && !ranges.remove(38, 50, |_| true));
        let table = ranges.into_table();
        let told: String = (0..41).map(|at| table.get(at).copied().unwrap_or('.')).collect();
        assert_eq!(told, "..........daffaaaaae..........bb....bbbb.");
        assert_eq!((table.get(u32::MAX), table.get(u32::MAX - 1)), (Some(&'h'), None));
    }
}
