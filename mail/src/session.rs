//! A session: who the client is, what is going on, how it ended. What logs and variables ask.

use std::cell::{Cell, OnceCell, RefCell};
use std::fmt::{self, Write};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tidegate_balancer::{Attempts, HasAttempts};
use tidegate_core::log::{Logger, Shown};
use tidegate_core::net::PeerInfo;
use tidegate_core::net::pump::Counters;
use tidegate_core::script::Slots;
use tidegate_core::subject::{States, Subject};
use tidegate_core::tls::ServerTls;
use tidegate_mail_wire::action::Action;
use tidegate_mail_wire::dialogue::Attempt;
use tidegate_mail_wire::sasl::Method;

use crate::run::Entry;
use crate::server::{Plan, Server};

/// One connection of a mail client.
pub struct Session {
    entry: Rc<Entry>,
    peer: Rc<PeerInfo>,
    /// Made when something is first remembered: very many sessions only wait, and have none.
    memory: OnceCell<Box<Memory>>,
    action: Cell<Option<Action>>,
    starttls: Cell<bool>,
    login: RefCell<Option<Box<Login>>>,
    refused: Cell<bool>,
    ending: Cell<Option<Ending>>,
    attempts: Attempts,
    /// Bytes moved, before the login too.
    pub counters: Counters,
}

/// What variables and features remember of a session.
#[derive(Default)]
struct Memory {
    slots: Slots,
    states: States,
}

/// The last login that was tried.
struct Login {
    user: Bytes,
    method: Method,
    number: u32,
}

/// How a session ended. Whoever decides it has said so to the client and to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The client logged in, and one side closed.
    Done,
    /// The client said goodbye before it logged in.
    LoggedOut,
    /// The authentication server said no.
    Refused,
    /// An access rule said no.
    Forbidden,
    /// The client could not be understood.
    Misbehaved,
    /// The handshake failed.
    TlsFailed,
    /// The client took too long.
    TimedOut,
    /// The client went away.
    Gone,
    /// The worker is going away.
    Stopped,
    /// Something is wrong here, or with the authentication server.
    Internal,
    /// The backend failed, or did not accept the login.
    BadUpstream,
    /// The backend took too long.
    UpstreamTimedOut,
}

impl Ending {
    /// The status in logs, in the manner of HTTP. `refused`: the last thing that the client heard of a login was no.
    pub fn status(self, refused: bool) -> u16 {
        match self {
            Ending::Done => 200,
            Ending::LoggedOut | Ending::Gone | Ending::TimedOut if refused => 401,
            Ending::LoggedOut => 204,
            Ending::Misbehaved | Ending::TlsFailed => 400,
            Ending::Refused => 401,
            Ending::Forbidden => 403,
            Ending::TimedOut => 408,
            Ending::Gone => 499,
            Ending::Internal => 500,
            Ending::BadUpstream => 502,
            Ending::Stopped => 503,
            Ending::UpstreamTimedOut => 504,
        }
    }
}

impl Session {
    /// A session that begins.
    pub fn new(entry: Rc<Entry>, peer: Rc<PeerInfo>) -> Self {
        Session {
            entry,
            peer,
            memory: OnceCell::new(),
            action: Cell::new(None),
            starttls: Cell::new(false),
            login: RefCell::default(),
            refused: Cell::new(false),
            ending: Cell::new(None),
            attempts: Attempts::default(),
            counters: Counters::default(),
        }
    }

    /// The server.
    pub fn server(&self) -> &Server {
        &self.entry.server
    }

    /// How the address that the client has connected to speaks TLS, with `listen ... ssl`.
    pub fn listening_tls(&self) -> Option<&ServerTls> {
        self.entry.tls.as_ref()
    }

    /// What is being done from now on, for logs.
    pub fn acts(&self, action: impl Into<Option<Action>>) {
        self.action.set(action.into());
    }

    /// STARTTLS was asked for.
    pub fn starttls(&self) {
        self.starttls.set(true);
    }

    /// The client wants to log in.
    pub fn tries(&self, attempt: &Attempt) {
        self.refused.set(false);
        let user = attempt.credentials.user.clone();
        let login = Login { user, method: attempt.method, number: attempt.number };
        *self.login.borrow_mut() = Some(Box::new(login));
    }

    /// The authentication server gave the user another name.
    pub fn set_user(&self, user: Bytes) {
        if let Some(login) = &mut *self.login.borrow_mut() {
            login.user = user;
        }
    }

    /// The authentication server said no.
    pub fn set_refused(&self) {
        self.refused.set(true);
    }

    /// The session is over: tells those who keep logs.
    pub fn ends(&self, ending: Ending) {
        self.ending.set(Some(ending));
        self.attempts.current(|attempt| {
            attempt.finished.get_or_insert_with(|| self.elapsed());
            attempt.sent = attempt.sent.saturating_add(self.counters.to_upstream.get());
            attempt.received = attempt.received.saturating_add(self.counters.from_upstream.get());
        });
        for sink in &self.server().plan.sinks {
            sink.finished(self);
        }
    }

    /// The user of the last login tried; empty before.
    pub fn user(&self) -> Bytes {
        self.login.borrow().as_ref().map(|login| login.user.clone()).unwrap_or_default()
    }

    /// How that user wanted to log in.
    pub fn method(&self) -> Option<Method> {
        self.login.borrow().as_ref().map(|login| login.method)
    }

    /// How many logins were tried.
    pub fn tried(&self) -> u32 {
        self.login.borrow().as_ref().map_or(0, |login| login.number)
    }

    /// The session's age.
    pub fn elapsed(&self) -> Duration {
        self.peer.accepted.elapsed()
    }
}

impl Subject for Session {
    type Plan = Plan;

    fn peer(&self) -> &PeerInfo {
        &self.peer
    }

    fn slots(&self) -> &Slots {
        &self.memory.get_or_init(Box::default).slots
    }

    fn states(&self) -> &States {
        &self.memory.get_or_init(Box::default).states
    }

    fn logger(&self) -> Logger<'_> {
        Logger::of(&self.server().error_log, &self.peer).with(self)
    }

    fn started(&self) -> Instant {
        self.peer.accepted
    }

    fn status(&self) -> u16 {
        self.ending.get().map_or(0, |ending| ending.status(self.refused.get()))
    }

    fn bytes_sent(&self) -> u64 {
        self.counters.to_client.get()
    }

    fn bytes_received(&self) -> u64 {
        self.counters.from_client.get()
    }

    fn default_log_format() -> Option<(&'static str, &'static str)> {
        Some((
            "mail",
            "$remote_addr - $mail_user [$time_local] $protocol $status $bytes_sent $bytes_received $session_time \
             \"$upstream_addr\"",
        ))
    }
}

impl HasAttempts for Session {
    fn attempts(&self) -> &Attempts {
        &self.attempts
    }
}

/// What nginx appends to each line of the error log.
impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(action) = self.action.get() {
            write!(f, " while {action}")?;
        }
        write!(f, ", client: {}", self.peer.client.host())?;
        if self.starttls.get() {
            f.write_str(" using starttls")?;
        }
        write!(f, ", server: {}", self.entry.address)?;
        if let Some(login) = &*self.login.borrow()
            && !login.user.is_empty()
        {
            write!(f, ", login: \"{}\"", Quoted(&login.user))?;
        }
        self.attempts.look(|attempts| match attempts.last() {
            Some(attempt) => write!(f, ", upstream: {}", attempt.address),
            None => Ok(()),
        })
    }
}

/// Text between quotes that cannot close them.
struct Quoted<'a>(&'a [u8]);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for character in chunk.valid().chars() {
                if matches!(character, '"' | '\\') {
                    f.write_str("\\")?;
                }
                f.write_char(character)?;
            }
            Shown(chunk.invalid()).fmt(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_logged_without_a_loss() {
        for (login, shown) in [
            (&b"alice"[..], "alice"),
            (b"a\"b\\c", "a\\\"b\\\\c"),
            (b"caf\xe9", "caf\\xE9"),
            (b"\\xe9", "\\\\xe9"),
            ("caf\u{e9}".as_bytes(), "caf\u{e9}"),
        ] {
            assert_eq!(Quoted(login).to_string(), shown);
        }
    }

    #[test]
    fn every_ending_has_a_status() {
        for (ending, refused, status) in [
            (Ending::Done, false, 200),
            (Ending::LoggedOut, false, 204),
            (Ending::LoggedOut, true, 401),
            (Ending::Gone, false, 499),
            (Ending::Gone, true, 401),
            (Ending::TimedOut, false, 408),
            (Ending::TimedOut, true, 401),
            (Ending::Refused, true, 401),
            (Ending::Misbehaved, true, 400),
            (Ending::Stopped, true, 503),
        ] {
            assert_eq!(ending.status(refused), status, "{ending:?}");
        }
    }

    #[test]
    fn a_user_cannot_forge_the_rest_of_a_log_line() {
        assert_eq!(Quoted(b"a\", upstream: \"b\\").to_string(), "a\\\", upstream: \\\"b\\\\");
    }
}
