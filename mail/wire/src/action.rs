//! What a mail session is doing, in nginx's words: the part of an error log line that follows " while ".

use std::fmt;

/// The action in progress; `Display` gives nginx's phrase without the leading "while".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is its own phrase, given below")]
pub enum Action {
    ReadingProxyProtocol,
    TlsHandshaking,
    SendingGreeting,
    ResolvingClientAddress,
    ResolvingClientHostname,
    DelayingGreeting,
    Authenticating,
    StartingTls,
    AskingAuthHttp,
    ConnectingToUpstream,
    SendingProxyProtocol,
    ReadingUpstreamResponse,
    SendingUserName,
    SendingPassword,
    SendingLogin,
    SendingHelo,
    SendingXclient,
    SendingClientHelo,
    SendingAuth,
    SendingMailFrom,
    SendingRcptTo,
    ReadingFromClient,
    ReadingFromUpstream,
    SendingToClient,
    SendingToUpstream,
    Proxying,
}

impl Action {
    /// nginx's phrase for the action.
    pub const fn phrase(self) -> &'static str {
        match self {
            Action::ReadingProxyProtocol => "reading PROXY protocol",
            Action::TlsHandshaking => "SSL handshaking",
            Action::SendingGreeting => "sending client greeting line",
            Action::ResolvingClientAddress => "in resolving client address",
            Action::ResolvingClientHostname => "in resolving client hostname",
            Action::DelayingGreeting => "in delay pipelining state",
            Action::Authenticating => "in auth state",
            Action::StartingTls => "in starttls state",
            Action::AskingAuthHttp => "in http auth state",
            Action::ConnectingToUpstream => "connecting to upstream",
            Action::SendingProxyProtocol => "sending PROXY protocol header to upstream",
            Action::ReadingUpstreamResponse => "reading response from upstream",
            Action::SendingUserName => "sending user name to upstream",
            Action::SendingPassword => "sending password to upstream",
            Action::SendingLogin => "sending LOGIN command to upstream",
            Action::SendingHelo => "sending HELO/EHLO to upstream",
            Action::SendingXclient => "sending XCLIENT to upstream",
            Action::SendingClientHelo => "sending client HELO/EHLO to upstream",
            Action::SendingAuth => "sending AUTH to upstream",
            Action::SendingMailFrom => "sending MAIL FROM to upstream",
            Action::SendingRcptTo => "sending RCPT TO to upstream",
            Action::ReadingFromClient => "proxying and reading from client",
            Action::ReadingFromUpstream => "proxying and reading from upstream",
            Action::SendingToClient => "proxying and sending to client",
            Action::SendingToUpstream => "proxying and sending to upstream",
            Action::Proxying => "proxying",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.phrase())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_read_as_nginx_writes_them() {
        assert_eq!(format!("while {}", Action::Authenticating), "while in auth state");
        assert_eq!(format!("while {}", Action::SendingLogin), "while sending LOGIN command to upstream");
        assert_eq!(format!("while {}", Action::SendingToClient), "while proxying and sending to client");
    }
}
