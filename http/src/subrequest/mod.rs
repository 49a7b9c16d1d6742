//! Subrequests: what is asked for within a request, as nginx's modules ask each other's locations.
//!
//! A subrequest is an exchange of its own, with the fields of its main request and a target of its own. Its answer goes by
//! the same filters and through the same sink as any other, into a `Pipe` in place of a client: to whoever asked
//! ([`ask`]), in order into the answer that it is to be part of ([`include()`]), or nowhere ([`leave_behind`]).

mod included;
mod pipe;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use futures_core::future::LocalBoxFuture;
use tidegate_core::log;
use tidegate_core::log::Shown;
use tidegate_core::net::Lifetime;
use tidegate_core::script::Slots;
use tidegate_core::subject::{State, States, Subject};
use tidegate_http_wire::Method;
use tidegate_http_wire::framing::Framing;

use crate::answer::{Broken, Chunk};
use crate::carrier::After;
use crate::exchange::{Exchange, Target, Within};
use crate::held::Held;
use crate::run::{self, Arrival};

use included::Include;
use pipe::{Keeps, Pipe};

/// nginx: requests within requests.
const DEEPEST: u8 = 50;
/// Subrequests of one request of a client, all together. nginx has room for some more.
const MOST: u32 = 10_000;
/// What is read ahead of an answer that is part of another.
const READ_AHEAD: usize = 64 << 10;
/// What is read of a body that nobody wants, so that the upstream's connection can be kept.
const DISCARDED: usize = 64 << 10;

/// What is asked for.
pub struct Request {
    /// The path, decoded.
    pub path: Vec<u8>,
    /// The arguments.
    pub args: Bytes,
    /// How. nginx: by GET, but for what is mirrored.
    pub method: Method,
    /// The body of the request that it lies within, as far as that is held, goes along.
    pub with_body: bool,
}

impl Request {
    /// What is asked for by GET, without a body.
    pub fn get(path: Vec<u8>, args: Bytes) -> Request {
        Request { path, args, method: Method::Get, with_body: false }
    }
}

/// Why there is no answer of a subrequest; the log says more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Requests within requests, or too many of them.
    TooMany,
    /// Nobody waits for an answer any more.
    Gone,
    /// The answer is longer than what it is to be kept in, or broke off.
    Incomplete,
}

impl From<Failure> for Broken {
    fn from(_: Failure) -> Self {
        Broken
    }
}

/// What came of a subrequest.
pub struct Reply {
    /// Its exchange, as it ended: its status, its fields, and what features remember of it.
    pub exchange: Rc<Exchange>,
    /// The body, where it was to be kept.
    pub body: Bytes,
}

/// What is to become of the body of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// Nothing.
    Unwanted,
    /// It is kept, up to so many bytes: `subrequest_output_buffer_size`.
    Kept(usize),
}

/// Asks, and waits for the answer.
///
/// # Errors
/// See [`Failure`].
pub async fn ask(outer: &Exchange, request: Request, body: Body) -> Result<Reply, Failure> {
    let keeps = match body {
        Body::Unwanted => Keeps::Nothing(DISCARDED),
        Body::Kept(most) => Keeps::All(most),
    };
    let pipe = Rc::new(Pipe::new(Some(outer.carrier.clone()), keeps));
    let exchange = begin(outer, request, pipe.clone())?;
    let after = Box::pin(run::exchange(&exchange, None)).await.0;
    match (exchange.status(), after, body) {
        (499, After::Reset, _) => Err(Failure::Gone),
        (_, After::Reset, Body::Kept(_)) => Err(Failure::Incomplete),
        _ => Ok(Reply { body: pipe.take_all(), exchange }),
    }
}

/// A chunk that stands for the answer to a subrequest. Its exchange is made here, and runs when the chunks before it are on
/// their way.
///
/// # Errors
/// There are too many of them; it has been logged.
pub fn include(outer: &Exchange, request: Request) -> Result<Chunk, Broken> {
    let pipe = Rc::new(Pipe::new(Some(outer.carrier.clone()), Keeps::Ahead(READ_AHEAD)));
    let exchange = begin(outer, request, pipe.clone())?;
    let running = running(exchange.clone());
    Ok(Chunk::Include(Box::new(Include::new(exchange, pipe, running))))
}

/// Asks behind the back of the request, which goes on at once, and of whose client nothing is known any more. It takes one
/// of `worker_connections`.
///
/// # Errors
/// There are too many of them, or no connection is left; it has been logged.
pub fn leave_behind(outer: &Exchange, request: Request) -> Result<(), Failure> {
    let Some(life) = outer.carrier.admit() else {
        log!(outer.logger(), Warn, "worker_connections are not enough for a subrequest \"{}\"", Shown(&request.path));
        return Err(Failure::TooMany);
    };
    let exchange = begin(outer, request, Rc::new(Pipe::new(None, Keeps::Nothing(DISCARDED))))?;
    tokio::task::spawn_local(unless_cut(exchange, life));
    Ok(())
}

async fn unless_cut(exchange: Rc<Exchange>, life: Lifetime) {
    life.entering().await;
    if life.unless_cut(running(exchange.clone())).await.is_none() {
        run::cut(&exchange);
    }
}

fn running(exchange: Rc<Exchange>) -> LocalBoxFuture<'static, After> {
    Box::pin(async move { run::exchange(&exchange, None).await.0 })
}

/// How many subrequests a request of a client has led to.
#[derive(Default)]
struct Begun(Cell<u32>);

impl State for Begun {
    const SHARED: bool = true;
}

/// The exchange of a subrequest, at its beginning.
fn begin(outer: &Exchange, request: Request, pipe: Rc<Pipe>) -> Result<Rc<Exchange>, Failure> {
    let depth = outer.within.as_ref().map_or(0, |within| within.depth) + 1;
    let begun = outer.state::<Begun>();
    begun.0.set(begun.0.get().saturating_add(1));
    let path = &request.path;
    if depth > DEEPEST {
        log!(outer.logger(), Error, "subrequests cycle while processing \"{}\"", Shown(path));
        return Err(Failure::TooMany);
    }
    if begun.0.get() > MOST {
        log!(outer.logger(), Error, "more than {MOST} subrequests while processing \"{}\"", Shown(path));
        return Err(Failure::TooMany);
    }
    log!(outer.logger(), Debug, "http subrequest \"{}?{}\"", Shown(path), Shown(&request.args));
    let mut head = outer.head.clone();
    let held = if request.with_body { outer.body.borrow().clone() } else { Held::nothing() };
    if !held.complete || !request.with_body {
        head.framing = Framing::None;
    }
    head.method = request.method;
    let arrival = Arrival {
        carrier: pipe,
        peer: outer.peer.clone(),
        number: outer.number,
        pipelined: outer.pipelined,
        started: Instant::now(),
    };
    let mut exchange = run::begin(arrival, outer.server.clone(), head, Slots::within(&outer.slots));
    exchange.real_client = outer.real_client.clone();
    exchange.states = States::within(&outer.states);
    exchange.within = Some(Box::new(Within { method: outer.main_method(), depth }));
    exchange.received.set(0);
    exchange.internal.set(true);
    *exchange.target.get_mut() = Target { path: request.path, args: request.args, changed: true, ..Target::default() };
    *exchange.body.get_mut() = held;
    Ok(Rc::new(exchange))
}
