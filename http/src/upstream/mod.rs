//! Proxying: a peer is leased, asked, judged and, if need be, replaced by the next.

pub mod attempt;
pub mod buffers;
pub mod cookies;
pub mod judge;
pub mod module;
pub mod pass;
pub mod redirect;
pub mod relay;
pub mod request;
pub mod spill;
pub mod variables;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use futures_core::future::LocalBoxFuture;
use tidegate_balancer::idle::Used;
use tidegate_balancer::{Ask, Group, Groups, Idle, Outcome as PeerOutcome};
use tidegate_core::build::{Chore, Lasts};
use tidegate_core::log;
use tidegate_core::net::{Timer, Transport};
use tidegate_core::process::stall;
use tidegate_core::subject::Subject;
use tidegate_http_wire::Known;
use tidegate_http_wire::framing::Framing;
use tokio::sync::Notify;

use crate::content::{Content, Outcome, Produce};
use crate::error_page;
use crate::exchange::Exchange;
use crate::held::Held;
use crate::held_body;
use crate::placed::placed;
use crate::request_body::{self, BodyFault};
use attempt::{Fault, Sending};
use judge::{Judge, Next};
use module::Settings;
use pass::{Destination, Pass};
use variables::{Asked, Proxied};

/// A connection to a peer.
pub struct PeerConnection {
    /// The transport.
    pub transport: Transport,
}

/// Idle connections of one group.
pub type Pool = Idle<PeerConnection>;

/// A group and its idle connections in this worker.
pub type Pooled = (Rc<Group>, Rc<Pool>);

/// What all locations of an http block share.
#[derive(Default)]
pub struct Shared {
    /// The groups.
    pub groups: RefCell<Groups>,
    /// By the address of the group, which the pair keeps alive.
    pools: RefCell<HashMap<*const Group, Pooled>>,
    /// Groups for addresses that variables gave, oldest first.
    written_out: RefCell<VecDeque<(Vec<u8>, Pooled)>>,
    /// What variables ask of the proxying of exchanges.
    pub asked: Cell<Asked>,
    /// There were requests since the last look at idle connections.
    used: Cell<bool>,
    /// There were none for a while: whoever looks at idle connections has to be woken.
    resting: Cell<bool>,
    awake: Notify,
}

impl Shared {
    /// What is shared by locations that use these groups.
    pub fn new(groups: Groups) -> Shared {
        Shared { groups: RefCell::new(groups), ..Shared::default() }
    }

    /// The idle connections of a group in this worker.
    pub fn pool(&self, group: &Rc<Group>) -> Rc<Pool> {
        let mut pools = self.pools.borrow_mut();
        let (_, pool) =
            pools.entry(Rc::as_ptr(group)).or_insert_with(|| (group.clone(), Rc::new(Idle::new(group.keepalive))));
        pool.clone()
    }

    /// The group of an address that variables gave, and its idle connections. Only so many are remembered, since the
    /// addresses may be of a client's choosing.
    ///
    /// # Errors
    /// It is no address.
    pub fn written_out(&self, address: &[u8]) -> Result<Pooled, String> {
        const REMEMBERED: usize = 256;
        let mut list = self.written_out.borrow_mut();
        if let Some((_, pooled)) = list.iter().find(|(known, _)| known == address) {
            return Ok(pooled.clone());
        }
        let group = Rc::new(tidegate_balancer::module::literal(address, Some(80))?);
        let pool = Rc::new(Idle::new(group.keepalive));
        if list.len() >= REMEMBERED {
            list.pop_front();
        }
        list.push_back((address.to_owned(), (group.clone(), pool.clone())));
        Ok((group, pool))
    }

    /// There is a request: idle connections are to be looked after from now on.
    fn keep_swept(&self) {
        self.used.set(true);
        if self.resting.replace(false) {
            self.awake.notify_one();
        }
    }

    /// Closes what `is_stale`, or has been idle too long; when the first of the others will have been.
    fn sweep(&self, mut is_stale: impl FnMut(&mut PeerConnection) -> bool) -> Option<Instant> {
        let now = Instant::now();
        let (pools, written_out) = (self.pools.borrow(), self.written_out.borrow());
        let pools = pools.values().chain(written_out.iter().map(|(_, pooled)| pooled));
        let sweep = |(_, pool): &Pooled| {
            pool.sweep(now, &mut is_stale);
            pool.next_expiry()
        };
        pools.filter_map(sweep).min()
    }
}

/// Sees to it that idle connections which their peers have closed, or that have been idle too long, are closed. They are
/// looked at once a second as long as there are requests, then only when something has happened to one, and not at all when
/// there are none.
pub struct Sweeping(pub Rc<Shared>);

impl Chore for Sweeping {
    fn name(&self) -> &'static str {
        "sweeping idle upstream connections"
    }

    fn lasts(&self) -> Lasts {
        Lasts::ToTheEnd
    }

    fn run(&self) -> LocalBoxFuture<'_, ()> {
        Box::pin(keep_sweeping(&self.0))
    }
}

async fn keep_sweeping(shared: &Shared) {
    const EVERY: Duration = Duration::from_secs(1);
    let mut timer = Timer::default();
    loop {
        let is_quiet = !shared.used.replace(false);
        let next = shared.sweep(is_stale);
        shared.resting.set(is_quiet);
        if is_quiet && next.is_none() {
            shared.awake.notified().await;
        } else if is_quiet {
            let mut waking = pin!(shared.awake.notified());
            poll_fn(|cx| {
                loop {
                    let next = shared.sweep(|connection| connection.transport.poll_readable(cx).is_ready());
                    let Some(next) = next.filter(|_| waking.as_mut().poll(cx).is_pending()) else {
                        return Poll::Ready(());
                    };
                    ready!(timer.poll_until(cx, next));
                }
            })
            .await;
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// True when an idle connection has become readable: its peer has closed it, or broken the protocol.
pub fn is_stale(connection: &mut PeerConnection) -> bool {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    connection.transport.may_be_readable() && connection.transport.poll_readable(&mut context).is_ready()
}

/// `proxy_pass`
pub struct ProxyPass {
    /// Where to.
    pub pass: Pass,
    /// How.
    pub settings: Rc<Settings>,
    /// What the http block shares.
    pub shared: Rc<Shared>,
}

impl Content for ProxyPass {
    fn answer<'a>(&'a self, exchange: &'a Exchange) -> Produce<'a> {
        Produce::Later(placed(|| self.proxy(exchange)))
    }
}

impl ProxyPass {
    async fn proxy(&self, exchange: &Exchange) -> Outcome {
        stall::doing("proxying");
        self.shared.keep_swept();
        let destination = match self.pass.destination(exchange, &self.shared) {
            Ok(destination) => destination,
            Err(message) => {
                log!(exchange.logger(), Error, "{message}");
                return Outcome::Status(502);
            }
        };
        if self.shared.asked.get().host {
            *exchange.state::<Proxied>().host.borrow_mut() = Some(destination.host.clone());
        }
        let held = match exchange.head.framing {
            Framing::None => Held::nothing(),
            // Boxed, so that a request without a body does not carry the room for it.
            _ => match Box::pin(self.body(exchange)).await {
                Ok(held) => held,
                Err(status) => return Outcome::Status(status),
            },
        };
        self.attempts(exchange, &destination, held).await
    }

    /// The body of the request: all of it, or what has arrived where the rest is passed on as it comes.
    async fn body(&self, exchange: &Exchange) -> Result<Held, u16> {
        let known = exchange.body.borrow().clone();
        if known.complete {
            return Ok(known);
        }
        if exchange.body_received.get() > 0 {
            // An upstream that has sent the exchange elsewhere has got it as it came.
            if exchange.as_get.get() {
                return Ok(Held::nothing());
            }
            log!(exchange.logger(), Error, "the request body has been passed on and cannot be sent again");
            return Err(502);
        }
        request_body::welcome(exchange).await.map_err(BodyFault::status)?;
        let held = match self.settings.holds_body(exchange) {
            true => held_body::whole(exchange, &self.settings.bodies).await,
            false => held_body::arrived(exchange),
        };
        let held = held.map_err(BodyFault::status)?;
        *exchange.body.borrow_mut() = held.clone();
        Ok(held)
    }

    /// Tries peers until one answers or the judge says that enough has been tried.
    async fn attempts(&self, exchange: &Exchange, destination: &Destination, held: Held) -> Outcome {
        let mut judge = Judge::new(&self.settings, exchange, destination.group.tries());
        let mut tried: Vec<usize> = Vec::new();
        let sending = Sending { pass: self, destination, held, streamed: Cell::new(false) };
        loop {
            let ask = Ask { client: exchange.client(), tried: &tried };
            let Ok(lease) = destination.group.lease(&ask) else {
                exchange.attempts.begin(destination.group.name());
                exchange.attempts.current(|attempt| attempt.status = 502);
                log!(exchange.logger(), Error, "no live upstreams while connecting to upstream");
                return Outcome::Status(502);
            };
            exchange.attempts.begin(lease.name());
            if self.shared.asked.get().fields {
                exchange.state::<Proxied>().fields.take();
            }
            let index = lease.index();
            let begun = Instant::now();
            let usual = self.settings.bind.is_none();
            let kept = if usual { destination.pool.take(index, begun, is_stale) } else { None };
            let reused = kept.is_some();
            let (fault, lease) = match sending.run(exchange, lease, kept, begun).await {
                Ok(reply) if !judge.dislikes(reply.head.status) => return self.accept(exchange, reply),
                Ok(reply) => match judge.next(&Fault::Status(reply.head.status), reused, true) {
                    Next::Stop(_) => return self.accept(exchange, reply),
                    _ => {
                        exchange.attempts.current(|attempt| attempt.finished = Some(begun.elapsed()));
                        (Fault::Status(reply.head.status), reply.into_lease())
                    }
                },
                Err((Fault::ClientGone, _)) => {
                    log!(
                        exchange.logger(),
                        Info,
                        "client prematurely closed connection, so upstream connection is closed too while reading response header from upstream"
                    );
                    return Outcome::Gone;
                }
                Err((Fault::ClientBody(fault), _)) => return Outcome::Status(fault.status()),
                Err((fault, lease)) => {
                    log!(exchange.logger(), Error, "{fault}");
                    match judge.next(&fault, reused, fault.request_sent()) {
                        Next::Stop(status) => {
                            exchange.attempts.current(|attempt| attempt.status = status);
                            self.report(exchange, lease, &fault, reused);
                            return Outcome::Status(status);
                        }
                        Next::SamePeer if !sending.can_repeat() => return Outcome::Status(fault.status()),
                        Next::SamePeer => {
                            // The connection had been closed while it was idle: that says nothing about the peer.
                            drop(lease);
                            continue;
                        }
                        Next::AnotherPeer => (fault, lease),
                    }
                }
            };
            let status = fault.status();
            exchange.attempts.current(|attempt| attempt.status = status);
            self.report(exchange, lease, &fault, reused);
            if !tried.contains(&index) {
                tried.push(index);
            }
            if !sending.can_repeat() {
                return Outcome::Status(status);
            }
        }
    }

    fn report(&self, exchange: &Exchange, lease: Option<tidegate_balancer::Lease>, fault: &Fault, reused: bool) {
        let Some(lease) = lease else { return };
        // nginx: 403 and 404 send a request on without counting against the peer.
        let outcome = if matches!(fault, Fault::Status(403 | 404) | Fault::HeldBody(_)) || (reused && fault.is_closed())
        {
            PeerOutcome::Declined
        } else {
            PeerOutcome::Failure
        };
        if lease.report(outcome) {
            log!(exchange.logger(), Warn, "upstream server temporarily disabled while {}", fault.action());
        }
    }

    /// Makes an answer of a reply.
    fn accept(&self, exchange: &Exchange, reply: Box<attempt::Arrived>) -> Outcome {
        let status = reply.head.status;
        // Who has asked for what is not allowed is told how it would be, even if that is hidden from clients.
        if self.shared.asked.get().fields || (status == 401 && exchange.is_subrequest()) {
            *exchange.state::<Proxied>().fields.borrow_mut() = reply.head.fields.clone();
        }
        if self.settings.intercept_errors && status >= 300 && error_page::covers(&exchange.plan(), status) {
            if status == 401 {
                // Without its challenge the status would be of no use to the client.
                let challenges = reply.head.fields.all(Known::WwwAuthenticate);
                challenges.for_each(|value| exchange.carry(Known::WwwAuthenticate, value));
            }
            return Outcome::Status(status);
        }
        reply.into_answer(exchange, self)
    }
}

/// A connection that is used again.
pub type Kept = Used<PeerConnection>;
