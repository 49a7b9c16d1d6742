//! The connections of a worker: how many there are, and how they learn that the worker is going away.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use slab::Slab;
use tokio::sync::Notify;

/// All connections of a worker.
pub struct Connections {
    tasks: RefCell<Slab<Option<Waker>>>,
    limit: usize,
    stopping: Cell<bool>,
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

    /// Remembers the calling task, so that stopping wakes it wherever it waits.
    pub async fn enter(&self) {
        poll_fn(|cx| {
            if let Some(task) = self.owner.tasks.borrow_mut().get_mut(self.key) {
                *task = Some(cx.waker().clone());
            }
            Poll::Ready(())
        })
        .await;
    }
}

impl Drop for Lifetime {
    fn drop(&mut self) {
        self.owner.tasks.borrow_mut().try_remove(self.key);
        self.owner.gone.notify_waiters();
    }
}
