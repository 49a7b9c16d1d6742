//! The life of an exchange, top to bottom: server, location, phases, content, error pages, output, log.

use std::cell::{Cell, OnceCell, RefCell};
use std::fmt;
use std::pin::pin;
use std::rc::Rc;
use std::time::Instant;

use tidegate_balancer::Attempts;
use tidegate_core::log;
use tidegate_core::log::Shown;
use tidegate_core::modules::UnderLimit;
use tidegate_core::net::PeerInfo;
use tidegate_core::phase::{Phase, Verdict};
use tidegate_core::process::stall;
use tidegate_core::script::Slots;
use tidegate_core::subject::{States, Subject};
use tidegate_core::tls::Objection;
use tidegate_http_wire::uri::{Escape, escape_uri};
use tidegate_http_wire::{Known, Method, RequestHead};

use crate::answer::Answer;

use crate::carrier::{After, Carrier};
use crate::content::{Outcome, Produce, files};
use crate::error_page::{self, Handled, Replaced};
use crate::exchange::{Exchange, Sent, Target};
use crate::output::{self, Transforms};
use crate::plan::Plan;
use crate::presence;
use crate::request_body;
use crate::route::location::Found;
use crate::settings::Settings;
use crate::site::Server;

/// nginx: internal redirects and rewrites of one request.
const MOST_REDIRECTS: u8 = 10;

/// Why a client is not served, whatever it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unwelcome {
    /// It speaks plain text where TLS is spoken.
    PlainText,
    /// Its certificate will not do.
    Certificate(Objection),
    /// It asks for a server whose demands on certificates are not those of the one it has named in its handshake.
    Misdirected,
}

impl Unwelcome {
    fn status(self) -> u16 {
        match self {
            Unwelcome::PlainText => 497,
            Unwelcome::Certificate(Objection::Untrusted(_)) => 495,
            Unwelcome::Certificate(Objection::Missing) => 496,
            Unwelcome::Misdirected => 421,
        }
    }
}

impl fmt::Display for Unwelcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unwelcome::PlainText => f.write_str("client sent plain HTTP request to HTTPS port"),
            Unwelcome::Certificate(objection) => objection.fmt(f),
            Unwelcome::Misdirected => {
                f.write_str("client attempted to request the server name different from the one that was negotiated")
            }
        }
    }
}

/// Runs one exchange to its end. Also tells the settings in force at that point.
pub async fn exchange(exchange: &Exchange, unwelcome: Option<Unwelcome>) -> (After, Rc<Settings>) {
    log!(exchange.logger(), Debug, "http request line: \"{}\"", Shown(exchange.head.line()));
    for line in exchange.head.ignored() {
        let line = Shown(line);
        log!(
            exchange.logger(),
            Info,
            "client sent invalid header line: \"{line}\" while reading client request headers"
        );
    }
    let first = if let Some(unwelcome) = unwelcome {
        log!(exchange.logger(), Info, "{unwelcome} while reading client request headers");
        exchange.sent.status.set(unwelcome.status());
        Outcome::Status(unwelcome.status())
    } else if exchange.head.method == Method::Connect {
        log!(exchange.logger(), Info, "client sent CONNECT method while reading client request headers");
        Outcome::Status(405)
    } else {
        phases(exchange, Entry::Server).await
    };
    let after = match filtered(exchange, first).await {
        Some((mut answer, transforms)) => {
            answer.close |= unwelcome.is_some() || exchange.head.method == Method::Connect;
            output::send(exchange, answer, transforms).await
        }
        None => After::Reset,
    };
    finish(exchange);
    let settings = exchange.plan().settings.clone();
    (after, settings)
}

/// Answers a head that was refused; the connection ends behind it.
pub async fn refuse(exchange: &Exchange, status: u16) {
    if status == 408 {
        // nginx: nobody reads an answer that took the client too long to ask for.
        exchange.sent.status.set(408);
    } else if let Some((mut answer, transforms)) = filtered(exchange, Outcome::Status(status)).await {
        answer.close = true;
        output::send(exchange, answer, transforms).await;
    }
    finish(exchange);
}

/// What a carrier says of a request.
pub struct Arrival {
    /// The carrier.
    pub carrier: Rc<dyn Carrier>,
    /// The client's connection.
    pub peer: Rc<PeerInfo>,
    /// How many requests the connection has carried, this one included.
    pub number: u64,
    /// It had arrived before the one before it was answered.
    pub pipelined: bool,
    /// When it began.
    pub started: Instant,
}

/// An exchange at its beginning. It is large: made where it stays, not here and then moved.
#[inline(always)]
pub fn begin(arrival: Arrival, server: Rc<Server>, mut head: Box<RequestHead>, slots: Slots) -> Exchange {
    let Arrival { carrier, peer, number, pipelined, started } = arrival;
    let target = Target {
        // Nobody asks the head for it any more.
        path: std::mem::take(&mut head.target.path),
        args: head.target.args(),
        changed: head.target.empty_path,
        ..Target::default()
    };
    let received = u64::try_from(head.size()).unwrap_or(0);
    Exchange {
        peer,
        real_client: OnceCell::new(),
        carrier,
        plan: RefCell::new(server.plan.clone()),
        head,
        server,
        target: RefCell::new(target),
        sent: Sent::default(),
        slots,
        attempts: Attempts::default(),
        states: States::default(),
        within: None,
        started,
        number,
        pipelined,
        redirects: Cell::new(0),
        internal: Cell::new(false),
        named: RefCell::default(),
        as_get: Cell::new(false),
        carried: RefCell::default(),
        answered: RefCell::default(),
        body: RefCell::default(),
        received: Cell::new(received),
        body_received: Cell::new(0),
    }
}

/// Tells the logs of an exchange that ends because its connection has. nginx: the client has closed the request.
pub fn leave(exchange: &Exchange) {
    if exchange.sent.head.get() == 0 {
        exchange.sent.status.set(499);
    }
    log!(exchange.logger(), Info, "client prematurely closed connection");
    finish(exchange);
}

/// Tells the logs of an exchange that `worker_shutdown_timeout` has cut short. nginx: as if the client had gone.
pub fn cut(exchange: &Exchange) {
    if exchange.sent.head.get() == 0 {
        exchange.sent.status.set(499);
    }
    log!(exchange.logger(), Info, "shutdown timeout");
    finish(exchange);
}

fn finish(exchange: &Exchange) {
    stall::doing("logging");
    let plan = exchange.plan();
    let (status, sent) = (exchange.status(), exchange.bytes_sent());
    log!(exchange.logger(), Debug, "http request is over: status {status}, {sent} bytes sent");
    if exchange.is_subrequest() && !plan.settings.log_subrequest {
        return;
    }
    for sink in &plan.sinks {
        sink.finished(exchange);
    }
}

/// Where a round through the phases begins.
#[derive(Clone, Copy)]
enum Entry {
    Server,
    Location,
}

/// The answer as the filters leave it. What one of them refuses is another error, for which an error page may stand in.
async fn filtered(exchange: &Exchange, mut outcome: Outcome) -> Option<(Box<Answer>, Transforms)> {
    let mut checked = false;
    loop {
        let mut answer = settle(exchange, outcome).await?;
        // Before a head says that the connection goes on, the end of what the client sends must be certain.
        if !answer.passed_on && !std::mem::replace(&mut checked, true) {
            match request_body::pass_over(exchange) {
                Ok(()) => {}
                Err(fault) => {
                    outcome = Outcome::Status(fault.status());
                    continue;
                }
            }
        }
        match output::filter(exchange, &mut answer) {
            Ok(transforms) => return Some((answer, transforms)),
            Err(status) => outcome = Outcome::Status(status),
        }
    }
}

/// Turns outcomes into the answer, with the fields that come along from what led to it.
async fn settle(exchange: &Exchange, outcome: Outcome) -> Option<Box<Answer>> {
    let mut answer = decide(exchange, outcome).await?;
    if let Some(carried) = exchange.carried.take() {
        for field in carried.iter() {
            let many = matches!(field.known, Known::SetCookie | Known::WwwAuthenticate | Known::Other);
            // A type has been taken into account where the answer's own was chosen.
            if field.known != Known::ContentType && (many || !answer.fields.has(field.known)) {
                answer.fields.push(field.name, field.value);
            }
        }
    }
    Some(answer)
}

/// Follows internal redirects, and puts error pages in the place of errors.
async fn decide(exchange: &Exchange, mut outcome: Outcome) -> Option<Box<Answer>> {
    loop {
        let status = match outcome {
            Outcome::Answer(mut answer) => {
                if let Some(status) = exchange.known_state::<Replaced>().and_then(|replaced| replaced.status.get()) {
                    answer.status = status;
                    answer.reason = None;
                }
                return Some(answer);
            }
            Outcome::Gone => {
                exchange.sent.status.set(499);
                return None;
            }
            Outcome::Restart if exchange.redirects.get() > MOST_REDIRECTS => {
                let path = Shown(&exchange.target.borrow().path).to_string();
                log!(
                    exchange.logger(),
                    Error,
                    "rewrite or internal redirection cycle while internally redirecting to \"{path}\""
                );
                500
            }
            Outcome::Restart => {
                // Boxed, so that the usual exchange does not carry the room for another round.
                outcome = Box::pin(phases(exchange, Entry::Server)).await;
                continue;
            }
            Outcome::Status(status) => status,
        };
        exchange.sent.status.set(status);
        // nginx: nobody is told of a timeout of its own making, 408, even where an error page would be.
        if matches!(status, 408 | 444 | 499) {
            return None;
        }
        let plan = exchange.plan();
        if exchange.redirects.get() <= MOST_REDIRECTS {
            match error_page::handle(&plan, exchange, status) {
                Handled::Restart => {
                    outcome = Outcome::Restart;
                    continue;
                }
                Handled::Answer(answer) => return Some(answer),
                Handled::No => {}
            }
        }
        let mut answer = Box::new(Answer::page(status, plan.settings.server_tokens));
        answer.close = closes(status);
        return Some(answer);
    }
}

/// nginx: after these the framing of the connection, or the client's intent, is in doubt.
fn closes(status: u16) -> bool {
    matches!(status, 400 | 413 | 414 | 494..=497 | 500 | 501)
}

/// One round: rewriting, location, access, content.
async fn phases(exchange: &Exchange, entry: Entry) -> Outcome {
    let mut entry = entry;
    let named = exchange.named.borrow_mut().take();
    if let Some(name) = named {
        let Some(plan) = exchange.server.locations.named(&name).cloned() else {
            log!(exchange.logger(), Error, "could not find named location \"{}\"", Shown(&name));
            return Outcome::Status(500);
        };
        let plan = limited(exchange, plan);
        *exchange.plan.borrow_mut() = plan.clone();
        return match run(exchange, &plan, Phase::Rewrite, Phase::Rewrite).await {
            None => guarded(exchange).await,
            Some(Outcome::Restart) => again(exchange).await,
            Some(outcome) => outcome,
        };
    }
    for _ in 0..=MOST_REDIRECTS {
        if let Entry::Server = entry {
            let plan = exchange.server.plan.clone();
            *exchange.plan.borrow_mut() = plan.clone();
            // nginx: what comes first is done once, not again at each internal redirect.
            let first = if exchange.internal.get() { Phase::ServerRewrite } else { Phase::PostAccept };
            match run(exchange, &plan, first, Phase::ServerRewrite).await {
                // The location is chosen next anyway.
                None | Some(Outcome::Restart) => {}
                Some(outcome) => return outcome,
            }
        }
        entry = Entry::Location;
        if let Some(outcome) = locate(exchange) {
            return outcome;
        }
        // An error page is not refused for what it stands in for.
        if !exchange.known_state::<Replaced>().is_some_and(|replaced| replaced.by_page.get())
            && let Err(fault) = request_body::check_announced(exchange)
        {
            return Outcome::Status(fault.status());
        }
        let plan = exchange.plan();
        // The server's own program has run already.
        let rewriting = if Rc::ptr_eq(&plan, &exchange.server.plan) {
            None
        } else {
            run(exchange, &plan, Phase::Rewrite, Phase::Rewrite).await
        };
        match rewriting {
            None => return guarded(exchange).await,
            Some(Outcome::Restart) => {}
            Some(outcome) => return outcome,
        }
    }
    let path = Shown(&exchange.target.borrow().path).to_string();
    log!(exchange.logger(), Error, "rewrite or internal redirection cycle while processing \"{path}\"");
    Outcome::Status(500)
}

/// A named location has rewritten the path: the location is chosen anew.
async fn again(exchange: &Exchange) -> Outcome {
    exchange.redirects.set(exchange.redirects.get().saturating_add(1));
    if exchange.redirects.get() > MOST_REDIRECTS {
        return Outcome::Status(500);
    }
    Box::pin(phases(exchange, Entry::Location)).await
}

/// Runs the handlers of some phases. `None` when none of them objects.
async fn run(exchange: &Exchange, plan: &Rc<Plan>, from: Phase, to: Phase) -> Option<Outcome> {
    if plan.gates.is_empty() {
        return None;
    }
    stall::doing("running phase handlers");
    match plan.gates.run(exchange, from, to).await {
        Verdict::Continue | Verdict::Allow => None,
        Verdict::Refuse(status) => Some(Outcome::Status(status)),
        Verdict::Restart => Some(Outcome::Restart),
        Verdict::Answered => Some(match exchange.answered.borrow_mut().take() {
            Some(answer) => answer.into(),
            None => Outcome::Status(500),
        }),
    }
}

/// Chooses the location for the path. `Some` when the path ends the exchange.
fn locate(exchange: &Exchange) -> Option<Outcome> {
    let found = exchange.server.locations.find(&exchange.target.borrow().path, exchange.slots());
    let found = match found {
        Ok(found) => found,
        Err(failure) => {
            log!(exchange.logger(), Alert, "location {failure}");
            *exchange.plan.borrow_mut() = exchange.server.plan.clone();
            return Some(Outcome::Status(500));
        }
    };
    match found {
        Found::Nothing => *exchange.plan.borrow_mut() = exchange.server.plan.clone(),
        Found::Location(plan) => {
            if plan.internal && !exchange.internal.get() {
                *exchange.plan.borrow_mut() = plan;
                return Some(Outcome::Status(404));
            }
            *exchange.plan.borrow_mut() = limited(exchange, plan);
        }
        Found::Redirect(plan) => {
            let mut location = Vec::new();
            escape_uri(&plan.name, Escape::Uri, &mut location);
            let args = exchange.target.borrow().args.clone();
            if !args.is_empty() {
                location.push(b'?');
                location.extend_from_slice(&args);
            }
            *exchange.plan.borrow_mut() = plan;
            return Some(Outcome::Status(exchange.send_to(301, &location)));
        }
    }
    None
}

/// The plan of a location for the method in force.
fn limited(exchange: &Exchange, plan: Rc<Plan>) -> Rc<Plan> {
    match &plan.limit {
        Some((methods, other)) if !methods.contains(&exchange.method()) => other.clone(),
        _ => plan,
    }
}

/// Limits, access and what precedes the content. nginx: who may is asked of a client's request, not of what is asked for
/// within it.
async fn checks(exchange: &Exchange, plan: &Rc<Plan>) -> Option<Outcome> {
    if exchange.is_subrequest() {
        let limits = run(exchange, plan, Phase::PreAccess, Phase::PreAccess);
        if let Some(outcome) = Box::pin(limits).await {
            return Some(outcome);
        }
        return Box::pin(run(exchange, plan, Phase::PreContent, Phase::PreContent)).await;
    }
    run(exchange, plan, Phase::PreAccess, Phase::PreContent).await
}

/// Limits, access and what precedes the content; then the content.
async fn guarded(exchange: &Exchange) -> Outcome {
    let plan = exchange.plan();
    log!(exchange.logger(), Debug, "using configuration \"{}\"", Shown(&plan.name));
    // A client that has only said that it sends no more waits for its answer; one that is delayed may give up.
    if !plan.gates.is_empty() {
        let checks = pin!(checks(exchange, &plan));
        let is_delayed = || exchange.known_state::<UnderLimit>().is_some_and(|limited| limited.delayed.get());
        match presence::unless_leaves(exchange, is_delayed, checks).await {
            Some(None) => {}
            Some(Some(outcome)) => return outcome,
            None => {
                log!(exchange.logger(), Info, "client prematurely closed connection");
                return Outcome::Gone;
            }
        }
    }
    if plan.gates.any {
        // nginx: nobody need show what a handler has asked for, where another one has allowed.
        exchange.carry_no_more(Known::WwwAuthenticate);
    }
    stall::doing("producing an answer");
    let produced = match plan.content.as_ref().or_else(|| plan.around.get()) {
        None => files::answer(exchange),
        Some(content) => content.answer(exchange),
    };
    match produced {
        Produce::Now(outcome) => outcome,
        Produce::Later(answering) => answering.await,
    }
}
