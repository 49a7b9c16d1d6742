//! What the pre-login dialogues of IMAP, POP3 and SMTP share: settings, events, and why one must end.

use std::fmt;

use bytes::{Bytes, BytesMut};
use tidegate_core_wire::Machine;

use crate::auth::Refusal;
use crate::sasl::{Complaint, Credentials, Mechanisms, Method};

/// A mail protocol, as the authentication server and ALPN call it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// IMAP4rev1, RFC 3501.
    Imap,
    /// POP3, RFC 1939.
    Pop3,
    /// SMTP submission, RFC 6409.
    Smtp,
}

impl Protocol {
    /// The lower-case name: the value of `Auth-Protocol` and the only ALPN protocol a client may ask for.
    pub const fn name(self) -> &'static str {
        match self {
            Protocol::Imap => "imap",
            Protocol::Pop3 => "pop3",
            Protocol::Smtp => "smtp",
        }
    }
}

/// The `starttls` directive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StartTls {
    /// Not offered.
    #[default]
    Off,
    /// Offered.
    On,
    /// Offered, and nobody logs in without it.
    Only,
}

/// What a server's configuration says about its pre-login dialogue; shared by its sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `imap_capabilities` and the like, in the order given.
    pub capabilities: Vec<Bytes>,
    /// `imap_auth` and the like.
    pub mechanisms: Mechanisms,
    /// `starttls`
    pub starttls: StartTls,
    /// `max_errors`: the invalid command that ends the dialogue. Only commands that could not be parsed count.
    pub max_errors: u32,
    /// `imap_client_buffer` and the like: the most octets that one command may have, literals included.
    pub buffer: usize,
}

/// A client that wants to log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// How it proves who it is.
    pub method: Method,
    /// Who it is.
    pub credentials: Credentials,
    /// The challenge that its digest answers, with methods that have one.
    pub salt: Option<Bytes>,
    /// The tag of its command, used again towards the backend; empty in protocols without tags.
    pub tag: Bytes,
    /// Counts the attempts of this connection from 1 on.
    pub number: u32,
}

/// What a dialogue has understood. Its reply, if it has one, is queued already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Ask the authentication server, then call [`Dialogue::accepted`], [`Dialogue::refused`] or
    /// [`Dialogue::internal_error`]. Until then the dialogue takes no input.
    Login(Attempt),
    /// Send the replies, shake hands, then call [`Dialogue::tls_established`]. Until then the dialogue takes no input.
    StartTls,
    /// Send the replies and close.
    Logout,
    /// Worth an info line; the client has its reply and the dialogue goes on.
    Complaint(Complaint),
}

/// Why a dialogue must close. The last reply is queued: send the replies, then close.
///
/// `Display` is nginx's log line, except that nothing a client sent is ever repeated: it may be a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Close {
    /// A command did not fit [`Config::buffer`].
    TooLong {
        /// The name of the command, if it could be made out.
        command: Option<&'static str>,
    },
    /// [`Config::max_errors`] commands were invalid.
    TooManyErrors,
}

impl fmt::Display for Close {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Close::TooLong { command: Some(command) } => write!(f, "client sent too long command \"{command}\""),
            Close::TooLong { command: None } => f.write_str("client sent too long command"),
            Close::TooManyErrors => f.write_str("client sent too many invalid commands"),
        }
    }
}

impl std::error::Error for Close {}

/// The client's side of a mail session before login; one driver serves every implementation.
pub trait Dialogue: Machine<Event = Event, Error = Close> {
    /// Which protocol this is.
    const PROTOCOL: Protocol;
    /// Said instead of a greeting when the client's certificate does not verify.
    const CERTIFICATE_ERROR: &'static [u8];
    /// Said instead of a greeting when `ssl_verify_client on` finds no certificate.
    const CERTIFICATE_REQUIRED: &'static [u8];
    /// Said to a client that has not logged in when the server is going away.
    const SHUTTING_DOWN: &'static [u8];

    /// Queues the first line of the session.
    fn greeting(&mut self, replies: &mut BytesMut);

    /// The backend has let the client in: queues what the client is to see of its reply. The dialogue is over; input
    /// not yet taken belongs to the backend.
    fn accepted(&mut self, backend_reply: &[u8], replies: &mut BytesMut);

    /// The authentication server said no: queues that. The dialogue can go on, but without [`Refusal::wait`] the
    /// driver closes once the reply is sent.
    fn refused(&mut self, refusal: &Refusal, replies: &mut BytesMut);

    /// Something failed that is not the client's doing: queues the protocol's apology. The dialogue is over.
    fn internal_error(&mut self, replies: &mut BytesMut);

    /// TLS is up after [`Event::StartTls`]. Drops `input`: what came in clear must not act inside TLS.
    fn tls_established(&mut self, input: &mut BytesMut);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_reads_as_nginx_writes_it() {
        for (close, line) in [
            (Close::TooLong { command: Some("LOGIN") }, "client sent too long command \"LOGIN\""),
            (Close::TooLong { command: None }, "client sent too long command"),
            (Close::TooManyErrors, "client sent too many invalid commands"),
        ] {
            assert_eq!(close.to_string(), line);
        }
    }
}
