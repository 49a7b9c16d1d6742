//! Workers wait at a socket that they share in a row: the system wakes the first who is free, and only that one
//! (`EPOLLEXCLUSIVE`). A worker that is ahead of the others goes to the end, so that the next connection is another's.
//!
//! A worker without room steps out of the row. It is woken by every connection then, beside the one whose turn it is, and
//! so never the only one to know of a client.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::{Rc, Weak};
use std::sync::atomic::Ordering::SeqCst;

use rustix::event::epoll::{self, EventData, EventFlags};

use super::accept::Listener;
use crate::net::adopt::Watched;
use crate::zone::counters::Counters;

/// A worker's position at one socket.
pub struct Position {
    epoll: Rc<OwnedFd>,
    /// The word by which the event loop knows the socket.
    word: u64,
    /// What the socket is called by all who have it.
    socket: u64,
    is_in: Cell<bool>,
}

/// All positions of a worker.
#[derive(Clone, Default)]
pub struct Positions(Rc<RefCell<Vec<Weak<Listener>>>>);

impl Positions {
    /// Gives positions to listeners of sockets that are shared. Where the system does not tell what is needed, they are
    /// woken all together, as if there were no row.
    pub fn give(&self, listeners: &[Rc<Listener>]) {
        let Some(watched) = listeners.first().and_then(|first| Watched::find(first.socket())) else { return };
        let Ok(epoll) = watched.epoll().try_clone().map(Rc::new) else { return };
        for listener in listeners {
            let socket = listener.socket();
            let number = rustix::fs::fstat(socket).map(|stat| stat.st_ino);
            if let (Some(word), Ok(number)) = (watched.word(socket), number) {
                listener.stand(Position { epoll: epoll.clone(), word, socket: number, is_in: Cell::new(false) });
            }
        }
        self.0.borrow_mut().extend(listeners.iter().map(Rc::downgrade));
    }

    /// Steps out of every row: the worker has no room.
    pub fn step_out(&self) {
        self.0.borrow().iter().filter_map(Weak::upgrade).for_each(|listener| listener.step_out());
    }
}

impl Position {
    /// Goes to the end of the row. False when the system watches the socket no longer: it has to be tried again.
    ///
    /// Two workers may do so at once. Which of them is the last nobody knows then, and neither takes itself for it.
    pub fn line_up(&self, socket: BorrowedFd<'_>, counters: &Counters) -> bool {
        let (last, claim) = (counters.last_in_row(self.socket), self.mark(false));
        last.store(claim, SeqCst);
        self.is_in.set(self.watch(socket, EventFlags::EXCLUSIVE));
        if !self.is_in.get() || last.compare_exchange(claim, self.mark(true), SeqCst, SeqCst).is_err() {
            last.store(0, SeqCst);
        }
        self.is_in.get() || self.watch(socket, EventFlags::RDHUP)
    }

    /// Has the system tell of those who wait already, whoever was woken for them. It is at the end of the row then, and
    /// not its last: the others have not been told of those. False when the system watches the socket no longer.
    pub fn look_again(&self, socket: BorrowedFd<'_>, counters: &Counters) -> bool {
        counters.last_in_row(self.socket).store(0, SeqCst);
        self.is_in.set(self.watch(socket, EventFlags::EXCLUSIVE));
        self.is_in.get() || self.watch(socket, EventFlags::RDHUP)
    }

    /// Is woken by every connection from now on.
    pub fn step_out(&self, socket: BorrowedFd<'_>) {
        if self.is_in.replace(false) && !self.watch(socket, EventFlags::RDHUP) {
            let _ = self.watch(socket, EventFlags::empty());
        }
    }

    /// True when the worker stands in the row.
    pub fn is_in(&self) -> bool {
        self.is_in.get()
    }

    /// True when everybody else was before this worker: whoever has woken it has told all the others.
    pub fn is_last(&self, counters: &Counters) -> bool {
        self.is_in.get() && counters.last_in_row(self.socket).load(SeqCst) == self.mark(true)
    }

    /// The socket and the worker, which claims the last position, or has it. Sockets whose words coincide take a worker for
    /// not being last, which harms nobody.
    fn mark(&self, has_it: bool) -> u64 {
        let slot = u64::try_from(crate::slot::slot()).unwrap_or(u64::MAX) & 0xff;
        self.socket.wrapping_shl(9) | slot << 1 | u64::from(has_it)
    }

    /// What waits already is reported as if it came just then.
    fn watch(&self, socket: BorrowedFd<'_>, how: EventFlags) -> bool {
        let _ = epoll::delete(&self.epoll, socket);
        let events = EventFlags::IN | EventFlags::ET | how;
        epoll::add(self.epoll.as_fd(), socket, EventData::new_u64(self.word), events).is_ok()
    }
}
