//! HTTP messages as bytes and values: parsing, framing, writing; no I/O.
//!
//! Owns what a byte of HTTP/1 means and what is refused. Nothing here opens a socket, a file or a clock: input arrives
//! in a `BytesMut`, time arrives as an argument. What both protocol versions share (fields, heads, targets, dates,
//! ranges, conditions) stands at the top; what only HTTP/1 has is in [`h1`], what only HTTP/2 has in [`h2`].

pub mod args;
pub mod conditional;
pub mod cookies;
pub mod date;
pub mod etag;
pub mod fields;
pub mod framing;
pub mod h1;
pub mod h2;
pub mod head;
pub mod host;
pub mod known;
pub mod method;
pub mod range;
mod scan;
mod span;
pub mod status;
pub mod uri;

pub use fields::{Field, Fields};
pub use framing::{BadFraming, Framing, ReplyFraming};
pub use head::{ReplyHead, RequestHead, Version};
pub use host::Host;
pub use known::{Known, KnownSet};
pub use method::Method;
pub use uri::Target;
