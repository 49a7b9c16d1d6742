//! A stream of HTTP/2 as the carrier of one exchange.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use futures_core::future::LocalBoxFuture;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue};
use tidegate_core::clock;
use tidegate_core::net::connection::poll_read_into;
use tidegate_core::net::pump::{Counters, Limits};
use tidegate_core::net::timer::later;
use tidegate_core::net::{Lifetime, Timer, Transport};
use tidegate_http_wire::h1::body::{BadBody, Decoded};
use tidegate_http_wire::h1::write::BadPart;
use tidegate_http_wire::h2::answer_fields;
use tidegate_http_wire::{Fields, Known, date};
use tokio::io::AsyncWrite;

use super::settings::ChunkSize;
use crate::answer::{Answer, product};
use crate::carrier::{Presence, RequestBody, Way};
use crate::exchange::Exchange;
use crate::output::framing::Framing;
use crate::output::head;
use crate::output::outgoing::Outgoing;

/// A stream of HTTP/2.
pub struct Stream {
    life: Rc<Lifetime>,
    timer: RefCell<Timer>,
    request: RefCell<Request>,
    respond: RefCell<SendResponse<Bytes>>,
    send: RefCell<Option<SendStream<Bytes>>>,
    /// `http2_chunk_size`
    chunk: Cell<usize>,
    /// What follows the head belongs to no body: it waits for the tunnel.
    is_tunnel: bool,
}

/// The body of the request.
struct Request {
    body: RecvStream,
    /// What has arrived and nobody has taken.
    arrived: Bytes,
    has_ended: bool,
}

impl Stream {
    /// A stream whose head has come.
    pub fn new(
        life: Rc<Lifetime>,
        body: RecvStream,
        respond: SendResponse<Bytes>,
        chunk: usize,
        is_tunnel: bool,
    ) -> Stream {
        let has_ended = body.is_end_stream();
        Stream {
            life,
            timer: RefCell::default(),
            request: RefCell::new(Request { body, arrived: Bytes::new(), has_ended }),
            respond: RefCell::new(respond),
            send: RefCell::default(),
            chunk: Cell::new(chunk),
            is_tunnel,
        }
    }

    /// Breaks the stream off: the client must not take what it has for the whole.
    pub fn reset(&self) {
        match &mut *self.send.borrow_mut() {
            Some(send) => send.send_reset(Reason::INTERNAL_ERROR),
            None => self.respond.borrow_mut().send_reset(Reason::INTERNAL_ERROR),
        }
    }

    /// Polls for more of what the client sends. Nothing at the end.
    fn poll_arrival(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Request { body, arrived, has_ended } = &mut *self.request.borrow_mut();
        if *has_ended || !arrived.is_empty() {
            return Poll::Ready(Ok(()));
        }
        match ready!(body.poll_data(cx)) {
            Some(data) => *arrived = data.map_err(failure)?,
            None => {
                // Nobody asks for what follows a body: it is taken, and let go of.
                let _ = ready!(body.poll_trailers(cx)).map_err(failure)?;
                *has_ended = true;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Takes what has arrived, and lets the client send as much again.
    fn take_arrived(&self) -> Bytes {
        let Request { body, arrived, .. } = &mut *self.request.borrow_mut();
        let data = std::mem::take(arrived);
        let _ = body.flow_control().release_capacity(data.len());
        data
    }

    /// How much may be sent now; of a stream that is no more, an error.
    fn poll_capacity(&self, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
        let mut send = self.send.borrow_mut();
        let Some(send) = &mut *send else { return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())) };
        send.reserve_capacity(wanted);
        // Asked while there is some, it would wait for more.
        if send.capacity() > 0 {
            return Poll::Ready(Ok(send.capacity()));
        }
        loop {
            match ready!(send.poll_capacity(cx)) {
                Some(Ok(0)) => {}
                Some(Ok(capacity)) => return Poll::Ready(Ok(capacity)),
                Some(Err(error)) => return Poll::Ready(Err(failure(error))),
                None => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            }
        }
    }

    /// Sends a piece, or the end, or both. The end goes with the last piece.
    fn send(&self, piece: Option<Bytes>, out: &mut Outgoing) -> io::Result<()> {
        let mut send = self.send.borrow_mut();
        let Some(send) = &mut *send else { return Ok(()) };
        let end = out.take_end();
        match (piece, end.map(|end| end.trailers)) {
            (Some(piece), None) => send.send_data(piece, false).map_err(failure),
            (None, None) => Ok(()),
            (piece, Some(None)) => send.send_data(piece.unwrap_or_default(), true).map_err(failure),
            (piece, Some(Some(trailers))) => {
                if let Some(piece) = piece {
                    send.send_data(piece, false).map_err(failure)?;
                }
                let mut fields = HeaderMap::new();
                let _ = put(&trailers, &mut fields);
                send.send_trailers(fields).map_err(failure)
            }
        }
    }
}

/// The client's doing, or the connection's: what was sent or awaited goes no further.
fn failure(error: h2::Error) -> io::Error {
    match error.is_io() {
        true => error.into_io().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()),
        false => io::Error::new(io::ErrorKind::ConnectionReset, error),
    }
}

impl RequestBody for Stream {
    fn piece(&self) -> Result<Decoded, BadBody> {
        if self.is_tunnel {
            return Ok(Decoded::End(None));
        }
        let data = self.take_arrived();
        match (data.is_empty(), self.request.borrow().has_ended) {
            (false, _) => Ok(Decoded::Data(data)),
            (true, true) => Ok(Decoded::End(None)),
            (true, false) => Ok(Decoded::NeedMore),
        }
    }

    fn poll_more(&self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        self.poll_arrival(cx).map_ok(|()| true)
    }

    fn announced(&self) -> u64 {
        0
    }

    fn is_taken(&self) -> bool {
        let request = self.request.borrow();
        self.is_tunnel || request.arrived.is_empty() && (request.has_ended || request.body.is_end_stream())
    }

    /// nginx: over HTTP/2 nobody is told to go on.
    fn awaits_continue(&self) -> bool {
        false
    }

    fn poll_continue(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Presence for Stream {
    fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let reset = match &mut *self.send.borrow_mut() {
            Some(send) => ready!(send.poll_reset(cx)),
            None => ready!(self.respond.borrow_mut().poll_reset(cx)),
        };
        Poll::Ready(match reset {
            Ok(_) => io::ErrorKind::ConnectionReset.into(),
            Err(error) => failure(error),
        })
    }

    fn is_abandoned(&self) -> bool {
        self.poll_gone(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    /// A client that is gone has reset its stream.
    fn probe(&self, _: bool) {}

    fn is_stopping(&self) -> bool {
        self.life.is_stopping()
    }

    fn poll_until(&self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        self.timer.borrow_mut().poll_until(cx, deadline)
    }

    fn admit(&self) -> Option<Lifetime> {
        self.life.connections().admit()
    }
}

impl Way for Stream {
    fn begin(
        &self,
        exchange: &Exchange,
        answer: &mut Answer,
        framing: Framing,
        _keep: bool,
        out: &mut Outgoing,
    ) -> Result<usize, BadPart> {
        let (response, size) = response(exchange, answer, framing).or_else(|BadPart| {
            head::put_in_line(answer);
            response(exchange, answer, framing)
        })?;
        let has_ended = exchange.is_head() || framing.is_empty();
        if let Some(chunk) = exchange.plan().parts.get::<ChunkSize>() {
            self.chunk.set(chunk.0);
        }
        out.begin(Vec::new(), false);
        // A client that is gone is noticed by whoever sends the body.
        if let Ok(send) = self.respond.borrow_mut().send_response(response, has_ended)
            && !has_ended
        {
            *self.send.borrow_mut() = Some(send);
        }
        Ok(size)
    }

    fn poll_write(&self, cx: &mut Context<'_>, out: &mut Outgoing, most: usize) -> Poll<io::Result<usize>> {
        let capacity = ready!(self.poll_capacity(cx, out.len().min(most)))?;
        let piece = out.take(capacity.min(most).min(self.chunk.get()));
        let count = piece.len();
        Poll::Ready(self.send(Some(piece), out).map(|()| count))
    }

    fn poll_flush(&self, _: &mut Context<'_>, out: &mut Outgoing) -> Poll<io::Result<()>> {
        Poll::Ready(self.send(None, out))
    }

    fn tunnel<'a>(
        &'a self,
        upstream: &'a mut Transport,
        first: BytesMut,
        limits: Limits,
        counters: &'a Counters,
    ) -> LocalBoxFuture<'a, ()> {
        Box::pin(tunnel(self, upstream, first, limits, counters))
    }
}

/// Bytes both ways between DATA frames and a transport, until one of the two ends or nothing moves for the idle time.
async fn tunnel(stream: &Stream, upstream: &mut Transport, first: BytesMut, limits: Limits, counters: &Counters) {
    let count = |counter: &Cell<u64>, bytes: usize| {
        counter.set(counter.get().saturating_add(u64::try_from(bytes).unwrap_or(0)));
    };
    let mut down = Outgoing::default();
    down.data(first.freeze());
    let (mut up, mut buffer) = (Bytes::new(), BytesMut::new());
    let mut deadline = later(limits.idle);
    let mut is_over = false;
    poll_fn(|cx| {
        loop {
            let mut moved = false;
            while !down.is_empty() {
                match stream.poll_write(cx, &mut down, usize::MAX) {
                    Poll::Pending => break,
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Ready(Ok(bytes)) => {
                        count(&counters.to_client, bytes);
                        moved = true;
                    }
                }
            }
            if is_over && down.is_empty() {
                return Poll::Ready(());
            }
            if !is_over && down.is_empty() {
                buffer.reserve(limits.upstream_buffer);
                match poll_read_into(upstream, cx, &mut buffer) {
                    Poll::Pending => {}
                    Poll::Ready(Ok(0) | Err(_)) => {
                        down.end(None);
                        let _ = stream.poll_flush(cx, &mut down);
                        (is_over, moved) = (true, true);
                    }
                    Poll::Ready(Ok(bytes)) => {
                        count(&counters.from_upstream, bytes);
                        down.data(buffer.split().freeze());
                        moved = true;
                    }
                }
            }
            if up.is_empty() && !is_over {
                match stream.poll_arrival(cx) {
                    Poll::Pending => {}
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Ready(Ok(())) => {
                        up = stream.take_arrived();
                        // What is on its way to the client still gets there.
                        is_over = up.is_empty() && stream.request.borrow().has_ended;
                        count(&counters.from_client, up.len());
                        moved = true;
                    }
                }
            }
            if !up.is_empty() {
                match Pin::new(&mut *upstream).poll_write(cx, &up) {
                    Poll::Pending => {}
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(()),
                    Poll::Ready(Ok(bytes)) => {
                        drop(up.split_to(bytes.min(up.len())));
                        count(&counters.to_upstream, bytes);
                        moved = true;
                    }
                }
            }
            if !moved {
                return stream.poll_until(cx, deadline);
            }
            deadline = later(limits.idle);
        }
    })
    .await;
    let mut end = Outgoing::default();
    end.end(None);
    let _ = stream.send(None, &mut end);
}

/// The head of an answer, and its size: that of its names and values.
///
/// # Errors
/// A field cannot be sent as it is.
fn response(exchange: &Exchange, answer: &Answer, framing: Framing) -> Result<(http::Response<()>, usize), BadPart> {
    // RFC 8441 section 5: a tunnel that is agreed on is a success like any other.
    let status = if framing == Framing::Switched { 200 } else { answer.status };
    let mut response = http::Response::new(());
    *response.status_mut() = http::StatusCode::from_u16(status).map_err(|_| BadPart)?;
    let fields = response.headers_mut();
    let own = &answer.fields;
    let plan = exchange.plan();
    if !own.has(Known::Server) {
        fields
            .try_append("server", HeaderValue::from_static(product(plan.settings.server_tokens)))
            .map_err(|_| BadPart)?;
    }
    if !own.has(Known::Date) {
        fields.try_append("date", value(&date::format(clock::seconds()))?).map_err(|_| BadPart)?;
    }
    if let Framing::Length(length) = framing {
        fields.try_append("content-length", HeaderValue::from(length)).map_err(|_| BadPart)?;
    }
    if let Some(modified) = answer.last_modified.filter(|_| !own.has(Known::LastModified)) {
        fields.try_append("last-modified", value(&date::format(modified))?).map_err(|_| BadPart)?;
    }
    put(own, fields)?;
    let size = fields.iter().fold(10, |sum, (name, value)| sum + name.as_str().len() + value.len());
    Ok((response, size))
}

fn put(from: &Fields, to: &mut HeaderMap) -> Result<(), BadPart> {
    for (name, text) in answer_fields(from)? {
        // The library has a limit on the number of fields.
        to.try_append(HeaderName::from_bytes(&name).map_err(|_| BadPart)?, value(text)?).map_err(|_| BadPart)?;
    }
    Ok(())
}

fn value(text: &[u8]) -> Result<HeaderValue, BadPart> {
    HeaderValue::from_bytes(text).map_err(|_| BadPart)
}
