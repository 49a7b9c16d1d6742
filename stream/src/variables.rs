//! The variables that only streams have.

use std::io::Write;

use tidegate_balancer::attempts;
use tidegate_core::conf::directive::{Directive, Feature};
use tidegate_core::module::Module;
use tidegate_core::modules::builtin::NoConf;
use tidegate_core::script::Variable;
use tidegate_core::script::variable::Get;
use tidegate_core::subject::Subject;

use crate::session::Session;

/// The variables of streams
pub struct Own;

impl Feature for Own {
    type Conf = NoConf;
    const NAME: &'static str = "stream";
    const DIRECTIVES: &'static [Directive<NoConf>] = &[];
}

const fn row(name: &'static str, get: fn(&Session, &mut Vec<u8>) -> bool, doc: &'static str) -> Variable<Session> {
    Variable { name, get: Get::Value(get), doc }
}

impl Module<Session> for Own {
    const VARIABLES: &'static [Variable<Session>] = &[
        row("protocol", protocol, "TCP."),
        row("server_name", server_name, "The first name of the server."),
        row("session_time", session_time, "Seconds since the session began, with milliseconds."),
        row("upstream_first_byte_time", attempts::first_byte_time, "Seconds to the first byte, per try."),
        row("upstream_session_time", attempts::total_time, "Seconds to the end, per try."),
    ];
}

fn protocol(_: &Session, out: &mut Vec<u8>) -> bool {
    out.extend_from_slice(b"TCP");
    true
}

fn server_name(session: &Session, out: &mut Vec<u8>) -> bool {
    out.extend_from_slice(&session.plan().server_name);
    true
}

fn session_time(session: &Session, out: &mut Vec<u8>) -> bool {
    let time = session.started().elapsed();
    write!(out, "{}.{:03}", time.as_secs(), time.subsec_millis()).is_ok()
}
