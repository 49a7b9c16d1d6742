//! What a server block comes to: everything that one of its sessions runs through, and nothing else.

use std::cell::RefCell;
use std::rc::Rc;

use tidegate_balancer::Groups;
use tidegate_core::log::ErrorLog;
use tidegate_core::phase::{Gate, Gates, Phase};
use tidegate_core::script::Template;
use tidegate_core::subject::{self, Sink};
use tidegate_core::tls::ServerTls;

use crate::proxy::Pass;
use crate::session::Session;

/// The run-time form of a server block.
pub struct Plan {
    /// Who may, and what is set before.
    pub gates: Gates<Session>,
    /// Who is told of finished sessions.
    pub sinks: Vec<Box<dyn Sink<Session>>>,
    /// What sessions are for.
    pub content: Content,
    /// `$server_name`
    pub server_name: Vec<u8>,
    /// `tcp_nodelay`
    pub nodelay: bool,
    /// What is offered to clients that speak TLS.
    pub tls: Option<ServerTls>,
    /// Where errors are logged.
    pub error_log: ErrorLog,
    /// The upstream groups of the protocol.
    pub groups: Rc<RefCell<Groups>>,
}

/// What a session is for.
pub enum Content {
    /// Nothing was configured: the session ends with status 500.
    Nothing,
    /// `proxy_pass`
    Pass(Box<Pass>),
    /// `return`
    Return(Template<Session>),
}

impl Plan {
    /// A plan without content.
    pub fn new(error_log: ErrorLog, groups: Rc<RefCell<Groups>>) -> Self {
        Plan {
            gates: Gates::default(),
            sinks: Vec::new(),
            content: Content::Nothing,
            server_name: Vec::new(),
            nodelay: true,
            tls: None,
            error_log,
            groups,
        }
    }
}

impl subject::Plan<Session> for Plan {
    fn gate(&mut self, phase: Phase, gate: Box<dyn Gate<Session>>) {
        self.gates.add(phase, gate);
    }

    fn sink(&mut self, sink: Box<dyn Sink<Session>>) {
        self.sinks.push(sink);
    }
}
