//! The body of a reply on its way to the client: read ahead within bounds, written as fast as the client takes it.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};
use smallvec::SmallVec;
use tidegate_balancer::idle::Used;
use tidegate_balancer::{Lease, Outcome};
use tidegate_core::log;
use tidegate_core::net::connection::IoFailure;
use tidegate_core::net::pump::{self, Counters};
use tidegate_core::net::timer::later;
use tidegate_core::net::{Transport, buffers};
use tidegate_core::subject::Subject;
use tidegate_http_wire::framing::{self, BadFraming, ReplyFraming};
use tidegate_http_wire::h1::body::{BodyDecoder, BodyLimits, Decoded, LAST_CHUNK, chunk_header};
use tidegate_http_wire::{Known, ReplyHead, Version};
use tokio::io::{AsyncReadExt, AsyncWrite};

use super::module::Settings;
use super::{PeerConnection, Pool};
use crate::answer::{Body, Piece};
use crate::exchange::Exchange;
use crate::output::Failure;

use crate::output::Writer;

/// A reply behind its head.
pub struct Reply {
    used: Option<Used<PeerConnection>>,
    buffer: BytesMut,
    decoder: BodyDecoder,
    framing: ReplyFraming,
    lease: Option<Lease>,
    pool: Rc<Pool>,
    settings: Rc<Settings>,
    begun: Instant,
    /// When the head was complete.
    arrived: Instant,
    reusable: bool,
}

impl Reply {
    /// The body behind `head`. `whole` says that the request was sent to its end.
    ///
    /// # Errors
    /// The head contradicts itself about where the body ends.
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        exchange: &Exchange,
        head: &ReplyHead,
        used: Used<PeerConnection>,
        buffer: BytesMut,
        pool: Rc<Pool>,
        settings: Rc<Settings>,
        (begun, arrived): (Instant, Instant),
        whole: bool,
    ) -> Result<Reply, BadFraming> {
        let framing = framing::reply(exchange.is_head(), head.status, &head.fields)?;
        let persistent = match head.version {
            Version::Http11 => !head.fields.contains_token(Known::Connection, b"close"),
            _ => head.fields.contains_token(Known::Connection, b"keep-alive"),
        };
        let reusable = whole && persistent && framing != ReplyFraming::Close && framing != ReplyFraming::Switch;
        let decoder = BodyDecoder::reply(framing, BodyLimits::default());
        Ok(Reply { used: Some(used), buffer, decoder, framing, lease: None, pool, settings, begun, arrived, reusable })
    }

    /// Takes the lease along, to be reported at the end.
    pub fn hold_lease(&mut self, lease: Lease) {
        self.lease = Some(lease);
    }

    /// Gives the lease back without a report.
    pub fn into_lease(mut self) -> Option<Lease> {
        self.lease.take()
    }

    /// The length, if the head tells it.
    pub fn length(&self) -> Option<u64> {
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
    pub fn try_whole(&mut self, exchange: &Exchange) -> Result<Option<Bytes>, BadFraming> {
        if let ReplyFraming::Length(length) = self.framing
            && usize::try_from(length).map_or(true, |length| length > self.buffer.len())
        {
            return Ok(None);
        }
        if self.framing == ReplyFraming::Empty {
            self.finish(exchange, self.arrived);
            return Ok(Some(Bytes::new()));
        }
        if !matches!(self.framing, ReplyFraming::Length(_)) {
            return Ok(None);
        }
        match self.decoder.decode(&mut self.buffer) {
            Ok(Decoded::Data(data)) if self.decoder.is_done() => {
                exchange.attempts.current(|attempt| {
                    attempt.body = attempt.body.saturating_add(u64::try_from(data.len()).unwrap_or(0))
                });
                self.finish(exchange, self.arrived);
                Ok(Some(data))
            }
            Ok(Decoded::End(_)) => {
                self.finish(exchange, self.arrived);
                Ok(Some(Bytes::new()))
            }
            // The length was checked against what has arrived.
            _ => Ok(None),
        }
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

    /// What has been decoded so far, appended to `queue`. True at the end of the body.
    fn decode(&mut self, exchange: &Exchange, queue: &mut Queue) -> Result<bool, io::Error> {
        // What has arrived together leaves as one chunk, however the upstream has cut it.
        let mut pieces: SmallVec<[Bytes; 4]> = SmallVec::new();
        let ended = loop {
            match self.decoder.decode(&mut self.buffer) {
                Ok(Decoded::Data(data)) => {
                    exchange.attempts.current(|attempt| {
                        attempt.body = attempt.body.saturating_add(u64::try_from(data.len()).unwrap_or(0))
                    });
                    pieces.push(data);
                }
                Ok(Decoded::NeedMore) => break Ok(self.decoder.is_done()),
                Ok(Decoded::End(_)) => break Ok(true),
                Err(bad) => break Err(io::Error::other(bad.by_upstream())),
            }
        };
        queue.data(pieces);
        ended
    }

    /// True when there is room for more than what waits in `queue`. What waits keeps the buffer that it lies in, so another
    /// is begun only when both are within the limit, or nothing waits.
    fn may_fill(&self, queue: &Queue) -> bool {
        let Settings { relay_limit, relay_size, .. } = *self.settings;
        let spare = self.buffer.capacity().saturating_sub(self.buffer.len());
        queue.pieces.is_empty()
            || queue.length < relay_limit && (spare > 0 || queue.length.saturating_add(relay_size) <= relay_limit)
    }

    /// Polls a read of what there is room for beside `queue`. `Ok(0)` is the end of the connection.
    fn poll_fill(&mut self, cx: &mut Context<'_>, queue: &Queue) -> Poll<io::Result<usize>> {
        let Some(used) = &mut self.used else { return Poll::Ready(Ok(0)) };
        std::task::ready!(used.connection.transport.poll_readable(cx))?;
        let spare = self.buffer.capacity() - self.buffer.len();
        if spare < self.settings.relay_size / 2 && (spare == 0 || queue.pieces.is_empty()) {
            if self.buffer.is_empty() {
                self.buffer = buffers::take(self.settings.relay_size);
            } else {
                self.buffer.reserve(self.settings.relay_size);
            }
        }
        let mut reading = std::pin::pin!(used.connection.transport.read_buf(&mut self.buffer));
        std::future::Future::poll(reading.as_mut(), cx)
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        // Nothing more can be said about the peer: it did answer.
        if let Some(lease) = self.lease.take() {
            lease.report(Outcome::Success);
        }
    }
}

/// Bytes that the client has yet to take.
struct Queue {
    pieces: VecDeque<Bytes>,
    length: usize,
    chunked: bool,
}

impl Queue {
    fn push(&mut self, piece: Bytes) {
        self.length += piece.len();
        if !piece.is_empty() {
            self.pieces.push_back(piece);
        }
    }

    /// Pieces of the body, framed as one chunk where the client gets chunks.
    fn data(&mut self, pieces: SmallVec<[Bytes; 4]>) {
        let length = pieces.iter().fold(0, |sum: usize, piece| sum.saturating_add(piece.len()));
        let framed = self.chunked && length > 0;
        if framed {
            let mut header = Vec::with_capacity(18);
            chunk_header(u64::try_from(length).unwrap_or(0), &mut header);
            self.push(header.into());
        }
        pieces.into_iter().for_each(|piece| self.push(piece));
        if framed {
            self.push(Bytes::from_static(b"\r\n"));
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, transport: &mut Transport) -> Poll<io::Result<usize>> {
        const SLICES: usize = 16;
        let count = {
            let slices: smallvec::SmallVec<[IoSlice<'_>; SLICES]> =
                self.pieces.iter().take(SLICES).map(|piece| IoSlice::new(piece)).collect();
            std::task::ready!(Pin::new(transport).poll_write_vectored(cx, &slices))?
        };
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.length -= count.min(self.length);
        let mut left = count;
        while left > 0
            && let Some(piece) = self.pieces.front_mut()
        {
            let taken = left.min(piece.len());
            piece.advance(taken);
            left -= taken;
            if piece.is_empty() {
                self.pieces.pop_front();
            }
        }
        Poll::Ready(Ok(count))
    }
}

/// Relays the body of a reply.
///
/// # Errors
/// Which side failed. A failure of the upstream has been logged.
pub async fn relay(writer: &mut Writer<'_>, mut reply: Reply) -> Result<(), Failure> {
    let exchange = writer.exchange;
    let mut queue = Queue { pieces: VecDeque::new(), length: 0, chunked: writer.chunked };
    queue.push(std::mem::take(&mut writer.pending).into());
    let mut done = reply.decode(exchange, &mut queue).map_err(|error| upstream_failed(exchange, &error))?;
    if done {
        end(&mut reply, &mut queue, exchange);
    }
    let (mut write_deadline, mut read_deadline) = (None, None);
    let connection = &mut writer.client.connection;
    let relayed = poll_fn(|cx| {
        loop {
            let mut moved = false;
            while !queue.pieces.is_empty() {
                match queue.poll_write(cx, &mut connection.transport) {
                    Poll::Pending => break,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(Failure::Client(error.into()))),
                    Poll::Ready(Ok(count)) => {
                        exchange.count_sent(count);
                        write_deadline = None;
                        moved = true;
                    }
                }
            }
            if queue.pieces.is_empty() && done {
                return Pin::new(&mut connection.transport)
                    .poll_flush(cx)
                    .map_err(|error| Failure::Client(error.into()));
            }
            if !done && reply.may_fill(&queue) {
                match reply.poll_fill(cx, &queue) {
                    Poll::Pending => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(upstream_failed(exchange, &error))),
                    Poll::Ready(Ok(count)) => {
                        read_deadline = None;
                        moved = true;
                        exchange.attempts.current(|attempt| {
                            attempt.received = attempt.received.saturating_add(u64::try_from(count).unwrap_or(0))
                        });
                        done = match reply.decode(exchange, &mut queue) {
                            Ok(done) => done,
                            Err(error) => return Poll::Ready(Err(upstream_failed(exchange, &error))),
                        };
                        if count == 0 && !done {
                            if reply.decoder.end().is_err() {
                                return Poll::Ready(Err(upstream_failed(
                                    exchange,
                                    &io::Error::other("upstream prematurely closed connection"),
                                )));
                            }
                            done = true;
                        }
                        if done {
                            end(&mut reply, &mut queue, exchange);
                        }
                    }
                }
            }
            if moved {
                continue;
            }
            if !queue.pieces.is_empty() {
                let until = *write_deadline.get_or_insert_with(|| later(writer.limit));
                if connection.timer.poll_until(cx, until).is_ready() {
                    return Poll::Ready(Err(Failure::Client(IoFailure::TimedOut)));
                }
            }
            let may_fill = !done && reply.may_fill(&queue);
            if let Some(used) = reply.used.as_mut().filter(|_| may_fill) {
                let until = *read_deadline.get_or_insert_with(|| later(reply.settings.read_timeout));
                if used.connection.timer.poll_until(cx, until).is_ready() {
                    return Poll::Ready(Err(upstream_failed(
                        exchange,
                        &io::Error::other("upstream timed out (110: Connection timed out)"),
                    )));
                }
            }
            return Poll::Pending;
        }
    })
    .await;
    if relayed.is_err() && !done {
        exchange.attempts.current(|attempt| attempt.finished = Some(reply.begun.elapsed()));
    }
    relayed
}

fn end(reply: &mut Reply, queue: &mut Queue, exchange: &Exchange) {
    reply.finish(exchange, Instant::now());
    if queue.chunked {
        let mut last = Vec::with_capacity(LAST_CHUNK.len());
        exchange.plan().trailers.write_end(exchange, &mut last);
        queue.push(last.into());
    }
}

fn upstream_failed(exchange: &Exchange, error: &io::Error) -> Failure {
    match error.raw_os_error() {
        Some(_) => log!(
            exchange.logger(),
            Error,
            "recv() failed ({}) while reading upstream",
            tidegate_core::log::os_error(error)
        ),
        None => log!(exchange.logger(), Error, "{error} while reading upstream"),
    }
    Failure::Source
}

/// Bytes both ways, after both sides have agreed to leave HTTP.
///
/// # Errors
/// Never: a tunnel ends as it ends.
pub async fn tunnel(writer: &mut Writer<'_>, mut reply: Reply) -> Result<(), Failure> {
    let exchange = writer.exchange;
    let Some(mut used) = reply.used.take() else { return Ok(()) };
    let limits = pump::Limits {
        client_buffer: reply.settings.buffer_size,
        upstream_buffer: reply.settings.relay_size,
        idle: reply.settings.read_timeout,
        half_close: false,
    };
    let counters = Counters::default();
    let first = std::mem::take(&mut writer.client.buffer);
    let connection = &mut writer.client.connection;
    let ended = pump::pump(
        &mut connection.transport,
        &mut used.connection.transport,
        &mut connection.timer,
        limits,
        &counters,
        first,
        std::mem::take(&mut reply.buffer),
    )
    .await;
    exchange.sent.bytes.set(exchange.sent.bytes.get().saturating_add(counters.to_client.get()));
    log!(exchange.logger(), Debug, "tunnel ended: {ended:?}");
    Ok(())
}

/// A body chunk by chunk, for filters that transform it.
pub struct Source {
    body: Body,
}

impl Source {
    /// The chunks of a body.
    pub fn new(body: Body) -> Source {
        Source { body }
    }

    /// The next chunk; `None` at the end.
    ///
    /// # Errors
    /// The source failed; it has been logged.
    pub async fn next(&mut self, writer: &mut Writer<'_>) -> Result<Option<Bytes>, Failure> {
        match &mut self.body {
            Body::Empty | Body::Announced(_) | Body::Unknown | Body::Tunnel(_) => Ok(None),
            Body::Bytes(bytes) => Ok(Some(std::mem::take(bytes)).filter(|bytes| !bytes.is_empty())),
            Body::Pieces(pieces) => {
                while let Some(piece) = pieces.first_mut() {
                    if let Piece::File(part) = piece
                        && let Some(bytes) = writer.next_piece(part).await?
                    {
                        return Ok(Some(bytes));
                    }
                    if let Piece::Bytes(bytes) = pieces.remove(0) {
                        return Ok(Some(bytes));
                    }
                }
                Ok(None)
            }
            Body::File(part) => writer.next_piece(part).await,
            Body::Upstream(reply) => {
                let exchange = writer.exchange;
                let mut queue = Queue { pieces: VecDeque::new(), length: 0, chunked: false };
                loop {
                    let done = reply.decode(exchange, &mut queue).map_err(|error| upstream_failed(exchange, &error))?;
                    if !queue.pieces.is_empty() {
                        let all: Vec<u8> = queue.pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
                        return Ok(Some(all.into()));
                    }
                    if done {
                        reply.finish(exchange, Instant::now());
                        return Ok(None);
                    }
                    let timeout = reply.settings.read_timeout;
                    let mut timer = tidegate_core::net::Timer::default();
                    let count = match timer.limit(timeout, poll_fn(|cx| reply.poll_fill(cx, &queue))).await {
                        Ok(Ok(count)) => count,
                        Ok(Err(error)) => return Err(upstream_failed(exchange, &error)),
                        Err(_) => {
                            return Err(upstream_failed(
                                exchange,
                                &io::Error::other("upstream timed out (110: Connection timed out)"),
                            ));
                        }
                    };
                    if count == 0 && reply.decoder.end().is_err() {
                        return Err(upstream_failed(
                            exchange,
                            &io::Error::other("upstream prematurely closed connection"),
                        ));
                    }
                    if count == 0 {
                        reply.finish(exchange, Instant::now());
                        return Ok(None);
                    }
                }
            }
        }
    }
}
