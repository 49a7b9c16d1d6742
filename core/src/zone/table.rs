//! A hash table in a region of a zone: entries of a fixed size, found by their key, ordered by their last use.
//!
//! Entries and buckets refer to each other by number. Every number read is checked and every walk is bounded, so that
//! whatever has happened to the words, an operation ends with a result or with [`Damaged`]; then the table is begun anew.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use sha1::{Digest, Sha1};

use super::{Forget, Region, Zone, hash};

const MAGIC: u64 = 0x7469_6465_7461_626c; // "tidetabl"
/// Words of the table's own: magic, shape, two of the hash's key, newest and oldest, free and fresh, length, spare.
const SHAPE: usize = 1;
const SEED: usize = 2;
const ENDS: usize = 4;
const FREE: usize = 5;
const LENGTH: usize = 6;
const BUCKETS: usize = 8;
/// Words of an entry's own: next in its bucket and length of the key, neighbours in order of use, hash. Then come the
/// key and the values.
const ENTRY: usize = 3;
/// Longest key, in octets.
pub const LONGEST_KEY: usize = 255;
/// Most values of an entry.
const MOST_VALUES: usize = 64;

/// How large entries are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Octets of the longest key, at most [`LONGEST_KEY`].
    pub key: usize,
    /// Values of an entry.
    pub values: usize,
}

/// What was read cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damaged;

/// An entry of a table, as long as nothing is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry(u32);

/// A table that all workers see.
pub struct Table {
    region: Region,
    shape: Shape,
    name: String,
}

impl Table {
    /// The table that fills a zone, found again by a later generation; `purpose` tells it from other uses of the zone.
    ///
    /// # Errors
    /// The zone is in other use.
    pub fn in_zone(zone: &Rc<Zone>, purpose: &str, shape: Shape) -> Result<Table, String> {
        let region = zone.whole(purpose, repair)?;
        Ok(Table { region, shape, name: zone.name().to_owned() })
    }

    /// A table that only this process sees.
    pub fn private(words: usize, shape: Shape) -> Table {
        Table { region: Region::private(words), shape, name: String::new() }
    }

    /// Works on the table while nobody else does. One that turns out to be damaged is emptied, and the work is begun
    /// again; `None` when even then it cannot be done.
    pub fn with<R>(&self, mut act: impl FnMut(&View<'_>) -> Result<R, Damaged>) -> Option<R> {
        self.region.locked(|words| {
            for _ in 0..2 {
                match View::open(words, self.shape).and_then(|view| act(&view)) {
                    Ok(result) => return Some(result),
                    Err(Damaged) => {
                        crate::log::process::of_process(|log| {
                            crate::log!(
                                log,
                                Alert,
                                "shared memory zone \"{}\" was damaged and has been reset",
                                self.name
                            );
                        });
                        View::format(words, self.shape);
                    }
                }
            }
            None
        })
    }

    /// Has `forget` called for every worker that ends.
    pub fn when_a_worker_ends(&self, forget: Forget) {
        self.region.when_a_worker_ends(forget);
    }

    /// What stands for `key` where it is too long: as much of its beginning as there is room for, and a digest.
    pub fn fit<'k>(&self, key: &'k [u8]) -> Cow<'k, [u8]> {
        if key.len() <= self.shape.key {
            return Cow::Borrowed(key);
        }
        let digest = Sha1::digest(key);
        let beginning = key.get(..self.shape.key.saturating_sub(digest.len())).unwrap_or_default();
        Cow::Owned(beginning.iter().chain(&digest).copied().take(self.shape.key).collect())
    }
}

/// Makes a table sound after a process has died in the middle of a change: as it is, or empty.
fn repair(words: &[AtomicU64]) -> bool {
    let untouched = words.first().is_none_or(|word| word.load(Relaxed) == 0);
    if untouched || View::stored(words).is_ok_and(|view| view.verify().is_ok()) {
        return true;
    }
    if let Some(word) = words.first() {
        super::store(word, 0);
    }
    false
}

/// A table while its lock is held.
pub struct View<'a> {
    words: &'a [AtomicU64],
    shape: Shape,
    stride: usize,
    capacity: u32,
}

impl<'a> View<'a> {
    fn over(words: &'a [AtomicU64], shape: Shape) -> Self {
        let stride = ENTRY + shape.key.div_ceil(8) + shape.values;
        let capacity = words.len().saturating_sub(BUCKETS) / (stride + 1);
        // A third of the numbers is more than any zone has room for.
        View { words, shape, stride, capacity: u32::try_from(capacity).unwrap_or(u32::MAX / 3) }
    }

    fn open(words: &'a [AtomicU64], shape: Shape) -> Result<Self, Damaged> {
        if words.first().is_some_and(|word| word.load(Relaxed) == 0) {
            View::format(words, shape);
        }
        let view = View::stored(words)?;
        if view.shape == shape { Ok(view) } else { Err(Damaged) }
    }

    /// The table that lies in these words.
    ///
    /// # Errors
    /// There is none.
    pub fn stored(words: &'a [AtomicU64]) -> Result<Self, Damaged> {
        let read = |at: usize| words.get(at).map_or(0, |word| word.load(Relaxed));
        let (key, values) = halves(read(SHAPE));
        let shape = Shape { key: index(key), values: index(values) };
        if read(0) != MAGIC || shape.key > LONGEST_KEY || shape.values > MOST_VALUES {
            return Err(Damaged);
        }
        let view = View::over(words, shape);
        let (_, fresh) = halves(read(FREE));
        if fresh > view.capacity || read(LENGTH) > u64::from(fresh) { Err(Damaged) } else { Ok(view) }
    }

    fn format(words: &'a [AtomicU64], shape: Shape) {
        let view = View::over(words, shape);
        view.write(0, 0);
        for at in SHAPE..BUCKETS + index(view.capacity) {
            view.write(at, 0);
        }
        view.write(SHAPE, pair(number(shape.key), number(shape.values)));
        view.write(SEED, crate::chance::number().unwrap_or_else(|_| crate::clock::monotonic()));
        view.write(SEED + 1, crate::chance::number().unwrap_or_else(|_| u64::from(std::process::id())));
        view.write(0, MAGIC);
    }

    /// How many entries there is room for.
    pub fn capacity(&self) -> usize {
        index(self.capacity)
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        usize::try_from(self.read(LENGTH)).unwrap_or(0)
    }

    /// True when there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The entry with this key.
    ///
    /// # Errors
    /// The table is damaged.
    pub fn find(&self, key: &[u8]) -> Result<Option<Entry>, Damaged> {
        let hash = self.hash(key);
        let mut at = halves(self.read(self.bucket(hash))).1;
        for _ in 0..=self.len() {
            let Some(entry) = self.entry(at)? else { return Ok(None) };
            if self.read(self.word(entry, 2)) == hash && self.has_key(entry, key) {
                return Ok(Some(entry));
            }
            at = halves(self.read(self.word(entry, 0))).0;
        }
        Err(Damaged)
    }

    /// Adds an entry with this key, which must not be there yet, as the one used last. Its values are zero. `None` when
    /// the table is full, or the key too long for it.
    ///
    /// # Errors
    /// The table is damaged.
    pub fn insert(&self, key: &[u8]) -> Result<Option<Entry>, Damaged> {
        if key.len() > self.shape.key {
            return Ok(None);
        }
        let Some(entry) = self.take_free()? else { return Ok(None) };
        let hash = self.hash(key);
        let key_at = self.word(entry, ENTRY);
        for (at, chunk) in key.chunks(8).enumerate() {
            self.write(key_at + at, octets(chunk));
        }
        for value in 0..self.shape.values {
            self.set_value(entry, value, 0);
        }
        let bucket = self.bucket(hash);
        self.write(self.word(entry, 2), hash);
        self.write(self.word(entry, 0), pair(halves(self.read(bucket)).1, number(key.len() + 1)));
        self.write(bucket, pair(0, entry.0));
        self.push(entry)?;
        self.write(LENGTH, self.read(LENGTH).saturating_add(1));
        Ok(Some(entry))
    }

    /// Makes the entry the one used last.
    ///
    /// # Errors
    /// The table is damaged.
    pub fn touch(&self, entry: Entry) -> Result<(), Damaged> {
        if halves(self.read(ENDS)).0 == entry.0 {
            return Ok(());
        }
        self.unlink(entry)?;
        self.push(entry)
    }

    /// The entry that has not been used for the longest time.
    ///
    /// # Errors
    /// The table is damaged.
    pub fn oldest(&self) -> Result<Option<Entry>, Damaged> {
        self.entry(halves(self.read(ENDS)).1)
    }

    /// The entry that was used next after this one.
    ///
    /// # Errors
    /// The table is damaged.
    pub fn newer(&self, entry: Entry) -> Result<Option<Entry>, Damaged> {
        self.entry(halves(self.read(self.word(entry, 1))).0)
    }

    /// Removes an entry.
    ///
    /// # Errors
    /// The table is damaged.
    pub fn remove(&self, entry: Entry) -> Result<(), Damaged> {
        let bucket = self.bucket(self.read(self.word(entry, 2)));
        let next = halves(self.read(self.word(entry, 0))).0;
        let mut before = None;
        let mut at = halves(self.read(bucket)).1;
        for _ in 0..=self.len() {
            let Some(other) = self.entry(at)? else { return Err(Damaged) };
            if other == entry {
                match before {
                    None => self.write(bucket, pair(0, next)),
                    Some(before) => {
                        let word = self.word(before, 0);
                        self.write(word, pair(next, halves(self.read(word)).1));
                    }
                }
                self.unlink(entry)?;
                let (free, fresh) = halves(self.read(FREE));
                self.write(self.word(entry, 0), pair(free, 0));
                self.write(FREE, pair(entry.0, fresh));
                self.write(LENGTH, self.read(LENGTH).checked_sub(1).ok_or(Damaged)?);
                return Ok(());
            }
            before = Some(other);
            at = halves(self.read(self.word(other, 0))).0;
        }
        Err(Damaged)
    }

    /// A value of an entry.
    pub fn value(&self, entry: Entry, which: usize) -> u64 {
        self.read(self.value_at(entry, which))
    }

    /// Sets a value of an entry.
    pub fn set_value(&self, entry: Entry, which: usize, value: u64) {
        if which < self.shape.values {
            self.write(self.value_at(entry, which), value);
        }
    }

    /// Looks at everything.
    ///
    /// # Errors
    /// The table is damaged.
    pub fn verify(&self) -> Result<(), Damaged> {
        let length = self.len();
        // As many entries are in use, in the order of use and in the buckets: so they are the same.
        let (_, fresh) = halves(self.read(FREE));
        let used = (1..=fresh).filter(|at| matches!(self.entry(*at), Ok(Some(_)))).count();
        if used != length || self.count_in_order(length)? != length || self.count_in_buckets(length)? != length {
            return Err(Damaged);
        }
        let (mut at, mut count) = (halves(self.read(FREE)).0, 0_usize);
        while at != 0 {
            let (next, tag) = halves(self.read(self.word(Entry(at), 0)));
            count += 1;
            if at > fresh || tag != 0 || count > index(fresh) {
                return Err(Damaged);
            }
            at = next;
        }
        if count + length == index(fresh) { Ok(()) } else { Err(Damaged) }
    }

    fn count_in_order(&self, most: usize) -> Result<usize, Damaged> {
        let (mut at, oldest) = halves(self.read(ENDS));
        let (mut count, mut before) = (0, 0);
        while let Some(entry) = self.entry(at)? {
            let (newer, older) = halves(self.read(self.word(entry, 1)));
            count += 1;
            if newer != before || count > most {
                return Err(Damaged);
            }
            (before, at) = (entry.0, older);
        }
        if before == oldest { Ok(count) } else { Err(Damaged) }
    }

    fn count_in_buckets(&self, most: usize) -> Result<usize, Damaged> {
        let mut count = 0;
        for bucket in BUCKETS..BUCKETS + self.capacity() {
            let mut at = halves(self.read(bucket)).1;
            while let Some(entry) = self.entry(at)? {
                let hash = self.read(self.word(entry, 2));
                count += 1;
                if count > most || self.bucket(hash) != bucket || self.hash(&self.key(entry)) != hash {
                    return Err(Damaged);
                }
                at = halves(self.read(self.word(entry, 0))).0;
            }
        }
        Ok(count)
    }

    /// The key of an entry.
    pub fn key(&self, entry: Entry) -> Vec<u8> {
        let length = index(halves(self.read(self.word(entry, 0))).1).saturating_sub(1).min(self.shape.key);
        let at = self.word(entry, ENTRY);
        let words = (0..length.div_ceil(8)).flat_map(|word| self.read(at + word).to_le_bytes());
        words.take(length).collect()
    }

    fn has_key(&self, entry: Entry, key: &[u8]) -> bool {
        let at = self.word(entry, ENTRY);
        halves(self.read(self.word(entry, 0))).1 == number(key.len() + 1)
            && key.chunks(8).enumerate().all(|(word, chunk)| self.read(at + word) == octets(chunk))
    }

    fn take_free(&self) -> Result<Option<Entry>, Damaged> {
        let (free, fresh) = halves(self.read(FREE));
        if free == 0 {
            if fresh >= self.capacity {
                return Ok(None);
            }
            self.write(FREE, pair(0, fresh + 1));
            return Ok(Some(Entry(fresh + 1)));
        }
        if free > fresh {
            return Err(Damaged);
        }
        let (next, tag) = halves(self.read(self.word(Entry(free), 0)));
        if tag != 0 {
            return Err(Damaged);
        }
        self.write(FREE, pair(next, fresh));
        Ok(Some(Entry(free)))
    }

    /// Puts an entry that is in no order at the newest end.
    fn push(&self, entry: Entry) -> Result<(), Damaged> {
        let (newest, oldest) = halves(self.read(ENDS));
        match self.entry(newest)? {
            None if oldest != 0 => return Err(Damaged),
            None => {}
            Some(other) => {
                let word = self.word(other, 1);
                let (newer, older) = halves(self.read(word));
                if newer != 0 || other == entry {
                    return Err(Damaged);
                }
                self.write(word, pair(entry.0, older));
            }
        }
        self.write(self.word(entry, 1), pair(0, newest));
        self.write(ENDS, pair(entry.0, if oldest == 0 { entry.0 } else { oldest }));
        Ok(())
    }

    fn unlink(&self, entry: Entry) -> Result<(), Damaged> {
        let (newer, older) = halves(self.read(self.word(entry, 1)));
        let (mut newest, mut oldest) = halves(self.read(ENDS));
        match self.entry(newer)? {
            None if newest != entry.0 => return Err(Damaged),
            None => newest = older,
            Some(other) => {
                let word = self.word(other, 1);
                let (its_newer, its_older) = halves(self.read(word));
                if its_older != entry.0 {
                    return Err(Damaged);
                }
                self.write(word, pair(its_newer, older));
            }
        }
        match self.entry(older)? {
            None if oldest != entry.0 => return Err(Damaged),
            None => oldest = newer,
            Some(other) => {
                let word = self.word(other, 1);
                let (its_newer, its_older) = halves(self.read(word));
                if its_newer != entry.0 {
                    return Err(Damaged);
                }
                self.write(word, pair(newer, its_older));
            }
        }
        self.write(ENDS, pair(newest, oldest));
        Ok(())
    }

    /// The entry in use with this number; `None` for zero, the end of every chain.
    fn entry(&self, at: u32) -> Result<Option<Entry>, Damaged> {
        if at == 0 {
            return Ok(None);
        }
        let (_, fresh) = halves(self.read(FREE));
        if at > fresh || fresh > self.capacity {
            return Err(Damaged);
        }
        let (_, tag) = halves(self.read(self.word(Entry(at), 0)));
        if tag == 0 || index(tag) > self.shape.key + 1 { Err(Damaged) } else { Ok(Some(Entry(at))) }
    }

    fn bucket(&self, hash: u64) -> usize {
        BUCKETS + usize::try_from(hash % u64::from(self.capacity.max(1))).unwrap_or(0)
    }

    fn word(&self, entry: Entry, which: usize) -> usize {
        // An entry's number is at least one, and at most the capacity: or what is read there is out of range, and zero.
        let before = index(entry.0).saturating_sub(1).saturating_mul(self.stride);
        (BUCKETS + index(self.capacity)).saturating_add(before).saturating_add(which)
    }

    fn value_at(&self, entry: Entry, which: usize) -> usize {
        self.word(entry, ENTRY + self.shape.key.div_ceil(8) + which)
    }

    fn hash(&self, key: &[u8]) -> u64 {
        hash::keyed((self.read(SEED), self.read(SEED + 1)), key)
    }

    fn read(&self, at: usize) -> u64 {
        self.words.get(at).map_or(0, |word| word.load(Relaxed))
    }

    fn write(&self, at: usize, value: u64) {
        if let Some(word) = self.words.get(at) {
            super::store(word, value);
        }
    }
}

fn halves(word: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = word.to_be_bytes();
    (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]))
}

fn pair(upper: u32, lower: u32) -> u64 {
    u64::from(upper) << 32 | u64::from(lower)
}

fn octets(chunk: &[u8]) -> u64 {
    let mut octets = [0; 8];
    octets.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
    u64::from_le_bytes(octets)
}

fn index(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn number(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { key: 20, values: 2 };

    /// Small, seeded, and good enough to choose operations.
    struct Dice(u64);

    impl Dice {
        fn roll(&mut self, sides: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % sides
        }
    }

    /// Keys of all lengths, of which some begin alike.
    fn key(number: u64) -> Vec<u8> {
        let length = usize::try_from(number % 21).unwrap();
        let mut key = vec![b'k'; length];
        key.iter_mut().rev().zip(number.to_le_bytes()).for_each(|(to, from)| *to = from);
        key
    }

    /// The entries in order of use, the newest last.
    type Model = Vec<(Vec<u8>, u64)>;

    fn step(view: &View<'_>, model: &mut Model, dice: &mut Dice) -> Result<(), Damaged> {
        let key = key(dice.roll(60));
        let at = model.iter().position(|(other, _)| *other == key);
        let found = view.find(&key)?;
        assert_eq!(found.is_some(), at.is_some());
        match (dice.roll(4), found, at) {
            (0, Some(entry), Some(at)) => {
                view.remove(entry)?;
                model.remove(at);
            }
            (1, ..) => {
                if let Some(entry) = view.oldest()? {
                    assert_eq!(view.key(entry), model[0].0);
                    view.remove(entry)?;
                    model.remove(0);
                } else {
                    assert!(model.is_empty());
                }
            }
            (_, Some(entry), Some(at)) => {
                view.touch(entry)?;
                assert_eq!(view.value(entry, 1), model[at].1);
                let (key, value) = model.remove(at);
                view.set_value(entry, 1, value + 1);
                model.push((key, value + 1));
            }
            _ => match view.insert(&key)? {
                Some(entry) => {
                    assert_eq!(view.value(entry, 1), 0);
                    model.push((key, 0));
                }
                None => assert_eq!(model.len(), view.capacity()),
            },
        }
        Ok(())
    }

    #[test]
    fn it_does_what_a_plain_list_does() {
        for seed in 0..20 {
            let (mut dice, mut model) = (Dice(seed), Vec::new());
            let table = Table::private(BUCKETS + 40 * 9, SHAPE);
            for _ in 0..2000 {
                table.with(|view| step(view, &mut model, &mut dice)).unwrap();
                let keys = table.with(|view| {
                    view.verify()?;
                    let (mut keys, mut at) = (Vec::new(), view.oldest()?);
                    while let Some(entry) = at {
                        keys.push(view.key(entry));
                        at = view.newer(entry)?;
                    }
                    Ok(keys)
                });
                assert!(keys.unwrap().iter().eq(model.iter().map(|(key, _)| key)));
            }
        }
    }

    #[test]
    fn whatever_its_words_are_it_neither_panics_nor_runs_forever() {
        let mut resets = 0;
        for seed in 0..3000 {
            let mut dice = Dice(seed);
            let table = Table::private(BUCKETS + 20 * 9, SHAPE);
            let words = table.region.words();
            for round in 0..60 {
                if round % 20 == 19 {
                    let at = usize::try_from(dice.roll(if seed % 2 == 0 { 28 } else { 188 })).unwrap();
                    let small = dice.roll(30);
                    let value = [0, u64::MAX, small, small << 32, pair(number(at), 1), dice.0, dice.0 << 1];
                    words[at].store(value[usize::try_from(dice.roll(7)).unwrap()], Relaxed);
                }
                let mut tries = 0;
                let mut act = |view: &View<'_>| {
                    tries += 1;
                    let key = key(dice.roll(40));
                    match (dice.roll(3), view.find(&key)?) {
                        (0, Some(entry)) => view.remove(entry),
                        (_, Some(entry)) => view.touch(entry),
                        (_, None) => match view.insert(&key)? {
                            Some(_) => Ok(()),
                            None => view.oldest()?.map_or(Err(Damaged), |oldest| view.remove(oldest)),
                        },
                    }
                };
                assert!(table.with(&mut act).is_some());
                resets += tries - 1;
            }
            // What nobody has stumbled over yet, a check finds; and then the table is as good as new.
            let sound = repair(words);
            table.with(|view| view.verify()).unwrap();
            assert!(!sound || table.with(|view| Ok(view.len())).unwrap() <= 20);
        }
        assert!(resets > 100, "{resets}");
    }

    #[test]
    fn long_keys_are_told_apart_by_their_digest() {
        let table = Table::private(1000, Shape { key: 255, values: 1 });
        let long = |end: u8| [vec![b'x'; 400], vec![end]].concat();
        assert_eq!(table.fit(&long(1)).len(), 255);
        assert_ne!(table.fit(&long(1)), table.fit(&long(2)));
        assert_eq!(&*table.fit(b"short"), b"short");
        assert!(table.with(|view| view.insert(&[0; 256])).unwrap().is_none());
    }

    #[test]
    fn a_table_of_another_shape_is_begun_anew() {
        let table = Table::private(1000, SHAPE);
        table.with(|view| view.insert(b"a")).unwrap();
        let other = Table { region: table.region, shape: Shape { key: 16, values: 1 }, name: String::new() };
        assert_eq!(other.with(|view| Ok(view.len())), Some(0));
    }

    #[test]
    fn no_room_at_all_is_no_panic() {
        let table = Table::private(BUCKETS, SHAPE);
        assert_eq!(table.with(|view| view.insert(b"a")), Some(None));
        assert_eq!(Table::private(0, SHAPE).with(|view| view.insert(b"a")), None);
    }
}
