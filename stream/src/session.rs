//! A session: what is known of one client's connection from its acceptance to its log line.

use std::cell::{Cell, OnceCell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::time::Instant;

use tidegate_balancer::{Attempts, HasAttempts};
use tidegate_core::log::Logger;
use tidegate_core::modules::HasLimits;
use tidegate_core::net::pump::{Counters, Doing};
use tidegate_core::net::{Address, PeerInfo};
use tidegate_core::script::Slots;
use tidegate_core::subject::{States, Subject};

use crate::plan::Plan;

/// One client's session.
pub struct Session {
    default_plan: Rc<Plan>,
    /// The plan of the server that the client named in its TLS handshake.
    named_plan: OnceCell<Rc<Plan>>,
    slots: Slots,
    status: Cell<u16>,
    attempts: Attempts,
    states: States,
    /// When the try of the peer that it is connected to began.
    pub connected: Cell<Option<Instant>>,
    /// What logs tell of it.
    pub details: Details,
}

impl Session {
    /// Begins a session on the address `server`, whose default server has this plan.
    pub fn new(default_plan: Rc<Plan>, client: Rc<PeerInfo>, server: Address) -> Self {
        Session {
            default_plan,
            named_plan: OnceCell::new(),
            slots: Slots::default(),
            status: Cell::new(0),
            attempts: Attempts::default(),
            states: States::default(),
            connected: Cell::new(None),
            details: Details {
                client,
                server,
                action: Cell::new("initializing session"),
                proxying: Cell::new(false),
                upstream: RefCell::new(None),
                counters: Counters::default(),
            },
        }
    }

    /// The plan of its server.
    pub fn plan(&self) -> &Rc<Plan> {
        self.named_plan.get().unwrap_or(&self.default_plan)
    }

    /// Goes on with the plan of a server that the client named.
    pub fn choose(&self, plan: Rc<Plan>) {
        let _ = self.named_plan.set(plan);
    }

    /// Logs its errors without the circumstances: for lines that tell them anyway.
    pub fn plain_logger(&self) -> Logger<'_> {
        Logger::of(&self.plan().error_log, &self.details.client)
    }

    /// Ends it, however it ended: completes what is known of it and tells everybody who wants to know.
    pub fn end(&self, status: u16) {
        self.status.set(status);
        if let Some(began) = self.connected.get() {
            let counters = &self.details.counters;
            self.attempts.current(|attempt| {
                attempt.first_byte = counters.first_byte.get().map(|at| at.saturating_duration_since(began));
                attempt.finished = Some(began.elapsed());
                attempt.sent = counters.to_upstream.get();
                attempt.received = counters.from_upstream.get();
            });
        }
        self.plan().sinks.iter().for_each(|sink| sink.finished(self));
    }
}

/// What is going on, as it is appended to each line of the error log.
pub struct Details {
    client: Rc<PeerInfo>,
    server: Address,
    /// What is being done, in nginx's words; nothing when empty.
    pub action: Cell<&'static str>,
    /// The session is to be passed on, so lines tell what has been.
    pub proxying: Cell<bool>,
    /// The peer in use, or the group that none could be had of.
    upstream: RefCell<Option<Rc<str>>>,
    /// Bytes moved.
    pub counters: Counters,
}

impl Details {
    /// The session is about this peer, or group, from now on.
    pub fn upstream(&self, name: &str) {
        *self.upstream.borrow_mut() = Some(name.into());
    }

    /// The address that the configuration listens on.
    pub fn server(&self) -> &Address {
        &self.server
    }
}

impl fmt::Display for Details {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counters = &self.counters;
        match (counters.doing.get(), self.action.get()) {
            (Doing::Waiting, "") => {}
            (Doing::Waiting, action) => write!(f, " while {action}")?,
            (doing, _) => write!(f, " while {doing}")?,
        }
        write!(f, ", client: {}, server: {}", self.client.client.host(), self.server)?;
        if let Some(upstream) = &*self.upstream.borrow() {
            write!(f, ", upstream: \"{upstream}\"")?;
        }
        if self.proxying.get() { write!(f, ", {}", Traffic(counters)) } else { Ok(()) }
    }
}

/// Bytes moved, as the error log tells them.
pub struct Traffic<'a>(pub &'a Counters);

impl fmt::Display for Traffic<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counters { from_client, to_client, from_upstream, to_upstream, .. } = self.0;
        write!(
            f,
            "bytes from/to client:{}/{}, bytes from/to upstream:{}/{}",
            from_client.get(),
            to_client.get(),
            from_upstream.get(),
            to_upstream.get()
        )
    }
}

impl Subject for Session {
    type Plan = Plan;

    fn peer(&self) -> &PeerInfo {
        &self.details.client
    }

    fn slots(&self) -> &Slots {
        &self.slots
    }

    fn states(&self) -> &States {
        &self.states
    }

    fn logger(&self) -> Logger<'_> {
        self.plain_logger().with(&self.details)
    }

    fn started(&self) -> Instant {
        self.details.client.accepted
    }

    fn status(&self) -> u16 {
        self.status.get()
    }

    fn bytes_sent(&self) -> u64 {
        self.details.counters.to_client.get()
    }

    fn bytes_received(&self) -> u64 {
        self.details.counters.from_client.get()
    }
}

impl HasLimits for Session {
    const PROTOCOL: &'static str = "stream";
}

impl HasAttempts for Session {
    fn attempts(&self) -> &Attempts {
        &self.attempts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_core::net::pump::Side;

    #[test]
    fn a_log_line_tells_what_was_going_on() {
        let client = PeerInfo {
            number: 7,
            debugged: false,
            client: Address::Inet(([127, 0, 0, 1], 5000).into()),
            local: Address::Inet(([127, 0, 0, 1], 80).into()),
            accepted: Instant::now(),
            tls: OnceCell::new(),
        };
        let details = Details {
            client: Rc::new(client),
            server: Address::Inet(([127, 0, 0, 1], 80).into()),
            action: Cell::new("initializing session"),
            proxying: Cell::new(false),
            upstream: RefCell::new(None),
            counters: Counters::default(),
        };
        assert_eq!(details.to_string(), " while initializing session, client: 127.0.0.1, server: 127.0.0.1:80");
        details.action.set("");
        assert_eq!(details.to_string(), ", client: 127.0.0.1, server: 127.0.0.1:80");
        details.proxying.set(true);
        details.upstream("u");
        details.counters.doing.set(Doing::Reading(Side::Client));
        details.counters.from_client.set(5);
        assert_eq!(
            details.to_string(),
            " while proxying and reading from client, client: 127.0.0.1, server: 127.0.0.1:80, upstream: \"u\", \
             bytes from/to client:5/0, bytes from/to upstream:0/0"
        );
    }
}
