//! Copies bytes both ways between two transports until one ends: the life of a session after its beginning.
//!
//! A direction that has nothing to move holds no buffer.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::AsyncWrite;

use super::buffers;
use super::connection::{Transport, poll_read_into};
use super::timer::{Timer, later};

/// Bytes moved so far; readable while the pump runs.
#[derive(Debug, Default)]
pub struct Counters {
    /// From the client.
    pub from_client: Cell<u64>,
    /// To the client.
    pub to_client: Cell<u64>,
    /// From the upstream.
    pub from_upstream: Cell<u64>,
    /// To the upstream.
    pub to_upstream: Cell<u64>,
}

/// How to pump.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest piece from the client.
    pub client_buffer: usize,
    /// Largest piece from the upstream.
    pub upstream_buffer: usize,
    /// Longest silence of both sides.
    pub idle: Duration,
    /// The end of one side is passed on, and the other side may go on (`proxy_half_close`).
    pub half_close: bool,
}

/// Which side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client.
    Client,
    /// The upstream.
    Upstream,
}

/// How it ended.
#[derive(Debug)]
pub enum End {
    /// This side closed and everything was delivered.
    Closed(Side),
    /// Neither side sent anything for the idle time.
    Idle,
    /// This side failed.
    Failed(Side, io::Error),
}

struct Direction {
    buffer: BytesMut,
    size: usize,
    ended: bool,
    passed_on: bool,
}

impl Direction {
    fn new(first: BytesMut, size: usize) -> Self {
        Direction { buffer: first, size, ended: false, passed_on: false }
    }

    /// Moves what can be moved. Ready when this direction has delivered everything after its source's end.
    fn poll_move(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Transport,
        to: &mut Transport,
        read: &Cell<u64>,
        written: &Cell<u64>,
    ) -> Poll<Result<(), Fault>> {
        loop {
            while !self.buffer.is_empty() {
                let count = ready!(Pin::new(&mut *to).poll_write(cx, &self.buffer)).map_err(Fault::Write)?;
                if count == 0 {
                    return Poll::Ready(Err(Fault::Write(io::ErrorKind::WriteZero.into())));
                }
                add(written, count);
                self.buffer.advance(count);
            }
            if self.ended {
                self.rest();
                return Pin::new(&mut *to).poll_flush(cx).map_err(Fault::Write);
            }
            let Poll::Ready(readable) = from.poll_readable(cx) else {
                self.rest();
                let _ = Pin::new(&mut *to).poll_flush(cx).map_err(Fault::Write)?;
                return Poll::Pending;
            };
            readable.map_err(Fault::Read)?;
            if self.buffer.capacity() < self.size {
                self.buffer = buffers::take(self.size);
            }
            self.buffer.clear();
            match poll_read_into(from, cx, &mut self.buffer) {
                Poll::Pending => {
                    self.rest();
                    return Poll::Pending;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Fault::Read(error))),
                Poll::Ready(Ok(0)) => self.ended = true,
                Poll::Ready(Ok(count)) => add(read, count),
            }
        }
    }

    /// Gives the buffer back while there is nothing in it.
    fn rest(&mut self) {
        if self.buffer.capacity() > 0 {
            buffers::give(std::mem::take(&mut self.buffer));
        }
    }
}

enum Fault {
    Read(io::Error),
    Write(io::Error),
}

impl Fault {
    fn on(self, source: Side) -> End {
        let other = if source == Side::Client { Side::Upstream } else { Side::Client };
        match self {
            Fault::Read(error) => End::Failed(source, error),
            Fault::Write(error) => End::Failed(other, error),
        }
    }
}

fn add(counter: &Cell<u64>, count: usize) {
    counter.set(counter.get().saturating_add(u64::try_from(count).unwrap_or(0)));
}

/// Pumps until one side ends (or, with half-close, both), fails, or nothing moves for the idle time.
///
/// `to_upstream` and `to_client` are bytes already read from one side that the other has to get first.
pub async fn pump(
    client: &mut Transport,
    upstream: &mut Transport,
    timer: &mut Timer,
    limits: Limits,
    counters: &Counters,
    to_upstream: BytesMut,
    to_client: BytesMut,
) -> End {
    let mut up = Direction::new(to_upstream, limits.client_buffer);
    let mut down = Direction::new(to_client, limits.upstream_buffer);
    let mut moved = u64::MAX;
    let mut deadline = later(limits.idle);
    poll_fn(|cx| {
        if let Some(end) = poll_direction(
            &mut up,
            cx,
            client,
            upstream,
            Side::Client,
            limits.half_close,
            (&counters.from_client, &counters.to_upstream),
        ) {
            return Poll::Ready(end);
        }
        if let Some(end) = poll_direction(
            &mut down,
            cx,
            upstream,
            client,
            Side::Upstream,
            limits.half_close,
            (&counters.from_upstream, &counters.to_client),
        ) {
            return Poll::Ready(end);
        }
        if up.passed_on && down.passed_on {
            return Poll::Ready(End::Closed(Side::Client));
        }
        let total = [&counters.from_client, &counters.to_client, &counters.from_upstream, &counters.to_upstream]
            .iter()
            .fold(0_u64, |sum, counter| sum.wrapping_add(counter.get()));
        if total != moved {
            moved = total;
            deadline = later(limits.idle);
        }
        timer.poll_until(cx, deadline).map(|()| End::Idle)
    })
    .await
}

/// Drives one direction; `Some` when that ends the session.
fn poll_direction(
    direction: &mut Direction,
    cx: &mut Context<'_>,
    from: &mut Transport,
    to: &mut Transport,
    source: Side,
    half_close: bool,
    counters: (&Cell<u64>, &Cell<u64>),
) -> Option<End> {
    if direction.passed_on {
        return None;
    }
    match direction.poll_move(cx, from, to, counters.0, counters.1) {
        Poll::Pending => None,
        Poll::Ready(Err(fault)) => Some(fault.on(source)),
        Poll::Ready(Ok(())) if !half_close => Some(End::Closed(source)),
        Poll::Ready(Ok(())) => match Pin::new(to).poll_shutdown(cx) {
            Poll::Pending => None,
            Poll::Ready(Ok(())) => {
                direction.passed_on = true;
                None
            }
            Poll::Ready(Err(error)) => Some(Fault::Write(error).on(source)),
        },
    }
}
