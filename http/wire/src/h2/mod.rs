//! HTTP/2 below and above its framing layer: what a peer may do on a connection, and what its requests may say.
//!
//! The frames themselves are the business of another library. What it does not tell its user is watched here, on the
//! bytes as they pass in both directions ([`Watch`]).

pub mod budget;
pub mod frames;
pub mod limits;
mod streams;
mod tally;
#[cfg(test)]
mod testing;
pub mod watch;

pub use budget::Budget;
pub use frames::{Frame, Frames};
pub use limits::{Code, Excess, Limit, Limits};
pub use watch::Watch;
