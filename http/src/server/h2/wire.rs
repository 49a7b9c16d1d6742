//! The bytes of a connection of HTTP/2 on their way to and from the library that speaks it: watched in both directions.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Buf, BytesMut};
use tidegate_core::net::Transport;
use tidegate_http_wire::h2::{Excess, Limits, Watch};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is known of the bytes that have passed.
pub struct Seen {
    watch: RefCell<Watch>,
    excess: Cell<Option<Excess>>,
    /// Since when the client takes nothing of what there is for it.
    pub blocked: Cell<Option<Instant>>,
}

impl Seen {
    /// Nothing has passed.
    pub fn new(limits: Limits) -> Rc<Seen> {
        let watch = RefCell::new(Watch::new(limits, Instant::now()));
        Rc::new(Seen { watch, excess: Cell::new(None), blocked: Cell::new(None) })
    }

    /// The limit that the client has gone over. It is told once.
    pub fn take_excess(&self) -> Option<Excess> {
        self.excess.take()
    }

    /// The client has gone over a limit, which nobody has been told yet.
    pub fn has_excess(&self) -> bool {
        let excess = self.excess.take();
        let has = excess.is_some();
        self.excess.set(excess);
        has
    }

    /// Looks at what has been counted.
    pub fn look<R>(&self, look: impl FnOnce(&Watch) -> R) -> R {
        look(&self.watch.borrow())
    }

    /// Looks for streams that wait for too long.
    pub fn check(&self, now: Instant) {
        let checked = self.watch.borrow_mut().check(now);
        self.note(checked);
    }

    fn note(&self, seen: Result<(), Excess>) {
        if let Err(excess) = seen {
            self.excess.set(Some(excess));
        }
    }
}

/// A transport whose bytes are watched. Once the client has gone over a limit nothing more of it is read.
pub struct Watched {
    transport: Transport,
    /// What had been read before it was known to be HTTP/2.
    first: BytesMut,
    seen: Rc<Seen>,
    is_over: bool,
}

impl Watched {
    /// A transport, and what has been read of it.
    pub fn new(transport: Transport, first: BytesMut, seen: Rc<Seen>) -> Watched {
        Watched { transport, first, seen, is_over: false }
    }

    fn came(&mut self, bytes: &[u8]) {
        let seen = self.seen.watch.borrow_mut().incoming(bytes, Instant::now());
        self.is_over |= seen.is_err();
        self.seen.note(seen);
    }

    /// Counts what has been written of some slices.
    fn went(&mut self, slices: &[&[u8]], written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let Poll::Ready(Ok(mut count)) = written else {
            if written.is_pending() && self.seen.blocked.get().is_none() {
                self.seen.blocked.set(Some(Instant::now()));
            }
            return written;
        };
        self.seen.blocked.set(None);
        let now = Instant::now();
        for slice in slices {
            let part = slice.get(..count.min(slice.len())).unwrap_or_default();
            count -= part.len();
            let seen = self.seen.watch.borrow_mut().outgoing(part, now);
            self.is_over |= seen.is_err();
            self.seen.note(seen);
        }
        written
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.is_over {
            // Whoever reads has been told, and ends the connection.
            return Poll::Pending;
        }
        let before = buf.filled().len();
        if this.first.is_empty() {
            ready!(Pin::new(&mut this.transport).poll_read(cx, buf))?;
        } else {
            let count = this.first.len().min(buf.remaining());
            buf.put_slice(this.first.get(..count).unwrap_or_default());
            this.first.advance(count);
        }
        this.came(buf.filled().get(before..).unwrap_or_default());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let written = Pin::new(&mut this.transport).poll_write(cx, bytes);
        this.went(&[bytes], written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let written = Pin::new(&mut this.transport).poll_write_vectored(cx, slices);
        let slices: smallvec::SmallVec<[&[u8]; 16]> = slices.iter().map(|slice| &**slice).collect();
        this.went(&slices, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_shutdown(cx)
    }
}
