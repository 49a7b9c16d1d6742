//! HTTP/2: a connection whose streams are exchanges of their own, run beside each other.

pub mod module;
pub mod settings;
mod stream;
mod wire;

use std::cell::{Cell, RefCell};
use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use base64::Engine as _;
use bytes::{Bytes, BytesMut};
use futures_core::future::LocalBoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use tidegate_core::chance;
use tidegate_core::log;
use tidegate_core::log::Logger;
use tidegate_core::net::{self, Lifetime, PeerInfo, Timer};
use tidegate_core::process::stall;
use tidegate_core::script::Slots;
use tidegate_core::subject::Subject;
use tidegate_core::zone::counters::{self, Standing, State, Total};
use tidegate_http_wire::framing::Framing;
use tidegate_http_wire::h2::request::{self, RequestLimits};
use tidegate_http_wire::h2::{Code, Remedy};
use tidegate_http_wire::{Method, RequestHead};

use super::{server_for, unwelcome};
use crate::carrier::After;
use crate::exchange::Exchange;
use crate::run::{self, Arrival, Unwelcome};
use crate::settings::Settings;
use crate::site::{Server, Site};
use settings::Settings as Http2;
use stream::Stream;
use wire::{Seen, Watched};

pub use tidegate_http_wire::h2::frames::PREFACE;

/// How long a client may take to acknowledge that the connection ends.
const FAREWELL: Duration = Duration::from_secs(5);
/// What may wait in the library for a client's window and socket, for each stream.
const BUFFERED: usize = 64 << 10;
/// What a client may send on one connection ahead of who reads it, all streams together.
const CONNECTION_WINDOW: u32 = 0x7fff_ffff;

/// A connection as its streams see it.
struct Session {
    site: Rc<Site>,
    info: Rc<PeerInfo>,
    life: Rc<Lifetime>,
    settings: Rc<Http2>,
    /// The server of the handshake: what is not known to be for another is for this one.
    server: Rc<Server>,
    /// Requests carried.
    served: Cell<u64>,
    /// The exchanges under way, for when they are cut short.
    active: RefCell<slab::Slab<Rc<Exchange>>>,
    /// A head was such that the connection has to end.
    fault: Cell<Option<Code>>,
}

/// Why a connection ends.
enum Ending {
    /// Both sides are done with it.
    Done,
    /// The client did not keep to the protocol, or the transport failed.
    Failed(h2::Error),
    /// The client took too long.
    TimedOut(&'static str),
}

/// Serves a connection to its end. `first` has been read of it already.
pub async fn serve(connection: net::Connection, first: BytesMut, life: Lifetime, site: Rc<Site>, server: Rc<Server>) {
    // A server that is chosen by its name offers HTTP/2 itself; one without a certificate, by the default server's.
    let settings = server.http2.clone().or_else(|| site.servers.default_server().http2.clone());
    let Some(settings) = settings else { return };
    let net::Connection { transport, timer, info } = connection;
    transport.set_nodelay();
    let session = Rc::new(Session {
        site,
        info,
        life: Rc::new(life),
        settings,
        server: server.clone(),
        served: Cell::new(0),
        active: RefCell::default(),
        fault: Cell::new(None),
    });
    let seen = Seen::new(session.settings.limits.clone());
    let watched = Watched::new(transport, first, seen.clone());
    let default = server.plan.settings.clone();
    let log = Logger::of(&server.plan.error_log, &session.info);
    let serving = pin!(run_connection(&session, watched, seen, timer, &default, &log));
    let Some(ending) = session.life.unless_cut(serving).await else {
        session.active.borrow().iter().for_each(|(_, exchange)| run::cut(exchange));
        return;
    };
    let client = session.info.client.host();
    match ending {
        Ending::Done => {}
        Ending::TimedOut(action) => {
            log!(log, Info, "client timed out (110: Connection timed out) while {action}, client: {client}");
        }
        Ending::Failed(error) => log!(log, Info, "{error} while processing HTTP/2 connection, client: {client}"),
    }
}

async fn run_connection(
    session: &Rc<Session>,
    watched: Watched,
    seen: Rc<Seen>,
    mut timer: Timer,
    default: &Settings,
    log: &Logger<'_>,
) -> Ending {
    let Http2 { streams, window, .. } = *session.settings;
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(window)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(streams)
        .max_header_list_size(u32::try_from(head_size(default)).unwrap_or(u32::MAX))
        .max_send_buffer_size(BUFFERED)
        // What a client may do is counted by us, and told in the log.
        .max_pending_accept_reset_streams(4096)
        .max_local_error_reset_streams(Some(4096))
        .enable_connect_protocol();
    let shaking = builder.handshake::<_, Bytes>(watched);
    let connection = match timer.limit(default.client_header_timeout, shaking).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return Ending::Failed(error),
        Err(_) => return Ending::TimedOut("waiting for the HTTP/2 preface"),
    };
    let driver = Driver {
        session,
        connection,
        seen,
        timer,
        default,
        standing: Standing::enter(counters::of_worker(), State::Waiting),
        streams: FuturesUnordered::new(),
        idle_since: None,
        leaving: None,
        is_over: false,
        goes_on: false,
    };
    drive(driver, log).await
}

/// nginx: all lines of a head together.
fn head_size(settings: &Settings) -> usize {
    settings.head.total
}

/// A connection while it runs.
struct Driver<'a> {
    session: &'a Rc<Session>,
    connection: h2::server::Connection<Watched, Bytes>,
    seen: Rc<Seen>,
    timer: Timer,
    default: &'a Settings,
    standing: Standing,
    streams: FuturesUnordered<LocalBoxFuture<'static, ()>>,
    /// Since when there has been no stream.
    idle_since: Option<Instant>,
    /// Since when the client knows that the connection ends.
    leaving: Option<Instant>,
    /// Nothing is done for the client any more but to tell it so.
    is_over: bool,
    /// Another turn follows at once.
    goes_on: bool,
}

/// How many streams of a connection are begun, or dropped, before the other connections have their turn.
const TURN: usize = 8;
/// The same in all turns that follow at once: many streams that come together hold up the others no longer than this.
const LATER_TURN: usize = 2;

/// Runs the streams beside each other, and the connection beneath them, to the end.
async fn drive(mut driver: Driver<'_>, log: &Logger<'_>) -> Ending {
    let ending = loop {
        match poll_fn(|cx| driver.poll(cx, log)).await {
            Some(ending) => break ending,
            None => tokio::task::yield_now().await,
        }
    };
    // Each has something to tell and to give back: a hundred at once would be a while.
    let left: Vec<Rc<Exchange>> = driver.session.active.borrow().iter().map(|(_, exchange)| exchange.clone()).collect();
    for exchanges in left.chunks(LATER_TURN) {
        exchanges.iter().for_each(|exchange| run::leave(exchange));
        tokio::task::yield_now().await;
    }
    drop(left);
    for (number, stream) in driver.streams.into_iter().enumerate() {
        drop(stream);
        if number % LATER_TURN == LATER_TURN - 1 {
            tokio::task::yield_now().await;
        }
    }
    ending
}

impl Driver<'_> {
    /// Goes on as far as that goes. `None` when it has had its turn, and others wait for theirs.
    fn poll(&mut self, cx: &mut Context<'_>, log: &Logger<'_>) -> Poll<Option<Ending>> {
        let mut begun = 0;
        let turn = if std::mem::take(&mut self.goes_on) { LATER_TURN } else { TURN };
        loop {
            // Of a client that has gone too far nothing more is begun.
            let accepted = if self.seen.has_excess() { Poll::Pending } else { self.connection.poll_accept(cx) };
            match accepted {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    begun += usize::from(self.begin(request, respond));
                    if begun < turn {
                        continue;
                    }
                    self.goes_on = true;
                    while let Poll::Ready(Some(())) = self.streams.poll_next_unpin(cx) {}
                    return Poll::Ready(None);
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Ending::Failed(error))),
                Poll::Ready(None) => return Poll::Ready(Some(Ending::Done)),
                Poll::Pending => {}
            }
            // A stream that has ended leaves something for the connection to send.
            if !self.is_over
                && !self.seen.has_excess()
                && let Poll::Ready(Some(())) = self.streams.poll_next_unpin(cx)
            {
                continue;
            }
            if self.end_if_due(log) {
                continue;
            }
            return match ready!(self.poll_deadline(cx)) {
                Some(ending) => Poll::Ready(Some(ending)),
                None => continue,
            };
        }
    }

    /// Begins an exchange. False when the client has taken its request back, or had it refused, before that: nobody waits
    /// for an answer, and to look for one would be the work that a flood of resets is after.
    fn begin(&mut self, request: http::Request<RecvStream>, mut respond: SendResponse<Bytes>) -> bool {
        if respond.poll_reset(&mut Context::from_waker(Waker::noop())).is_ready() {
            return false;
        }
        self.idle_since = None;
        self.session.life.set_idle(false);
        self.standing.change(State::Writing);
        let session = self.session.clone();
        let head_bytes = self.seen.look(|watch| watch.budget().head_size(respond.stream_id().as_u32()));
        let number = session.served.get().saturating_add(1);
        session.served.set(number);
        self.streams.push(Box::pin(exchange(session, request, respond, head_bytes, number)));
        if number >= self.default.keepalive_requests {
            // Told before the last answer, so that a client that reads in order opens no stream in vain.
            self.leave();
        }
        true
    }

    /// Two steps: what is on its way is still served, and then the last stream that will be is named.
    fn leave(&mut self) {
        if self.leaving.is_none() {
            self.leaving = Some(Instant::now());
            self.connection.graceful_shutdown();
        }
    }

    /// Tells the client that the connection ends, where there is a reason. True when it has just been told.
    fn end_if_due(&mut self, log: &Logger<'_>) -> bool {
        let session = self.session;
        let excess = self.seen.take_excess();
        if let Some(excess) = &excess {
            log!(log, Info, "{excess}, client: {}", session.info.client.host());
        }
        self.is_over |= excess.is_some();
        if let Some(code) = excess.map(|excess| excess.code()).or_else(|| session.fault.take()) {
            self.leaving = Some(Instant::now());
            self.connection.abrupt_shutdown(Reason::from(code.number()));
            return true;
        }
        let is_old = || session.info.accepted.elapsed() >= self.default.keepalive_time;
        let is_due = session.life.is_stopping() || (session.life.is_reclaimed() && self.streams.is_empty()) || is_old();
        if !is_due || self.leaving.is_some() {
            return false;
        }
        self.leave();
        true
    }

    /// Ready at the next moment at which something has to be done or to end.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<Option<Ending>> {
        let now = Instant::now();
        let mut next: Option<(Instant, Option<Ending>)> = None;
        let mut consider = |at: Instant, ending: Option<Ending>| {
            if next.as_ref().is_none_or(|(nearest, _)| at < *nearest) {
                next = Some((at, ending));
            }
        };
        if let Some(since) = self.seen.blocked.get() {
            consider(since + self.default.send_timeout, Some(Ending::TimedOut("sending to the client")));
        }
        if let Some(since) = self.seen.look(tidegate_http_wire::h2::Watch::unfinished) {
            let ending = Ending::TimedOut("reading client request headers");
            consider(since + self.default.client_header_timeout, Some(ending));
        }
        if let Some(at) = self.seen.look(tidegate_http_wire::h2::Watch::next_check) {
            consider(at, None);
        }
        if self.streams.is_empty() {
            let since = *self.idle_since.get_or_insert_with(|| {
                self.session.life.set_idle(true);
                self.standing.change(State::Waiting);
                now
            });
            match self.leaving {
                Some(leaving) => consider(since.max(leaving) + FAREWELL, Some(Ending::Done)),
                None => consider(since + self.default.keepalive_timeout, None),
            }
        }
        let Some((at, ending)) = next else { return Poll::Pending };
        ready!(self.timer.poll_until(cx, at));
        if ending.is_none() {
            self.seen.check(now.max(at));
            if self.idle_since.is_some_and(|since| since + self.default.keepalive_timeout <= at) {
                self.leave();
            }
        }
        Poll::Ready(ending)
    }
}

/// One stream: a request and its answer.
async fn exchange(
    session: Rc<Session>,
    request: http::Request<RecvStream>,
    respond: SendResponse<Bytes>,
    head_bytes: Option<u32>,
    number: u64,
) {
    let started = Instant::now();
    let (parts, body) = request.into_parts();
    let default = session.server.clone();
    let limits = limits(&default.plan.settings);
    let read = request::read(lines(&parts, &session), body.is_end_stream(), &limits);
    let is_tunnel = read.as_ref().is_ok_and(|request| request.protocol.is_some());
    let chunk = usize::try_from(session.settings.chunk).unwrap_or(8192);
    let stream = Rc::new(Stream::new(session.life.clone(), body, respond, chunk, is_tunnel));
    let (head, refused) = match read {
        Ok(request) => match request.protocol {
            Some(protocol) => (upgrade(request.head, &protocol), None),
            None => (request.head, None),
        },
        Err(refused) => (*refused.head, Some(refused.fault)),
    };
    let slots = Slots::default();
    let chosen = server_for(&session.site, &session.info, &head, refused.is_some(), &slots);
    let failure = chosen.as_ref().err().map(ToString::to_string);
    let server = chosen.unwrap_or(default);
    counters::of_worker().count(Total::Exchanges);
    let arrival = Arrival { carrier: stream.clone(), peer: session.info.clone(), number, pipelined: false, started };
    // nginx: a server that does not speak HTTP/2 is not asked by it, whoever else at its address does.
    let unwelcome = if server.http2.is_some() {
        unwelcome(&session.site, &server, &session.info)
    } else {
        Some(Unwelcome::Misdirected)
    };
    let exchange = Rc::new(run::begin(arrival, server, Box::new(head), slots));
    if let Some(bytes) = head_bytes {
        exchange.received.set(bytes.into());
    }
    let _active = Active::new(&session, exchange.clone());
    if let Some(fault) = refused {
        log!(exchange.logger(), Info, "{fault} while {}", fault.action());
        match fault.remedy() {
            Remedy::Status(status) => run::refuse(&exchange, status).await,
            Remedy::GoAway(code) => {
                session.fault.set(Some(code));
                run::refuse(&exchange, 400).await;
            }
        }
        return;
    }
    if let Some(failure) = failure {
        log!(exchange.logger(), Alert, "server_name {failure}");
        return run::refuse(&exchange, 500).await;
    }
    let mut running = pin!(run::exchange(&exchange, unwelcome));
    let (after, _) = poll_fn(|cx| {
        let polled = running.as_mut().poll(cx);
        stall::was_for(&*exchange);
        polled
    })
    .await;
    if after == After::Reset {
        stream.reset();
    }
}

fn limits(settings: &Settings) -> RequestLimits {
    let head = settings.head;
    RequestLimits {
        total: head_size(settings),
        fields: head.fields,
        ignore_invalid: head.ignore_invalid,
        underscores: head.underscores,
        merge_slashes: head.merge_slashes,
        extended_connect: true,
        ..RequestLimits::default()
    }
}

/// The lines of a head, pseudo-fields first. What did not come is not made up, but for the scheme, which the library keeps
/// to itself where there is no authority.
fn lines<'a>(parts: &'a http::request::Parts, session: &'a Session) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
    let is_plain_connect =
        parts.method == http::Method::CONNECT && parts.extensions.get::<h2::ext::Protocol>().is_none();
    let own_scheme: &[u8] = if session.info.tls.get().is_some() { b"https" } else { b"http" };
    let scheme = parts.uri.scheme().map_or(own_scheme, |scheme| scheme.as_str().as_bytes());
    let pseudo: [(&[u8], Option<&[u8]>); 5] = [
        (b":method", Some(parts.method.as_str().as_bytes())),
        (b":scheme", Some(scheme).filter(|_| !is_plain_connect)),
        (b":authority", parts.uri.authority().map(|authority| authority.as_str().as_bytes())),
        (b":path", parts.uri.path_and_query().map(|path| path.as_str().as_bytes())),
        (b":protocol", parts.extensions.get::<h2::ext::Protocol>().map(|protocol| protocol.as_str().as_bytes())),
    ];
    let fields = parts.headers.iter().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()));
    pseudo.into_iter().filter_map(|(name, value)| Some((name, value?))).chain(fields)
}

/// The request that asks an HTTP/1 server for what an extended CONNECT asks for (RFC 8441 section 5).
fn upgrade(mut head: RequestHead, protocol: &[u8]) -> RequestHead {
    head.method = Method::Get;
    head.framing = Framing::None;
    head.fields.push(b"Upgrade", protocol);
    head.fields.push(b"Connection", b"Upgrade");
    if protocol.eq_ignore_ascii_case(b"websocket") {
        // Over HTTP/2 a client sends none, and what is answered to it is of no interest to it.
        let nonce = [chance::number().unwrap_or(0).to_be_bytes(), chance::number().unwrap_or(0).to_be_bytes()].concat();
        head.fields.push(b"Sec-WebSocket-Key", base64::engine::general_purpose::STANDARD.encode(nonce).as_bytes());
    }
    head
}

/// An exchange while it is under way.
struct Active<'a> {
    session: &'a Session,
    key: usize,
}

impl<'a> Active<'a> {
    fn new(session: &'a Session, exchange: Rc<Exchange>) -> Self {
        Active { session, key: session.active.borrow_mut().insert(exchange) }
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.session.active.borrow_mut().try_remove(self.key);
    }
}
