//! What the logins to IMAP, POP3 and SMTP backends share: how they end.

use std::fmt;

use bytes::Bytes;
use tidegate_core_wire::Machine;

use crate::action::Action;

/// The backend let us in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedIn {
    /// What it said, for the client. Anything after it stays in the input and belongs to the pump.
    pub reply: Bytes,
}

/// The backend did not let us in. `Display` is nginx's log line, with unprintable octets escaped.
///
/// The action for the log is [`Action::ReadingUpstreamResponse`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BadReply {
    /// It said something else than expected.
    Invalid {
        /// The line that was not expected, without its end.
        line: Bytes,
        /// The whole reply, untagged lines before it included: what `proxy_pass_error_message on` gives the client.
        reply: Bytes,
    },
    /// A reply did not fit `proxy_buffer`.
    TooLong {
        /// The line that did not fit, as far as it would have.
        line: Bytes,
    },
    /// It answered a command before that was sent.
    Unasked {
        /// The answer, as far as it was there.
        line: Bytes,
    },
    /// It closed before the login was complete.
    Closed,
}

impl fmt::Display for BadReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadReply::Invalid { line, .. } => {
                write!(f, "upstream sent invalid response: \"{}\"", line.escape_ascii())
            }
            BadReply::TooLong { line } => {
                write!(f, "upstream sent too long response line: \"{}\"", line.escape_ascii())
            }
            BadReply::Unasked { line } => {
                write!(f, "upstream sent a response before it was asked: \"{}\"", line.escape_ascii())
            }
            BadReply::Closed => f.write_str("upstream prematurely closed connection"),
        }
    }
}

impl std::error::Error for BadReply {}

/// The login to a backend; one driver serves every implementation.
///
/// As for any machine: what it has to send is queued in `replies`. The driver sends that only when nothing of what the
/// backend has said is left unread, and reports it with [`sent`](Login::sent): an answer that came before is none.
pub trait Login: Machine<Event = LoggedIn, Error = BadReply> {
    /// What was done last, for the log line of a timeout or a failure to send.
    fn action(&self) -> Action;

    /// What was queued has been sent: from now on there may be an answer to it.
    fn sent(&mut self);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_replies_read_as_nginx_writes_them_on_one_line() {
        let line = Bytes::from_static(b"a01 NO \x1b[31m \"no\"");
        for (bad, expected) in [
            (
                BadReply::Invalid { line: line.clone(), reply: Bytes::new() },
                r#"upstream sent invalid response: "a01 NO \x1b[31m \"no\"""#,
            ),
            (
                BadReply::Unasked { line: line.clone() },
                r#"upstream sent a response before it was asked: "a01 NO \x1b[31m \"no\"""#,
            ),
            (BadReply::TooLong { line }, r#"upstream sent too long response line: "a01 NO \x1b[31m \"no\"""#),
            (BadReply::Closed, "upstream prematurely closed connection"),
        ] {
            assert_eq!(bad.to_string(), expected);
        }
    }
}
