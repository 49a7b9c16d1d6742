//! The connections of a worker: how many there are, and how they learn that the worker is going away.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, Waker};

use slab::Slab;
use tokio::sync::Notify;

/// nginx: at most so many idle connections are closed at once to make room.
const MOST_RECLAIMED: usize = 32;
/// Not idle.
const BUSY: u64 = 0;
/// Told to end, to make room.
const RECLAIMED: u64 = u64::MAX;

/// All connections of a worker.
pub struct Connections {
    tasks: RefCell<Slab<Member>>,
    /// How often a connection has become idle.
    idled: Cell<u64>,
    limit: usize,
    stopping: Cell<bool>,
    cut: Cell<bool>,
    change: Notify,
    /// Somebody waits for a change.
    awaited: Cell<bool>,
    count: Cell<u64>,
    /// How many have ended since somebody asked, and who waits for more.
    ended: Cell<usize>,
    enough: Cell<usize>,
    tidy: Notify,
}

impl Connections {
    /// No connections yet; `limit` is `worker_connections`.
    pub fn new(limit: usize) -> Rc<Self> {
        Rc::new(Connections {
            tasks: RefCell::default(),
            idled: Cell::new(BUSY),
            limit,
            stopping: Cell::new(false),
            cut: Cell::new(false),
            change: Notify::new(),
            awaited: Cell::new(false),
            count: Cell::new(0),
            ended: Cell::new(0),
            enough: Cell::new(usize::MAX),
            tidy: Notify::new(),
        })
    }

    /// A place for one more connection; `None` at the limit.
    pub fn admit(self: &Rc<Self>) -> Option<Lifetime> {
        let mut tasks = self.tasks.borrow_mut();
        let member = Member { task: None, idle: BUSY };
        (tasks.len() < self.limit).then(|| Lifetime { key: tasks.insert(member), owner: self.clone() })
    }

    /// Tells some of the connections that have been idle longest to end, to make room for others: an eighth of them, at
    /// least one, at most 32. Returns how many; `None` when none is idle, and none on its way out.
    pub fn reclaim(&self) -> Option<usize> {
        let mut tasks = self.tasks.borrow_mut();
        if tasks.iter().any(|(_, member)| member.idle == RECLAIMED) {
            return Some(0);
        }
        let idle = tasks.iter().filter(|(_, member)| member.idle != BUSY);
        let mut idle: Vec<(u64, usize)> = idle.map(|(key, member)| (member.idle, key)).collect();
        let count = (idle.len() / 8).clamp(1, MOST_RECLAIMED).min(idle.len());
        if count < idle.len() {
            idle.select_nth_unstable(count);
        }
        for (_, key) in idle.iter().take(count) {
            if let Some(member) = tasks.get_mut(*key) {
                member.idle = RECLAIMED;
                member.task.iter().for_each(Waker::wake_by_ref);
            }
        }
        (count > 0).then_some(count)
    }

    /// The next connection number, for logs.
    pub fn number(&self) -> u64 {
        self.count.set(self.count.get() + 1);
        self.count.get()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.tasks.borrow().len()
    }

    /// True when there is no place for one more.
    pub fn is_full(&self) -> bool {
        self.len() >= self.limit
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.tasks.borrow().is_empty()
    }

    /// Tells every connection to finish what is in flight and end.
    pub fn stop(&self) {
        self.stopping.set(true);
        self.wake();
    }

    /// Tells every connection to end at once: the time for finishing is over.
    pub fn cut(&self) {
        self.cut.set(true);
        self.wake();
    }

    /// Runs `work`, which belongs to the calling task, unless it is told to end at once: then `None`, and what is left to
    /// do is to tell the logs.
    ///
    /// No async function: it would have room for `work` twice, and very many connections only wait.
    pub fn unless_cut<F: Future + Unpin>(&self, mut work: F) -> impl Future<Output = Option<F::Output>> {
        poll_fn(move |cx| match Pin::new(&mut work).poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if self.cut.get() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        })
    }

    fn changed(&self) {
        if self.awaited.replace(false) {
            self.change.notify_waiters();
        }
    }

    fn wake(&self) {
        for (_, member) in &*self.tasks.borrow() {
            member.task.iter().for_each(Waker::wake_by_ref);
        }
    }

    /// Waits until so many have ended since the last time.
    pub async fn ended(&self, enough: usize) {
        self.enough.set(enough);
        if self.ended.get() < enough {
            self.tidy.notified().await;
        }
        self.enough.set(usize::MAX);
        self.ended.set(0);
    }

    /// How many have ended since the last time.
    pub fn ended_meanwhile(&self) -> usize {
        self.ended.take()
    }

    /// Waits until there may be room: a connection has ended, or could be told to.
    pub async fn room(&self) {
        self.awaited.set(true);
        self.change.notified().await;
    }
}

struct Member {
    task: Option<Waker>,
    /// Since when it is idle, in the order in which connections became so.
    idle: u64,
}

/// One connection's membership; dropped when it ends, however it ends.
pub struct Lifetime {
    owner: Rc<Connections>,
    key: usize,
}

impl Lifetime {
    /// True when the worker is going away: finish what is in flight, start nothing new.
    pub fn is_stopping(&self) -> bool {
        self.owner.stopping.get()
    }

    /// Says whether nothing is under way on the connection. While it is idle it may be told to end, to make room.
    pub fn set_idle(&self, is_idle: bool) {
        let mut tasks = self.owner.tasks.borrow_mut();
        let Some(member) = tasks.get_mut(self.key) else { return };
        let was_to_end = member.idle == RECLAIMED;
        member.idle = BUSY;
        if is_idle {
            self.owner.idled.set(self.owner.idled.get().saturating_add(1));
            member.idle = self.owner.idled.get();
        }
        drop(tasks);
        // Who waits for room can have this one's, or must look for another's.
        if is_idle || was_to_end {
            self.owner.changed();
        }
    }

    /// True when the connection was idle and its place is needed: it should end, unless it is idle no more.
    pub fn is_reclaimed(&self) -> bool {
        self.owner.tasks.borrow().get(self.key).is_some_and(|member| member.idle == RECLAIMED)
    }

    /// Runs `work` unless the connection is told to end at once: see [`Connections::unless_cut`].
    pub fn unless_cut<F: Future + Unpin>(&self, work: F) -> impl Future<Output = Option<F::Output>> {
        self.owner.unless_cut(work)
    }

    /// The connections of the worker.
    pub fn connections(&self) -> Rc<Connections> {
        self.owner.clone()
    }

    /// Remembers the task that awaits this, so that stopping wakes it wherever it waits.
    pub fn entering(&self) -> impl Future<Output = ()> + use<> {
        let (owner, key) = (self.owner.clone(), self.key);
        poll_fn(move |cx| {
            if let Some(member) = owner.tasks.borrow_mut().get_mut(key) {
                member.task = Some(cx.waker().clone());
            }
            Poll::Ready(())
        })
    }
}

impl Drop for Lifetime {
    fn drop(&mut self) {
        self.owner.tasks.borrow_mut().try_remove(self.key);
        self.owner.changed();
        let ended = self.owner.ended.get().saturating_add(1);
        self.owner.ended.set(ended);
        if ended == self.owner.enough.get() {
            self.owner.tidy.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};

    #[test]
    fn work_is_cut_short_only_when_it_is_told_to_end_at_once() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let connections = Connections::new(1);
            let life = connections.admit().unwrap();
            assert!(connections.admit().is_none());
            life.entering().await;
            connections.stop();
            assert!(life.is_stopping());
            assert_eq!(connections.unless_cut(ready(1)).await, Some(1));
            let cutting = async {
                tokio::task::yield_now().await;
                connections.cut();
            };
            let (cut, ()) = tokio::join!(connections.unless_cut(pending::<()>()), cutting);
            assert_eq!(cut, None);
            drop(life);
            assert!(connections.is_empty());
        });
    }

    #[test]
    fn those_idle_longest_make_room() {
        let connections = Connections::new(20);
        let lives: Vec<Lifetime> = (0..20).filter_map(|_| connections.admit()).collect();
        assert_eq!((lives.len(), connections.reclaim()), (20, None));
        lives.iter().rev().for_each(|life| life.set_idle(true));
        lives[19].set_idle(false);
        assert_eq!((connections.reclaim(), connections.reclaim()), (Some(2), Some(0)));
        let reclaimed = || (0..20).filter(|at| lives[*at].is_reclaimed()).collect::<Vec<_>>();
        assert_eq!(reclaimed(), [17, 18]);
        // One of them was asked for something just then.
        lives[17].set_idle(false);
        lives[17].set_idle(true);
        assert_eq!(reclaimed(), [18]);
        lives[18].set_idle(false);
        assert_eq!((connections.reclaim(), reclaimed()), (Some(2), vec![15, 16]));
    }

    #[test]
    fn who_waits_for_room_learns_of_every_chance() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let connections = Connections::new(2);
            let (a, b) = (connections.admit().unwrap(), connections.admit().unwrap());
            // One becomes idle.
            let waits = async { connections.room().await };
            tokio::join!(waits, async { a.set_idle(true) });
            assert_eq!(connections.reclaim(), Some(1));
            // It was told to end, and has been asked for something.
            let waits = async { connections.room().await };
            tokio::join!(waits, async { a.set_idle(false) });
            // One ends.
            let waits = async { connections.room().await };
            tokio::join!(waits, async { drop(b) });
        });
    }
}
