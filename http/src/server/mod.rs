//! The client's side of a connection.

pub mod client;
pub mod h1;
