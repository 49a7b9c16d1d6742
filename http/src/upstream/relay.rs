//! The body of a reply on its way to the client: read ahead within bounds, written as fast as the client takes it.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};
use futures_core::future::LocalBoxFuture;
use smallvec::SmallVec;
use tidegate_balancer::idle::Used;
use tidegate_balancer::{Lease, Outcome};
use tidegate_core::log;
use tidegate_core::net::buffers;
use tidegate_core::net::connection::{poll_read_into, poll_read_up_to};
use tidegate_core::net::pump::{self, Counters};
use tidegate_core::net::timer::later;
use tidegate_core::subject::Subject;
use tidegate_http_wire::framing::{self, BadFraming, ReplyFraming};
use tidegate_http_wire::h1::body::{BodyDecoder, BodyLimits, Decoded};
use tidegate_http_wire::{Fields, Known, ReplyHead, Version};

use super::module::{Reading, Settings};
use super::{PeerConnection, Pool};
use crate::answer::{Broken, Chunk, Source, Tunnel};
use crate::exchange::Exchange;
use crate::limit_rate::{May, Pace};

/// A whole body up to this is copied, so that its buffer need not wait until the client has taken it.
const COPIED: usize = 1024;

/// A reply behind its head.
pub struct Reply {
    used: Option<Used<PeerConnection>>,
    buffer: BytesMut,
    decoder: BodyDecoder,
    framing: ReplyFraming,
    lease: Option<Lease>,
    pool: Rc<Pool>,
    settings: Rc<Settings>,
    reading: Reading,
    /// `proxy_limit_rate`, and how much of the body has come.
    pace: Option<Box<(Pace, u64)>>,
    begun: Instant,
    /// When the head was complete.
    arrived: Instant,
    reusable: bool,
    /// When the peer will have said nothing for too long.
    deadline: Option<Instant>,
    /// The peer says no more.
    closed: bool,
    /// What came behind the body.
    trailers: Option<Box<Fields>>,
}

impl Reply {
    /// The body behind `head`: none if HEAD was asked for. `whole` says that the request was sent to its end.
    ///
    /// # Errors
    /// The head contradicts itself about where the body ends.
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        is_head: bool,
        head: &ReplyHead,
        used: Used<PeerConnection>,
        buffer: BytesMut,
        pool: Rc<Pool>,
        settings: Rc<Settings>,
        (begun, arrived): (Instant, Instant),
        whole: bool,
    ) -> Result<Reply, BadFraming> {
        let framing = framing::reply(is_head, head.status, &head.fields)?;
        let persistent = match head.version {
            Version::Http11 => !head.fields.contains_token(Known::Connection, b"close"),
            _ => head.fields.contains_token(Known::Connection, b"keep-alive"),
        };
        let reusable = whole && persistent && framing != ReplyFraming::Close && framing != ReplyFraming::Switch;
        let decoder = BodyDecoder::reply(framing, BodyLimits::default());
        Ok(Reply {
            used: Some(used),
            buffer,
            decoder,
            framing,
            lease: None,
            pool,
            reading: settings.reading(true),
            settings,
            pace: None,
            begun,
            arrived,
            reusable,
            deadline: None,
            closed: false,
            trailers: None,
        })
    }

    /// Takes the lease along, to be reported at the end.
    pub fn hold_lease(&mut self, lease: Lease) {
        self.lease = Some(lease);
    }

    /// Gives the lease back without a report.
    pub fn into_lease(mut self) -> Option<Lease> {
        self.lease.take()
    }

    /// Has it read as a buffered reply is, as fast as `rate` says, or as one that is not.
    pub fn set_reading(&mut self, reading: Reading, rate: u64) {
        self.reading = reading;
        let arrived = u64::try_from(self.buffer.len()).unwrap_or(u64::MAX);
        self.pace = Pace::new(rate, 0, self.arrived).map(|pace| Box::new((pace, arrived)));
    }

    /// How it is read.
    pub fn reading(&self) -> Reading {
        self.reading
    }

    /// The settings of its location.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Has one read take so much from now on.
    pub fn set_piece(&mut self, piece: usize) {
        self.reading.piece = piece;
    }

    /// Gives the buffer back. Nothing is read any more.
    pub fn let_go(&mut self) {
        buffers::give(std::mem::take(&mut self.buffer));
    }

    /// The length, if the head tells it.
    fn announced(&self) -> Option<u64> {
        match self.framing {
            ReplyFraming::Empty => Some(0),
            ReplyFraming::Length(length) => Some(length),
            _ => None,
        }
    }

    /// The reply switches protocols.
    pub fn switches(&self) -> bool {
        self.framing == ReplyFraming::Switch
    }

    /// The body, if it has arrived completely: then the connection goes back to its pool at once.
    pub fn try_whole(&mut self, exchange: &Exchange) -> Option<Bytes> {
        let length = match self.framing {
            ReplyFraming::Empty => 0,
            ReplyFraming::Length(length) => usize::try_from(length).unwrap_or(usize::MAX),
            _ => return None,
        };
        if length > self.buffer.len() {
            return None;
        }
        exchange.attempts.current(|attempt| attempt.body = u64::try_from(length).unwrap_or(u64::MAX));
        let body = if length > COPIED {
            self.buffer.split_to(length).freeze()
        } else {
            let body = Bytes::copy_from_slice(self.buffer.get(..length).unwrap_or_default());
            self.buffer.advance(length);
            body
        };
        self.finish(exchange, self.arrived);
        Some(body)
    }

    /// The reply has ended well: the peer is praised, and the connection kept if it can be.
    fn finish(&mut self, exchange: &Exchange, now: Instant) {
        let elapsed = now.saturating_duration_since(self.begun);
        exchange.attempts.current(|attempt| attempt.finished = Some(elapsed));
        if let Some(lease) = self.lease.take() {
            let peer = lease.index();
            lease.report(Outcome::Success);
            if let Some(used) = self.used.take()
                && self.reusable
                && self.buffer.is_empty()
            {
                self.pool.keep(peer, used, now);
            }
        }
    }

    /// The next chunk of what has arrived: all data that has come together, however the upstream has cut it; then the end.
    fn decode(&mut self, exchange: &Exchange) -> io::Result<Option<Chunk>> {
        let mut pieces: SmallVec<[Bytes; 4]> = SmallVec::new();
        let end = loop {
            match self.decoder.decode(&mut self.buffer) {
                Ok(Decoded::Data(data)) => {
                    exchange.attempts.current(|attempt| {
                        attempt.body = attempt.body.saturating_add(u64::try_from(data.len()).unwrap_or(0))
                    });
                    pieces.push(data);
                }
                Ok(Decoded::End(trailers)) => break Some(trailers),
                Ok(Decoded::NeedMore) if self.decoder.is_done() => break Some(None),
                Ok(Decoded::NeedMore) if self.closed && pieces.is_empty() => match self.decoder.end() {
                    Ok(()) => break Some(None),
                    Err(_) => return Err(io::Error::other("upstream prematurely closed connection")),
                },
                Ok(Decoded::NeedMore) => break None,
                Err(bad) => return Err(io::Error::other(bad.by_upstream())),
            }
        };
        if !pieces.is_empty() {
            // The decoder says again that this was the end, but tells the fields behind the body only once.
            self.trailers = end.flatten();
            return Ok(Some(Chunk::Data(pieces)));
        }
        let passes = self.settings.pass_trailers;
        Ok(end.map(|trailers| Chunk::End(trailers.or_else(|| self.trailers.take()).filter(|_| passes))))
    }

    /// True when there is room for more than the client has yet to take. What it has yet to take keeps the buffer that it
    /// lies in, so another is begun only when both are within the limit, or nothing waits.
    pub fn may_fill(&self, waiting: usize) -> bool {
        let Reading { limit, piece } = self.reading;
        let spare = self.buffer.capacity().saturating_sub(self.buffer.len());
        waiting == 0 || waiting < limit && (spare > 0 || waiting.saturating_add(piece) <= limit)
    }

    /// Polls a read of what there is room for, and of no more than `most` where there is a pace. `Ok(0)` is the end of the
    /// connection.
    fn poll_fill(&mut self, cx: &mut Context<'_>, waiting: usize, most: usize) -> Poll<io::Result<usize>> {
        let Some(used) = &mut self.used else { return Poll::Ready(Ok(0)) };
        ready!(used.connection.transport.poll_readable(cx))?;
        let (spare, piece) = (self.buffer.capacity() - self.buffer.len(), self.reading.piece);
        if spare < piece / 2 && (spare == 0 || waiting == 0) {
            if self.buffer.is_empty() {
                self.buffer = buffers::take(piece);
            } else {
                self.buffer.reserve(piece);
            }
        }
        let Some(paced) = &mut self.pace else {
            return poll_read_into(&mut used.connection.transport, cx, &mut self.buffer);
        };
        let (_, read) = &mut **paced;
        let count = ready!(poll_read_up_to(&mut used.connection.transport, cx, &mut self.buffer, most))?;
        *read = read.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        Poll::Ready(Ok(count))
    }

    /// Ready when nobody waits for the reply any more. A write would tell, but there may be nothing to write for long.
    fn poll_gone(&self, cx: &mut Context<'_>, exchange: &Exchange) -> Poll<()> {
        if self.settings.ignores_abort() {
            return Poll::Pending;
        }
        ready!(exchange.carrier.poll_gone(cx));
        log!(
            exchange.logger(),
            Info,
            "client prematurely closed connection, so upstream connection is closed too while reading upstream"
        );
        Poll::Ready(())
    }

    /// How much may be read now, as soon as something may.
    fn poll_allowance(&mut self, cx: &mut Context<'_>, exchange: &Exchange) -> Poll<usize> {
        loop {
            let Some(paced) = &self.pace else { return Poll::Ready(usize::MAX) };
            let (pace, read) = &**paced;
            match pace.may(*read, Instant::now()) {
                May::Go(most) => return Poll::Ready(most),
                May::Wait(until) => {
                    // It is not the peer that is waited for.
                    self.deadline = None;
                    ready!(exchange.carrier.poll_until(cx, until));
                }
            }
        }
    }
}

impl Source for Reply {
    fn length(&self) -> Option<u64> {
        self.announced()
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>, exchange: &Exchange, waiting: usize) -> Poll<Result<Chunk, Broken>> {
        loop {
            match self.decode(exchange) {
                Err(error) => return Poll::Ready(Err(upstream_failed(exchange, &error))),
                Ok(Some(chunk)) => {
                    if matches!(chunk, Chunk::End(_)) {
                        self.finish(exchange, Instant::now());
                    }
                    return Poll::Ready(Ok(chunk));
                }
                Ok(None) => {}
            }
            if !self.may_fill(waiting) {
                // The client is waited for now, not the peer.
                self.deadline = None;
                return Poll::Pending;
            }
            let most = ready!(self.poll_allowance(cx, exchange));
            let count = match self.poll_fill(cx, waiting, most) {
                Poll::Ready(Ok(count)) => count,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(upstream_failed(exchange, &error))),
                Poll::Pending => {
                    let deadline = *self.deadline.get_or_insert_with(|| later(self.settings.read_timeout));
                    if exchange.carrier.poll_until(cx, deadline).is_pending() {
                        ready!(self.poll_gone(cx, exchange));
                        return Poll::Ready(Err(Broken));
                    }
                    let error = io::Error::other("upstream timed out (110: Connection timed out)");
                    return Poll::Ready(Err(upstream_failed(exchange, &error)));
                }
            };
            self.deadline = None;
            exchange.attempts.current(|attempt| {
                attempt.received = attempt.received.saturating_add(u64::try_from(count).unwrap_or(0))
            });
            if count == 0 {
                // What the decoder has is told first; then it is asked whether that may be all.
                self.closed = true;
            }
        }
    }

    fn abandon(&mut self, exchange: &Exchange) {
        exchange.attempts.current(|attempt| attempt.finished = Some(self.begun.elapsed()));
    }
}

impl Tunnel for Reply {
    fn run<'a>(&'a mut self, exchange: &'a Exchange) -> LocalBoxFuture<'a, ()> {
        Box::pin(async move {
            let Some(mut used) = self.used.take() else { return };
            let limits = pump::Limits {
                client_buffer: self.settings.buffer_size,
                upstream_buffer: self.reading.piece,
                idle: self.settings.read_timeout,
                half_close: false,
            };
            let counters = Counters::default();
            let first = std::mem::take(&mut self.buffer);
            exchange.carrier.tunnel(&mut used.connection.transport, first, limits, &counters).await;
            exchange.sent.bytes.set(exchange.sent.bytes.get().saturating_add(counters.to_client.get()));
        })
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        // Nothing more can be said about the peer: it did answer.
        if let Some(lease) = self.lease.take() {
            lease.report(Outcome::Success);
        }
        self.let_go();
    }
}

fn upstream_failed(exchange: &Exchange, error: &io::Error) -> Broken {
    match error.raw_os_error() {
        Some(_) => log!(
            exchange.logger(),
            Error,
            "recv() failed ({}) while reading upstream",
            tidegate_core::log::os_error(error)
        ),
        None => log!(exchange.logger(), Error, "{error} while reading upstream"),
    }
    Broken
}
