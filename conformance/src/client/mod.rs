//! Clients: a wire that carries bytes or lines, in clear or under TLS, and HTTP/1 over it.

mod http;
mod plain;
mod tls;
mod wire;

pub(crate) use http::read_body;
pub use http::{Http, head};
pub use plain::{NO_TLS, alerted};
pub use tls::{Offer, TlsFacts};
pub use wire::Wire;
