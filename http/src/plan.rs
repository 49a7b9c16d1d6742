//! The run-time form of a server or location: exactly what its exchanges run through.

use std::any::{Any, TypeId};
use std::cell::OnceCell;
use std::rc::Rc;

use tidegate_core::log::ErrorLog;
use tidegate_core::phase::{Gate, Gates, Phase};
use tidegate_core::script::Regex;
use tidegate_core::subject::{self, Sink};

use tidegate_http_wire::Method;

use crate::content::Content;
use crate::exchange::Exchange;
use crate::filters::Filter;
use crate::settings::Settings;

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
    /// Access logs.
    pub sinks: Vec<Box<dyn Sink<Exchange>>>,
    /// What answers; without it, what is around it does, or files.
    pub content: Option<Rc<dyn Content>>,
    /// What answers in the location around an inner block.
    pub around: OnceCell<Rc<dyn Content>>,
    /// Limits, timeouts and flags.
    pub settings: Rc<Settings>,
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
    /// What features keep in it.
    pub parts: Parts,
}

/// What features keep in a plan, each in a type of its own: those whose work is neither a handler nor a filter.
#[derive(Default)]
pub struct Parts(Vec<(TypeId, Box<dyn Any>)>);

impl Parts {
    /// Adds a part, or takes the place of the one that is there.
    pub fn put<T: Any>(&mut self, part: T) {
        self.0.retain(|(id, _)| *id != TypeId::of::<T>());
        self.0.push((TypeId::of::<T>(), Box::new(part)));
    }

    /// The part of this type, if a feature has left one.
    pub fn get<T: Any>(&self) -> Option<&T> {
        let (_, part) = self.0.iter().find(|(id, _)| *id == TypeId::of::<T>())?;
        part.downcast_ref()
    }

    /// The same, to be added to; made where there is none.
    pub fn get_mut<T: Any + Default>(&mut self) -> Option<&mut T> {
        if self.get::<T>().is_none() {
            self.put(T::default());
        }
        let (_, part) = self.0.iter_mut().find(|(id, _)| *id == TypeId::of::<T>())?;
        part.downcast_mut()
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_has_one_part() {
        let mut parts = Parts::default();
        assert!(parts.get::<u8>().is_none());
        parts.put(1u8);
        parts.put(String::from("one"));
        parts.put(2u8);
        assert_eq!((parts.get::<u8>(), parts.get::<String>().map(String::as_str)), (Some(&2), Some("one")));
        parts.get_mut::<Vec<u8>>().unwrap().push(3);
        parts.get_mut::<Vec<u8>>().unwrap().push(4);
        assert_eq!(parts.get::<Vec<u8>>(), Some(&vec![3, 4]));
    }
}
