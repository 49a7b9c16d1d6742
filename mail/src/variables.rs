//! The variables of a mail session, for its access log: nginx has neither.

use std::io::Write;

use tidegate_balancer::attempts;
use tidegate_core::conf::directive::{Directive, Feature};
use tidegate_core::module::Module;
use tidegate_core::modules::builtin::NoConf;
use tidegate_core::script::Variable;
use tidegate_core::script::variable::Get;
use tidegate_mail_wire::dialogue::Protocol;

use crate::session::Session;

/// Variables of a session
pub struct SessionVariables;

impl Feature for SessionVariables {
    type Conf = NoConf;
    const NAME: &'static str = "mail variables";
    const DIRECTIVES: &'static [Directive<NoConf>] = &[];
}

const fn row(name: &'static str, get: fn(&Session, &mut Vec<u8>) -> bool, doc: &'static str) -> Variable<Session> {
    Variable { name, get: Get::Value(get), doc }
}

const ALL: [Variable<Session>; 12] = {
    let [addr, connect_time, sent, received] = attempts::variables();
    [
        addr,
        connect_time,
        sent,
        received,
        row("upstream_first_byte_time", attempts::first_byte_time, "Seconds to the backend's greeting."),
        row("upstream_session_time", attempts::total_time, "Seconds that the session with the backend lasted."),
        row("protocol", |_, out| text(out, Protocol::Imap.name().as_bytes()), "The protocol: imap."),
        row("server_name", |s, out| text(out, s.server().name.as_bytes()), "The server's name."),
        row("mail_user", user, "The user of the last login tried, as the backend knows it."),
        row("mail_auth_method", method, "How that user wanted to log in: plain, cram-md5, external."),
        row("mail_login_attempts", |s, out| write!(out, "{}", s.tried()).is_ok(), "How many logins were tried."),
        row("session_time", session_time, "The session's duration in seconds, with milliseconds."),
    ]
};

impl Module<Session> for SessionVariables {
    const VARIABLES: &'static [Variable<Session>] = &ALL;
}

fn text(out: &mut Vec<u8>, text: &[u8]) -> bool {
    out.extend_from_slice(text);
    !text.is_empty()
}

fn user(session: &Session, out: &mut Vec<u8>) -> bool {
    text(out, &session.user())
}

fn method(session: &Session, out: &mut Vec<u8>) -> bool {
    session.method().is_some_and(|method| text(out, method.name().as_bytes()))
}

fn session_time(session: &Session, out: &mut Vec<u8>) -> bool {
    let age = session.elapsed();
    write!(out, "{}.{:03}", age.as_secs(), age.subsec_millis()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_variable_has_two_meanings() {
        let mut names: Vec<&str> = ALL.iter().map(|variable| variable.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
    }
}
