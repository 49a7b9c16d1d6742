//! A client's connection of HTTP/1 as the carrier of one exchange after the other.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use futures_core::future::LocalBoxFuture;
use tidegate_core::file::OpenFile;
use tidegate_core::net::connection::{IoFailure, Probes, poll_read_into};
use tidegate_core::net::pump::{Counters, Limits, pump};
use tidegate_core::net::timer::later;
use tidegate_core::net::{self, Lifetime, PeerInfo, Timer, Transport, buffers};
use tidegate_core::zone::counters::{self, Standing, State};
use tidegate_http_wire::framing::Framing as RequestFraming;
use tidegate_http_wire::h1::body::{BadBody, BodyDecoder, BodyLimits, Decoded};
use tidegate_http_wire::h1::write::BadPart;
use tokio::io::AsyncWrite;

use crate::answer::Answer;
use crate::carrier::{Presence, RequestBody, Way};
use crate::exchange::Exchange;
use crate::output::framing::Framing;
use crate::output::head;
use crate::output::outgoing::Outgoing;

/// What is as short as this belongs to the request that has just been read.
const SHORT: usize = 16 << 10;
/// Room for one read of a body.
const READ: usize = 16 << 10;

/// A client's connection: what outlives an exchange is small, since most connections are idle most of the time.
pub struct Connection {
    /// Who is there.
    pub info: Rc<PeerInfo>,
    /// The connection's membership in its worker.
    pub life: Lifetime,
    /// What the connection is doing, for the counters that all workers share.
    pub standing: RefCell<Standing>,
    /// Requests carried.
    pub served: Cell<u64>,
    expects_continue: Cell<bool>,
    io: RefCell<Io>,
    /// How the kernel asked the client's whether it is there, before it was to do so often.
    probed: Cell<Option<Box<Probes>>>,
}

/// The socket and what has been read from it. Nothing is borrowed for longer than it takes to look once.
struct Io {
    transport: Transport,
    timer: Timer,
    /// What has been read and not understood yet. Empty and without memory while idle.
    input: BytesMut,
    /// The body of the request in progress.
    body: BodyDecoder,
}

impl Connection {
    /// A client that has just connected.
    pub fn new(connection: net::Connection, life: Lifetime) -> Connection {
        let net::Connection { transport, timer, info } = connection;
        let body = BodyDecoder::request(RequestFraming::None, BodyLimits::default());
        Connection {
            info,
            life,
            standing: RefCell::new(Standing::enter(counters::of_worker(), State::Waiting)),
            served: Cell::new(0),
            expects_continue: Cell::new(false),
            io: RefCell::new(Io { transport, timer, input: BytesMut::new(), body }),
            probed: Cell::new(None),
        }
    }

    /// The connection for another wire, and what has been read of it.
    pub fn into_parts(self) -> (net::Connection, BytesMut, Lifetime) {
        let Connection { info, life, io, .. } = self;
        let Io { transport, timer, input, .. } = io.into_inner();
        (net::Connection { transport, timer, info }, input, life)
    }

    /// Says what the connection does from now on.
    pub fn change(&self, state: State) {
        self.standing.borrow_mut().change(state);
    }

    /// Sends what is written at once, however little it is.
    pub fn set_nodelay(&self) {
        self.io.borrow().transport.set_nodelay();
    }

    /// Nothing has been read that has not been understood.
    pub fn is_empty(&self) -> bool {
        self.io.borrow().input.is_empty()
    }

    /// Gives the memory of the input back, where there is no input.
    pub fn rest(&self) {
        let io = &mut *self.io.borrow_mut();
        if io.input.is_empty() {
            buffers::give(std::mem::take(&mut io.input));
        }
    }

    /// Looks at what has been read.
    pub fn with_input<R>(&self, look: impl FnOnce(&mut BytesMut) -> R) -> R {
        look(&mut self.io.borrow_mut().input)
    }

    /// The body of the request that begins is framed like this.
    pub fn expect_body(&self, framing: RequestFraming, expects_continue: bool) {
        self.io.borrow_mut().body = BodyDecoder::request(framing, BodyLimits::default());
        self.expects_continue.set(expects_continue);
    }

    /// Ready when a read is likely to give something.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.borrow_mut().transport.poll_readable(cx)
    }

    /// True when a read gives something at once, as far as the system knows.
    pub fn has_input(&self) -> bool {
        self.io.borrow().transport.has_input()
    }

    /// Reads into the free room of the input; 0 is the end.
    ///
    /// # Errors
    /// Nothing came within `limit`, or the transport failed.
    pub async fn read(&self, limit: Duration) -> Result<usize, IoFailure> {
        let mut deadline = None;
        poll_fn(|cx| {
            let Io { transport, timer, input, .. } = &mut *self.io.borrow_mut();
            if let Poll::Ready(read) = poll_read_into(transport, cx, input) {
                return Poll::Ready(read.map_err(IoFailure::Io));
            }
            timer.poll_until(cx, *deadline.get_or_insert_with(|| later(limit))).map(|()| Err(IoFailure::TimedOut))
        })
        .await
    }

    /// Half-closes.
    ///
    /// # Errors
    /// Those of shutdown(2).
    pub async fn finish(&self) -> io::Result<()> {
        poll_fn(|cx| Pin::new(&mut self.io.borrow_mut().transport).poll_shutdown(cx)).await
    }

    /// Has the connection end with a reset.
    pub fn reset(&self) {
        self.io.borrow().transport.reset_when_dropped();
    }

    /// Drops what has come of the body. True when that was all of it, so that the next head follows.
    pub fn pass_over_body(&self) -> bool {
        loop {
            match self.piece() {
                Ok(Decoded::Data(_)) => {}
                Ok(Decoded::End(_)) => return true,
                Ok(Decoded::NeedMore) => return self.is_taken(),
                Err(_) => return false,
            }
        }
    }
}

impl RequestBody for Connection {
    fn piece(&self) -> Result<Decoded, BadBody> {
        let Io { input, body, .. } = &mut *self.io.borrow_mut();
        body.decode(input)
    }

    fn poll_more(&self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let Io { transport, input, .. } = &mut *self.io.borrow_mut();
        if input.capacity() - input.len() < READ / 4 {
            if input.is_empty() {
                *input = buffers::take(READ);
            } else {
                input.reserve(READ);
            }
        }
        poll_read_into(transport, cx, input).map_ok(|count| count > 0)
    }

    fn announced(&self) -> u64 {
        self.io.borrow().body.announced()
    }

    fn is_taken(&self) -> bool {
        self.io.borrow().body.is_done()
    }

    fn awaits_continue(&self) -> bool {
        self.expects_continue.get()
    }

    fn poll_continue(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
        let transport = &mut self.io.borrow_mut().transport;
        // A socket that takes less than this has been given no answer yet, and has room for all of it.
        if ready!(Pin::new(&mut *transport).poll_write(cx, CONTINUE))? < CONTINUE.len() {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.expects_continue.set(false);
        // TLS may be left with what it has taken, and sends it along with what comes next.
        let _ = Pin::new(transport).poll_flush(cx);
        Poll::Ready(Ok(()))
    }
}

impl Presence for Connection {
    fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let transport = &mut self.io.borrow_mut().transport;
        if let Err(error) = ready!(transport.poll_readable(cx)) {
            return Poll::Ready(error);
        }
        // Other transports cannot be looked into without taking something out.
        let Transport::Tcp(tcp) = transport else { return Poll::Pending };
        let mut one = [0];
        match ready!(tcp.poll_peek(cx, &mut tokio::io::ReadBuf::new(&mut one))) {
            Ok(0) => Poll::Ready(io::ErrorKind::UnexpectedEof.into()),
            // More input waits for its turn; from here on a close cannot be seen.
            Ok(_) => Poll::Pending,
            Err(error) => Poll::Ready(error),
        }
    }

    fn is_abandoned(&self) -> bool {
        self.io.borrow().transport.is_broken()
    }

    fn probe(&self, on: bool) {
        let transport = &self.io.borrow().transport;
        match (on, self.probed.take()) {
            (true, before) => self.probed.set(before.or_else(|| transport.probe().map(Box::new))),
            (false, Some(before)) => transport.probe_as(*before),
            (false, None) => {}
        }
    }

    fn is_stopping(&self) -> bool {
        self.life.is_stopping()
    }

    fn poll_until(&self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        self.io.borrow_mut().timer.poll_until(cx, deadline)
    }

    fn admit(&self) -> Option<Lifetime> {
        self.life.connections().admit()
    }
}

impl Way for Connection {
    fn begin(
        &self,
        exchange: &Exchange,
        answer: &mut Answer,
        framing: Framing,
        keep: bool,
        out: &mut Outgoing,
    ) -> Result<usize, BadPart> {
        let head = head::write(exchange, answer, framing, keep)?;
        let length = head.len();
        out.begin(head, framing.is_chunked());
        Ok(length)
    }

    fn poll_write(&self, cx: &mut Context<'_>, out: &mut Outgoing, most: usize) -> Poll<io::Result<usize>> {
        let transport = &mut self.io.borrow_mut().transport;
        let count = match out.alone(most) {
            Some(bytes) if bytes.len() <= SHORT => ready!(transport.poll_send(cx, bytes))?,
            Some(bytes) => ready!(Pin::new(transport).poll_write(cx, bytes))?,
            None => ready!(Pin::new(transport).poll_write_vectored(cx, &out.slices(most)))?,
        };
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        out.advance(count);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(&self, cx: &mut Context<'_>, _: &mut Outgoing) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io.borrow_mut().transport).poll_flush(cx)
    }

    fn sends_files(&self) -> bool {
        self.io.borrow().transport.is_plain_tcp()
    }

    fn poll_send_file(
        &self,
        cx: &mut Context<'_>,
        file: &OpenFile,
        at: u64,
        count: usize,
        sure: bool,
    ) -> Poll<io::Result<Option<usize>>> {
        self.io.borrow().transport.poll_send_file(cx, file, at, count, sure)
    }

    fn write_before_more(&self, out: &mut Outgoing) -> io::Result<usize> {
        const FLAGS: i32 = nix::libc::MSG_MORE | nix::libc::MSG_NOSIGNAL;
        let io = self.io.borrow();
        let (Some(tcp), Some(bytes)) = (io.transport.tcp(), out.alone(usize::MAX)) else { return Ok(0) };
        let sent =
            tcp.try_io(tokio::io::Interest::WRITABLE, || socket2::SockRef::from(tcp).send_with_flags(bytes, FLAGS));
        match sent {
            Ok(count) => {
                out.advance(count);
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(error),
        }
    }

    #[expect(clippy::await_holding_refcell_ref, reason = "nothing else looks at a connection that has become a tunnel")]
    fn tunnel<'a>(
        &'a self,
        upstream: &'a mut Transport,
        first: BytesMut,
        limits: Limits,
        counters: &'a Counters,
    ) -> LocalBoxFuture<'a, ()> {
        Box::pin(async move {
            let Io { transport, timer, input, .. } = &mut *self.io.borrow_mut();
            pump(transport, upstream, timer, limits, counters, std::mem::take(input), first).await;
        })
    }
}
