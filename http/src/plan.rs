//! The run-time form of a server or location: exactly what its exchanges run through.

use std::cell::OnceCell;
use std::rc::Rc;

use tidegate_core::log::ErrorLog;
use tidegate_core::phase::{Gate, Gates, Phase};
use tidegate_core::script::Regex;
use tidegate_core::subject::{self, Sink};

use tidegate_http_wire::Method;

use crate::content::Content;
use crate::content::files::Files;
use crate::error_page::ErrorPages;
use crate::exchange::Exchange;
use crate::filters::Filter;
use crate::filters::trailers::Trailers;
use crate::held_body::Bodies;
use crate::limit_rate::RateLimit;
use crate::rewrite::Program;
use crate::settings::Settings;
use crate::upstream::Shared;

/// What a location's exchanges run through, in order.
pub struct Plan {
    /// The location's name, as written.
    pub name: Box<[u8]>,
    /// How the name is matched.
    pub kind: Kind,
    /// Phase handlers.
    pub gates: Gates<Exchange>,
    /// Output filters in order.
    pub filters: Vec<Box<dyn Filter>>,
    /// `add_trailer`
    pub trailers: Trailers,
    /// Access logs.
    pub sinks: Vec<Box<dyn Sink<Exchange>>>,
    /// What answers; without it, what is around it does, or files.
    pub content: Option<Rc<dyn Content>>,
    /// What answers in the location around an inner block.
    pub around: OnceCell<Rc<dyn Content>>,
    /// Where files are.
    pub files: Files,
    /// `limit_rate`
    pub rate: RateLimit,
    /// Where request bodies go that are read whole.
    pub bodies: Bodies,
    /// Limits, timeouts and flags.
    pub settings: Rc<Settings>,
    /// `error_page`
    pub error_pages: ErrorPages,
    /// `limit_except`: the methods that this plan is for, and the plan for all others.
    pub limit: Option<(Box<[Method]>, Rc<Plan>)>,
    /// Only reachable by internal redirects.
    pub internal: bool,
    /// A request for the location's name without its last slash is sent to the name with it.
    pub auto_redirect: bool,
    /// The error log.
    pub error_log: ErrorLog,
    /// The plans of the `if` blocks in it, in order.
    pub conditions: Vec<Rc<Plan>>,
    /// The instructions of an `if` block, run by the block around it.
    pub inner_program: Option<Rc<Program>>,
    /// What all locations of the http block share.
    pub shared: Rc<Shared>,
}

/// How a location is matched.
#[derive(Clone, Debug)]
pub enum Kind {
    /// The server itself: no location.
    Server,
    /// `= /path`
    Exact,
    /// `/path`, or `^~ /path` (true).
    Prefix(bool),
    /// `~ pattern`, `~* pattern`
    Regex(Rc<Regex>),
    /// `@name`
    Named,
    /// An `if` block.
    If,
    /// A `limit_except` block.
    LimitExcept,
}

impl subject::Plan<Exchange> for Plan {
    fn gate(&mut self, phase: Phase, gate: Box<dyn Gate<Exchange>>) {
        self.gates.add(phase, gate);
    }

    fn sink(&mut self, sink: Box<dyn Sink<Exchange>>) {
        self.sinks.push(sink);
    }
}
