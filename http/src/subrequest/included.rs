//! The answer to a subrequest as a part of another answer.

use std::fmt;
use std::rc::Rc;
use std::task::{Context, Poll};

use futures_core::future::LocalBoxFuture;

use super::READ_AHEAD;
use super::pipe::Pipe;
use crate::answer::{Broken, Chunk};
use crate::exchange::Exchange;
use crate::run::After;

/// A subrequest whose answer goes in order into that of its main request.
pub struct Include {
    exchange: Rc<Exchange>,
    pipe: Rc<Pipe>,
    /// Until it has ended.
    running: Option<LocalBoxFuture<'static, After>>,
}

impl Include {
    pub(super) fn new(exchange: Rc<Exchange>, pipe: Rc<Pipe>, running: LocalBoxFuture<'static, After>) -> Include {
        Include { exchange, pipe, running: Some(running) }
    }

    /// The exchange of the subrequest.
    pub fn exchange(&self) -> &Exchange {
        &self.exchange
    }

    /// The next data of its answer, and then its end. The client has yet to take `waiting` bytes.
    ///
    /// # Errors
    /// The answer broke off; the log says why.
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>, waiting: usize) -> Poll<Result<Chunk, Broken>> {
        if waiting >= READ_AHEAD {
            return Poll::Pending;
        }
        loop {
            let pieces = self.pipe.take();
            if !pieces.is_empty() {
                return Poll::Ready(Ok(Chunk::Data(pieces)));
            }
            let Some(running) = &mut self.running else {
                return Poll::Ready(if self.pipe.is_whole() { Ok(Chunk::End(None)) } else { Err(Broken) });
            };
            match running.as_mut().poll(cx) {
                Poll::Ready(_) => self.running = None,
                // What it has written waits, and there may be more once that is taken.
                Poll::Pending if self.pipe.is_empty() => return Poll::Pending,
                Poll::Pending => {}
            }
        }
    }
}

impl fmt::Debug for Include {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Include").finish_non_exhaustive()
    }
}
