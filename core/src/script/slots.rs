//! A subject's own memory: values set at run time, remembered results, and the captures of the last match.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;

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

/// The values of slots.
#[derive(Debug)]
enum Values {
    Own(Vec<Slot>),
    /// A subject and those within it have them in common.
    Shared(Rc<RefCell<Vec<Slot>>>),
}

impl Default for Values {
    fn default() -> Self {
        Values::Own(Vec::new())
    }
}

/// Per-subject state of variables. Takes no memory until something is set.
#[derive(Debug, Default)]
pub struct Slots {
    values: RefCell<Values>,
    captures: RefCell<Option<Box<Captures>>>,
    depth: Cell<u8>,
}

impl Slots {
    /// Sets the value of a slot; `None` means "known to be absent".
    pub fn set(&self, index: usize, value: Option<&[u8]>) {
        let slot = value.map_or(Slot::Absent, |value| Slot::Value(value.into()));
        match &mut *self.values.borrow_mut() {
            Values::Own(values) => put(values, index, slot),
            Values::Shared(values) => put(&mut values.borrow_mut(), index, slot),
        }
    }

    /// Those of a subject within another one: what either sets, both see. What a match has captured is each one's own.
    #[must_use]
    pub fn within(outer: &Slots) -> Slots {
        let values = &mut *outer.values.borrow_mut();
        let shared = match values {
            Values::Shared(shared) => shared.clone(),
            Values::Own(own) => Rc::new(RefCell::new(std::mem::take(own))),
        };
        *values = Values::Shared(shared.clone());
        Slots { values: RefCell::new(Values::Shared(shared)), ..Slots::default() }
    }

    /// Appends the slot's value. `None` when it was never set, `Some(false)` when it is known to be absent.
    pub fn read(&self, index: usize, out: &mut Vec<u8>) -> Option<bool> {
        match &*self.values.borrow() {
            Values::Own(values) => read(values.get(index), out),
            Values::Shared(values) => read(values.borrow().get(index), out),
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

fn put(values: &mut Vec<Slot>, index: usize, slot: Slot) {
    if values.len() <= index {
        values.resize(index + 1, Slot::Unset);
    }
    if let Some(place) = values.get_mut(index) {
        *place = slot;
    }
}

fn read(slot: Option<&Slot>, out: &mut Vec<u8>) -> Option<bool> {
    match slot {
        None | Some(Slot::Unset) => None,
        Some(Slot::Absent) => Some(false),
        Some(Slot::Value(value)) => {
            out.extend_from_slice(value);
            Some(true)
        }
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
    fn values_are_shared_with_subjects_within_and_captures_are_not() {
        let outer = Slots::default();
        outer.set(0, Some(b"outer"));
        outer.capture(b"a", vec![Some(0..1)]);
        let inner = Slots::within(&outer);
        let innermost = Slots::within(&inner);
        innermost.set(1, Some(b"inner"));
        for slots in [&outer, &inner, &innermost] {
            let mut out = Vec::new();
            assert_eq!((slots.read(0, &mut out), slots.read(1, &mut out)), (Some(true), Some(true)));
            assert_eq!(out, b"outerinner");
        }
        assert!(outer.read_capture(0, &mut Vec::new()) && !inner.read_capture(0, &mut Vec::new()));
    }

    #[test]
    fn a_circle_ends() {
        fn round(slots: &Slots) -> u32 {
            slots.deeper(|| round(slots)).map_or(0, |n| n + 1)
        }
        assert_eq!(round(&Slots::default()), u32::from(DEPTH));
    }
}
