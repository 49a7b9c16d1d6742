//! HTTP/1: a connection as a sequence of heads, each run to its end before the next is read.

mod connection;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use futures_core::future::LocalBoxFuture;
use tidegate_core::log;
use tidegate_core::net::connection::IoFailure;
use tidegate_core::net::timer::later;
use tidegate_core::net::{self, Lifetime, Protocol, buffers};
use tidegate_core::process::stall;
use tidegate_core::script::Slots;
use tidegate_core::subject::Subject;
use tidegate_core::zone::counters::{State, Total};
use tidegate_http_wire::framing::Framing;
use tidegate_http_wire::h1::request::{RequestError, RequestParser};
use tidegate_http_wire::{Known, RequestHead, Version};

use super::{first_server, h2, handshake, server_for, unwelcome};
use crate::carrier::{After, Presence as _};
use crate::exchange::Exchange;
use crate::placed::placed;
use crate::run::{self, Arrival, Unwelcome};
use crate::settings::{Lingering, Settings};
use crate::site::Site;

pub use connection::Connection;

/// Serves the sites of one address.
pub struct Listener {
    /// The sites.
    pub site: Rc<Site>,
}

impl Protocol for Listener {
    fn serve(self: Rc<Self>, connection: net::Connection, life: Lifetime) -> LocalBoxFuture<'static, ()> {
        let site = self.site.clone();
        // Blocks, not functions: what a function is given it keeps a second time, and most connections are idle.
        if !site.tls {
            let client = Rc::new(Connection::new(connection, life));
            return Box::pin(async move { plain(client, site).await });
        }
        Box::pin(async move {
            let Some((connection, plain_on_tls)) = Box::pin(handshake(&site, connection)).await else { return };
            let is_http2 = connection.info.tls.get().is_some_and(|session| session.alpn.as_deref() == Some(b"h2"));
            match first_server(&site, &connection.info) {
                Ok(server) if is_http2 && !plain_on_tls => {
                    Box::pin(h2::serve(connection, BytesMut::new(), life, site, server)).await;
                }
                _ => exchanges(&Rc::new(Connection::new(connection, life)), &site, plain_on_tls).await,
            }
        })
    }
}

/// A connection without TLS: of HTTP/2 if the server speaks it and the client begins with its preface, else of HTTP/1.
async fn plain(client: Rc<Connection>, site: Rc<Site>) {
    let default = site.servers.default_server();
    if default.http2.is_some() {
        match Box::pin(begins_with_preface(&client, &default.plan.settings)).await {
            Some(false) => {}
            Some(true) => {
                let default = default.clone();
                let Some((connection, first, life)) = Rc::into_inner(client).map(Connection::into_parts) else {
                    return;
                };
                return Box::pin(h2::serve(connection, first, life, site, default)).await;
            }
            None => return,
        }
    }
    exchanges(&client, &site, false).await;
}

/// True when the client has sent the preface of HTTP/2, and false as soon as it has sent something else. `None` when it has
/// sent nothing for too long.
async fn begins_with_preface(client: &Connection, settings: &Settings) -> Option<bool> {
    let limit = settings.client_header_timeout;
    loop {
        let seen = client.with_input(|input| {
            let length = input.len().min(h2::PREFACE.len());
            let is_so_far = input.get(..length) == h2::PREFACE.get(..length);
            if is_so_far && length < h2::PREFACE.len() {
                make_room(input, settings);
            }
            (is_so_far, length)
        });
        match seen {
            (false, _) => return Some(false),
            (true, length) if length == h2::PREFACE.len() => return Some(true),
            // While nothing has come the connection is as idle as any other.
            (true, 0) if !idle(client, limit, settings.keepalive_min_timeout).await => return None,
            (true, _) => {}
        }
        // What goes wrong goes wrong again where it is told of.
        if !matches!(client.read(limit).await, Ok(1..)) {
            return Some(false);
        }
    }
}

/// One exchange after the other, to the end of the connection.
async fn exchanges(client: &Rc<Connection>, site: &Rc<Site>, plain_on_tls: bool) {
    let first = first_server(site, &client.info).unwrap_or_else(|_| site.servers.default_server().clone());
    let default = first.plan.settings.clone();
    if default.tcp_nodelay {
        client.set_nodelay();
    }
    let mut wait = default.client_header_timeout;
    loop {
        if client.is_empty() && !idle(client, wait, default.keepalive_min_timeout).await {
            return;
        }
        match placed(|| one(client, site, &default, plain_on_tls)).await {
            Some(keepalive) => wait = keepalive,
            None => return,
        }
        if client.is_empty() {
            client.change(State::Waiting);
            client.rest();
        }
    }
}

/// Waits for the first byte of a head. A worker that is going away gives idle connections `grace`; one that has no room
/// for others may end it at once.
async fn idle(client: &Connection, limit: Duration, grace: Duration) -> bool {
    let mut deadline = None;
    let life = &client.life;
    let mut warned = life.is_stopping();
    let first = client.served.get() == 0;
    let readable = poll_fn(|cx| {
        if client.poll_readable(cx).is_ready() {
            return Poll::Ready(true);
        }
        if life.is_reclaimed() {
            // What has come in this moment the runtime may not have heard of: it is answered, and another one goes.
            return Poll::Ready(client.has_input());
        }
        let mut until = *deadline.get_or_insert_with(|| {
            life.set_idle(true);
            later(if warned && !first { grace.min(limit) } else { limit })
        });
        if life.is_stopping() && !warned && !first {
            warned = true;
            until = until.min(later(grace));
            deadline = Some(until);
        }
        client.poll_until(cx, until).map(|()| false)
    })
    .await;
    if deadline.is_some() {
        life.set_idle(false);
    }
    readable
}

/// One head and its exchange. `Some` with the time to wait for the next when the connection goes on.
async fn one(client: &Rc<Connection>, site: &Rc<Site>, default: &Settings, plain_on_tls: bool) -> Option<Duration> {
    let started = Instant::now();
    stall::doing("reading a request head");
    let pipelined = client.served.get() > 0 && !client.is_empty();
    let head = match read_head(client, default, started).await {
        Ok(head) => head?,
        Err(refused) => {
            Box::pin(refuse(client, site, default, (pipelined, started), refused)).await;
            return None;
        }
    };
    let slots = Slots::default();
    let (server, failure) = match server_for(site, &client.info, &head, false, &slots) {
        Ok(server) => (server, None),
        Err(failure) => (site.servers.default_server().clone(), Some(failure)),
    };
    let arrival = arrive(client, pipelined, started);
    client.change(State::Writing);
    let expects_continue = head.version >= Version::Http11
        && head.framing != Framing::None
        && head.fields.get(Known::Expect).is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue"));
    client.expect_body(head.framing, expects_continue);
    let exchange = run::begin(arrival, server, head, slots);
    if let Some(failure) = failure {
        log!(exchange.logger(), Alert, "server_name {failure}");
        Box::pin(run::refuse(&exchange, 500)).await;
        Box::pin(linger(client, default)).await;
        return None;
    }
    let unwelcome =
        if plain_on_tls { Some(Unwelcome::PlainText) } else { unwelcome(site, &exchange.server, &client.info) };
    let ended = {
        let mut running = pin!(run::exchange(&exchange, unwelcome));
        let watched = poll_fn(|cx| {
            let polled = running.as_mut().poll(cx);
            stall::was_for(&exchange);
            polled
        });
        client.life.unless_cut(watched).await
    };
    let Some((after, settings)) = ended else {
        run::cut(&exchange);
        return None;
    };
    if after == After::Keep && (client.pass_over_body() || Box::pin(drain(client, &exchange)).await) {
        return Some(settings.keepalive_timeout);
    }
    Box::pin(end(client, &settings, after)).await;
    None
}

/// Counts a request.
fn arrive(client: &Rc<Connection>, pipelined: bool, started: Instant) -> Arrival {
    let number = client.served.get().saturating_add(1);
    client.served.set(number);
    client.standing.borrow().counters().count(Total::Exchanges);
    Arrival { carrier: client.clone(), peer: client.info.clone(), number, pipelined, started }
}

/// Answers a head that will not do, by the server that it names as far as it was understood.
async fn refuse(
    client: &Rc<Connection>,
    site: &Rc<Site>,
    default: &Settings,
    (pipelined, started): (bool, Instant),
    (head, status, error): Refused,
) {
    let slots = Slots::default();
    let server = server_for(site, &client.info, &head, true, &slots);
    let server = server.unwrap_or_else(|_| site.servers.default_server().clone());
    let exchange = run::begin(arrive(client, pipelined, started), server, head, slots);
    if let Some(error) = error {
        log!(exchange.logger(), Info, "{error}");
    }
    run::refuse(&exchange, status).await;
    // Whoever took too long is not waited for any longer.
    if status != 408 {
        linger(client, default).await;
    }
}

/// The end of a connection.
async fn end(client: &Connection, settings: &Settings, after: After) {
    match after {
        After::Keep | After::Close => {
            if settings.lingering_close == Lingering::Always {
                linger(client, settings).await;
            }
            let _ = client.finish().await;
        }
        After::Linger => linger(client, settings).await,
        After::Reset => {
            if settings.reset_timedout_connection {
                client.reset();
            }
        }
    }
}

/// What of a head could be understood, the status for it, and the log's words on it.
type Refused = (Box<RequestHead>, u16, Option<String>);

/// Reads a head. `None` when the client went away, or said nothing, before there was one.
async fn read_head(
    client: &Connection,
    settings: &Settings,
    started: Instant,
) -> Result<Option<Box<RequestHead>>, Refused> {
    let mut parser = RequestParser::new(settings.head);
    // nginx: what has sent anything at all, if only an empty line, has begun a request.
    let mut any = !client.is_empty();
    let mut begun = false;
    let mut left = settings.client_header_timeout;
    loop {
        let parsed = client.with_input(|input| {
            let parsed = if input.is_empty() { Ok(None) } else { parser.parse(input) };
            if matches!(parsed, Ok(None)) {
                make_room(input, settings);
            }
            parsed
        });
        match parsed {
            Ok(Some(head)) => return Ok(Some(head)),
            Ok(None) => {}
            Err(error) => {
                let message = format!("{error} while {}", error.action());
                return Err((understood(&mut parser, client), error.status(), Some(message)));
            }
        }
        if any {
            // A head that comes whole is never seen being read.
            client.change(State::Reading);
        }
        if begun {
            left = settings.client_header_timeout.saturating_sub(started.elapsed());
        }
        match client.read(left).await {
            Ok(0) => match client.with_input(|input| parser.end(input)) {
                Ok(()) if !any => return Ok(None),
                _ => {
                    let message = format!("{} while reading client request", RequestError::Closed);
                    return Err((understood(&mut parser, client), 400, Some(message)));
                }
            },
            Ok(_) => (begun, any) = (true, true),
            Err(IoFailure::TimedOut) if any => {
                let message =
                    "client timed out (110: Connection timed out) while reading client request headers".to_owned();
                return Err((understood(&mut parser, client), 408, Some(message)));
            }
            Err(_) => return Ok(None),
        }
    }
}

/// Makes room for more of a head.
fn make_room(input: &mut BytesMut, settings: &Settings) {
    if input.capacity() > input.len() {
        return;
    }
    if input.is_empty() {
        *input = buffers::take(settings.client_header_buffer_size);
    } else {
        input.reserve(settings.head.line.min(input.len().max(1024)));
    }
}

/// The part of a refused head that could be read, for the log and the error page.
fn understood(parser: &mut RequestParser, client: &Connection) -> Box<RequestHead> {
    client.with_input(|input| parser.refused(input))
}

/// Reads the rest of a body that nobody wanted. True when the next head follows.
async fn drain(client: &Connection, exchange: &Exchange) -> bool {
    let settings = exchange.plan().settings.clone();
    let end = later(settings.lingering_time);
    while exchange.head.framing != Framing::None && Instant::now() < end {
        client.with_input(|input| input.reserve(4096));
        match client.read(settings.lingering_timeout).await {
            Ok(0) | Err(_) => return false,
            Ok(_) if client.pass_over_body() => return true,
            Ok(_) => {}
        }
    }
    false
}

/// Reads and drops what the client is still sending, so that it can read our answer before it sees a reset.
async fn linger(client: &Connection, settings: &Settings) {
    if settings.lingering_close == Lingering::Off || client.finish().await.is_err() {
        return;
    }
    let end = later(settings.lingering_time);
    client.with_input(|input| *input = buffers::take(4096));
    loop {
        let left = end.saturating_duration_since(Instant::now()).min(settings.lingering_timeout);
        client.with_input(BytesMut::clear);
        match client.read(left).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        if Instant::now() >= end {
            return;
        }
    }
}
