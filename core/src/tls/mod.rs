//! TLS for every protocol: the only module that names the TLS library.

pub mod certificate;
pub mod client_certificate;
pub mod der;
pub mod hello;
pub mod module;
pub mod pss;
pub mod server;
pub mod session;

pub use client_certificate::{ClientCertificate, ClientCertificateConf, ClientCertificates, Objection};
pub use module::{HandshakeTimeout, Tls, TlsConf};
pub use server::{ServerTls, TlsFailure};
