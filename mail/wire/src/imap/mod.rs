//! IMAP before login, RFC 3501: the dialogue with the client, and the login to the backend.

mod backend;
mod client;
mod command;

pub use backend::Backend;
pub use client::Client;

/// What `imap_capabilities` is when nobody sets it.
pub const DEFAULT_CAPABILITIES: [&str; 3] = ["IMAP4", "IMAP4rev1", "UIDPLUS"];
