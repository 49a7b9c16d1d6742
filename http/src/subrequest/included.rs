//! The answer to a subrequest as a part of another answer.

use std::rc::Rc;
use std::task::{Context, Poll};

use futures_core::future::LocalBoxFuture;

use super::READ_AHEAD;
use super::pipe::Pipe;
use crate::answer::{Broken, Chunk, Source};
use crate::carrier::After;
use crate::exchange::Exchange;
use crate::run;

/// A subrequest whose answer goes in order into that of its main request.
pub struct Include {
    exchange: Rc<Exchange>,
    pipe: Rc<Pipe>,
    /// Until it has ended.
    running: Option<LocalBoxFuture<'static, After>>,
    /// Its turn has come.
    has_begun: bool,
}

impl Include {
    pub fn new(exchange: Rc<Exchange>, pipe: Rc<Pipe>, running: LocalBoxFuture<'static, After>) -> Include {
        Include { exchange, pipe, running: Some(running), has_begun: false }
    }
}

/// One that is given up half-way is told to the logs like any other.
impl Drop for Include {
    fn drop(&mut self) {
        if self.running.take().is_some() && self.has_begun {
            run::leave(&self.exchange);
        }
    }
}

impl Source for Include {
    fn length(&self) -> Option<u64> {
        None
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>, _: &Exchange, waiting: usize) -> Poll<Result<Chunk, Broken>> {
        if waiting >= READ_AHEAD {
            return Poll::Pending;
        }
        self.has_begun = true;
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
