//! HTTP/1: a connection as a sequence of heads, each run to its end before the next is read.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use futures_core::future::LocalBoxFuture;
use tidegate_core::log;
use tidegate_core::log::Logger;
use tidegate_core::net::connection::IoFailure;
use tidegate_core::net::timer::later;
use tidegate_core::net::{Connection, Lifetime, Protocol, buffers};
use tidegate_core::process::stall;
use tidegate_core::script::Slots;
use tidegate_core::script::regex::Matches;
use tidegate_core::subject::Subject;
use tidegate_core::tls::{TlsFailure, server as tls};
use tidegate_core::zone::counters::{self, Standing, State, Total};
use tidegate_http_wire::framing::Framing;
use tidegate_http_wire::h1::body::{BodyDecoder, BodyLimits};
use tidegate_http_wire::h1::request::{RequestError, RequestParser};
use tidegate_http_wire::{Known, RequestHead, Version};

use super::client::Client;
use crate::blocks::{Server, Site};
use crate::exchange::Exchange;
use crate::run::{self, After, Unwelcome};
use crate::settings::{Lingering, Settings};

/// Serves the sites of one address.
pub struct Listener {
    /// The sites.
    pub site: Rc<Site>,
}

impl Protocol for Listener {
    fn serve(self: Rc<Self>, connection: Connection, life: Lifetime) -> LocalBoxFuture<'static, ()> {
        let site = self.site.clone();
        // Blocks, not functions: what a function is given it keeps a second time, and most connections are idle.
        if !site.tls {
            let mut client = new(connection, life);
            return Box::pin(async move { exchanges(&mut client, &site, false).await });
        }
        Box::pin(async move {
            if let Some((connection, plain_on_tls)) = Box::pin(handshake(&site, connection)).await {
                exchanges(&mut new(connection, life), &site, plain_on_tls).await;
            }
        })
    }
}

fn new(connection: Connection, life: Lifetime) -> Client {
    Client {
        connection,
        buffer: BytesMut::new(),
        body: BodyDecoder::request(Framing::None, BodyLimits::default()),
        expects_continue: false,
        body_received: 0,
        pipelined: false,
        served: 0,
        standing: Standing::enter(counters::of_worker(), State::Reading),
        life,
    }
}

/// One exchange after the other, to the end of the connection.
async fn exchanges(client: &mut Client, site: &Rc<Site>, plain_on_tls: bool) {
    let first = first_server(site, client).unwrap_or_else(|_| site.servers.default_server().clone());
    let default = first.plan.settings.clone();
    if default.tcp_nodelay {
        client.connection.transport.set_nodelay();
    }
    let mut wait = default.client_header_timeout;
    loop {
        if client.buffer.is_empty() && !idle(client, wait, default.keepalive_min_timeout).await {
            return;
        }
        match placed(|| one(client, site, &default, plain_on_tls)).await {
            Some(keepalive) => wait = keepalive,
            None => return,
        }
        if client.buffer.is_empty() {
            client.standing.change(State::Waiting);
            buffers::give(std::mem::take(&mut client.buffer));
        }
    }
}

/// Makes a large future where it stays: `Box::pin` would make it on the stack and copy all of it, though it is next to
/// empty before it is first polled.
#[inline(always)]
fn placed<F: Future>(make: impl FnOnce() -> F) -> Pin<Box<F>> {
    Box::into_pin(Box::write(Box::new_uninit(), make()))
}

/// The TLS handshake. Plain text on a TLS port (true) is served far enough to be told so.
async fn handshake(site: &Site, connection: Connection) -> Option<(Connection, bool)> {
    let Connection { transport, mut timer, info } = connection;
    let default = site.servers.default_server();
    // nginx: a handshake may take as long as a head.
    let head = default.plan.settings.client_header_timeout;
    let limit = default.tls.as_ref().map_or(head, |tls| tls.timeout().min(head));
    let choose = |name: Option<&[u8]>| match site.named(name) {
        Ok(server) => site.tls(server).cloned(),
        Err(failure) => {
            log!(Logger::of(&default.plan.error_log, &info), Alert, "server_name {failure} while SSL handshaking");
            None
        }
    };
    match tls::accept(transport, &mut timer, limit, choose).await {
        Ok((transport, session)) => {
            let _ = info.tls.set(Box::new(session));
            Some((Connection { transport, timer, info }, false))
        }
        Err(TlsFailure::NotTls(transport)) => Some((Connection { transport: *transport, timer, info }, true)),
        Err(failure) => {
            let log = Logger::of(&default.plan.error_log, &info);
            log!(log, Info, "{failure} while SSL handshaking, client: {}, server: {}", info.client.host(), info.local);
            None
        }
    }
}

/// Waits for the first byte of a head. A worker that is going away gives idle connections `grace`; one that has no room
/// for others may end it at once.
async fn idle(client: &mut Client, limit: Duration, grace: Duration) -> bool {
    let mut deadline = None;
    let mut warned = client.life.is_stopping();
    let first = client.served == 0;
    let readable = poll_fn(|cx| {
        if client.connection.transport.poll_readable(cx).is_ready() {
            return Poll::Ready(true);
        }
        if client.life.is_reclaimed() {
            return Poll::Ready(false);
        }
        let mut until = *deadline.get_or_insert_with(|| {
            client.life.set_idle(true);
            later(if warned && !first { grace.min(limit) } else { limit })
        });
        if client.life.is_stopping() && !warned && !first {
            warned = true;
            until = until.min(later(grace));
            deadline = Some(until);
        }
        client.connection.timer.poll_until(cx, until).map(|()| false)
    })
    .await;
    if deadline.is_some() {
        client.life.set_idle(false);
    }
    readable
}

/// One head and its exchange. `Some` with the time to wait for the next when the connection goes on.
async fn one(client: &mut Client, site: &Rc<Site>, default: &Settings, plain_on_tls: bool) -> Option<Duration> {
    let started = Instant::now();
    client.standing.change(State::Reading);
    stall::doing("reading a request head");
    client.pipelined = client.served > 0 && !client.buffer.is_empty();
    let read = read_head(client, default, started).await;
    let (exchange, refused) = begin(client, site, read, started)?;
    if let Some(status) = refused {
        Box::pin(run::refuse(client, &exchange, status)).await;
        // Whoever took too long is not waited for any longer.
        if status != 408 {
            Box::pin(linger(client, default)).await;
        }
        return None;
    }
    let unwelcome = if plain_on_tls { Some(Unwelcome::PlainText) } else { unwelcome(site, &exchange.server, client) };
    let connections = client.life.connections();
    let ended = {
        let mut running = pin!(run::exchange(client, &exchange, unwelcome));
        let watched = poll_fn(|cx| {
            let polled = running.as_mut().poll(cx);
            stall::was_for(&exchange);
            polled
        });
        connections.unless_cut(watched).await
    };
    let Some((after, settings)) = ended else {
        run::cut(&exchange);
        return None;
    };
    if after == After::Keep {
        return Some(settings.keepalive_timeout);
    }
    Box::pin(end(client, &settings, after)).await;
    None
}

/// The exchange for what was read; with a status when the head was refused. `None` when the client has gone.
fn begin(
    client: &mut Client,
    site: &Rc<Site>,
    read: Result<Option<RequestHead>, Refused>,
    started: Instant,
) -> Option<(Exchange, Option<u16>)> {
    let slots = Slots::default();
    let (head, refused) = match read {
        Ok(head) => (head?, None),
        Err((head, status, error)) => (head, Some((status, error))),
    };
    let chosen = choose(site, client, &head, refused.is_some(), &slots);
    let failure = chosen.as_ref().err().map(ToString::to_string);
    let server = chosen.unwrap_or_else(|_| site.servers.default_server().clone());
    client.served += 1;
    client.standing.counters().count(Total::Exchanges);
    if let Some((status, error)) = refused {
        let exchange = run::begin(client, server, head, slots, started);
        if let Some(error) = error {
            log!(exchange.logger(), Info, "{error}");
        }
        return Some((exchange, Some(status)));
    }
    if let Some(failure) = failure {
        let exchange = run::begin(client, server, head, slots, started);
        log!(exchange.logger(), Alert, "server_name {failure}");
        return Some((exchange, Some(500)));
    }
    client.standing.change(State::Writing);
    client.body = BodyDecoder::request(head.framing, BodyLimits::default());
    client.body_received = 0;
    client.expects_continue = head.version >= Version::Http11
        && head.framing != Framing::None
        && head.fields.get(Known::Expect).is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue"));
    Some((run::begin(client, server, head, slots, started), None))
}

/// The end of a connection.
async fn end(client: &mut Client, settings: &Settings, after: After) {
    match after {
        After::Keep => {}
        After::Close => {
            if settings.lingering_close == Lingering::Always {
                linger(client, settings).await;
            }
            let _ = client.connection.transport.finish().await;
        }
        After::Linger => linger(client, settings).await,
        After::Reset => {
            if settings.reset_timedout_connection
                && let Some(tcp) = client.connection.transport.tcp()
            {
                let _ = socket2::SockRef::from(tcp).set_linger(Some(Duration::ZERO));
            }
        }
    }
}

fn choose(site: &Site, client: &Client, head: &RequestHead, refused: bool, slots: &Slots) -> Matches<Rc<Server>> {
    match &head.host {
        Some(host) => site.servers.find(&host.name, slots).cloned(),
        None if refused => first_server(site, client),
        // nginx: whatever the handshake named, such a request is for a server named "", else for the default one.
        None => site.servers.find(b"", slots).cloned(),
    }
}

/// The server in force before a client has named one in a head: that of its handshake, else the default.
fn first_server(site: &Site, client: &Client) -> Matches<Rc<Server>> {
    let host = client.connection.info.tls.get().and_then(|session| session.host());
    site.named(host.as_deref()).cloned()
}

/// Why the client of a TLS session must not go on to this server.
fn unwelcome(site: &Site, server: &Server, client: &Client) -> Option<Unwelcome> {
    let session = client.connection.info.tls.get()?;
    let demands = site.tls(server)?;
    if demands.asks_nothing() {
        // Without a certificate of its own it cannot ask, and nobody has asked in its place.
        return server.asks_clients.then_some(Unwelcome::Misdirected);
    }
    // What another server has found of the certificate says nothing about what this one demands.
    let negotiated = site.named(session.host().as_deref()).map(|server| site.tls(server));
    // A server that is not known demands nothing that would do for another.
    let negotiated = negotiated.unwrap_or(None);
    if !negotiated.is_some_and(|tls| tls.asks_the_same(demands)) {
        return Some(Unwelcome::Misdirected);
    }
    demands.objection(session).map(Unwelcome::Certificate)
}

type Refused = (RequestHead, u16, Option<String>);

/// Reads a head. `None` when the client went away, or said nothing, before there was one.
async fn read_head(client: &mut Client, settings: &Settings, started: Instant) -> Result<Option<RequestHead>, Refused> {
    let mut parser = RequestParser::new(settings.head);
    // nginx: what has sent anything at all, if only an empty line, has begun a request.
    let mut any = !client.buffer.is_empty();
    let begun = Cell::new(false);
    let mut left = settings.client_header_timeout;
    loop {
        if !client.buffer.is_empty() {
            match parser.parse(&mut client.buffer) {
                Ok(Some(head)) => return Ok(Some(head)),
                Ok(None) => {}
                Err(error) => {
                    let message = format!("{error} while {}", error.action());
                    return Err((understood(&mut parser, &mut client.buffer), error.status(), Some(message)));
                }
            }
        }
        if client.buffer.capacity() == client.buffer.len() {
            if client.buffer.is_empty() {
                client.buffer = buffers::take(settings.client_header_buffer_size);
            } else {
                client.buffer.reserve(settings.head.line.min(client.buffer.len().max(1024)));
            }
        }
        if begun.get() {
            left = settings.client_header_timeout.saturating_sub(started.elapsed());
        }
        match client.connection.read(&mut client.buffer, left).await {
            Ok(0) => match parser.end(&client.buffer) {
                Ok(()) if !any => return Ok(None),
                _ => {
                    let message = format!("{} while reading client request", RequestError::Closed);
                    return Err((understood(&mut parser, &mut client.buffer), 400, Some(message)));
                }
            },
            Ok(_) => {
                begun.set(true);
                any = true;
            }
            Err(IoFailure::TimedOut) if any => {
                let message =
                    "client timed out (110: Connection timed out) while reading client request headers".to_owned();
                return Err((understood(&mut parser, &mut client.buffer), 408, Some(message)));
            }
            Err(_) => return Ok(None),
        }
    }
}

/// The part of a refused head that could be read, for the log and the error page.
fn understood(parser: &mut RequestParser, buffer: &mut BytesMut) -> RequestHead {
    *parser.refused(buffer)
}

/// Reads and drops what the client is still sending, so that it can read our answer before it sees a reset.
async fn linger(client: &mut Client, settings: &Settings) {
    if settings.lingering_close == Lingering::Off || client.connection.transport.finish().await.is_err() {
        return;
    }
    let end = later(settings.lingering_time);
    let mut sink = buffers::take(4096);
    loop {
        let left = end.saturating_duration_since(Instant::now()).min(settings.lingering_timeout);
        sink.clear();
        match client.connection.read(&mut sink, left).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        if Instant::now() >= end {
            return;
        }
    }
}

/// True when the client has closed its side, as far as can be seen without taking anything from its stream.
pub async fn gone(client: &mut Client) -> io::Error {
    let transport = &mut client.connection.transport;
    if let Err(error) = transport.readable().await {
        return error;
    }
    let tcp = match transport {
        tidegate_core::net::Transport::Tcp(tcp) => tcp,
        // Other transports cannot be looked into without taking something out.
        _ => return std::future::pending().await,
    };
    match tcp.peek(&mut [0]).await {
        Ok(0) => io::ErrorKind::UnexpectedEof.into(),
        // More input waits for its turn; from here on a close cannot be seen.
        Ok(_) => std::future::pending().await,
        Err(error) => error,
    }
}

/// Runs `work` of the worker's threads unless it takes long and the client closes: then `None`. A client that has only
/// half-closed looks like one that is gone, so within the time that a slow device takes nobody looks.
pub async fn unless_given_up<F: Future>(client: &mut Client, work: F) -> Option<F::Output> {
    const SLOW: Duration = Duration::from_secs(2);
    let mut work = pin!(work);
    match client.connection.timer.limit(SLOW, work.as_mut()).await {
        Ok(output) => Some(output),
        Err(_) => unless_gone(client, work).await,
    }
}

/// Runs `work` unless the client closes first: then `None`. A client that has only half-closed looks like one that is
/// gone, so this is for where nginx watches too: an upstream is being asked, or a request is being delayed.
pub async fn unless_gone<F: Future>(client: &mut Client, work: F) -> Option<F::Output> {
    unless_leaves(client, &Cell::new(true), work).await
}

/// Runs `work` unless the client closes while it `may_leave`: then `None`.
pub async fn unless_leaves<F: Future>(client: &mut Client, may_leave: &Cell<bool>, work: F) -> Option<F::Output> {
    let mut work = pin!(work);
    let mut gone = pin!(gone(client));
    poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending if may_leave.get() => gone.as_mut().poll(cx).map(|_| None),
        Poll::Pending => Poll::Pending,
    })
    .await
}
