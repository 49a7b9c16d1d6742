//! Mail pre-login dialogues as machines, and the question to the authentication server as values; no I/O.
//!
//! A session goes: [`imap::Client`] talks to the client until it wants to log in ([`dialogue::Event::Login`]);
//! [`auth::AuthRequest`] is written to the authentication server and its answer becomes an [`auth::Verdict`];
//! [`imap::Backend`] logs in to the server named there ([`backend::LoggedIn`]); from then on it is all bytes.
//! POP3 and SMTP join as siblings of `imap` behind the same [`dialogue::Dialogue`].
//!
//! Nothing here logs, and nothing here formats a password: what may be logged has a `Display`, the rest a
//! [`sasl::Secret`].

pub mod action;
pub mod auth;
pub mod backend;
pub mod dialogue;
pub mod imap;
pub mod sasl;
