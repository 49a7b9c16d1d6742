//! `proxy_pass` and its neighbours: leases a peer, connects to it, and pumps bytes both ways.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tidegate_balancer::algorithm::round_robin::RoundRobin;
use tidegate_balancer::{Ask, Group, HasAttempts, Lease, Outcome, Peer};
use tidegate_core::conf::directive::{Arity, Directive, Feature, Levels, Set};
use tidegate_core::conf::{ConfigError, Setting, Word};
use tidegate_core::log::{Level, Shown, os_error};
use tidegate_core::module::{Install, Module};
use tidegate_core::net::address::{AddressError, Named};
use tidegate_core::net::pump::{Doing, End, Limits, Side, pump};
use tidegate_core::net::{Address, Timer, Transport};
use tidegate_core::script::Template;
use tidegate_core::subject::Subject;
use tidegate_core::{inherit, log};

use crate::plan::{Content, Plan};
use crate::presence;
use crate::retry::{Next, Policy};
use crate::session::{Session, Traffic};

/// The settings of one block.
#[derive(Default)]
pub struct ProxyConf {
    pass: Setting<Word>,
    connect_timeout: Setting<Duration>,
    timeout: Setting<Duration>,
    next_upstream: Setting<bool>,
    next_upstream_tries: Setting<u64>,
    next_upstream_timeout: Setting<Duration>,
    buffer_size: Setting<u64>,
    half_close: Setting<bool>,
    socket_keepalive: Setting<bool>,
    reset: Setting<bool>,
}

inherit!(ProxyConf {
    connect_timeout,
    timeout,
    next_upstream,
    next_upstream_tries,
    next_upstream_timeout,
    buffer_size,
    half_close,
    socket_keepalive,
    reset,
} own { pass });

/// `proxy_pass` and its neighbours
pub struct Proxy;

const fn row(name: &'static str, set: Set<ProxyConf>, doc: &'static str) -> Directive<ProxyConf> {
    Directive { name, levels: Levels::PROTOCOL.or(Levels::SERVER), arity: Arity::Exactly(1), set, doc }
}

impl Feature for Proxy {
    type Conf = ProxyConf;
    const NAME: &'static str = "proxy";
    const DIRECTIVES: &'static [Directive<ProxyConf>] = &[
        Directive {
            name: "proxy_pass",
            levels: Levels::SERVER,
            arity: Arity::Exactly(1),
            set: Set::Word(|conf| &mut conf.pass),
            doc: "Where connections are passed on to: an address with a port, an upstream, or variables that name one.",
        },
        row(
            "proxy_connect_timeout",
            Set::Time(|conf| &mut conf.connect_timeout),
            "Longest time to connect to a server.",
        ),
        row("proxy_timeout", Set::Time(|conf| &mut conf.timeout), "Longest silence of both sides."),
        row(
            "proxy_next_upstream",
            Set::Flag(|conf| &mut conf.next_upstream),
            "Whether another server is tried when one cannot be reached.",
        ),
        row(
            "proxy_next_upstream_tries",
            Set::Number(|conf| &mut conf.next_upstream_tries),
            "How many servers are tried at most; 0 is all.",
        ),
        row(
            "proxy_next_upstream_timeout",
            Set::Time(|conf| &mut conf.next_upstream_timeout),
            "How long servers are tried; 0 is any time.",
        ),
        row("proxy_buffer_size", Set::Size(|conf| &mut conf.buffer_size), "The buffer of each direction."),
        row(
            "proxy_half_close",
            Set::Flag(|conf| &mut conf.half_close),
            "Whether the end of one side is passed on and the other side may go on.",
        ),
        row(
            "proxy_socket_keepalive",
            Set::Flag(|conf| &mut conf.socket_keepalive),
            "Whether the system probes silent servers.",
        ),
        row(
            "proxy_reset",
            Set::Flag(|conf| &mut conf.reset),
            "Whether the reset of one side is passed on as a reset, so that truncation shows; on by default. With off the \
             other side sees an ordinary end, as in nginx.",
        ),
    ];
}

/// Where a plan passes its sessions on to, and how.
pub struct Pass {
    to: To,
    connect_timeout: Duration,
    limits: Limits,
    policy: Policy,
    socket_keepalive: bool,
    reset: bool,
}

enum To {
    Group(Rc<Group>),
    Named(Template<Session>),
}

impl Module<Session> for Proxy {
    fn install(conf: &ProxyConf, plan: &mut Plan, env: &mut Install<'_, Session>) -> Result<(), ConfigError> {
        let Some(word) = conf.pass.get() else { return Ok(()) };
        let template = env.template(word)?;
        let to = match template.constant() {
            None => To::Named(template),
            Some(name) => {
                let group = plan.groups.borrow_mut().find_or_resolve(name, None);
                To::Group(group.map_err(|why| ConfigError::new(word.at(), why))?)
            }
        };
        let size = usize::try_from(conf.buffer_size.or(16384)).unwrap_or(usize::MAX);
        plan.content = Content::Pass(Box::new(Pass {
            to,
            connect_timeout: conf.connect_timeout.or(Duration::from_secs(60)),
            limits: Limits {
                client_buffer: size,
                upstream_buffer: size,
                idle: conf.timeout.or(Duration::from_secs(600)),
                half_close: conf.half_close.or(false),
            },
            policy: Policy {
                enabled: conf.next_upstream.or(true),
                tries: conf.next_upstream_tries.or(0),
                timeout: conf.next_upstream_timeout.or(Duration::ZERO),
            },
            socket_keepalive: conf.socket_keepalive.or(false),
            reset: conf.reset.or(true),
        }));
        Ok(())
    }
}

/// Passes a session on; its status, and how long the client may take to hear of the end, unless it is to hear nothing.
pub async fn pass(
    session: &Session,
    pass: &Pass,
    client: &mut Transport,
    timer: &mut Timer,
) -> (u16, Option<Duration>) {
    session.details.proxying.set(true);
    let group = match pass.group(session) {
        Ok(group) => group,
        Err(why) => {
            log!(session.logger(), Error, "{why}");
            return (500, Some(pass.limits.idle));
        }
    };
    let counters = &session.details.counters;
    let mut early = BytesMut::new();
    let reached = Box::pin(reach_for(session, pass, &group, client, timer, &mut early)).await;
    let (lease, mut upstream) = match reached {
        Ok(Some(reached)) => reached,
        Ok(None) => return (502, Some(pass.limits.idle)),
        Err(end) => {
            tell(session, &end);
            return (200, None);
        }
    };
    session.details.action.set("");
    let end = pump(client, &mut upstream, timer, pass.limits, counters, early, BytesMut::new()).await;
    tell(session, &end);
    lease.report(Outcome::Success);
    match end {
        End::Closed(_) => (200, Some(pass.limits.idle)),
        End::Failed(Side::Client, _) if pass.reset => {
            upstream.reset_when_dropped();
            (200, None)
        }
        End::Failed(Side::Upstream, _) if pass.reset => {
            client.reset_when_dropped();
            (200, None)
        }
        // Who has been silent for as long as is allowed is not waited for again.
        End::Idle | End::Failed(..) => (200, Some(Duration::ZERO)),
    }
}

/// Connects to a peer of the group for a client that is there; how it left, if it did. `early` is what it has said.
async fn reach_for(
    session: &Session,
    pass: &Pass,
    group: &Rc<Group>,
    client: &mut Transport,
    timer: &mut Timer,
    early: &mut BytesMut,
) -> Result<Option<(Lease, Transport)>, End> {
    let began = Cell::new(Instant::now());
    let mut reaching = pin!(reach(session, pass, group, timer, &began));
    let mut leaving = pin!(presence::until_gone(client, pass.limits, &session.details.counters, early));
    let reached = poll_fn(|cx| match reaching.as_mut().poll(cx) {
        Poll::Ready(reached) => Poll::Ready(Ok(reached)),
        Poll::Pending => leaving.as_mut().poll(cx).map(Err),
    })
    .await;
    if reached.is_err() {
        session.attempts().current(|attempt| attempt.finished = Some(began.get().elapsed()));
    }
    reached
}

impl Pass {
    /// The group to lease from.
    fn group(&self, session: &Session) -> Result<Rc<Group>, String> {
        let template = match &self.to {
            To::Group(group) => return Ok(group.clone()),
            To::Named(template) => template,
        };
        let name = template.value(session);
        if let Some(group) = session.plan().groups.borrow().find(&name) {
            return Ok(group);
        }
        // nginx: a group of its own for each session, so a lone address is tried whatever happened to others.
        let peer = Peer::new(literal(&name)?);
        Group::new(&Shown(&name).to_string(), vec![peer], Box::new(RoundRobin), None).map(Rc::new)
    }
}

/// The address that `name` spells out.
fn literal(name: &[u8]) -> Result<Address, String> {
    let words = |why: AddressError| format!("{why} in upstream \"{}\"", Shown(name));
    match Named::parse(name).map_err(words)? {
        Named::Unix(path) => Ok(Address::Unix(path)),
        Named::Any(_) | Named::Host(_, None) => Err(words(AddressError::NoPort)),
        Named::Host(host, Some(port)) => match host.parse() {
            Ok(ip) => Ok(Address::Inet(std::net::SocketAddr::new(ip, port))),
            Err(_) => Err(format!("no resolver defined to resolve {host}")),
        },
    }
}

/// Connects to a peer of the group: the first that can be reached, as far as the policy goes.
async fn reach(
    session: &Session,
    pass: &Pass,
    group: &Rc<Group>,
    timer: &mut Timer,
    latest: &Cell<Instant>,
) -> Option<(Lease, Transport)> {
    let (details, attempts) = (&session.details, session.attempts());
    details.action.set("connecting to upstream");
    let first = Instant::now();
    let mut tried = Vec::new();
    loop {
        let Ok(lease) = group.lease(&Ask { client: &session.peer().client, tried: &tried }) else {
            attempts.begin(group.name());
            attempts.current(|attempt| attempt.finished = Some(Duration::ZERO));
            details.upstream(group.name());
            log!(session.logger(), Error, "no live upstreams");
            return None;
        };
        attempts.begin(lease.name());
        details.upstream(lease.name());
        let began = Instant::now();
        latest.set(began);
        let connected = connect(session, pass, lease.address(), timer).await;
        let took = began.elapsed();
        if let Some(upstream) = connected {
            attempts.current(|attempt| attempt.connected = Some(took));
            lease.proved();
            session.connected.set(Some(began));
            return Some((lease, upstream));
        }
        attempts.current(|attempt| attempt.finished = Some(took));
        tried.push(lease.index());
        if lease.report(Outcome::Failure) {
            log!(session.logger(), Warn, "upstream server temporarily disabled");
        }
        if pass.policy.after_failure(tried.len(), group.tries(), first.elapsed()) == Next::GiveUp {
            return None;
        }
    }
}

async fn connect(session: &Session, pass: &Pass, address: &Address, timer: &mut Timer) -> Option<Transport> {
    log!(session.plain_logger(), Debug, "connecting to upstream {address}");
    let upstream = match timer.limit(pass.connect_timeout, Transport::connect(address)).await {
        Ok(Ok(upstream)) => upstream,
        Ok(Err(error)) => {
            let (level, what) = describe(address, &error);
            let log = session.logger();
            log.write(level, format_args!("{what} failed ({})", os_error(&error)));
            return None;
        }
        Err(_) => {
            log!(session.logger(), Error, "upstream timed out (110: Connection timed out)");
            return None;
        }
    };
    if session.plan().nodelay {
        upstream.set_nodelay();
    }
    if pass.socket_keepalive {
        upstream.set_keepalive();
    }
    let log = session.plain_logger();
    if log.enabled(Level::Info) {
        let local = upstream.local_address().unwrap_or_else(|| Address::Unix("".into()));
        log!(log, Info, "proxy {local} connected to {address}");
    }
    Some(upstream)
}

/// How grave a failure to connect is, and what failed. nginx tells a refusal that came later (of the network) from one
/// that came at once (of the system): only the latter names the address again.
fn describe(address: &Address, error: &io::Error) -> (Level, String) {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, NetworkDown, NetworkUnreachable,
        TimedOut, WouldBlock,
    };
    let expected = matches!(
        error.kind(),
        ConnectionAborted
            | ConnectionRefused
            | ConnectionReset
            | HostUnreachable
            | NetworkDown
            | NetworkUnreachable
            | TimedOut
            | WouldBlock
    );
    let level = if expected { Level::Error } else { Level::Crit };
    match address {
        Address::Inet(_) if expected && error.kind() != NetworkUnreachable => (level, "connect()".to_owned()),
        _ => (level, format!("connect() to {address}")),
    }
}

/// Tells the error log how a session ended.
fn tell(session: &Session, end: &End) {
    let counters = &session.details.counters;
    let disconnected = |side: Side| {
        log!(session.plain_logger(), Info, "{side} disconnected, {}", Traffic(counters));
    };
    match end {
        End::Closed(side) => disconnected(*side),
        End::Idle => {
            session.details.action.set("proxying connection");
            log!(session.logger(), Info, "connection timed out (110: Connection timed out)");
        }
        End::Failed(side, error) => {
            let reading = matches!(counters.doing.get(), Doing::Reading(_));
            let (level, call) = failure(*side, reading);
            session.logger().write(level, format_args!("{call} failed ({})", os_error(error)));
            // nginx takes a failed read for the end of that side.
            if reading {
                disconnected(*side);
            }
        }
    }
}

/// How grave the failure of a side is, and which call failed: clients come and go, upstreams should not.
fn failure(side: Side, reading: bool) -> (Level, &'static str) {
    let level = if side == Side::Client { Level::Info } else { Level::Error };
    (level, if reading { "recv()" } else { "send()" })
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn only_addresses_and_groups_can_be_named_by_variables() {
        for (name, expected) in [
            ("127.0.0.1:80", Ok(Address::Inet(([127, 0, 0, 1], 80).into()))),
            ("[::1]:80", Ok(Address::Inet(([0, 0, 0, 0, 0, 0, 0, 1], 80).into()))),
            ("unix:/a", Ok(Address::Unix("/a".into()))),
            ("127.0.0.1", Err("no port in upstream \"127.0.0.1\"")),
            ("80", Err("no port in upstream \"80\"")),
            ("", Err("no host in upstream \"\"")),
            ("127.0.0.1:x", Err("invalid port in upstream \"127.0.0.1:x\"")),
            ("example.com:80", Err("no resolver defined to resolve example.com")),
        ] {
            assert_eq!(literal(name.as_bytes()), expected.map_err(str::to_owned), "{name}");
        }
    }

    #[test]
    fn names_that_variables_give_stay_bytes() {
        let path = |bytes: &[u8]| Ok(Address::Unix(OsStr::from_bytes(bytes).into()));
        for (name, expected) in [
            (&b"unix:/a\xff"[..], path(b"/a\xff")),
            (b"unix:/a\xfe", path(b"/a\xfe")),
            (b"unix:/a\0b", Err("invalid path in upstream \"unix:/a\0b\"")),
            (b"\xff:80", Err("invalid host in upstream \"\\xFF:80\"")),
            (b"a\xe9b", Err("invalid host in upstream \"a\\xE9b\"")),
            ("\u{fffd}:80".as_bytes(), Err("no resolver defined to resolve \u{fffd}")),
        ] {
            assert_eq!(literal(name), expected.map_err(str::to_owned), "{}", name.escape_ascii());
        }
    }

    #[test]
    fn failures_to_connect_are_worded_as_nginx_does() {
        let (inet, unix) = (Address::Inet(([127, 0, 0, 1], 80).into()), Address::Unix("/a".into()));
        for (address, code, level, what) in [
            (&inet, 111, Level::Error, "connect()"),
            (&inet, 101, Level::Error, "connect() to 127.0.0.1:80"),
            (&inet, 99, Level::Crit, "connect() to 127.0.0.1:80"),
            (&unix, 111, Level::Error, "connect() to unix:/a"),
            (&unix, 2, Level::Crit, "connect() to unix:/a"),
        ] {
            assert_eq!(describe(address, &io::Error::from_raw_os_error(code)), (level, what.to_owned()), "{code}");
        }
    }

    #[test]
    fn failures_of_clients_are_less_grave() {
        for (side, reading, expected) in [
            (Side::Client, true, (Level::Info, "recv()")),
            (Side::Client, false, (Level::Info, "send()")),
            (Side::Upstream, true, (Level::Error, "recv()")),
            (Side::Upstream, false, (Level::Error, "send()")),
        ] {
            assert_eq!(failure(side, reading), expected);
        }
    }
}
