//! The meter that tells valgrind which instructions to count.

use std::cell::Cell;
use std::hint::black_box;
use std::rc::Rc;

/// How often a row is run before it counts, so that what is made once has been made.
const BEFORE: u64 = 100;

/// Counts the runs of a row.
#[derive(Clone)]
pub struct Meter {
    run: Rc<Cell<u64>>,
    last: u64,
}

impl Meter {
    /// So many runs count.
    pub fn new(times: u64) -> Meter {
        Meter { run: Rc::default(), last: BEFORE + times }
    }

    /// Begins the next run; false when there have been enough.
    pub fn next(&self) -> bool {
        self.run.set(self.run.get() + 1);
        self.run.get() <= self.last
    }

    /// A part of a run.
    pub fn part(&self, mut work: impl FnMut()) {
        if self.run.get() > BEFORE { counted(&mut work) } else { work() }
    }

    /// Runs `work` as often as it takes. What `make` gives it is made, and dropped with its result, without being counted.
    pub fn repeat<T, R>(&self, mut make: impl FnMut() -> T, mut work: impl FnMut(&mut T) -> R) {
        while self.next() {
            let (mut given, mut result) = (make(), None);
            self.part(|| result = Some(work(&mut given)));
            black_box(result);
        }
    }
}

/// Callgrind knows this function by its name, and counts from its beginning to its end.
#[inline(never)]
fn counted(work: &mut dyn FnMut()) {
    work();
    // So that the end is no jump.
    black_box(());
}
