//! `proxy_*`: connects to the backend that the authentication server named, and logs the client in there.

use std::io;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tidegate_balancer::{HasAttempts, Outcome};
use tidegate_core::conf::Setting;
use tidegate_core::conf::directive::{Arity, Directive, Feature, Levels, Set};
use tidegate_core::net::{Address, TimedOut, Timer, Transport};
use tidegate_core::subject::Subject;
use tidegate_core::{inherit, log};
use tidegate_mail_wire::action::Action;
use tidegate_mail_wire::backend::{BadReply, LoggedIn, Login};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::session::{Ending, Session};

/// nginx's default: one page.
const BUFFER: u64 = 4096;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The settings of one block.
#[derive(Default)]
pub struct ProxyConf {
    proxy: Setting<bool>,
    buffer: Setting<u64>,
    timeout: Setting<Duration>,
    pass_error_message: Setting<bool>,
}

inherit!(ProxyConf { proxy, buffer, timeout, pass_error_message });

/// `proxy_buffer` and its neighbours
pub struct Proxy;

const ANYWHERE: Levels = Levels::PROTOCOL.or(Levels::SERVER);

impl Feature for Proxy {
    type Conf = ProxyConf;
    const NAME: &'static str = "proxy";
    const DIRECTIVES: &'static [Directive<ProxyConf>] = &[
        Directive {
            name: "proxy",
            levels: ANYWHERE,
            arity: Arity::Exactly(1),
            set: Set::Flag(|conf| &mut conf.proxy),
            doc: "Checked and never consulted, as in nginx: mail is always proxied.",
        },
        Directive {
            name: "proxy_buffer",
            levels: ANYWHERE,
            arity: Arity::Exactly(1),
            set: Set::Size(|conf| &mut conf.buffer),
            doc: "The most bytes that a reply to the login at a backend may have.",
        },
        Directive {
            name: "proxy_timeout",
            levels: ANYWHERE,
            arity: Arity::Exactly(1),
            set: Set::Time(|conf| &mut conf.timeout),
            doc: "How long both sides may be silent after the login.",
        },
        Directive {
            name: "proxy_pass_error_message",
            levels: ANYWHERE,
            arity: Arity::Exactly(1),
            set: Set::Flag(|conf| &mut conf.pass_error_message),
            doc: "Whether a client is told what the backend says to a login that it refuses.",
        },
    ];
}

/// How to speak with backends.
pub struct ProxySettings {
    /// `proxy_buffer`
    pub buffer: usize,
    /// `proxy_timeout`
    pub timeout: Duration,
    /// `proxy_pass_error_message`
    pub pass_error_message: bool,
}

impl ProxyConf {
    /// The run-time form.
    pub fn settings(&self) -> ProxySettings {
        ProxySettings {
            buffer: usize::try_from(self.buffer.or(BUFFER)).unwrap_or(usize::MAX),
            timeout: self.timeout.or(DAY),
            pass_error_message: self.pass_error_message.or(false),
        }
    }
}

/// A backend that has let the client in.
pub struct Backend {
    /// The connection.
    pub transport: Transport,
    /// What it said to the login, for the client.
    pub reply: Bytes,
    /// What it has said since.
    pub rest: BytesMut,
}

/// Why a backend did not let the client in.
#[derive(Debug)]
pub enum Trouble {
    /// It rests after a failure.
    Resting,
    /// No connection to it could be made.
    Connect(io::Error),
    /// `timeout` has passed.
    TimedOut,
    /// The connection broke.
    Broken(io::Error),
    /// It said something else than expected, or closed.
    BadReply(BadReply),
}

impl Trouble {
    /// How the session ends.
    pub fn ending(&self) -> Ending {
        match self {
            Trouble::TimedOut => Ending::UpstreamTimedOut,
            _ => Ending::BadUpstream,
        }
    }

    /// What the client may be told of it: the backend's own words, with `proxy_pass_error_message`.
    pub fn message(&self) -> Option<&Bytes> {
        match self {
            Trouble::BadReply(BadReply::Invalid { reply, .. }) => Some(reply),
            _ => None,
        }
    }

    /// What the trouble says of the backend's health. Once it has greeted us it works; what goes wrong then may be
    /// about this user alone, and must not lock out all others.
    fn blames(&self, greeted: bool) -> Outcome {
        match self {
            Trouble::Resting => Outcome::Declined,
            Trouble::BadReply(BadReply::Invalid { .. } | BadReply::TooLong { .. }) => Outcome::Success,
            // Whoever logs in: it does not do what it is told.
            Trouble::BadReply(BadReply::Unasked { .. }) => Outcome::Failure,
            _ if greeted => Outcome::Declined,
            _ => Outcome::Failure,
        }
    }

    fn log(&self, session: &Session, address: &Address) {
        let logger = session.logger();
        match self {
            Trouble::Resting => log!(logger, Error, "no live upstreams"),
            Trouble::Connect(error) => log!(logger, Error, "connect() to {address} failed ({})", log::os_error(error)),
            Trouble::TimedOut => log!(logger, Info, "upstream timed out (110: Connection timed out)"),
            Trouble::Broken(error) => log!(logger, Error, "upstream connection broke ({})", log::os_error(error)),
            Trouble::BadReply(bad) => {
                session.acts(Action::ReadingUpstreamResponse);
                match bad {
                    BadReply::Invalid { .. } if session.server().proxy.pass_error_message => {
                        log!(session.logger(), Info, "{bad}");
                    }
                    _ => log!(session.logger(), Error, "{bad}"),
                }
            }
        }
    }
}

/// Connects to `address` and logs in, all within `timeout`. What goes wrong is in the log.
///
/// # Errors
/// See [`Trouble`].
pub async fn log_in(session: &Session, address: &Address, mut login: impl Login) -> Result<Backend, Trouble> {
    session.acts(Action::ConnectingToUpstream);
    session.attempts().begin(&address.to_string().into());
    let server = session.server();
    let Ok(lease) = server.directory.lease(address, &session.peer().client) else {
        Trouble::Resting.log(session, address);
        return Err(Trouble::Resting);
    };
    let dialogue = Timer::default().limit(server.timeout, converse(session, address, &mut login)).await;
    let trouble = match dialogue {
        Ok(Ok(backend)) => {
            lease.report(Outcome::Success);
            session.acts(None);
            log!(session.logger(), Info, "client logged in");
            return Ok(backend);
        }
        Ok(Err(trouble)) => trouble,
        Err(TimedOut) => Trouble::TimedOut,
    };
    lease.report(trouble.blames(login.action() != Action::ConnectingToUpstream));
    trouble.log(session, address);
    Err(trouble)
}

async fn converse(session: &Session, address: &Address, login: &mut impl Login) -> Result<Backend, Trouble> {
    let begun = Instant::now();
    let mut transport = Transport::connect(address).await.map_err(Trouble::Connect)?;
    transport.set_nodelay();
    session.attempts().current(|attempt| attempt.connected = Some(begun.elapsed()));
    let (mut input, mut replies) = (BytesMut::new(), BytesMut::new());
    loop {
        let logged_in = listen(session, &mut transport, login, (&mut input, &mut replies), begun).await?;
        session.acts(login.action());
        if let Some(LoggedIn { reply }) = logged_in {
            return Ok(Backend { transport, reply, rest: input });
        }
        if replies.is_empty() {
            continue;
        }
        // What is there already cannot be the answer: the machine hears of it before it hears that we have asked.
        while transport.has_input() {
            listen(session, &mut transport, login, (&mut input, &mut replies), begun).await?;
        }
        transport.write_all(&replies).await.map_err(Trouble::Broken)?;
        login.sent();
        session.attempts().current(|attempt| {
            attempt.sent = attempt.sent.saturating_add(u64::try_from(replies.len()).unwrap_or(0));
        });
        replies.clear();
    }
}

/// Hears what the backend says next.
async fn listen(
    session: &Session,
    transport: &mut Transport,
    login: &mut impl Login,
    (input, replies): (&mut BytesMut, &mut BytesMut),
    begun: Instant,
) -> Result<Option<LoggedIn>, Trouble> {
    input.reserve(usize::try_from(BUFFER).unwrap_or(0));
    let count = transport.read_buf(input).await.map_err(Trouble::Broken)?;
    session.attempts().current(|attempt| {
        attempt.first_byte.get_or_insert_with(|| begun.elapsed());
        attempt.received = attempt.received.saturating_add(u64::try_from(count).unwrap_or(0));
    });
    if count == 0 {
        return Err(Trouble::BadReply(login.end().err().unwrap_or(BadReply::Closed)));
    }
    login.receive(input, replies).map_err(Trouble::BadReply)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_backend_that_cannot_be_reached_is_blamed() {
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let invalid = || BadReply::Invalid { line: Bytes::new(), reply: Bytes::new() };
        let unasked = || BadReply::Unasked { line: Bytes::new() };
        for (trouble, greeted, outcome) in [
            (Trouble::Connect(refused()), false, Outcome::Failure),
            (Trouble::TimedOut, false, Outcome::Failure),
            (Trouble::TimedOut, true, Outcome::Declined),
            (Trouble::Broken(refused()), false, Outcome::Failure),
            (Trouble::Broken(refused()), true, Outcome::Declined),
            (Trouble::BadReply(BadReply::Closed), false, Outcome::Failure),
            (Trouble::BadReply(BadReply::Closed), true, Outcome::Declined),
            (Trouble::BadReply(invalid()), false, Outcome::Success),
            (Trouble::BadReply(invalid()), true, Outcome::Success),
            (Trouble::BadReply(unasked()), false, Outcome::Failure),
            (Trouble::BadReply(unasked()), true, Outcome::Failure),
            (Trouble::Resting, false, Outcome::Declined),
        ] {
            assert_eq!(trouble.blames(greeted), outcome, "{trouble:?}");
        }
    }

    #[test]
    fn only_what_a_backend_says_may_be_passed_on() {
        let reply = Bytes::from_static(b"a NO\r\n");
        let invalid = Trouble::BadReply(BadReply::Invalid { line: Bytes::new(), reply: reply.clone() });
        assert_eq!((invalid.message(), invalid.ending()), (Some(&reply), Ending::BadUpstream));
        let closed = Trouble::BadReply(BadReply::Closed);
        assert_eq!((closed.message(), closed.ending()), (None, Ending::BadUpstream));
        assert_eq!((Trouble::TimedOut.message(), Trouble::TimedOut.ending()), (None, Ending::UpstreamTimedOut));
    }
}
