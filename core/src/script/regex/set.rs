//! A set of characters: bytes in an ordinary pattern, code points in one that begins with `(*UTF)`.

use std::fmt;

/// The last code point.
pub const LAST: u32 = 0x10_ffff;

/// A set of bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ByteSet([u64; 4]);

impl fmt::Debug for ByteSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries((0..=255_u8).filter(|byte| self.has(*byte))).finish()
    }
}

impl ByteSet {
    /// Every byte.
    pub const ALL: ByteSet = ByteSet([u64::MAX; 4]);

    /// True when the byte is in it.
    #[inline]
    pub fn has(&self, byte: u8) -> bool {
        self.0.get(usize::from(byte >> 6)).is_some_and(|word| word >> (byte & 63) & 1 == 1)
    }

    /// How many bytes at the beginning of a text are in it.
    #[inline]
    pub fn span(&self, text: &[u8]) -> usize {
        let mut length = 0;
        for byte in text {
            if !self.has(*byte) {
                break;
            }
            length += 1;
        }
        length
    }

    /// Adds a byte.
    pub fn add(&mut self, byte: u8) {
        if let Some(word) = self.0.get_mut(usize::from(byte >> 6)) {
            *word |= 1 << (byte & 63);
        }
    }

    /// Both together.
    pub fn union(&self, other: &ByteSet) -> ByteSet {
        let mut words = self.0;
        words.iter_mut().zip(&other.0).for_each(|(word, more)| *word |= more);
        ByteSet(words)
    }

    /// True when no byte is in both.
    pub fn is_disjoint(&self, other: &ByteSet) -> bool {
        self.0.iter().zip(&other.0).all(|(word, other)| word & other == 0)
    }

    /// How many bytes are in it.
    pub fn len(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// Its bytes in order.
    pub fn iter(&self) -> impl Iterator<Item = u8> + '_ {
        (0..=255_u8).filter(|byte| self.has(*byte))
    }
}

/// A set of characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct CharSet {
    low: ByteSet,
    /// Beyond 255: sorted, apart from each other.
    high: Vec<(u32, u32)>,
}

impl CharSet {
    /// The set of one range.
    pub fn range(first: u32, last: u32) -> CharSet {
        let mut set = CharSet::default();
        set.add_range(first, last);
        set
    }

    /// The set of these characters.
    pub fn of(characters: impl IntoIterator<Item = u32>) -> CharSet {
        let mut set = CharSet::default();
        characters.into_iter().for_each(|character| set.add(character));
        set
    }

    /// All characters: code points, or bytes.
    pub fn all(utf: bool) -> CharSet {
        CharSet::range(0, if utf { LAST } else { 255 })
    }

    /// Adds a character.
    pub fn add(&mut self, character: u32) {
        self.add_range(character, character);
    }

    /// Adds a range, both ends included.
    pub fn add_range(&mut self, first: u32, last: u32) {
        self.add_ranges([(first, last)]);
    }

    /// Adds ranges, both ends included.
    pub fn add_ranges(&mut self, ranges: impl IntoIterator<Item = (u32, u32)>) {
        let before = self.high.len();
        for (first, last) in ranges {
            for byte in first..=last.min(255) {
                self.low.add(u8::try_from(byte).unwrap_or(u8::MAX));
            }
            if last > 255 {
                self.high.push((first.max(256), last));
            }
        }
        if self.high.len() > before {
            self.normalize();
        }
    }

    fn normalize(&mut self) {
        self.high.sort_unstable();
        let mut merged: Vec<(u32, u32)> = Vec::with_capacity(self.high.len());
        for (first, last) in self.high.drain(..) {
            match merged.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                _ => merged.push((first, last)),
            }
        }
        self.high = merged;
    }

    /// Adds all of another set.
    pub fn add_all(&mut self, other: &CharSet) {
        self.low = self.low.union(&other.low);
        if !other.high.is_empty() {
            self.high.extend_from_slice(&other.high);
            self.normalize();
        }
    }

    /// The characters that are not in it.
    pub fn negated(&self, utf: bool) -> CharSet {
        let mut low = self.low;
        low.0.iter_mut().for_each(|word| *word = !*word);
        let mut high = Vec::new();
        if utf {
            let mut next = 256;
            for (first, last) in &self.high {
                if *first > next {
                    high.push((next, first - 1));
                }
                next = last + 1;
            }
            if next <= LAST {
                high.push((next, LAST));
            }
        }
        CharSet { low, high }
    }

    /// Only the characters that are bytes.
    pub fn bytes_only(mut self) -> CharSet {
        self.high.clear();
        self
    }

    /// True when the character is in it.
    #[inline]
    pub fn has(&self, character: u32) -> bool {
        match u8::try_from(character) {
            Ok(byte) => self.low.has(byte),
            Err(_) => {
                let after = self.high.partition_point(|(_, last)| *last < character);
                self.high.get(after).is_some_and(|(first, _)| *first <= character)
            }
        }
    }

    /// True when it has no members beyond ASCII, so that one byte is one character in UTF-8, too.
    pub fn is_ascii(&self) -> bool {
        self.high.is_empty() && (128..=255_u8).all(|byte| !self.low.has(byte))
    }

    /// Its members below 256.
    pub fn low(&self) -> &ByteSet {
        &self.low
    }

    /// Its members from 256.
    pub fn high(&self) -> &[(u32, u32)] {
        &self.high
    }

    /// The bytes that an encoded member can begin with, and perhaps others.
    pub fn leads(&self, utf: bool) -> ByteSet {
        if !utf {
            return self.low;
        }
        let mut leads = ByteSet::default();
        (0..128_u8).filter(|byte| self.low.has(*byte)).for_each(|byte| leads.add(byte));
        if !self.is_ascii() {
            (0xc2..=0xf4_u8).for_each(|byte| leads.add(byte));
        }
        leads
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_in_a_set_is_in_its_opposite() {
        let mut set = CharSet::range(0x61, 0x7a);
        set.add_range(0x3b1, 0x3c9);
        set.add_range(0x3c0, 0x400);
        set.add(0xff);
        let opposite = set.negated(true);
        for character in [0, 0x60, 0x61, 0x7a, 0x7b, 0xfe, 0xff, 0x100, 0x3b0, 0x3b1, 0x400, 0x401, LAST] {
            assert_ne!(set.has(character), opposite.has(character), "{character:x}");
        }
        assert_eq!(opposite.negated(true), set);
        assert!(!set.negated(false).has(0x401));
    }
}
