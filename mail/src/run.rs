//! The life of a session, top to bottom.

use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_core::future::LocalBoxFuture;
use tidegate_core::log;
use tidegate_core::log::{Logger, Shown};
use tidegate_core::net::pump::{End, Limits, Side, pump};
use tidegate_core::net::{Address, Connection, Lifetime, Protocol, Timer};
use tidegate_core::phase::{Phase, Verdict as Admission};
use tidegate_core::subject::Subject;
use tidegate_core::tls::ServerTls;
use tidegate_mail_wire::action::Action;
use tidegate_mail_wire::auth::{Refusal, Repeats, Verdict};
use tidegate_mail_wire::dialogue::{Attempt, Dialogue, Event};
use tidegate_mail_wire::imap;

use crate::auth_http::{Logged, NoVerdict};
use crate::backend::{self, Backend};
use crate::client::{Client, Parts};
use crate::server::Server;
use crate::session::{Ending, Session};
use crate::{salt, starttls};

/// nginx copies in pieces of one page unless told otherwise; half the CPU time goes into that. Buffers are borrowed only
/// while something moves, so larger ones cost nothing.
const PIECE: usize = 32 * 1024;
/// How long it may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(5);

/// An address of a server.
pub struct Entry {
    /// The server.
    pub server: Rc<Server>,
    /// The address as written.
    pub address: String,
    /// With `listen ... ssl`.
    pub tls: Option<ServerTls>,
}

impl Protocol for Entry {
    fn serve(self: Rc<Self>, connection: Connection, life: Lifetime) -> LocalBoxFuture<'static, ()> {
        let info = &connection.info;
        let log = Logger::of(&self.server.error_log, info);
        log!(log, Info, "client {} connected to {}", info.client, self.address);
        log!(log, Debug, "using server \"{}\"", self.server.name);
        let session = Rc::new(Session::new(self.clone(), info.clone()));
        let connections = life.connections();
        let before = Box::pin(before(session.clone(), Client::new(session.clone(), connection, life)));
        Box::pin(async move {
            let running = pin!(run(before));
            let ending = connections.unless_cut(running).await.unwrap_or_else(|| {
                log!(session.logger(), Info, "shutdown timeout");
                Ending::Stopped
            });
            session.ends(ending);
        })
    }
}

/// What comes after the login.
type Relay = LocalBoxFuture<'static, Ending>;

/// A session from its first byte to its last. Most of them wait: before the login or after it, in memory that is taken
/// for the one and given back before the other.
async fn run(before: impl Future<Output = Result<Relay, Ending>> + Unpin) -> Ending {
    match before.await {
        Ok(relay) => relay.await,
        Err(ending) => ending,
    }
}

/// Everything before the bytes flow: what comes then, or how the session has ended. An async function would have room for
/// its arguments twice.
#[expect(clippy::manual_async_fn, reason = "see above")]
fn before(session: Rc<Session>, mut client: Client) -> impl Future<Output = Result<Relay, Ending>> {
    async move {
        let ending = match until_login(&session, &mut client).await {
            Ok(backend) => return Ok(relay(session, client.into_parts()?, backend)),
            Err(ending) => ending,
        };
        Box::pin(client.close(ending)).await;
        Err(ending)
    }
}

/// Greets a client and does what it asks for until it is logged in. Very many clients only wait for their turn: whatever
/// else is done for one has room made for it then.
#[expect(clippy::manual_async_fn, reason = "as above")]
fn until_login(session: &Session, client: &mut Client) -> impl Future<Output = Result<Backend, Ending>> {
    async move {
        let mut dialogue = Box::pin(greet(session, client)).await?;
        loop {
            session.acts(Action::Authenticating);
            let Some(event) = Box::pin(client.turn(&mut *dialogue)).await? else {
                client.more::<imap::Client>().await?;
                continue;
            };
            if let Some(backend) = Box::pin(heed(session, client, &mut *dialogue, event)).await? {
                return Ok(backend);
            }
        }
    }
}

/// Lets the client in and greets it.
async fn greet(session: &Session, client: &mut Client) -> Result<Box<imap::Client>, Ending> {
    session.acts(Action::SendingGreeting);
    admit(session).await?;
    let tls = session.listening_tls();
    if let Some(tls) = tls {
        starttls::shake_hands::<imap::Client>(client, tls.clone()).await?;
    }
    // Nobody is asked for the answer to a challenge where CRAM-MD5 is off.
    let needs_salt = session.server().dialogue.mechanisms.cram_md5;
    let salt = if needs_salt { salt::draw(&session.server().name) } else { Ok(Bytes::new()) };
    let salt = salt.map_err(|error| {
        log!(session.logger(), Alert, "getrandom() failed ({})", log::os_error(&error));
        Ending::Internal
    })?;
    let mut dialogue = Box::new(imap::Client::new(session.server().dialogue.clone(), tls.is_some(), &salt));
    session.acts(Action::SendingGreeting);
    dialogue.greeting(client.replies());
    client.flush().await?;
    Ok(dialogue)
}

/// Asks the access rules. As in stream, a client that they refuse is told nothing.
async fn admit(session: &Session) -> Result<(), Ending> {
    match session.server().plan.gates.run(session, Phase::PostAccept, Phase::PreContent).await {
        Admission::Continue | Admission::Allow => Ok(()),
        Admission::Refuse(_) | Admission::Restart | Admission::Answered => Err(Ending::Forbidden),
    }
}

/// Does what the client asks for: its backend, once it is logged in.
async fn heed<D: Dialogue>(
    session: &Session,
    client: &mut Client,
    dialogue: &mut D,
    event: Event,
) -> Result<Option<Backend>, Ending> {
    match event {
        Event::Complaint(complaint) => log!(session.logger(), Info, "{complaint}"),
        Event::StartTls => starttls::upgrade(client, dialogue).await?,
        Event::Logout => return Err(Ending::LoggedOut),
        Event::Login(attempt) => return try_login(session, client, dialogue, attempt).await,
    }
    Ok(None)
}

/// One attempt to log in: the backend, or nothing when the client may try again.
async fn try_login<D: Dialogue>(
    session: &Session,
    client: &mut Client,
    dialogue: &mut D,
    attempt: Attempt,
) -> Result<Option<Backend>, Ending> {
    session.tries(&attempt);
    match judge(session, client, dialogue, &attempt).await? {
        Judgement::Refused(refusal) => refuse(session, client, dialogue, &refusal).await.map(|()| None),
        Judgement::Accepted(address, login) => log_in(session, client, dialogue, &address, login).await.map(Some),
    }
}

/// What comes of a question to the authentication server.
enum Judgement {
    Refused(Refusal),
    Accepted(Address, imap::Backend),
}

/// Asks the authentication server, again and again if it wants to be asked again.
async fn judge<D: Dialogue>(
    session: &Session,
    client: &mut Client,
    dialogue: &mut D,
    attempt: &Attempt,
) -> Result<Judgement, Ending> {
    session.acts(Action::AskingAuthHttp);
    let mut repeats = Repeats::default();
    loop {
        match client.during(session.server().authority.ask(session, attempt)).await? {
            Ok(Verdict::Refuse(refusal)) => return Ok(Judgement::Refused(refusal)),
            Ok(Verdict::Accept { server, user, password }) => {
                let credentials = attempt.credentials.clone().for_backend(attempt.method, user, password);
                session.set_user(credentials.user.clone());
                let buffer = session.server().proxy.buffer;
                let login = imap::Backend::new(attempt.tag.clone(), credentials, buffer);
                return Ok(Judgement::Accepted(Address::Inet(server), login));
            }
            Ok(Verdict::Wait { seconds }) => {
                if let Err(error) = repeats.again() {
                    log!(session.logger(), Error, "{error}");
                    return Err(apologise(client, dialogue, Ending::Internal));
                }
                client.pause(Duration::from_secs(seconds.get().into())).await?;
                if client.is_stopping() {
                    client.replies().extend_from_slice(D::SHUTTING_DOWN);
                    return Err(Ending::Stopped);
                }
            }
            Err(failure) => {
                if let NoVerdict::Failed(address, error) = failure {
                    log!(session.logger(), Error, "{}", Logged(&address.to_string(), &error));
                }
                return Err(apologise(client, dialogue, Ending::Internal));
            }
        }
    }
}

/// Tells the client no. Only with `Auth-Wait`, and after it, may it try again.
async fn refuse<D: Dialogue>(
    session: &Session,
    client: &mut Client,
    dialogue: &mut D,
    refusal: &Refusal,
) -> Result<(), Ending> {
    session.set_refused();
    log!(session.logger(), Info, "client login failed: \"{}\"", Shown(&refusal.text));
    if let Some(seconds) = refusal.wait {
        client.pause(Duration::from_secs(seconds.get().into())).await?;
    }
    dialogue.refused(refusal, client.replies());
    client.flush().await?;
    if refusal.wait.is_none() {
        return Err(Ending::Refused);
    }
    client.begins_anew();
    Ok(())
}

/// Logs the client in at its backend.
async fn log_in<D: Dialogue>(
    session: &Session,
    client: &mut Client,
    dialogue: &mut D,
    address: &Address,
    login: imap::Backend,
) -> Result<Backend, Ending> {
    match client.during(backend::log_in(session, address, login)).await? {
        Ok(backend) => {
            dialogue.accepted(&backend.reply, client.replies());
            Ok(backend)
        }
        Err(trouble) => match trouble.message().filter(|_| session.server().proxy.pass_error_message) {
            Some(message) => {
                client.replies().extend_from_slice(message);
                Err(trouble.ending())
            }
            None => Err(apologise(client, dialogue, trouble.ending())),
        },
    }
}

fn apologise<D: Dialogue>(client: &mut Client, dialogue: &mut D, ending: Ending) -> Ending {
    dialogue.internal_error(client.replies());
    ending
}

/// Moves bytes until one side closes.
fn relay(session: Rc<Session>, client: Parts, backend: Backend) -> Relay {
    let Parts { mut transport, mut timer, life, input, replies } = client;
    let Backend { transport: mut upstream, rest, .. } = backend;
    let to_client = joined(replies, &rest);
    Box::pin(async move {
        let proxy = &session.server().proxy;
        let limits = Limits {
            client_buffer: PIECE,
            upstream_buffer: proxy.buffer.max(PIECE),
            idle: proxy.timeout,
            half_close: false,
        };
        session.acts(Action::Proxying);
        let counters = &session.counters;
        let end = pump(&mut transport, &mut upstream, &mut timer, limits, counters, input, to_client).await;
        log_end(&session, &end);
        // Who has been silent for as long as is allowed, or has failed, is not waited for again.
        let patience = if matches!(end, End::Closed(_)) { GOODBYE.min(limits.idle) } else { Duration::ZERO };
        let farewell = async {
            let _ = Timer::default().limit(patience, upstream.finish()).await;
            let _ = Timer::default().limit(patience, transport.finish()).await;
        };
        Box::pin(farewell).await;
        drop(life);
        Ending::Done
    })
}

fn joined(mut first: BytesMut, second: &[u8]) -> BytesMut {
    first.extend_from_slice(second);
    first
}

fn log_end(session: &Session, end: &End) {
    match end {
        End::Closed(_) => {
            session.acts(None);
            log!(session.logger(), Info, "proxied session done");
        }
        End::Idle => log!(session.logger(), Info, "client timed out (110: Connection timed out)"),
        End::Failed(side, error) => {
            let side = if *side == Side::Client { "client" } else { "upstream" };
            log!(session.logger(), Info, "{side} connection broke ({})", log::os_error(error));
        }
    }
}
