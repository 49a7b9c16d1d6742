//! A `server` block as its sessions use it.

use std::rc::Rc;
use std::time::Duration;

use tidegate_balancer::Directory;
use tidegate_core::log::ErrorLog;
use tidegate_core::phase::{Gate, Gates, Phase};
use tidegate_core::subject::Sink;
use tidegate_core::tls::ServerTls;
use tidegate_mail_wire::dialogue::Config;

use crate::auth_http::Authority;
use crate::backend::ProxySettings;
use crate::session::Session;

/// One `server` block.
pub struct Server {
    /// `server_name`, or the machine's name.
    pub name: String,
    /// `timeout`: the time to log in.
    pub timeout: Duration,
    /// The dialogue before the login.
    pub dialogue: Rc<Config>,
    /// Who decides about logins.
    pub authority: Authority,
    /// How to speak with backends.
    pub proxy: ProxySettings,
    /// The TLS that `listen ... ssl` and STARTTLS use; none if neither is written.
    pub tls: Option<ServerTls>,
    /// Where errors are logged.
    pub error_log: ErrorLog,
    /// The health of all backends that this worker has seen.
    pub directory: Rc<Directory>,
    /// What the modules of the core have added.
    pub plan: Plan,
}

/// What the modules of the core have added to a server: who may connect, and who is told of the end of a session.
#[derive(Default)]
pub struct Plan {
    /// Asked before the greeting.
    pub gates: Gates<Session>,
    /// Told of every finished session.
    pub sinks: Vec<Box<dyn Sink<Session>>>,
}

impl tidegate_core::subject::Plan<Session> for Plan {
    fn gate(&mut self, phase: Phase, gate: Box<dyn Gate<Session>>) {
        self.gates.add(phase, gate);
    }

    fn sink(&mut self, sink: Box<dyn Sink<Session>>) {
        self.sinks.push(sink);
    }
}
