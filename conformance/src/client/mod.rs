//! Clients: a wire that carries bytes or lines, in clear or under TLS, HTTP/1 over it, and HTTP/2.

mod frames;
mod http;
mod http2;
mod plain;
mod tls;
mod wire;

pub use frames::{Frame, Frames, frame};
pub(crate) use http::read_body;
pub use http::{Http, head};
pub use http2::{Answer, Body, Http2, exchange, request};
pub use plain::{NO_TLS, alerted};
pub use tls::{Offer, TlsFacts};
pub use wire::Wire;
