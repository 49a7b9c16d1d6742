//! All deadlines of a worker: one heap of them, and one sleep of the runtime for the nearest. A connection that waits takes
//! a few words here instead of a timer of its own.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use slab::Slab;
use tokio::task::unconstrained;
use tokio::time::Sleep;

thread_local! {
    static DEADLINES: RefCell<Deadlines> = RefCell::default();
}

/// The deadline of one waiting task. The task is woken once when it has passed; it is forgotten when this is dropped.
#[derive(Debug)]
pub(super) struct Deadline {
    key: usize,
}

impl Deadline {
    /// Has the task of `waker` woken at `at`.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub(super) fn new(at: Instant, waker: &Waker) -> Deadline {
        let (key, needs_driver) = DEADLINES.with_borrow_mut(|deadlines| {
            let key = deadlines.entries.insert(Entry { at, waker: Some(waker.clone()), position: 0 });
            deadlines.push(key);
            (key, !std::mem::replace(&mut deadlines.is_driven, true))
        });
        if needs_driver {
            tokio::spawn(drive());
        }
        Deadline { key }
    }

    /// True when the task of `waker` is yet to be woken by this, and not later than at `at`.
    pub(super) fn will_wake(&self, waker: &Waker, at: Instant) -> bool {
        DEADLINES.with_borrow(|deadlines| {
            let entry = deadlines.entries.get(self.key);
            entry.is_some_and(|entry| entry.at <= at && entry.waker.as_ref().is_some_and(|own| own.will_wake(waker)))
        })
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        // Where the thread ends, there is nobody left to be woken.
        let _ = DEADLINES.try_with(|deadlines| deadlines.borrow_mut().remove(self.key));
    }
}

#[derive(Default)]
struct Deadlines {
    entries: Slab<Entry>,
    /// Keys of the entries whose tasks are yet to be woken, as a binary heap: the nearest deadline first.
    heap: Vec<usize>,
    /// The driver's task runs.
    is_driven: bool,
    /// The driver, and when it will look next.
    driver: Option<(Waker, Option<Instant>)>,
}

struct Entry {
    at: Instant,
    /// Whom to wake; nobody once that is done.
    waker: Option<Waker>,
    /// Where the key lies in the heap.
    position: usize,
}

impl Deadlines {
    fn nearest(&self) -> Option<Instant> {
        self.heap.first().and_then(|key| self.at(*key))
    }

    fn at(&self, key: usize) -> Option<Instant> {
        self.entries.get(key).map(|entry| entry.at)
    }

    fn push(&mut self, key: usize) {
        self.heap.push(key);
        self.rise(self.heap.len() - 1);
        let nearest = self.nearest();
        if let Some((driver, planned)) = &mut self.driver
            && planned.is_none_or(|planned| nearest.is_some_and(|nearest| nearest < planned))
        {
            // Asked for once: it looks at everything when it comes.
            *planned = nearest;
            driver.wake_by_ref();
        }
    }

    /// Forgets an entry, wherever it is.
    fn remove(&mut self, key: usize) {
        if let Some(Entry { waker: Some(_), position, .. }) = self.entries.try_remove(key) {
            self.take_out(position);
        }
    }

    /// The task of the nearest deadline, if that has passed.
    fn due(&mut self, now: Instant) -> Option<Waker> {
        let nearest = *self.heap.first()?;
        let entry = self.entries.get_mut(nearest).filter(|entry| entry.at <= now)?;
        let waker = entry.waker.take();
        self.take_out(0);
        waker
    }

    fn take_out(&mut self, position: usize) {
        if position < self.heap.len() {
            self.heap.swap_remove(position);
            self.rise(position);
            self.sink(position);
        }
    }

    /// Moves a key towards the front until none behind it is nearer.
    fn rise(&mut self, mut position: usize) {
        while position > 0 && self.is_before(position, (position - 1) / 2) {
            self.swap(position, (position - 1) / 2);
            position = (position - 1) / 2;
        }
        self.note(position);
    }

    /// Moves a key towards the end until none before it is farther.
    fn sink(&mut self, mut position: usize) {
        loop {
            let (left, right) = (2 * position + 1, 2 * position + 2);
            let nearer = if self.is_before(right, left) { right } else { left };
            if !self.is_before(nearer, position) {
                return self.note(position);
            }
            self.swap(position, nearer);
            position = nearer;
        }
    }

    /// Whether the deadline at one position is nearer than at the other. There is none behind the end.
    fn is_before(&self, one: usize, other: usize) -> bool {
        let at = |position: usize| self.heap.get(position).and_then(|key| self.at(*key));
        match (at(one), at(other)) {
            (Some(one), Some(other)) => one < other,
            _ => false,
        }
    }

    fn swap(&mut self, one: usize, other: usize) {
        self.heap.swap(one, other);
        self.note(one);
        self.note(other);
    }

    /// Tells the entry at a position where it is.
    fn note(&mut self, position: usize) {
        if let Some(entry) = self.heap.get(position).and_then(|key| self.entries.get_mut(*key)) {
            entry.position = position;
        }
    }
}

/// Wakes the tasks whose deadlines have passed, as long as the runtime lives.
async fn drive() {
    let _driven = Driven;
    let mut sleep = pin!(tokio::time::sleep_until(tokio::time::Instant::now()));
    poll_fn(|cx| {
        loop {
            let now = Instant::now();
            while let Some(waker) = DEADLINES.with_borrow_mut(|deadlines| deadlines.due(now)) {
                waker.wake();
            }
            let nearest = DEADLINES.with_borrow_mut(|deadlines| {
                let nearest = deadlines.nearest();
                deadlines.driver = Some((cx.waker().clone(), nearest));
                nearest
            });
            // Without any there is nothing to look for: the next one wakes this task.
            let Some(nearest) = nearest else { return Poll::<()>::Pending };
            if !is_over(sleep.as_mut(), nearest, cx) {
                return Poll::Pending;
            }
        }
    })
    .await;
}

fn is_over(mut sleep: std::pin::Pin<&mut Sleep>, at: Instant, cx: &mut Context<'_>) -> bool {
    sleep.as_mut().reset(tokio::time::Instant::from_std(at));
    // A task that has used up its budget would be told to come back without anything having been armed.
    pin!(unconstrained(sleep)).poll(cx).is_ready()
}

/// Dropped with the driver, however it ends: the next deadline has another made.
struct Driven;

impl Drop for Driven {
    fn drop(&mut self) {
        let _ = DEADLINES.try_with(|deadlines| {
            let mut deadlines = deadlines.borrow_mut();
            (deadlines.is_driven, deadlines.driver) = (false, None);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Deadlines in every order, removed in every other: the heap gives the nearest of what is left.
    #[test]
    fn the_nearest_comes_first_whatever_was_taken_out() {
        let base = Instant::now();
        let at = |number: u64| base + Duration::from_secs(number);
        // Steps that are coprime to the length visit every number, each in another order.
        for (there, back) in [(1, 1), (1, 60), (7, 11), (13, 5), (60, 1), (23, 23)] {
            let mut deadlines = Deadlines::default();
            let mut keys = vec![0; 61];
            for number in (0..61).map(|turn| turn * there % 61) {
                let entry = Entry { at: at(number as u64), waker: Some(Waker::noop().clone()), position: 0 };
                keys[number] = deadlines.entries.insert(entry);
                deadlines.push(keys[number]);
            }
            let mut left: std::collections::BTreeSet<usize> = (0..61).collect();
            for number in (0..40).map(|turn| turn * back % 61) {
                deadlines.remove(keys[number]);
                left.remove(&number);
                assert_eq!(deadlines.nearest(), left.first().map(|first| at(*first as u64)), "{there} {back}");
            }
            for number in left {
                assert!(deadlines.due(at(number as u64) - Duration::from_nanos(1)).is_none());
                assert!(deadlines.due(at(number as u64)).is_some());
            }
            assert!(deadlines.nearest().is_none() && deadlines.heap.is_empty());
        }
    }

    #[test]
    fn a_runtime_after_another_has_a_driver_of_its_own() {
        for _ in 0..3 {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            runtime.block_on(async {
                for _ in 0..3 {
                    let at = Instant::now() + Duration::from_millis(5);
                    let mut deadline = None;
                    let waiting = poll_fn(|cx| {
                        if Instant::now() >= at {
                            return Poll::Ready(());
                        }
                        deadline.get_or_insert_with(|| Deadline::new(at, cx.waker()));
                        Poll::Pending
                    });
                    tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap();
                }
            });
        }
        DEADLINES.with_borrow(|deadlines| assert!(deadlines.entries.is_empty() && !deadlines.is_driven));
    }
}
