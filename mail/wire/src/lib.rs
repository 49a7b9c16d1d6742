//! Mail pre-login dialogues as machines, and the question to the authentication server as values; no I/O.
//!
//! [`auth::AuthRequest`] is written to the authentication server and its answer becomes an [`auth::Verdict`]. Each
//! protocol is a [`dialogue::Dialogue`] towards the client and a [`backend::Login`] towards the server behind.
//!
//! Nothing here logs, and nothing here formats a password: what may be logged has a `Display`, the rest a
//! [`sasl::Secret`].

pub mod action;
pub mod auth;
pub mod backend;
pub mod dialogue;
pub mod sasl;
