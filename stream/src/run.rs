//! A session's life, top to bottom: accepted, let in, secured, served, logged, closed.

use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures_core::future::LocalBoxFuture;
use tidegate_core::log;
use tidegate_core::log::Shown;
use tidegate_core::net::{Address, Connection, Lifetime, Protocol, Timer, Transport};
use tidegate_core::phase::{Phase, Verdict};
use tidegate_core::script::regex::Matches;
use tidegate_core::script::{Names, PatternList};
use tidegate_core::subject::Subject;
use tidegate_core::tls::server::{accept, refuse};
use tidegate_core::tls::{ServerTls, TlsFailure};

use crate::plan::{Content, Plan};
use crate::session::Session;
use crate::{proxy, reply};

/// Longest time for a client to take the end of a TLS session.
const FAREWELL: Duration = Duration::from_secs(3);

/// A client's connection that is still open, and how long the client has to take the end of a TLS session, if it is told.
struct Left {
    client: Transport,
    patience: Option<Duration>,
}

/// The servers of one address.
pub struct Listener {
    /// The address as it is listened on.
    pub address: Address,
    /// `listen ... ssl`
    pub tls: bool,
    /// The server of clients that name none.
    pub default: Rc<Plan>,
    /// Servers by the name that clients ask for in the TLS handshake.
    pub names: Names<Rc<Plan>>,
    /// Servers whose names are patterns, in order.
    pub patterns: PatternList<Rc<Plan>>,
}

impl Protocol for Listener {
    fn serve(self: Rc<Self>, connection: Connection, life: Lifetime) -> LocalBoxFuture<'static, ()> {
        Box::pin(async move {
            let session = Session::new(self.default.clone(), connection.info.clone(), self.address.clone());
            // A session in flight goes on when the worker is told to finish, and ends when the time for that is over.
            let connections = life.connections();
            let attending = pin!(self.attend(&session, connection));
            let attended = connections.unless_cut(attending).await;
            let (status, left) = attended.unwrap_or_else(|| {
                log!(session.logger(), Info, "shutdown timeout");
                (200, None)
            });
            session.end(status);
            Box::pin(close(left)).await;
        })
    }
}

impl Listener {
    /// Everything between the first log line and the last: the session's status, and the connection if still open.
    async fn attend(&self, session: &Session, connection: Connection) -> (u16, Option<Left>) {
        let Connection { transport, mut timer, info } = connection;
        log!(session.plain_logger(), Info, "client {} connected to {}", info.client, session.details.server());
        if let Some(status) = refused(session).await {
            return (status, Some(Left { client: transport, patience: Some(FAREWELL) }));
        }
        // What is only done once has room made for it then, and not as long as the session lives.
        let mut client = match self.default.tls.as_ref().filter(|_| self.tls) {
            None => transport,
            Some(offer) => match Box::pin(self.secure(session, offer, transport, &mut timer)).await {
                Some(client) => client,
                None => return (500, None),
            },
        };
        if session.plan().nodelay {
            client.set_nodelay();
        }
        session.details.action.set("");
        log!(session.plain_logger(), Debug, "using server \"{}\"", Shown(&session.plan().server_name));
        let (status, patience) = match &session.plan().content {
            Content::Nothing => (500, Some(FAREWELL)),
            Content::Pass(pass) => proxy::pass(session, pass, &mut client, &mut timer).await,
            Content::Return(text) => Box::pin(reply::send(session, text, &mut client, &mut timer)).await,
        };
        (status, Some(Left { client, patience: patience.map(|time| time.min(FAREWELL)) }))
    }

    /// Performs the TLS handshake. `None` when it fails.
    async fn secure(
        &self,
        session: &Session,
        offer: &ServerTls,
        transport: Transport,
        timer: &mut Timer,
    ) -> Option<Transport> {
        session.details.action.set("SSL handshaking");
        let choose = |name: Option<&[u8]>| {
            match name.map_or(Ok(None), |name| self.named(name, session)) {
                Ok(Some(plan)) => session.choose(plan),
                Ok(None) => {}
                // Nobody knows which server is meant: the client is told that there is none.
                Err(failure) => {
                    log!(session.logger(), Alert, "server_name {failure}");
                    return None;
                }
            }
            // nginx: a server without a certificate offers that of the default server.
            Some(session.plan().tls.as_ref().unwrap_or(offer).clone())
        };
        match accept(transport, timer, offer.timeout(), choose).await {
            Ok((client, tls)) => {
                let server = session.plan().tls.as_ref().unwrap_or(offer);
                let objection = server.objection(&tls);
                let _ = session.peer().tls.set(Box::new(tls));
                let Some(objection) = objection else { return Some(client) };
                log!(session.logger(), Info, "{objection}");
                close(Some(Left { client, patience: Some(FAREWELL) })).await;
                None
            }
            Err(failure) => {
                log!(session.logger(), Info, "{failure}");
                if let TlsFailure::NotTls(transport) = failure {
                    refuse(*transport).await;
                }
                None
            }
        }
    }

    /// The server of this name, leaving in the session what its pattern captures.
    fn named(&self, name: &[u8], session: &Session) -> Matches<Option<Rc<Plan>>> {
        let name = name.strip_suffix(b".").unwrap_or(name).to_ascii_lowercase();
        if let Some(plan) = self.names.find(&name) {
            return Ok(Some(plan.clone()));
        }
        Ok(self.patterns.find(&name, session.slots())?.cloned())
    }
}

/// The status of a client that is not let in.
async fn refused(session: &Session) -> Option<u16> {
    match session.plan().gates.run(session, Phase::PostAccept, Phase::PreContent).await {
        Verdict::Continue | Verdict::Allow => None,
        Verdict::Refuse(status) => Some(status),
        // Nothing in a stream answers or starts over in a phase.
        Verdict::Restart | Verdict::Answered => Some(500),
    }
}

/// Closes the connection; a TLS session is told that this is the end, if the client takes it in time.
async fn close(left: Option<Left>) {
    if let Some(Left { client: mut client @ Transport::Tls(_), patience: Some(patience) }) = left {
        let _ = Timer::default().limit(patience, client.finish()).await;
    }
}
