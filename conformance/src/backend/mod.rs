//! Backends that run in threads of the test, on a port of their own, until they are dropped.

mod auth_http;
mod deaf;
mod echo;
mod http;
mod imap;
mod tcp;
mod udp;

pub use auth_http::{AuthAnswer, AuthHttp};
pub use deaf::DeafBackend;
pub use echo::EchoBackend;
pub use http::{HttpBackend, Reply};
pub use imap::ImapBackend;
pub use tcp::TcpBackend;
pub use udp::UdpBackend;
