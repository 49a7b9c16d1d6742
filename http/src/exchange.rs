//! One request and its answer: what handlers, filters, variables and logs may ask about.

use std::cell::{Cell, OnceCell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use tidegate_balancer::{Attempts, HasAttempts};
use tidegate_core::log::{Logger, Shown};
use tidegate_core::modules::HasLimits;
use tidegate_core::net::{Address, PeerInfo};
use tidegate_core::script::Slots;
use tidegate_core::subject::{States, Subject};
use tidegate_http_wire::uri::{Escape, escape_uri};
use tidegate_http_wire::{Fields, Known, Method, RequestHead};

use crate::answer::Answer;
use crate::carrier::Carrier;
use crate::held::Held;
use crate::plan::Plan;
use crate::site::Server;

/// What is being asked for now; internal redirects change it.
#[derive(Clone, Debug, Default)]
pub struct Target {
    /// The path, decoded and normalised: `$uri`.
    pub path: Vec<u8>,
    /// The arguments: `$args`.
    pub args: Bytes,
    /// The path no longer says what the client sent: `$request_uri` cannot be passed on as it is.
    pub changed: bool,
    /// A rewrite ended with `break`: the location's name is no longer part of the path.
    pub left_location: bool,
    /// `try_files` has found the path below the `alias` of a pattern, which otherwise is the whole path of the file.
    pub below_alias: bool,
}

/// The answer as far as it is known: for `$status`, `$sent_http_*` and the counts.
#[derive(Debug, Default)]
pub struct Sent {
    /// The status; 0 until there is one.
    pub status: Cell<u16>,
    /// The fields sent.
    pub fields: RefCell<Fields>,
    /// The fields sent behind the body.
    pub trailers: RefCell<Option<Box<Fields>>>,
    /// The connection is kept for more.
    pub keeps: Cell<bool>,
    /// The length announced.
    pub length: Cell<Option<u64>>,
    /// The body goes in chunks.
    pub chunked: Cell<bool>,
    /// When what is answered was last changed, in seconds since 1970, unless a field says so.
    pub last_modified: Cell<Option<i64>>,
    /// Bytes sent, head included.
    pub bytes: Cell<u64>,
    /// Bytes of the head.
    pub head: Cell<u64>,
}

impl Sent {
    /// Takes over what an answer says of itself apart from its fields, so that variables see it from now on.
    pub fn look_at(&self, answer: &Answer) {
        self.status.set(answer.status);
        self.length.set(if matches!(answer.status, 204 | 304) { None } else { answer.body.length() });
        self.last_modified.set(answer.last_modified);
    }
}

/// The request that a subrequest belongs to.
pub struct Within {
    /// How the client asked.
    pub method: Method,
    /// How many requests it lies within.
    pub depth: u8,
}

/// One request and its answer.
pub struct Exchange {
    /// The client's connection.
    pub peer: Rc<PeerInfo>,
    /// What a trusted proxy has said of the client's address.
    pub real_client: OnceCell<Address>,
    /// What carries the exchange: the body of the request, the answer, and whether anybody waits for it.
    pub carrier: Rc<dyn Carrier>,
    /// The request as received.
    pub head: Box<RequestHead>,
    /// The server chosen by address and name.
    pub server: Rc<Server>,
    /// The location in force.
    pub plan: RefCell<Rc<Plan>>,
    /// What is being asked for now.
    pub target: RefCell<Target>,
    /// The answer so far.
    pub sent: Sent,
    /// Values of the configuration's own variables.
    pub slots: Slots,
    /// Upstream peers tried.
    pub attempts: Attempts,
    /// What features remember of it.
    pub states: States,
    /// The request that it belongs to, if it is a subrequest.
    pub within: Option<Box<Within>>,
    /// When it began.
    pub started: Instant,
    /// How many requests the connection has carried, this one included.
    pub number: u64,
    /// It had arrived before the one before it was answered.
    pub pipelined: bool,
    /// Internal redirects so far.
    pub redirects: Cell<u8>,
    /// The target is our own doing, not the client's.
    pub internal: Cell<bool>,
    /// A named location is asked for instead of a path.
    pub named: RefCell<Option<Box<[u8]>>>,
    /// An error page asks by GET, whatever the client did.
    pub as_get: Cell<bool>,
    /// Fields that the answer gets whoever gives it in the end: of a redirect that an error page took over, of a reply
    /// that sent the exchange elsewhere.
    pub carried: RefCell<Option<Box<Fields>>>,
    /// What a handler has answered.
    pub answered: RefCell<Option<crate::answer::Answer>>,
    /// The body of the request as far as it is held, for variables and retries.
    pub body: RefCell<Held>,
    /// Bytes received, body included.
    pub received: Cell<u64>,
    /// Bytes of the body received.
    pub body_received: Cell<u64>,
}

impl Exchange {
    /// The method in force.
    pub fn method(&self) -> Method {
        if self.as_get.get() { Method::Get } else { self.head.method.clone() }
    }

    /// True when the answer has no body, whatever its head says.
    pub fn is_head(&self) -> bool {
        self.head.method == Method::Head
    }

    /// True for what is asked for within a request of a client.
    pub fn is_subrequest(&self) -> bool {
        self.within.is_some()
    }

    /// How the client asked, whatever is asked for within its request.
    pub fn main_method(&self) -> Method {
        self.within.as_ref().map_or_else(|| self.method(), |within| within.method.clone())
    }

    /// The location in force.
    pub fn plan(&self) -> Rc<Plan> {
        self.plan.borrow().clone()
    }

    /// Goes to another path inside the server. Arguments follow a `?` in `target`.
    pub fn redirect(&self, path: Vec<u8>, args: Bytes) {
        *self.target.borrow_mut() = Target { path, args, changed: true, ..Target::default() };
        *self.named.borrow_mut() = None;
        self.internal.set(true);
        self.redirects.set(self.redirects.get().saturating_add(1));
    }

    /// Goes to a named location, whose name begins with `@`; the path stays.
    pub fn go_to_named(&self, name: &[u8]) {
        *self.named.borrow_mut() = Some(name.into());
        self.internal.set(true);
        self.redirects.set(self.redirects.get().saturating_add(1));
    }

    /// Has the answer carry a field, whoever gives it in the end.
    pub fn carry(&self, known: Known, value: &[u8]) {
        self.carried.borrow_mut().get_or_insert_default().push_known(known, value);
    }

    /// Has the answer carry none of these fields after all.
    pub fn carry_no_more(&self, known: Known) {
        if let Some(carried) = &mut *self.carried.borrow_mut() {
            carried.remove(known);
        }
    }

    /// Sends the client to `url` by a status that an error page may still take over.
    pub fn send_to(&self, status: u16, url: &[u8]) -> u16 {
        let mut in_line = Vec::with_capacity(url.len());
        escape_uri(url, Escape::Breaks, &mut in_line);
        self.carried.borrow_mut().get_or_insert_default().set(Known::Location, &in_line);
        status
    }

    /// Counts bytes sent to the client.
    pub fn count_sent(&self, bytes: usize) {
        self.sent.bytes.set(self.sent.bytes.get().saturating_add(u64::try_from(bytes).unwrap_or(0)));
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        if self.peer.tls.get().is_some() { "https" } else { "http" }
    }

    /// The host asked for, or the server's first name.
    pub fn host(&self) -> &[u8] {
        self.head.host.as_ref().map_or(self.server.name.as_bytes(), |host| &host.name)
    }
}

impl Subject for Exchange {
    type Plan = Plan;

    fn peer(&self) -> &PeerInfo {
        &self.peer
    }

    fn client(&self) -> &Address {
        self.real_client.get().unwrap_or(&self.peer.client)
    }

    fn slots(&self) -> &Slots {
        &self.slots
    }

    fn states(&self) -> &States {
        &self.states
    }

    fn logger(&self) -> Logger<'_> {
        Logger::of(&self.plan.borrow().error_log, &self.peer).with(self)
    }

    fn started(&self) -> Instant {
        self.started
    }

    fn status(&self) -> u16 {
        self.sent.status.get()
    }

    fn bytes_sent(&self) -> u64 {
        self.sent.bytes.get()
    }

    fn bytes_received(&self) -> u64 {
        self.received.get()
    }

    fn forwarded_for(&self) -> Vec<u8> {
        self.head.fields.all(Known::XForwardedFor).collect::<Vec<_>>().join(&b","[..])
    }

    fn default_log_format() -> Option<(&'static str, &'static str)> {
        Some((
            "combined",
            "$remote_addr - $remote_user [$time_local] \"$request\" $status $body_bytes_sent \"$http_referer\" \"$http_user_agent\"",
        ))
    }
}

impl HasLimits for Exchange {
    const PROTOCOL: &'static str = "http";
}

impl HasAttempts for Exchange {
    fn attempts(&self) -> &Attempts {
        &self.attempts
    }
}

/// What nginx appends to every line about a request.
impl fmt::Display for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, ", client: {}, server: {}", self.client().host(), self.server.name)?;
        let line = self.head.line();
        if !line.is_empty() {
            write!(f, ", request: \"{}\"", Shown(line))?;
        }
        if self.is_subrequest() {
            write!(f, ", subrequest: \"{}\"", Shown(&self.target.borrow().path))?;
        }
        self.attempts.look(|attempts| match attempts.last() {
            Some(attempt) => write!(f, ", upstream: \"http://{}{}\"", attempt.address, Shown(self.head.target.raw())),
            None => Ok(()),
        })?;
        if let Some(host) = self.head.fields.get(tidegate_http_wire::Known::Host) {
            write!(f, ", host: \"{}\"", Shown(host))?;
        }
        if let Some(referer) = self.head.fields.get(tidegate_http_wire::Known::Referer) {
            write!(f, ", referrer: \"{}\"", Shown(referer))?;
        }
        Ok(())
    }
}
