//! One attempt at one peer: connect, send, read the head of the reply.

use std::cell::Cell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use tidegate_balancer::Lease;
use tidegate_balancer::idle::Used;
use tidegate_core::file::temp::TempFile;
use tidegate_core::log;
use tidegate_core::log::{Shown, os_error};
use tidegate_core::net::connection::poll_read_into;
use tidegate_core::net::timer::later;
use tidegate_core::net::{Timer, Transport, buffers};
use tidegate_core::subject::Subject;
use tidegate_http_wire::h1::body::{LAST_CHUNK, chunk_header};
use tidegate_http_wire::h1::reply::{ReplyError, ReplyParser};
use tidegate_http_wire::{ReplyHead, Version};
use tokio::io::{AsyncWrite, ReadBuf};

use super::pass::Destination;
use super::relay::Reply;
use super::request::{self, BodyFraming};
use super::{Kept, PeerConnection, ProxyPass};
use crate::content::Outcome;
use crate::exchange::Exchange;
use crate::held::Held;
use crate::presence::{self, within};
use crate::request_body::{self, BodyFault};

/// What is as short as this belongs to what has just been read of the client.
const SHORT: usize = 4 << 10;
/// Pieces in which a body is read from its file.
const PIECE: usize = 64 << 10;

/// Why an attempt failed.
#[derive(Debug)]
pub enum Fault {
    /// No connection.
    Connect(io::Error),
    /// No connection in time.
    ConnectTimeout,
    /// The peer took the request no longer.
    Send(io::Error),
    /// The peer took nothing of the request in time.
    SendTimeout,
    /// Nothing of the reply in time.
    ReadTimeout,
    /// The connection failed while the head was read.
    Read(io::Error),
    /// The peer closed before the head was complete.
    Closed,
    /// The head is no head.
    Reply(ReplyError),
    /// Interim replies without end.
    TooManyInterim,
    /// The status is reason to ask another peer.
    Status(u16),
    /// A field of the request would break out of its line.
    BadRequest,
    /// The client has gone.
    ClientGone,
    /// The rest of the client's body cannot be had.
    ClientBody(BodyFault),
    /// What is held of the client's body cannot be read.
    HeldBody(io::Error),
}

impl Fault {
    /// The status for the client if it stays at this.
    pub fn status(&self) -> u16 {
        match self {
            Fault::ConnectTimeout | Fault::SendTimeout | Fault::ReadTimeout => 504,
            Fault::Status(status) => *status,
            Fault::BadRequest | Fault::HeldBody(_) => 500,
            Fault::ClientGone => 499,
            Fault::ClientBody(fault) => fault.status(),
            _ => 502,
        }
    }

    /// The peer may have received the request.
    pub fn request_sent(&self) -> bool {
        !matches!(self, Fault::Connect(_) | Fault::ConnectTimeout | Fault::BadRequest)
    }

    /// The connection ended before anything of a reply came.
    pub fn is_closed(&self) -> bool {
        matches!(self, Fault::Closed | Fault::Send(_) | Fault::Read(_))
    }

    /// What was going on.
    pub fn action(&self) -> &'static str {
        match self {
            Fault::Connect(_) | Fault::ConnectTimeout => "connecting to upstream",
            Fault::Send(_) | Fault::SendTimeout | Fault::BadRequest | Fault::HeldBody(_) => {
                "sending request to upstream"
            }
            _ => "reading response header from upstream",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Connect(error) => write!(f, "connect() failed ({})", os_error(error))?,
            Fault::ConnectTimeout | Fault::SendTimeout | Fault::ReadTimeout => {
                f.write_str("upstream timed out (110: Connection timed out)")?
            }
            Fault::Send(error) => write!(f, "send() failed ({})", os_error(error))?,
            Fault::Read(error) => write!(f, "recv() failed ({})", os_error(error))?,
            Fault::Closed => f.write_str("upstream prematurely closed connection")?,
            Fault::TooManyInterim => write!(f, "upstream sent more than {MOST_INTERIM} interim responses")?,
            Fault::Reply(error) => error.fmt(f)?,
            Fault::Status(status) => write!(f, "upstream answered with status {status}")?,
            Fault::BadRequest => f.write_str("a request field contains a line break or a zero byte")?,
            Fault::ClientGone => f.write_str("client prematurely closed connection")?,
            Fault::HeldBody(error) => write!(f, "pread() of the request body failed ({})", os_error(error))?,
            Fault::ClientBody(_) => f.write_str("the rest of the request body cannot be read")?,
        }
        write!(f, " while {}", self.action())
    }
}

/// What is sent, to one peer after the other.
pub struct Sending<'a> {
    /// The directive.
    pub pass: &'a ProxyPass,
    /// The group and target.
    pub destination: &'a Destination,
    /// The body as far as it is held.
    pub held: Held,
    /// Some of the rest of the body has gone to a peer and cannot be had again.
    pub streamed: Cell<bool>,
}

/// A reply whose head is there.
pub struct Arrived {
    /// The head.
    pub head: ReplyHead,
    /// What follows it.
    pub reply: Reply,
}

impl Arrived {
    /// The lease, for a reply that is not used.
    pub fn into_lease(self) -> Option<Lease> {
        self.reply.into_lease()
    }

    /// Makes an answer of the reply.
    pub fn into_answer(self: Box<Self>, exchange: &Exchange, pass: &ProxyPass) -> Outcome {
        super::redirect::answer(self, exchange, pass)
    }
}

type Failed = (Fault, Option<Lease>);

impl Sending<'_> {
    /// The whole request can still be sent to another peer.
    pub fn can_repeat(&self) -> bool {
        self.held.complete || !self.streamed.get()
    }

    /// Asks the peer, on a kept connection or a new one.
    ///
    /// # Errors
    /// The fault, and the lease to report it on.
    pub async fn run(
        &self,
        exchange: &Exchange,
        lease: Lease,
        kept: Option<Kept>,
        begun: Instant,
    ) -> Result<Box<Arrived>, Failed> {
        match self.ask(exchange, &lease, kept, begun).await {
            Ok(mut arrived) => {
                arrived.reply.hold_lease(lease);
                Ok(arrived)
            }
            Err(fault) => {
                exchange.attempts.current(|attempt| attempt.finished = Some(begun.elapsed()));
                Err((fault, Some(lease)))
            }
        }
    }

    async fn ask(
        &self,
        exchange: &Exchange,
        lease: &Lease,
        kept: Option<Kept>,
        begun: Instant,
    ) -> Result<Box<Arrived>, Fault> {
        let settings = &self.pass.settings;
        let mut out = Vec::with_capacity(1024);
        let body = match &settings.set_body {
            Some(template) => Bytes::from(template.value(exchange)),
            None if settings.pass_request_body => self.held.memory.clone(),
            None => Bytes::new(),
        };
        let own_body = settings.set_body.is_some() || !settings.pass_request_body;
        let framing = match own_body {
            true if settings.set_body.is_some() => BodyFraming::Length(u64::try_from(body.len()).unwrap_or(u64::MAX)),
            true => BodyFraming::None,
            false => request::body_framing(exchange.head.framing, self.held.len(), self.held.complete),
        };
        let says = request::write_head(exchange, settings, self.destination, framing, &mut out);
        let says = says.map_err(|_| Fault::BadRequest)?;
        if framing == BodyFraming::Chunked && !body.is_empty() {
            chunk_header(u64::try_from(body.len()).unwrap_or(0), &mut out);
        }
        out.extend_from_slice(&body);
        if framing == BodyFraming::Chunked && !body.is_empty() {
            out.extend_from_slice(b"\r\n");
        }
        let (mut used, connected) = match kept {
            Some(used) => (used, std::time::Duration::ZERO),
            None => {
                // Boxed, so that an attempt on a kept connection does not carry the room for it.
                let connection = Box::pin(self.connect(exchange, lease)).await?;
                let made = Instant::now();
                (Used { connection, made, uses: 0 }, made.saturating_duration_since(begun))
            }
        };
        exchange.attempts.current(|attempt| attempt.connected = Some(connected));
        used.uses += 1;
        let peer = &mut used.connection;
        let mut whole = write(exchange, peer, &out, settings.send_timeout).await?;
        let mut sent = out.len();
        if whole && !own_body && !self.held.is_in_memory() {
            // Boxed, as all that is long: the usual attempt does not carry the room for it.
            (whole, sent) = Box::pin(self.send_rest(exchange, peer, framing, sent)).await?;
        }
        exchange.attempts.current(|attempt| attempt.sent = u64::try_from(sent).unwrap_or(0));
        let (head, buffer) = read_head(exchange, peer, settings).await?;
        let arrived = Instant::now();
        exchange.attempts.current(|attempt| {
            attempt.first_byte = Some(arrived.saturating_duration_since(begun));
            attempt.status = head.status;
            attempt.received = u64::try_from(head.size() + buffer.len()).unwrap_or(0);
        });
        let reply = Reply::new(
            says.is_head,
            &head,
            used,
            buffer,
            self.destination.pool.clone(),
            settings.clone(),
            (begun, arrived),
            whole && says.keep && settings.bind.is_none(),
        )
        .map_err(|bad| Fault::Reply(bad.into()))?;
        // Boxed here: it is handed on often.
        Ok(Box::new(Arrived { head, reply }))
    }

    /// `proxy_bind`: where the connection comes from.
    fn local(&self, exchange: &Exchange) -> Option<SocketAddr> {
        let value = self.pass.settings.bind.as_ref()?.value(exchange);
        let local = local_address(&value);
        if local.is_none() && !value.is_empty() {
            log!(exchange.logger(), Error, "invalid local address \"{}\" while connecting to upstream", Shown(&value));
        }
        local
    }

    async fn connect(&self, exchange: &Exchange, lease: &Lease) -> Result<PeerConnection, Fault> {
        let settings = &self.pass.settings;
        log!(exchange.logger(), Debug, "connecting to upstream {}", lease.address());
        let mut timer = Timer::default();
        let connecting =
            timer.limit(settings.connect_timeout, Transport::connect_from(self.local(exchange), lease.address()));
        let connected = unless_client_leaves(exchange, settings.ignores_abort(), connecting).await?;
        match connected {
            Ok(Ok(transport)) => {
                transport.set_nodelay();
                Ok(PeerConnection { transport })
            }
            Ok(Err(error)) => Err(Fault::Connect(error)),
            Err(_) => Err(Fault::ConnectTimeout),
        }
    }

    /// Sends what of the body is not in memory. `false` when the peer has answered before its end.
    async fn send_rest(
        &self,
        exchange: &Exchange,
        peer: &mut PeerConnection,
        framing: BodyFraming,
        sent: usize,
    ) -> Result<(bool, usize), Fault> {
        match &self.held.file {
            Some((file, length)) => self.send_file(exchange, peer, file, *length, sent).await,
            None => self.stream_body(exchange, peer, framing, sent).await,
        }
    }

    /// Sends what is held in a file. `false` when the peer has answered before its end.
    async fn send_file(
        &self,
        exchange: &Exchange,
        peer: &mut PeerConnection,
        file: &TempFile,
        length: u64,
        mut sent: usize,
    ) -> Result<(bool, usize), Fault> {
        let settings = &self.pass.settings;
        let mut at = 0;
        while at < length {
            let wanted = usize::try_from(length - at).unwrap_or(PIECE).min(PIECE);
            let reading = file.open().read(wanted, at).wait();
            let read = presence::unless_given_up(exchange, reading).await.ok_or(Fault::ClientGone)?;
            let bytes = read.map_err(Fault::HeldBody)?;
            if bytes.is_empty() {
                return Err(Fault::HeldBody(io::ErrorKind::UnexpectedEof.into()));
            }
            let writing = write(exchange, peer, &bytes, settings.send_timeout);
            if !unless_client_leaves(exchange, settings.ignores_abort(), writing).await?? {
                return Ok((false, sent));
            }
            sent += bytes.len();
            at += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        }
        Ok((true, sent))
    }

    /// Sends the rest of the client's body as it comes. `false` when the peer has answered before its end.
    async fn stream_body(
        &self,
        exchange: &Exchange,
        peer: &mut PeerConnection,
        framing: BodyFraming,
        mut sent: usize,
    ) -> Result<(bool, usize), Fault> {
        let limit = self.pass.settings.send_timeout;
        let mut out = Vec::new();
        self.streamed.set(true);
        loop {
            let data = request_body::next(exchange).await.map_err(Fault::ClientBody)?;
            out.clear();
            let mut is_last = data.is_none();
            match &data {
                Some(data) if framing == BodyFraming::Chunked => {
                    let more = together(exchange, data.len()).map_err(Fault::ClientBody)?;
                    let length = more.iter().fold(data.len(), |sum, piece| sum.saturating_add(piece.len()));
                    chunk_header(u64::try_from(length).unwrap_or(0), &mut out);
                    out.extend_from_slice(data);
                    more.iter().for_each(|piece| out.extend_from_slice(piece));
                    out.extend_from_slice(b"\r\n");
                    // Its end may have come along, and is told once.
                    if exchange.carrier.is_taken() {
                        out.extend_from_slice(LAST_CHUNK);
                        is_last = true;
                    }
                }
                Some(data) => out.extend_from_slice(data),
                None if framing == BodyFraming::Chunked => out.extend_from_slice(LAST_CHUNK),
                None => {}
            }
            if !write(exchange, peer, &out, limit).await? {
                return Ok((false, sent));
            }
            sent += out.len();
            if is_last {
                return Ok((true, sent));
            }
        }
    }
}

/// What else of a body has arrived, to go in one chunk with `count` bytes of it. It lies in one buffer with them, and is
/// no more than that holds.
fn together(exchange: &Exchange, count: usize) -> Result<Vec<Bytes>, BodyFault> {
    let (mut pieces, mut sum) = (Vec::new(), count);
    while sum < PIECE
        && let Some(piece) = request_body::next_arrived(exchange)?
    {
        sum += piece.len();
        pieces.push(piece);
    }
    Ok(pieces)
}

/// Ready when a peer has begun to answer, or has closed. What it says in between (1xx) is read when the request is sent.
fn poll_answer(transport: &mut Transport, cx: &mut Context<'_>) -> Poll<()> {
    let _ = ready!(transport.poll_readable(cx));
    // Other transports cannot be looked into without taking something out.
    let Transport::Tcp(tcp) = transport else { return Poll::Ready(()) };
    let mut start = [0; INTERIM];
    let mut seen = ReadBuf::new(&mut start);
    match ready!(tcp.poll_peek(cx, &mut seen)) {
        Ok(_) if is_interim(seen.filled()) => Poll::Pending,
        _ => Poll::Ready(()),
    }
}

/// So much of a status line tells whether it is an interim reply's.
const INTERIM: usize = 12;

fn is_interim(start: &[u8]) -> bool {
    start.len() == INTERIM
        && start.starts_with(b"HTTP/1.")
        && matches!(start.get(8..), Some([b' ', b'1', ..]))
        && !start.ends_with(b"101")
}

/// Writes everything. `Ok(false)` when the peer does not take it but has something to say already.
async fn write(
    exchange: &Exchange,
    peer: &mut PeerConnection,
    mut bytes: &[u8],
    limit: std::time::Duration,
) -> Result<bool, Fault> {
    let mut deadline = None;
    while !bytes.is_empty() {
        let written = poll_fn(|cx| {
            let written = if bytes.len() <= SHORT {
                peer.transport.poll_send(cx, bytes)
            } else {
                Pin::new(&mut peer.transport).poll_write(cx, bytes)
            };
            match written {
                Poll::Ready(Ok(count)) => return Poll::Ready(Ok(Some(count))),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Fault::Send(error))),
                Poll::Pending => {}
            }
            if poll_answer(&mut peer.transport, cx).is_ready() {
                return Poll::Ready(Ok(None));
            }
            let until = *deadline.get_or_insert_with(|| later(limit));
            exchange.carrier.poll_until(cx, until).map(|()| Err(Fault::SendTimeout))
        });
        match written.await {
            Ok(Some(count)) => {
                bytes = bytes.get(count..).unwrap_or_default();
                deadline = None;
            }
            Ok(None) => return Ok(false),
            // A peer that refuses a body closes; what it said before that is still to be read.
            Err(Fault::Send(error))
                if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
                    && peer_spoke(peer).await =>
            {
                return Ok(false);
            }
            Err(fault) => return Err(fault),
        }
    }
    let _ = poll_fn(|cx| Pin::new(&mut peer.transport).poll_flush(cx)).await;
    Ok(true)
}

async fn peer_spoke(peer: &mut PeerConnection) -> bool {
    match peer.transport.tcp() {
        Some(tcp) => {
            let mut one = [0];
            matches!(Timer::default().limit(std::time::Duration::from_millis(100), tcp.peek(&mut one)).await, Ok(Ok(1)))
        }
        None => false,
    }
}

/// Interim replies that are passed over for one request.
const MOST_INTERIM: usize = 32;

/// Reads the head of the reply; interim replies are passed over, but not without end.
async fn read_head(
    exchange: &Exchange,
    peer: &mut PeerConnection,
    settings: &super::module::Settings,
) -> Result<(ReplyHead, BytesMut), Fault> {
    let mut buffer = buffers::take(settings.buffer_size);
    let mut parser = ReplyParser::new(settings.buffer_size);
    let ignore = settings.ignores_abort();
    let mut interim = 0;
    loop {
        if buffer.len() == buffer.capacity() {
            buffer.reserve(settings.buffer_size.min(4096));
        }
        let reading =
            within(exchange, settings.read_timeout, |cx| poll_read_into(&mut peer.transport, cx, &mut buffer));
        match unless_client_leaves(exchange, ignore, pin!(reading)).await? {
            Some(Ok(0)) => return Err(Fault::Closed),
            Some(Ok(_)) => {}
            None => return Err(Fault::ReadTimeout),
            Some(Err(error)) => return Err(Fault::Read(error)),
        }
        while let Some(head) = parser.parse(&mut buffer).map_err(Fault::Reply)? {
            if head.status >= 200 || (head.status == 101 && head.version >= Version::Http11) {
                return Ok((head, buffer));
            }
            interim += 1;
            if interim > MOST_INTERIM {
                return Err(Fault::TooManyInterim);
            }
            parser = ReplyParser::new(settings.buffer_size);
        }
    }
}

/// Runs `work` unless the client closes first, or whatever the client does.
async fn unless_client_leaves<F: Future>(exchange: &Exchange, ignore: bool, work: F) -> Result<F::Output, Fault> {
    if ignore { Ok(work.await) } else { presence::unless_gone(exchange, work).await.ok_or(Fault::ClientGone) }
}

/// An address that `proxy_bind` gives, with or without a port, which is not zero then.
pub fn local_address(value: &[u8]) -> Option<SocketAddr> {
    let text = std::str::from_utf8(value).ok()?;
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(address).filter(|address| address.port() != 0);
    }
    let bracketed = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let ip = match bracketed {
        Some(text) => text.parse().ok().map(IpAddr::V6),
        None => text.parse().ok(),
    };
    ip.map(|ip| SocketAddr::new(ip, 0))
}

#[cfg(test)]
mod tests {
    use super::{is_interim, local_address};

    #[test]
    fn an_interim_reply_is_told_by_its_beginning() {
        for (start, expected) in [
            ("HTTP/1.1 103", true),
            ("HTTP/1.0 100", true),
            ("HTTP/1.1 101", false),
            ("HTTP/1.1 200", false),
            ("HTTP/1.1 10", false),
            ("HTTP/2.0 103", false),
            ("", false),
        ] {
            assert_eq!(is_interim(start.as_bytes()), expected, "{start}");
        }
    }

    #[test]
    fn a_local_address_is_one_or_is_none() {
        for (value, expected) in [
            (&b"127.0.0.2"[..], Some("127.0.0.2:0")),
            (b"127.0.0.2:81", Some("127.0.0.2:81")),
            (b"::1", Some("[::1]:0")),
            (b"[::1]:81", Some("[::1]:81")),
            (b"[::1]", Some("[::1]:0")),
            (b"[127.0.0.1]", None),
            (b"127.0.0.1:0", None),
            (b"[::1]:0", None),
            (b"", None),
            (b"off", None),
            (b"127.0.0.2\xff", None),
            (b"\xff", None),
            (b"127.0.0.2\0", None),
            (b"127.0.0.2:65536", None),
        ] {
            let found = local_address(value).map(|address| address.to_string());
            assert_eq!(found.as_deref(), expected, "{}", value.escape_ascii());
        }
    }
}
