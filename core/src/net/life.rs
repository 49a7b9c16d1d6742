//! The connections of a worker: how many there are, and how they learn that the worker is going away.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};

use slab::Slab;
use tokio::sync::Notify;

/// All connections of a worker.
pub struct Connections {
    tasks: RefCell<Slab<Option<Waker>>>,
    limit: usize,
    stopping: Cell<bool>,
    cut: Cell<bool>,
    gone: Notify,
    count: Cell<u64>,
}

impl Connections {
    /// No connections yet; `limit` is `worker_connections`.
    pub fn new(limit: usize) -> Rc<Self> {
        Rc::new(Connections {
            tasks: RefCell::default(),
            limit,
            stopping: Cell::new(false),
            cut: Cell::new(false),
            gone: Notify::new(),
            count: Cell::new(0),
        })
    }

    /// A place for one more connection; `None` at the limit.
    pub fn admit(self: &Rc<Self>) -> Option<Lifetime> {
        let mut tasks = self.tasks.borrow_mut();
        (tasks.len() < self.limit).then(|| Lifetime { key: tasks.insert(None), owner: self.clone() })
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

    fn wake(&self) {
        for (_, waker) in &*self.tasks.borrow() {
            if let Some(waker) = waker {
                waker.wake_by_ref();
            }
        }
    }

    /// Waits until the next connection ends.
    pub async fn one_gone(&self) {
        self.gone.notified().await;
    }
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

    /// Runs `work`, which belongs to the calling task, unless the connection is told to end at once: then `None`, and
    /// what is left to do is to tell the logs.
    pub async fn unless_cut<F: Future>(&self, work: F) -> Option<F::Output> {
        let mut work = pin!(work);
        poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if self.owner.cut.get() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// Remembers the task that awaits this, so that stopping wakes it wherever it waits.
    pub fn entering(&self) -> impl Future<Output = ()> + use<> {
        let (owner, key) = (self.owner.clone(), self.key);
        poll_fn(move |cx| {
            if let Some(task) = owner.tasks.borrow_mut().get_mut(key) {
                *task = Some(cx.waker().clone());
            }
            Poll::Ready(())
        })
    }
}

impl Drop for Lifetime {
    fn drop(&mut self) {
        self.owner.tasks.borrow_mut().try_remove(self.key);
        self.owner.gone.notify_waiters();
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
            assert_eq!(life.unless_cut(ready(1)).await, Some(1));
            let cutting = async {
                tokio::task::yield_now().await;
                connections.cut();
            };
            let (cut, ()) = tokio::join!(life.unless_cut(pending::<()>()), cutting);
            assert_eq!(cut, None);
            drop(life);
            assert!(connections.is_empty());
        });
    }
}
