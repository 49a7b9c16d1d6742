//! Copies bytes both ways between two transports until one ends: the life of a session after its beginning.
//!
//! A direction holds a buffer only while the other side does not take what was read.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::coop;

use super::buffers;
use super::connection::Transport;
use super::timer::{Timer, later};
use crate::clock;

/// What the pump is about, or what it was about when it failed. Displayed as nginx names the action in its logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Doing {
    /// Waiting for either side.
    #[default]
    Waiting,
    /// Reading from this side.
    Reading(Side),
    /// Writing to this side.
    Sending(Side),
}

impl fmt::Display for Doing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Doing::Waiting => f.write_str("proxying connection"),
            Doing::Reading(side) => write!(f, "proxying and reading from {side}"),
            Doing::Sending(side) => write!(f, "proxying and sending to {side}"),
        }
    }
}

/// Bytes moved so far, and what else logs want to know; readable while the pump runs.
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
    /// When the upstream's first byte came.
    pub first_byte: Cell<Option<Instant>>,
    /// What is being done.
    pub doing: Cell<Doing>,
}

impl Counters {
    /// The bytes that came from a side, and those that went to the other.
    fn of(&self, source: Side) -> (&Cell<u64>, &Cell<u64>) {
        match source {
            Side::Client => (&self.from_client, &self.to_upstream),
            Side::Upstream => (&self.from_upstream, &self.to_client),
        }
    }

    /// Changes whenever anything moves.
    fn sum(&self) -> u64 {
        [&self.from_client, &self.to_client, &self.from_upstream, &self.to_upstream]
            .iter()
            .fold(0_u64, |sum, counter| sum.wrapping_add(counter.get()))
    }
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

impl Side {
    fn other(self) -> Side {
        match self {
            Side::Client => Side::Upstream,
            Side::Upstream => Side::Client,
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::Client => "client",
            Side::Upstream => "upstream",
        })
    }
}

/// How it ended.
#[derive(Debug)]
pub enum End {
    /// This side closed (with half-close: it was the last to) and everything was delivered.
    Closed(Side),
    /// Neither side sent anything for the idle time.
    Idle,
    /// This side failed; [`Counters::doing`] tells whether reading or sending did.
    Failed(Side, io::Error),
}

struct Direction {
    /// What the other side has yet to take.
    buffer: BytesMut,
    /// The largest piece.
    size: usize,
    ended: bool,
    passed_on: bool,
    /// There is nothing to move or to flush, and the runtime wakes the task once the source has something.
    waits: bool,
}

impl Direction {
    fn new(first: BytesMut, size: usize) -> Self {
        Direction { buffer: first, size, ended: false, passed_on: false, waits: false }
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
        // The task is woken for one direction mostly, and need not ask to be woken for the other again.
        let mut is_known = std::mem::take(&mut self.waits);
        if is_known && !from.may_be_readable() {
            self.waits = true;
            return Poll::Pending;
        }
        loop {
            ready!(self.poll_deliver(cx, to, written))?;
            if self.ended {
                return Pin::new(&mut *to).poll_flush(cx).map_err(Fault::Write);
            }
            if !std::mem::take(&mut is_known)
                && let Poll::Pending = from.poll_readable(cx).map_err(Fault::Read)?
            {
                let flushed = Pin::new(&mut *to).poll_flush(cx).map_err(Fault::Write)?;
                // A task that has used up its turn is woken for that, and not by the source.
                self.waits = flushed.is_ready() && coop::has_budget_remaining();
                return Poll::Pending;
            }
            ready!(buffers::lent(self.size, |room| self.poll_pass(cx, from, to, room, read, written)))?;
        }
    }

    /// Reads a piece, and writes it at once. What the other side does not take is kept.
    fn poll_pass(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Transport,
        to: &mut Transport,
        room: &mut [u8],
        read: &Cell<u64>,
        written: &Cell<u64>,
    ) -> Poll<Result<(), Fault>> {
        let mut piece = ReadBuf::new(room);
        ready!(Pin::new(from).poll_read(cx, &mut piece)).map_err(Fault::Read)?;
        let mut left = piece.filled();
        self.ended = left.is_empty();
        add(read, left.len());
        while !left.is_empty()
            && let Poll::Ready(sent) = to.poll_send(cx, left)
        {
            left = left.get(count(sent, written)?..).unwrap_or_default();
        }
        if !left.is_empty() {
            self.buffer = buffers::take(left.len());
            self.buffer.extend_from_slice(left);
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what was kept.
    fn poll_deliver(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut Transport,
        written: &Cell<u64>,
    ) -> Poll<Result<(), Fault>> {
        while !self.buffer.is_empty() {
            let sent = ready!(Pin::new(&mut *to).poll_write(cx, &self.buffer));
            self.buffer.advance(count(sent, written)?);
        }
        if self.buffer.capacity() > 0 {
            buffers::give(std::mem::take(&mut self.buffer));
        }
        Poll::Ready(Ok(()))
    }
}

/// Counts what a write has taken.
fn count(sent: io::Result<usize>, written: &Cell<u64>) -> Result<usize, Fault> {
    match sent {
        Ok(0) => Err(Fault::Write(io::ErrorKind::WriteZero.into())),
        Ok(count) => {
            add(written, count);
            Ok(count)
        }
        Err(error) => Err(Fault::Write(error)),
    }
}

enum Fault {
    Read(io::Error),
    Write(io::Error),
}

impl Fault {
    /// The end that a fault of the direction from `source` means.
    fn on(self, source: Side, counters: &Counters) -> End {
        let (doing, side, error) = match self {
            Fault::Read(error) => (Doing::Reading(source), source, error),
            Fault::Write(error) => (Doing::Sending(source.other()), source.other(), error),
        };
        counters.doing.set(doing);
        End::Failed(side, error)
    }
}

fn add(counter: &Cell<u64>, count: usize) {
    counter.set(counter.get().saturating_add(u64::try_from(count).unwrap_or(0)));
}

/// Pumps until one side ends (or, with half-close, both), fails, or nothing moves for the idle time.
///
/// `to_upstream` and `to_client` are bytes already read from one side that the other has to get first.
pub fn pump<'a>(
    client: &'a mut Transport,
    upstream: &'a mut Transport,
    timer: &'a mut Timer,
    limits: Limits,
    counters: &'a Counters,
    to_upstream: BytesMut,
    to_client: BytesMut,
) -> Pump<'a> {
    Pump {
        client,
        upstream,
        timer,
        counters,
        up: Direction::new(to_upstream, limits.client_buffer),
        down: Direction::new(to_client, limits.upstream_buffer),
        idle: limits.idle,
        half_close: limits.half_close,
        waker: Waker::noop().clone(),
        moved: counters.sum(),
        last: clock::monotonic(),
        deadline: later(limits.idle),
    }
}

/// A session that is being pumped. Written out, since very many may only wait: an async function would keep what it was
/// called with beside what it has made of it.
pub struct Pump<'a> {
    client: &'a mut Transport,
    upstream: &'a mut Transport,
    timer: &'a mut Timer,
    counters: &'a Counters,
    up: Direction,
    down: Direction,
    idle: Duration,
    half_close: bool,
    /// Of the task that waits for both sides.
    waker: Waker,
    /// What the counters came to when something had last moved.
    moved: u64,
    /// When that was, by the coarse clock.
    last: u64,
    deadline: Instant,
}

impl Future for Pump<'_> {
    type Output = End;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<End> {
        let this = &mut *self;
        if !this.waker.will_wake(cx.waker()) {
            this.waker.clone_from(cx.waker());
            (this.up.waits, this.down.waits) = (false, false);
        }
        let end =
            poll_both(cx, this.client, this.upstream, &mut this.up, &mut this.down, this.half_close, this.counters);
        let sum = this.counters.sum();
        if sum != this.moved {
            this.moved = sum;
            // Only the coarse clock is asked: this runs for every piece that moves.
            this.last = clock::monotonic();
            if this.counters.first_byte.get().is_none() && this.counters.from_upstream.get() > 0 {
                this.counters.first_byte.set(Some(Instant::now()));
            }
        }
        if let Some(end) = end {
            return Poll::Ready(end);
        }
        // The timer is left alone while bytes move; when it fires it is set again for what is left of the idle time.
        while this.timer.poll_until(cx, this.deadline).is_ready() {
            let quiet = Duration::from_millis(clock::monotonic().saturating_sub(this.last));
            match this.idle.checked_sub(quiet).filter(|left| !left.is_zero()) {
                Some(left) => this.deadline = later(left),
                None => return Poll::Ready(End::Idle),
            }
        }
        Poll::Pending
    }
}

/// Drives both directions; `Some` when that ends the session.
fn poll_both(
    cx: &mut Context<'_>,
    client: &mut Transport,
    upstream: &mut Transport,
    up: &mut Direction,
    down: &mut Direction,
    half_close: bool,
    counters: &Counters,
) -> Option<End> {
    let last = if down.passed_on { Side::Client } else { Side::Upstream };
    poll_direction(up, cx, client, upstream, Side::Client, half_close, counters)
        .or_else(|| poll_direction(down, cx, upstream, client, Side::Upstream, half_close, counters))
        .or_else(|| (up.passed_on && down.passed_on).then_some(End::Closed(last)))
}

/// Drives one direction; `Some` when that ends the session.
fn poll_direction(
    direction: &mut Direction,
    cx: &mut Context<'_>,
    from: &mut Transport,
    to: &mut Transport,
    source: Side,
    half_close: bool,
    counters: &Counters,
) -> Option<End> {
    if direction.passed_on {
        return None;
    }
    let (read, written) = counters.of(source);
    match direction.poll_move(cx, from, to, read, written) {
        Poll::Pending => None,
        Poll::Ready(Err(fault)) => Some(fault.on(source, counters)),
        Poll::Ready(Ok(())) if !half_close => Some(End::Closed(source)),
        Poll::Ready(Ok(())) => match Pin::new(to).poll_shutdown(cx) {
            Poll::Pending => None,
            Poll::Ready(Ok(())) => {
                direction.passed_on = true;
                None
            }
            Poll::Ready(Err(error)) => Some(Fault::Write(error).on(source, counters)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    const LIMITS: Limits =
        Limits { client_buffer: 1024, upstream_buffer: 1024, idle: Duration::from_secs(60), half_close: false };

    fn run<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    /// A connection: the pump's end and the peer's.
    async fn pair() -> (Transport, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Transport::Tcp(listener.accept().await.unwrap().0), peer)
    }

    /// Runs the pump while `peers` plays the client and the upstream; how the pump ended and what it counted.
    async fn play<F: Future<Output = ()>>(
        limits: Limits,
        first: (&'static [u8], &'static [u8]),
        peers: impl FnOnce(TcpStream, TcpStream) -> F,
    ) -> (End, Counters) {
        let ((mut client, client_peer), (mut upstream, upstream_peer)) = (pair().await, pair().await);
        let (mut timer, counters) = (Timer::default(), Counters::default());
        let pumping = async {
            let (up, down) = (BytesMut::from(first.0), BytesMut::from(first.1));
            let end = pump(&mut client, &mut upstream, &mut timer, limits, &counters, up, down).await;
            drop((client, upstream));
            end
        };
        let (end, ()) = tokio::join!(pumping, peers(client_peer, upstream_peer));
        (end, counters)
    }

    async fn expect(peer: &mut TcpStream, text: &[u8]) {
        let mut got = vec![0; text.len()];
        peer.read_exact(&mut got).await.unwrap();
        assert_eq!(got, text);
    }

    async fn expect_end(peer: &mut TcpStream) {
        assert_eq!(peer.read(&mut [0]).await.unwrap(), 0);
    }

    #[test]
    fn bytes_go_both_ways_until_one_side_closes() {
        let (end, counters) = run(play(LIMITS, (b"", b""), |mut client, mut upstream| async move {
            client.write_all(b"ask").await.unwrap();
            expect(&mut upstream, b"ask").await;
            upstream.write_all(b"answer").await.unwrap();
            drop(upstream);
            expect(&mut client, b"answer").await;
            expect_end(&mut client).await;
        }));
        assert!(matches!(end, End::Closed(Side::Upstream)), "{end:?}");
        assert!(counters.first_byte.get().is_some());
        assert_eq!((counters.from_client.get(), counters.to_upstream.get()), (3, 3));
        assert_eq!((counters.from_upstream.get(), counters.to_client.get()), (6, 6));
    }

    #[test]
    fn bytes_read_before_go_first() {
        let (_, counters) = run(play(LIMITS, (b"one ", b"hello "), |mut client, mut upstream| async move {
            client.write_all(b"two").await.unwrap();
            upstream.write_all(b"world").await.unwrap();
            expect(&mut upstream, b"one two").await;
            expect(&mut client, b"hello world").await;
        }));
        assert_eq!((counters.from_client.get(), counters.to_upstream.get()), (3, 7));
    }

    #[test]
    fn the_sides_may_speak_in_any_order() {
        for order in ["c", "u", "cu", "uc", "ccuu", "uucc", "cucuuccucu"] {
            let (end, counters) = run(play(LIMITS, (b"", b""), |mut client, mut upstream| async move {
                for side in order.chars() {
                    let (from, to) =
                        if side == 'c' { (&mut client, &mut upstream) } else { (&mut upstream, &mut client) };
                    from.write_all(b"word").await.unwrap();
                    expect(to, b"word").await;
                }
            }));
            assert!(matches!(end, End::Closed(_)), "{order}: {end:?}");
            let words = |side: char| 4 * order.chars().filter(|other| *other == side).count() as u64;
            assert_eq!((counters.to_upstream.get(), counters.to_client.get()), (words('c'), words('u')), "{order}");
        }
    }

    #[test]
    fn another_task_that_takes_over_is_woken() {
        for side in [Side::Client, Side::Upstream] {
            run(async {
                let ((mut client, client_peer), (mut upstream, upstream_peer)) = (pair().await, pair().await);
                let (mut timer, counters) = (Timer::default(), Counters::default());
                let (up, down) = (BytesMut::new(), BytesMut::new());
                let mut pumping = Box::pin(pump(&mut client, &mut upstream, &mut timer, LIMITS, &counters, up, down));
                // Nobody hears of what happens after this.
                assert!(pumping.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
                assert!(pumping.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
                let peers = async {
                    // Not before the pump waits again.
                    tokio::task::yield_now().await;
                    let (mut from, mut to) = match side {
                        Side::Client => (client_peer, upstream_peer),
                        Side::Upstream => (upstream_peer, client_peer),
                    };
                    from.write_all(b"word").await.unwrap();
                    expect(&mut to, b"word").await;
                };
                tokio::join!(pumping, peers);
            });
        }
    }

    #[test]
    fn more_than_all_buffers_arrives_whole_before_the_end() {
        const SIZE: usize = 8 << 20;
        let (end, counters) = run(play(LIMITS, (b"", b""), |mut client, mut upstream| async move {
            let sending = async {
                upstream.write_all(&vec![7; SIZE]).await.unwrap();
                drop(upstream);
            };
            let mut got = Vec::new();
            let (_, received) = tokio::join!(sending, client.read_to_end(&mut got));
            assert_eq!(received.unwrap(), SIZE);
        }));
        assert!(matches!(end, End::Closed(Side::Upstream)), "{end:?}");
        assert_eq!(counters.to_client.get(), SIZE as u64);
    }

    #[test]
    fn with_half_close_the_other_side_may_go_on() {
        let limits = Limits { half_close: true, ..LIMITS };
        let (end, _) = run(play(limits, (b"", b""), |mut client, mut upstream| async move {
            client.write_all(b"ask").await.unwrap();
            client.shutdown().await.unwrap();
            expect(&mut upstream, b"ask").await;
            expect_end(&mut upstream).await;
            upstream.write_all(b"late answer").await.unwrap();
            expect(&mut client, b"late answer").await;
            drop(upstream);
            expect_end(&mut client).await;
        }));
        assert!(matches!(end, End::Closed(Side::Upstream)), "{end:?}");
    }

    #[test]
    fn silence_ends_it_and_every_movement_puts_that_off() {
        let limits = Limits { idle: Duration::from_millis(80), ..LIMITS };
        let began = Instant::now();
        let (end, counters) = run(play(limits, (b"", b""), |mut client, mut upstream| async move {
            let mut pace = tokio::time::interval(Duration::from_millis(40));
            for _ in 0..4 {
                pace.tick().await;
                client.write_all(b".").await.unwrap();
                expect(&mut upstream, b".").await;
            }
            expect_end(&mut client).await;
        }));
        assert!(matches!(end, End::Idle), "{end:?}");
        assert!(began.elapsed() >= Duration::from_millis(200));
        assert_eq!(counters.doing.get().to_string(), "proxying connection");
    }

    #[test]
    fn a_reset_is_told_apart_by_side() {
        for (side, doing) in
            [(Side::Client, "proxying and reading from client"), (Side::Upstream, "proxying and reading from upstream")]
        {
            let (end, counters) = run(play(LIMITS, (b"", b""), |client, upstream| async move {
                let (mut breaks, mut stays) =
                    if side == Side::Client { (client, upstream) } else { (upstream, client) };
                breaks.write_all(b"x").await.unwrap();
                expect(&mut stays, b"x").await;
                breaks.set_zero_linger().unwrap();
                drop(breaks);
                expect_end(&mut stays).await;
            }));
            assert!(matches!(end, End::Failed(failed, _) if failed == side), "{end:?}");
            assert_eq!(counters.doing.get().to_string(), doing);
        }
    }
}
