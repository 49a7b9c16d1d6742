//! What carries a subrequest: its answer goes to whoever asked for it, and it knows of the client what that one knows.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use futures_core::future::LocalBoxFuture;
use smallvec::SmallVec;
use tidegate_core::net::pump::{Counters, Limits};
use tidegate_core::net::{Lifetime, Timer, Transport};
use tidegate_http_wire::h1::body::{BadBody, Decoded};
use tidegate_http_wire::h1::write::BadPart;

use crate::answer::Answer;
use crate::carrier::{Carrier, Presence, RequestBody, Way};
use crate::exchange::Exchange;
use crate::output::framing::Framing;
use crate::output::outgoing::Outgoing;

/// What is kept of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// Nothing; so much of it may come.
    Nothing(usize),
    /// All of it; more than this is an error.
    All(usize),
    /// So much at a time: the rest waits until something has been taken.
    Ahead(usize),
}

/// The way of a subrequest's answer to whoever asked for it.
pub struct Pipe {
    /// What carries the request that it lies within. One that was left behind has nobody to wait for.
    outer: Option<Rc<dyn Carrier>>,
    keeps: Keeps,
    timer: RefCell<Timer>,
    arrived: RefCell<SmallVec<[Bytes; 4]>>,
    /// Of what has arrived and not been taken, or, where nothing is kept, of all.
    length: Cell<usize>,
    is_whole: Cell<bool>,
}

impl Pipe {
    /// A pipe in which nothing is yet.
    pub fn new(outer: Option<Rc<dyn Carrier>>, keeps: Keeps) -> Pipe {
        Pipe {
            outer,
            keeps,
            timer: RefCell::default(),
            arrived: RefCell::default(),
            length: Cell::new(0),
            is_whole: Cell::new(false),
        }
    }

    /// Takes what has arrived.
    pub fn take(&self) -> SmallVec<[Bytes; 4]> {
        self.length.set(0);
        self.arrived.take()
    }

    /// Takes what has arrived, in one piece.
    pub fn take_all(&self) -> Bytes {
        let mut pieces = self.take();
        match pieces.len() {
            0 | 1 => pieces.pop().unwrap_or_default(),
            _ => pieces.concat().into(),
        }
    }

    /// Nothing has arrived that was not taken.
    pub fn is_empty(&self) -> bool {
        self.arrived.borrow().is_empty()
    }

    /// The end of the body has arrived.
    pub fn is_whole(&self) -> bool {
        self.is_whole.get()
    }
}

/// What there is of the body of the request has been read before.
impl RequestBody for Pipe {
    fn piece(&self) -> Result<Decoded, BadBody> {
        Ok(Decoded::End(None))
    }

    fn poll_more(&self, _: &mut Context<'_>) -> Poll<io::Result<bool>> {
        Poll::Ready(Ok(false))
    }

    fn announced(&self) -> u64 {
        0
    }

    fn is_taken(&self) -> bool {
        true
    }

    fn awaits_continue(&self) -> bool {
        false
    }

    fn poll_continue(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Presence for Pipe {
    fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.outer.as_ref().map_or(Poll::Pending, |outer| outer.poll_gone(cx))
    }

    fn is_abandoned(&self) -> bool {
        self.outer.as_ref().is_some_and(|outer| outer.is_abandoned())
    }

    fn probe(&self, on: bool) {
        self.outer.iter().for_each(|outer| outer.probe(on));
    }

    fn is_stopping(&self) -> bool {
        self.outer.as_ref().is_some_and(|outer| outer.is_stopping())
    }

    fn poll_until(&self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        self.timer.borrow_mut().poll_until(cx, deadline)
    }

    fn admit(&self) -> Option<Lifetime> {
        self.outer.as_ref()?.admit()
    }
}

impl Way for Pipe {
    fn begin(
        &self,
        _exchange: &Exchange,
        _answer: &mut Answer,
        _framing: Framing,
        _keep: bool,
        out: &mut Outgoing,
    ) -> Result<usize, BadPart> {
        // Whoever asks looks at the status and the fields in the exchange.
        out.begin(Vec::new(), false);
        Ok(0)
    }

    fn poll_write(&self, _: &mut Context<'_>, out: &mut Outgoing, most: usize) -> Poll<io::Result<usize>> {
        let (Keeps::Nothing(room) | Keeps::All(room) | Keeps::Ahead(room)) = self.keeps;
        let left = room.saturating_sub(self.length.get());
        let piece = match self.keeps {
            // Whoever takes it asks for more then.
            Keeps::Ahead(_) if left == 0 => return Poll::Pending,
            Keeps::Ahead(_) => out.take(most.min(left)),
            Keeps::Nothing(_) | Keeps::All(_) => out.take(most),
        };
        let count = piece.len();
        if count > left {
            return Poll::Ready(Err(io::ErrorKind::FileTooLarge.into()));
        }
        self.length.set(self.length.get().saturating_add(count));
        if !matches!(self.keeps, Keeps::Nothing(_)) {
            self.arrived.borrow_mut().push(piece);
        }
        Poll::Ready(Ok(count))
    }

    fn poll_flush(&self, _: &mut Context<'_>, out: &mut Outgoing) -> Poll<io::Result<()>> {
        if out.take_end().is_some() {
            self.is_whole.set(true);
        }
        Poll::Ready(Ok(()))
    }

    /// A subrequest cannot become a tunnel: its peer is let go.
    fn tunnel<'a>(&'a self, _: &'a mut Transport, _: BytesMut, _: Limits, _: &'a Counters) -> LocalBoxFuture<'a, ()> {
        Box::pin(std::future::ready(()))
    }
}
