//! A TLS client that trusts everybody and remembers what it was shown.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind, SignatureScheme, StreamOwned,
    SupportedProtocolVersion,
};

use crate::certificate::Certificate;

/// What the client offers in its hello.
#[derive(Debug, Clone)]
pub struct Offer {
    name: String,
    config: ClientConfig,
}

impl Offer {
    /// Names a host (SNI); an IP address is not sent.
    pub fn name(name: &str) -> Offer {
        Offer::build(name, rustls::ALL_VERSIONS, None)
    }

    /// Offers TLS 1.2 at most.
    pub fn tls12(name: &str) -> Offer {
        Offer::build(name, &[&rustls::version::TLS12], None)
    }

    /// Shows a certificate of its own when asked.
    pub fn identified(name: &str, certificate: &Certificate) -> Offer {
        Offer::build(name, rustls::ALL_VERSIONS, Some(certificate))
    }

    /// Offers application protocols.
    pub fn alpn(mut self, protocols: &[&str]) -> Offer {
        self.config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        self
    }

    /// The name, and what to connect with.
    pub(super) fn parts(&self) -> (ServerName<'static>, Arc<ClientConfig>) {
        let name = ServerName::try_from(self.name.clone()).expect("a name");
        (name, Arc::new(self.config.clone()))
    }

    fn build(name: &str, versions: &[&'static SupportedProtocolVersion], identity: Option<&Certificate>) -> Offer {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .expect("supported versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(TrustAll(provider)));
        let config = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => builder
                .with_client_auth_cert(
                    vec![CertificateDer::from(identity.der.clone())],
                    PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).expect("a key"),
                )
                .expect("a certificate and its key"),
        };
        Offer { name: name.to_owned(), config }
    }
}

/// What the handshake settled.
#[derive(Debug, Clone)]
pub struct TlsFacts {
    /// The server's certificate.
    pub certificate: Vec<u8>,
    /// The application protocol, if one was chosen.
    pub alpn: Option<String>,
    /// `TLSv1_3`
    pub version: String,
    /// Whether an earlier session was resumed.
    pub resumed: bool,
}

#[derive(Debug)]
pub(super) struct TlsStream {
    stream: StreamOwned<ClientConnection, TcpStream>,
    facts: TlsFacts,
}

impl TlsStream {
    pub(super) fn connect(mut socket: TcpStream, offer: &Offer) -> io::Result<TlsStream> {
        let name = ServerName::try_from(offer.name.clone()).map_err(io::Error::other)?;
        let mut connection = ClientConnection::new(Arc::new(offer.config.clone()), name).map_err(io::Error::other)?;
        while connection.is_handshaking() {
            connection.complete_io(&mut socket)?;
        }
        let facts = facts(&connection);
        Ok(TlsStream { stream: StreamOwned::new(connection, socket), facts })
    }

    pub(super) fn facts(&self) -> &TlsFacts {
        &self.facts
    }

    pub(super) fn socket(&self) -> &TcpStream {
        &self.stream.sock
    }
}

fn facts(connection: &ClientConnection) -> TlsFacts {
    let certificates = connection.peer_certificates().unwrap_or_default();
    TlsFacts {
        certificate: certificates.first().map(|certificate| certificate.to_vec()).unwrap_or_default(),
        alpn: connection.alpn_protocol().map(|protocol| String::from_utf8_lossy(protocol).into_owned()),
        version: connection.protocol_version().map(|version| format!("{version:?}")).unwrap_or_default(),
        resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
    }
}

impl Read for TlsStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buffer)
    }
}

impl Write for TlsStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

#[derive(Debug)]
struct TrustAll(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustAll {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
