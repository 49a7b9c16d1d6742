//! A subject's own memory: values set at run time, remembered results, and the captures of the last match.

use std::cell::{Cell, RefCell};
use std::ops::Range;

/// How deep variables may refer to variables before it must be a cycle.
const DEPTH: u8 = 32;

/// What a variable's slot holds.
#[derive(Clone, Debug, Default)]
enum Slot {
    #[default]
    Unset,
    Absent,
    Value(Box<[u8]>),
}

/// The ranges of a match in the text it was found in.
#[derive(Debug, Default)]
struct Captures {
    text: Vec<u8>,
    groups: Vec<Option<Range<usize>>>,
}

/// Per-subject state of variables. Takes no memory until something is set.
#[derive(Debug, Default)]
pub struct Slots {
    values: RefCell<Vec<Slot>>,
    captures: RefCell<Option<Box<Captures>>>,
    depth: Cell<u8>,
}

impl Slots {
    /// Sets the value of a slot; `None` means "known to be absent".
    pub fn set(&self, index: usize, value: Option<&[u8]>) {
        let mut values = self.values.borrow_mut();
        if values.len() <= index {
            values.resize(index + 1, Slot::Unset);
        }
        if let Some(slot) = values.get_mut(index) {
            *slot = value.map_or(Slot::Absent, |value| Slot::Value(value.into()));
        }
    }

    /// Appends the slot's value. `None` when it was never set, `Some(false)` when it is known to be absent.
    pub fn read(&self, index: usize, out: &mut Vec<u8>) -> Option<bool> {
        match self.values.borrow().get(index) {
            None | Some(Slot::Unset) => None,
            Some(Slot::Absent) => Some(false),
            Some(Slot::Value(value)) => {
                out.extend_from_slice(value);
                Some(true)
            }
        }
    }

    /// Remembers the groups of a match, group 0 first, for `$1` to `$9`.
    pub fn capture(&self, text: &[u8], groups: Vec<Option<Range<usize>>>) {
        *self.captures.borrow_mut() = Some(Box::new(Captures { text: text.to_vec(), groups }));
    }

    /// Appends a group of the last match.
    pub fn read_capture(&self, group: usize, out: &mut Vec<u8>) -> bool {
        let captures = self.captures.borrow();
        let found = captures.as_ref().and_then(|c| c.text.get(c.groups.get(group)?.clone()?));
        found.map(|text| out.extend_from_slice(text)).is_some()
    }

    /// Runs `evaluate` one level deeper; `None` when variables refer to each other in a circle.
    pub fn deeper<R>(&self, evaluate: impl FnOnce() -> R) -> Option<R> {
        let depth = self.depth.get();
        if depth >= DEPTH {
            return None;
        }
        self.depth.set(depth + 1);
        let result = evaluate();
        self.depth.set(depth);
        Some(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unset_absent_and_set_differ() {
        let slots = Slots::default();
        let mut out = Vec::new();
        assert_eq!(slots.read(3, &mut out), None);
        slots.set(3, None);
        assert_eq!(slots.read(3, &mut out), Some(false));
        slots.set(3, Some(b"x"));
        assert_eq!((slots.read(3, &mut out), &*out), (Some(true), &b"x"[..]));
        assert_eq!(slots.read(0, &mut out), None);
    }

    #[test]
    fn a_circle_ends() {
        fn round(slots: &Slots) -> u32 {
            slots.deeper(|| round(slots)).map_or(0, |n| n + 1)
        }
        assert_eq!(round(&Slots::default()), u32::from(DEPTH));
    }
}
