//! HTTP/1: heads and bodies of requests and replies, read incrementally and written.

pub mod body;
pub(crate) mod line;
pub mod reply;
pub mod request;
#[cfg(test)]
mod second_opinion;
pub mod write;

pub use body::{BadBody, BodyDecoder, BodyLimits, Decoded};
pub use reply::{ReplyError, ReplyParser};
pub use request::{HeadLimits, RequestError, RequestParser};
