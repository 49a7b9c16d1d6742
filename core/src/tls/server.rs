//! The server's side of a handshake: the client's greeting first, then the choice of server, then the rest.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio_rustls::LazyConfigAcceptor;

use super::client_certificate::{ClientPolicy, Objection};
use super::session::{TlsInfo, TlsTransport};
use crate::net::{Timer, Transport};

/// What a server block offers.
#[derive(Clone)]
pub struct ServerTls {
    /// `None` rejects every handshake.
    pub(super) config: Option<Arc<ServerConfig>>,
    /// What is demanded of clients, unless `ssl_verify_client off`.
    pub(super) clients: Option<Arc<ClientPolicy>>,
    /// `ssl_handshake_timeout`
    pub(super) timeout: Duration,
}

impl ServerTls {
    /// Longest time for the handshake.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Why the client of an established session must not go on: for the protocol to tell it, and to close.
    pub fn objection(&self, info: &TlsInfo) -> Option<Objection> {
        self.clients.as_ref()?.objection(info.client.as_ref()?)
    }
}

/// Why a handshake failed.
#[derive(Debug)]
pub enum TlsFailure {
    /// The client took too long.
    TimedOut,
    /// What came is not TLS; the transport is untouched.
    NotTls(Box<Transport>),
    /// The server that the client named rejects handshakes, or offers no certificate.
    Rejected,
    /// The client closed, or broke the protocol.
    Failed(io::Error),
}

impl fmt::Display for TlsFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsFailure::TimedOut => f.write_str("client timed out"),
            TlsFailure::NotTls(_) => f.write_str("client sent plain text to a TLS port"),
            TlsFailure::Rejected => f.write_str("handshake rejected"),
            TlsFailure::Failed(error) => write!(f, "peer failed in SSL handshake ({error})"),
        }
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Transport")
    }
}

/// Performs a handshake. `choose` is told the server name that the client asks for, if any, and picks what is offered.
///
/// # Errors
/// See [`TlsFailure`].
pub async fn accept(
    transport: Transport,
    timer: &mut Timer,
    limit: Duration,
    choose: impl FnOnce(Option<&str>) -> Option<ServerTls>,
) -> Result<(Transport, TlsInfo), TlsFailure> {
    let handshake = async {
        if let Some(tcp) = transport.tcp() {
            let mut first = [0];
            let count = tcp.peek(&mut first).await.map_err(TlsFailure::Failed)?;
            if count == 0 {
                return Err(TlsFailure::Failed(io::ErrorKind::UnexpectedEof.into()));
            }
            // A handshake record; nginx also lets through what could be an SSLv2 greeting, which rustls refuses anyway.
            if first != [0x16] && first != [0x80] {
                return Err(TlsFailure::NotTls(Box::new(transport)));
            }
        }
        let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), transport)
            .await
            .map_err(TlsFailure::Failed)?;
        let name = start.client_hello().server_name().map(str::to_owned);
        let server = choose(name.as_deref()).ok_or(TlsFailure::Rejected)?;
        let config = server.config.ok_or(TlsFailure::Rejected)?;
        let stream = start.into_stream(config).await.map_err(TlsFailure::Failed)?;
        let transport = TlsTransport::new(stream.into());
        let mut info = transport.info(name);
        info.client = server.clients.map(|policy| transport.examine(&policy));
        Ok((Transport::Tls(Box::new(transport)), info))
    };
    timer.limit(limit, handshake).await.map_err(|_| TlsFailure::TimedOut)?
}
