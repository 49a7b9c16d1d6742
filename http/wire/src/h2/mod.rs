//! HTTP/2 below and above its framing layer: what a peer may do on a connection, and what its requests may say.
//!
//! The frames themselves are the business of another library. What it does not tell its user is watched here, on the
//! bytes as they pass in both directions ([`Watch`]). What it decodes becomes a head that the rest of the proxy
//! understands ([`request::read`]), with a count of the body that follows ([`ContentLength`]), and the fields of an
//! answer become those of HTTP/2 ([`answer_fields`]).

pub mod answer;
pub mod body;
pub mod budget;
pub mod fault;
pub mod frames;
pub mod limits;
pub mod request;
mod streams;
mod tally;
#[cfg(test)]
mod testing;
pub mod watch;

pub use answer::answer_fields;
pub use body::{ContentLength, LengthFault};
pub use budget::Budget;
pub use fault::{Remedy, RequestFault};
pub use frames::{Frame, Frames};
pub use limits::{Code, Excess, Limit, Limits};
pub use request::{Refused, Request, RequestLimits};
pub use watch::Watch;
