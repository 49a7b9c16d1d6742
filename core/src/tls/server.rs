//! The server's side of a handshake: the client's greeting first, then the choice of server, then the rest.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::server::{Accepted, Acceptor};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::StartHandshake;

use super::client_certificate::{ClientPolicy, Objection};
use super::hello::{self, Hello};
use super::session::{TlsInfo, TlsTransport};
use crate::net::{Timer, Transport};

/// The same offer for two kinds of clients.
#[derive(Clone)]
pub(super) struct Configs {
    pub(super) usual: Arc<ServerConfig>,
    /// For those that ask for a name which is no host name; see [`hello`].
    pub(super) honest: Arc<ServerConfig>,
}

/// The offer of a server block.
#[derive(Clone)]
pub struct ServerTls {
    /// `None` rejects every handshake.
    pub(super) config: Option<Configs>,
    /// The demands on clients, unless `ssl_verify_client off`.
    pub(super) clients: Option<Arc<ClientPolicy>>,
    /// `ssl_handshake_timeout`
    pub(super) timeout: Duration,
}

impl ServerTls {
    /// Refuses every handshake.
    pub fn reject_all() -> Self {
        ServerTls { config: None, clients: None, timeout: Duration::from_secs(60) }
    }

    /// Longest time for the handshake.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// True when every handshake is refused.
    pub fn rejects(&self) -> bool {
        self.config.is_none()
    }

    /// True when nothing is asked of clients.
    pub fn asks_nothing(&self) -> bool {
        self.clients.is_none()
    }

    /// True when both ask the same of clients: what one has found of a certificate holds for the other.
    pub fn asks_the_same(&self, other: &ServerTls) -> bool {
        match (&self.clients, &other.clients) {
            (None, None) => true,
            (Some(own), Some(other)) => Arc::ptr_eq(own, other),
            _ => false,
        }
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
    /// The first bytes are not TLS; the transport is untouched.
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

/// Performs a handshake. `choose` gets the server name that the client asks for, if any, and picks the offer.
///
/// # Errors
/// See [`TlsFailure`].
pub async fn accept(
    transport: Transport,
    timer: &mut Timer,
    limit: Duration,
    choose: impl FnOnce(Option<&[u8]>) -> Option<ServerTls>,
) -> Result<(Transport, TlsInfo), TlsFailure> {
    let handshake = async {
        let failed = |error: io::Error| (TlsFailure::Failed(error), None);
        if let Some(tcp) = transport.tcp() {
            let mut first = [0];
            let count = tcp.peek(&mut first).await.map_err(failed)?;
            if count == 0 {
                return Err(failed(io::ErrorKind::UnexpectedEof.into()));
            }
            // A handshake record; nginx also lets through what could be an SSLv2 greeting, which rustls refuses anyway.
            if first != [0x16] && first != [0x80] {
                return Err((TlsFailure::NotTls(Box::new(transport)), None));
            }
        }
        let (Greeting { accepted, name, hidden }, transport) = greeting(transport).await?;
        let server = choose(name.as_deref().and_then(hello::host).as_deref());
        let (Some(configs), clients) = server.map_or((None, None), |server| (server.config, server.clients)) else {
            let mut transport = transport;
            return Err((reject(&mut transport).await, Some(transport)));
        };
        let config = if hidden { configs.honest } else { configs.usual };
        let start = StartHandshake::from_parts(accepted, transport);
        let stream = start.into_stream(config).into_fallible().await;
        let stream = stream.map_err(|(error, transport)| (TlsFailure::Failed(error), Some(transport)))?;
        let transport = TlsTransport::new(stream.into());
        let mut info = transport.info(name);
        info.client = clients.map(|policy| transport.examine(&policy));
        Ok((Transport::Tls(Box::new(transport)), info))
    };
    // Kilobytes that the session would have to make room for as long as it lives.
    let (failure, left) = match timer.limit(limit, Box::pin(handshake)).await {
        Ok(Ok(established)) => return Ok(established),
        Ok(Err(failed)) => failed,
        Err(_) => return Err(TlsFailure::TimedOut),
    };
    if let Some(transport) = left {
        Box::pin(part(transport)).await;
    }
    Err(failure)
}

/// The beginning of a handshake.
struct Greeting {
    accepted: Accepted,
    /// The server name that it asks for, as it came.
    name: Option<Vec<u8>>,
    /// rustls has not seen that.
    hidden: bool,
}

/// The most that is read of a greeting: what rustls takes for one message.
const LONGEST_GREETING: usize = 0x1_0000;

/// Why a greeting leads nowhere, and the transport if the client is still to be parted from.
type Parted = (TlsFailure, Option<Transport>);

/// Reads the client's greeting. One that cannot be read is answered with an alert, always: rustls has none for what does
/// not even look like a message. A name that no server can have is rejected.
async fn greeting(mut transport: Transport) -> Result<(Greeting, Transport), Parted> {
    const DECODE_ERROR: u8 = 50;
    let mut acceptor = Acceptor::default();
    let mut records = Vec::new();
    let mut piece = [0; 4096];
    let (error, mut answer) = loop {
        let count = match transport.read(&mut piece).await {
            Ok(0) => return Err((TlsFailure::Failed(io::ErrorKind::UnexpectedEof.into()), None)),
            Ok(count) => count,
            Err(error) => return Err((TlsFailure::Failed(error), None)),
        };
        let piece = piece.get(..count).unwrap_or_default();
        records.extend_from_slice(piece);
        if records.len() > LONGEST_GREETING {
            break (io::ErrorKind::InvalidData.into(), Vec::new());
        }
        let name = || Hello::find(&records).and_then(|hello| hello.name().map(<[u8]>::to_vec));
        match feed(&mut acceptor, piece) {
            Ok(Ok(None)) => {}
            Ok(Ok(Some(accepted))) => return Ok((Greeting { accepted, name: name(), hidden: false }, transport)),
            Ok(Err((error, mut own))) => {
                // The name may be all that is wrong.
                let hello = Hello::find(&records);
                if hello.as_ref().and_then(Hello::name).is_some_and(|name| !hello::is_acceptable(name)) {
                    return Err((reject(&mut transport).await, Some(transport)));
                }
                if let Some(hidden) = hello.and_then(|hello| hello.without_name(&records))
                    && let Ok(Ok(Some(accepted))) = feed(&mut Acceptor::default(), &hidden)
                {
                    return Ok((Greeting { accepted, name: name(), hidden: true }, transport));
                }
                let mut answer = Vec::new();
                let _ = own.write_all(&mut answer);
                break (io::Error::new(io::ErrorKind::InvalidData, error), answer);
            }
            Err(error) => break (error, Vec::new()),
        }
    };
    if answer.is_empty() {
        answer.extend_from_slice(&alert(DECODE_ERROR));
    }
    let left = transport.write_all(&answer).await.is_ok().then_some(transport);
    Err((TlsFailure::Failed(error), left))
}

type Accepting = Result<Option<Accepted>, (rustls::Error, rustls::server::AcceptedAlert)>;

/// Gives rustls what has come.
fn feed(acceptor: &mut Acceptor, mut bytes: &[u8]) -> io::Result<Accepting> {
    while !bytes.is_empty() {
        if acceptor.read_tls(&mut bytes)? == 0 {
            break;
        }
    }
    Ok(acceptor.accept())
}

/// Tells the client that there is no server of the name it asks for.
async fn reject(transport: &mut Transport) -> TlsFailure {
    const UNRECOGNIZED_NAME: u8 = 112;
    match transport.write_all(&alert(UNRECOGNIZED_NAME)).await {
        Ok(()) => TlsFailure::Rejected,
        Err(error) => TlsFailure::Failed(error),
    }
}

/// Tells a client that sent something else than a handshake that this is no way to begin, and closes: for protocols that
/// have no answer of their own to [`TlsFailure::NotTls`].
pub async fn refuse(mut transport: Transport) {
    const UNEXPECTED_MESSAGE: u8 = 10;
    let sent = Timer::default().limit(PARTING, transport.write_all(&alert(UNEXPECTED_MESSAGE))).await;
    if matches!(sent, Ok(Ok(()))) {
        part(transport).await;
    }
}

/// An alert record (RFC 8446, 5.1 and 6.2): version 3.3, two bytes, fatal.
fn alert(description: u8) -> [u8; 7] {
    [21, 3, 3, 0, 2, 2, description]
}

/// Longest time for a client to take an alert.
const PARTING: Duration = Duration::from_secs(1);

/// Closes so that the alert that was sent last arrives: what the client goes on sending for a while is read and dropped,
/// for the system answers bytes that were never read with a reset, which would overtake the alert.
async fn part(mut transport: Transport) {
    /// More than any client sends before it looks for an answer.
    const MOST: usize = 1 << 18;
    let parting = async {
        transport.finish().await?;
        let (mut piece, mut read) = ([0; 1024], 0);
        while read < MOST {
            match transport.read(&mut piece).await? {
                0 => break,
                count => read += count,
            }
        }
        io::Result::Ok(())
    };
    let _ = Timer::default().limit(PARTING, parting).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::{TcpListener, TcpStream};

    #[test]
    fn a_rejected_client_is_told_why() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let error = runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let transport = Transport::Tcp(listener.accept().await.unwrap().0);
            let mut timer = Timer::default();
            let accepting = accept(transport, &mut timer, Duration::from_secs(9), |name| {
                assert_eq!(name, Some(&b"example.com"[..]));
                None
            });
            let config =
                rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                    .with_safe_default_protocol_versions()
                    .unwrap()
                    .with_root_certificates(rustls::RootCertStore::empty())
                    .with_no_client_auth();
            let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
            let (accepted, connected) =
                tokio::join!(accepting, connector.connect("example.com".try_into().unwrap(), client));
            assert!(matches!(accepted, Err(TlsFailure::Rejected)));
            connected.unwrap_err()
        });
        assert!(error.to_string().contains("UnrecognisedName"), "{error}");
    }
}
