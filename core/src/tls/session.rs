//! An established TLS session as a transport, and what may be told about it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsStream;

use super::client_certificate::{ClientCertificate, ClientPolicy};
use crate::net::Transport;

/// The facts about a session: the `$ssl_*` variables.
#[derive(Clone, Debug, Default)]
pub struct TlsInfo {
    /// The name the client asked for.
    pub server_name: Option<Vec<u8>>,
    /// `TLSv1.2` or `TLSv1.3`.
    pub protocol: &'static str,
    /// The cipher suite, as OpenSSL calls it.
    pub cipher: &'static str,
    /// The application protocol agreed on.
    pub alpn: Option<Vec<u8>>,
    /// The facts about the client's certificate, unless `ssl_verify_client off`.
    pub client: Option<ClientCertificate>,
}

impl TlsInfo {
    /// The host that the client asked for, as servers are looked up by.
    pub fn host(&self) -> Option<Vec<u8>> {
        self.server_name.as_deref().and_then(super::hello::host)
    }
}

/// TLS over another transport.
pub struct TlsTransport {
    stream: TlsStream<Transport>,
}

impl TlsTransport {
    /// Wraps an established session.
    pub fn new(stream: TlsStream<Transport>) -> Self {
        TlsTransport { stream }
    }

    /// The transport below.
    pub fn inner(&self) -> &Transport {
        self.stream.get_ref().0
    }

    /// Judges the certificate that the client has shown.
    pub fn examine(&self, policy: &ClientPolicy) -> ClientCertificate {
        policy.examine(self.stream.get_ref().1.peer_certificates().unwrap_or_default())
    }

    /// The facts about this session.
    pub fn info(&self, server_name: Option<Vec<u8>>) -> TlsInfo {
        use rustls::{CipherSuite as S, ProtocolVersion};
        let (_, session) = self.stream.get_ref();
        let protocol = match session.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "",
        };
        let cipher = match session.negotiated_cipher_suite().map(|suite| suite.suite()) {
            Some(S::TLS13_AES_256_GCM_SHA384) => "TLS_AES_256_GCM_SHA384",
            Some(S::TLS13_AES_128_GCM_SHA256) => "TLS_AES_128_GCM_SHA256",
            Some(S::TLS13_CHACHA20_POLY1305_SHA256) => "TLS_CHACHA20_POLY1305_SHA256",
            Some(S::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384) => "ECDHE-ECDSA-AES256-GCM-SHA384",
            Some(S::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256) => "ECDHE-ECDSA-AES128-GCM-SHA256",
            Some(S::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256) => "ECDHE-ECDSA-CHACHA20-POLY1305",
            Some(S::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384) => "ECDHE-RSA-AES256-GCM-SHA384",
            Some(S::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256) => "ECDHE-RSA-AES128-GCM-SHA256",
            Some(S::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256) => "ECDHE-RSA-CHACHA20-POLY1305",
            _ => "",
        };
        TlsInfo { server_name, protocol, cipher, alpn: session.alpn_protocol().map(<[u8]>::to_vec), client: None }
    }

    /// Ready when decrypted bytes are waiting, or the transport below has something to read.
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let waiting = match &self.stream {
            TlsStream::Client(stream) => !stream.get_ref().1.wants_read(),
            TlsStream::Server(stream) => !stream.get_ref().1.wants_read(),
        };
        if waiting { Poll::Ready(Ok(())) } else { self.stream.get_mut().0.poll_readable(cx) }
    }
}

impl AsyncRead for TlsTransport {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_read(cx, buf) {
            // Peers that close without a close_notify are common; nginx treats it as an end.
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
            other => other,
        }
    }
}

impl AsyncWrite for TlsTransport {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
