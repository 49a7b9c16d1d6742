//! Patterns in order, of which the first that matches is wanted.
//!
//! Most of the patterns of a long list have a word without which they cannot match. One pass over the text finds the
//! words that are in it; only patterns whose word has been found, and those without one, are tried.

use std::collections::BTreeMap;
use std::rc::Rc;

use aho_corasick::AhoCorasick;
use smallvec::SmallVec;

use super::{Matches, Regex};
use crate::script::Slots;

/// Patterns of a shorter list are simply tried.
const FEW: usize = 6;

/// Patterns in order, each with what it stands for.
#[derive(Debug)]
pub struct PatternList<T> {
    patterns: Vec<(Rc<Regex>, T)>,
    filter: Option<Filter>,
}

impl<T> Default for PatternList<T> {
    fn default() -> Self {
        PatternList { patterns: Vec::new(), filter: None }
    }
}

impl<T> FromIterator<(Rc<Regex>, T)> for PatternList<T> {
    fn from_iter<I: IntoIterator<Item = (Rc<Regex>, T)>>(patterns: I) -> Self {
        let mut list = PatternList { patterns: patterns.into_iter().collect(), filter: None };
        list.prepare();
        list
    }
}

impl<T> PatternList<T> {
    /// Adds a pattern at the end.
    pub fn push(&mut self, regex: Rc<Regex>, value: T) {
        self.filter = None;
        self.patterns.push((regex, value));
    }

    /// Builds what makes a long list fast, once all of it is there.
    pub fn prepare(&mut self) {
        let filter = Filter::new(self.patterns.iter().map(|(regex, _)| &**regex));
        self.filter = filter.filter(|_| self.patterns.len() >= FEW);
    }

    /// True without a pattern.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// What the first pattern that matches stands for; its groups are left in `slots`.
    ///
    /// # Errors
    /// A pattern that comes before any that matches could not say.
    pub fn find(&self, text: &[u8], slots: &Slots) -> Matches<Option<&T>> {
        let candidates = self.filter.as_ref().and_then(|filter| filter.candidates(text));
        let Some(candidates) = candidates else {
            for (regex, value) in &self.patterns {
                if regex.matches(text, slots)? {
                    return Ok(Some(value));
                }
            }
            return Ok(None);
        };
        for (index, word) in candidates.iter().enumerate() {
            let mut left = *word;
            while left != 0 {
                let at = index * 64 + left.trailing_zeros() as usize;
                left &= left - 1;
                if let Some((regex, value)) = self.patterns.get(at)
                    && regex.matches(text, slots)?
                {
                    return Ok(Some(value));
                }
            }
        }
        Ok(None)
    }
}

/// A bit for each pattern.
type Bits = SmallVec<[u64; 4]>;

/// Says which patterns can match a text.
#[derive(Debug)]
struct Filter {
    words: AhoCorasick,
    /// The patterns of each word.
    owners: Box<[Box<[u32]>]>,
    /// Patterns without a word.
    always: Bits,
}

impl Filter {
    fn new<'a>(patterns: impl Iterator<Item = &'a Regex>) -> Option<Filter> {
        let mut owners: BTreeMap<&[u8], Vec<u32>> = BTreeMap::new();
        let mut always = Bits::new();
        for (index, regex) in patterns.enumerate() {
            always.resize(index / 64 + 1, 0);
            match &regex.program.needs {
                None => add(&mut always, index),
                Some(words) => {
                    for word in words {
                        let owners = owners.entry(word).or_default();
                        let index = u32::try_from(index).ok()?;
                        if owners.last() != Some(&index) {
                            owners.push(index);
                        }
                    }
                }
            }
        }
        let words = AhoCorasick::builder().ascii_case_insensitive(true).build(owners.keys()).ok()?;
        let owners = owners.into_values().map(Vec::into_boxed_slice).collect();
        Some(Filter { words, owners, always })
    }

    /// `None` when finding out would take longer than trying.
    fn candidates(&self, text: &[u8]) -> Option<Bits> {
        let mut bits = self.always.clone();
        let mut left = 1024 + 64 * self.always.len();
        for found in self.words.try_find_overlapping_iter(text).ok()? {
            let owners = self.owners.get(found.pattern().as_usize()).map_or(&[][..], |owners| owners);
            left = left.checked_sub(1 + owners.len())?;
            owners.iter().for_each(|owner| add(&mut bits, *owner as usize));
        }
        Some(bits)
    }
}

fn add(bits: &mut Bits, index: usize) {
    if let Some(word) = bits.get_mut(index / 64) {
        *word |= 1 << (index % 64);
    }
}
