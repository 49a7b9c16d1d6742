//! `accept_mutex`: one worker accepts at a time; the others try again when the first has had its turn.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::zone::counters::Counters;
use crate::zone::owner::Owner;

/// It is waited for so many times at most. Whoever has it for longer was stopped, or is stuck, and more than one may accept
/// at a time: it is a waste, and no harm.
const MOST_WAITS: u32 = 4;

/// A worker's view of whose turn it is. All listeners of the worker share its turn.
pub struct Turn {
    counters: Rc<Counters>,
    delay: Duration,
    /// How many listeners are using the turn.
    users: Cell<usize>,
}

/// The turn, until this is dropped.
pub struct Mine<'a>(&'a Turn);

impl Turn {
    /// The turn that the workers behind these counters share; `delay` is `accept_mutex_delay`.
    pub fn new(counters: Rc<Counters>, delay: Duration) -> Rc<Turn> {
        Rc::new(Turn { counters, delay, users: Cell::new(0) })
    }

    /// Waits for the turn. As in nginx, a worker that finds it taken looks again after `accept_mutex_delay`: whoever has
    /// it meanwhile lets everybody in. A dead worker's turn is over, and one that does not end is not waited for.
    pub async fn take(&self) -> Mine<'_> {
        for _ in 0..MOST_WAITS {
            if self.try_take() {
                break;
            }
            tokio::time::sleep(self.delay).await;
        }
        self.users.set(self.users.get().saturating_add(1));
        Mine(self)
    }

    fn try_take(&self) -> bool {
        let me = Owner::me().word();
        let word = self.counters.turn();
        let seen = word.load(Relaxed);
        seen == me
            || (seen == 0 || Owner::from_word(seen).is_dead())
                && word.compare_exchange(seen, me, Relaxed, Relaxed).is_ok()
    }
}

impl Drop for Mine<'_> {
    fn drop(&mut self) {
        let Turn { users, counters, .. } = self.0;
        users.set(users.get().saturating_sub(1));
        if users.get() == 0 {
            let _ = counters.turn().compare_exchange(Owner::me().word(), 0, Relaxed, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_turn_passes_on_when_it_is_given_back_or_its_owner_has_died() {
        let counters = Rc::new(Counters::private());
        let turn = Turn::new(counters.clone(), Duration::from_millis(1));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (first, second) = (runtime.block_on(turn.take()), runtime.block_on(turn.take()));
        drop(first);
        assert_eq!(counters.turn().load(Relaxed), Owner::me().word(), "another listener has it still");
        drop(second);
        assert_eq!(counters.turn().load(Relaxed), 0);
        let parent = Owner::living(std::os::unix::process::parent_id());
        counters.turn().store(parent.word(), Relaxed);
        assert!(!turn.try_take(), "it is another's");
        drop(runtime.block_on(turn.take()));
        assert_eq!(counters.turn().load(Relaxed), parent.word(), "who does not wait for it does not end it");
        let mut child = std::process::Command::new("true").spawn().unwrap();
        counters.turn().store(Owner::living(child.id()).word(), Relaxed);
        child.wait().unwrap();
        let _mine = runtime.block_on(turn.take());
        assert_eq!(counters.turn().load(Relaxed), Owner::me().word());
    }
}
